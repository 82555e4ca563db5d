package vsrsim

import (
	"bytes"
	"path/filepath"
	"testing"
)

// A soak that is begun again runs only what is not done.
func TestSoakResumes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "done")
	var out bytes.Buffer
	first, err := Soak([]Lane{"quiet"}, 0, 3, 2, file, &out)
	if err != nil || first.Runs != 3 || first.Done != 3 {
		t.Fatalf("%+v %v\n%s", first, err, out.String())
	}
	again, err := Soak([]Lane{"quiet"}, 0, 5, 2, file, &out)
	if err != nil || again.Runs != 2 || again.Done != 5 {
		t.Fatalf("%+v %v\n%s", again, err, out.String())
	}
	if _, err := Soak([]Lane{"no such"}, 0, 1, 1, "", &out); err == nil {
		t.Fatal("a lane that does not exist was run")
	}
}

func TestRangesOfSeeds(t *testing.T) {
	var r []seedRange
	for _, seed := range []uint64{5, 3, 4, 9, 4, 7, 8, 0} {
		r = addSeed(r, seed)
	}
	want := []seedRange{{0, 1}, {3, 6}, {7, 10}}
	if len(r) != len(want) || r[0] != want[0] || r[1] != want[1] || r[2] != want[2] {
		t.Fatal(r)
	}
	for seed := range uint64(12) {
		in := seed == 0 || seed >= 3 && seed < 6 || seed >= 7 && seed < 10
		if contains(r, seed) != in {
			t.Errorf("seed %d: %v", seed, !in)
		}
	}
}
