package vsrsim

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
)

// The same seed gives the same run, watched or not: hash and trace are identical.
func TestSameSeedSameRun(t *testing.T) {
	for _, lane := range Lanes() {
		for seed := range uint64(3) {
			var traces [2]bytes.Buffer
			var hashes [2]uint64
			for i := range 2 {
				res := Run(seed, lane, func(e *Event) { traces[i].WriteString(e.String()); traces[i].WriteByte('\n') })
				hashes[i] = res.Hash
			}
			if hashes[0] != hashes[1] || !bytes.Equal(traces[0].Bytes(), traces[1].Bytes()) {
				t.Fatalf("lane %s seed %d: two runs differ", lane, seed)
			}
			if unwatched := Run(seed, lane); unwatched.Hash != hashes[0] {
				t.Fatalf("lane %s seed %d: a run differs when it is watched", lane, seed)
			}
			if other := Run(seed+100, lane); other.Hash == hashes[0] {
				t.Fatalf("lane %s: seeds %d and %d have the same hash", lane, seed, seed+100)
			}
		}
	}
}

// Pinned seeds once found something, and pass since.
func TestPinned(t *testing.T) {
	f, err := os.Open("testdata/pinned.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for in := bufio.NewScanner(f); in.Scan(); {
		line, why, _ := strings.Cut(in.Text(), "#")
		if strings.TrimSpace(line) == "" {
			continue
		}
		var lane Lane
		var seed uint64
		if _, err := fmt.Sscan(line, &lane, &seed); err != nil || !lane.Known() {
			t.Fatalf("testdata/pinned.txt: %q: want lane, seed, # and what it found", in.Text())
		}
		t.Run(fmt.Sprintf("%s/%d", lane, seed), func(t *testing.T) {
			t.Parallel()
			if res := Run(seed, lane); res.Failure != nil {
				t.Errorf("found once: %s\nnow: %s\n%s", strings.TrimSpace(why), res.Failure, res.Options)
			}
		})
	}
}

// An option that is off takes nothing from the others' chance, so a new axis
// leaves old schedules as they are.
func TestStreamsAreApart(t *testing.T) {
	a, b := newDice(1, "one"), newDice(1, "two")
	if a.word() == b.word() {
		t.Fatal("two names give one stream")
	}
	c := newDice(1, "one")
	for range 3 {
		c.chance(0)
	}
	if d := newDice(1, "one"); c.word() != d.word() {
		t.Fatal("a chance of nothing draws")
	}
}
