package raftengine

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// Every log store keeps what raft asks of one, through what stands before it: to
// the entry, to the word for what is absent, and over a restart.
func TestLogStoresKeepWhatRaftAsks(t *testing.T) {
	for _, kind := range []string{storeMemory, storeWAL, storeBolt} {
		t.Run(kind, func(t *testing.T) {
			r := &storeRig{t: t, kind: kind, dir: t.TempDir()}
			r.open()
			r.bounds(0, 0)
			if v, err := (raftStable{r.s}).Get([]byte("absent")); len(v) > 0 || err != nil && err.Error() != notFound {
				t.Errorf("a name that is absent: %q, %v; raft takes nothing, or an error of the text %q", v, err, notFound)
			}
			if err := (raftStable{r.s}).SetUint64(keyCurrentTerm, 7); err != nil {
				t.Fatal(err)
			}
			r.store(1, 100, 1)
			r.bounds(1, 100)
			r.absent(0, 101)
			r.remove(91, 100) // what another leader takes back
			r.bounds(1, 90)
			r.store(91, 95, 2)
			r.remove(1, 40) // what a snapshot stands for
			r.bounds(41, 95)
			r.absent(40, 96)
			r.holds(41, 90, 1)
			r.holds(91, 95, 2)
			if kind == storeMemory {
				return
			}
			r.close()
			r.open()
			defer r.close()
			r.bounds(41, 95)
			r.holds(41, 90, 1)
			r.holds(91, 95, 2)
			if v, err := (raftStable{r.s}).GetUint64(keyCurrentTerm); v != 7 || err != nil {
				t.Errorf("after a restart the term is %d, %v", v, err)
			}
			r.store(96, 200, 3)
			r.holds(96, 200, 3)
		})
	}
}

type storeRig struct {
	t    *testing.T
	kind string
	dir  string
	s    *store
}

func (r *storeRig) open() {
	r.t.Helper()
	back, err := openBackend(r.kind, r.dir, slog.New(slog.DiscardHandler), newWALCounters())
	if err != nil {
		r.t.Fatal(err)
	}
	if r.s, err = openStore(back, newWatch(time.Hour, func() {}), &history{}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *storeRig) close() {
	if err := r.s.back.Close(); err != nil {
		r.t.Error(err)
	}
}

func logAt(index, term uint64) *raft.Log {
	return &raft.Log{Index: index, Term: term, Type: raft.LogCommand, Data: fmt.Appendf(nil, "%d of %d", index, term), Extensions: []byte{1, 2}}
}

func (r *storeRig) store(from, to, term uint64) {
	r.t.Helper()
	var logs []*raft.Log
	for i := from; i <= to; i++ {
		logs = append(logs, logAt(i, term))
	}
	if err := (raftLog{r.s}).StoreLogs(logs); err != nil {
		r.t.Fatal(err)
	}
}

func (r *storeRig) remove(from, to uint64) {
	r.t.Helper()
	if err := (raftLog{r.s}).DeleteRange(from, to); err != nil {
		r.t.Fatal(err)
	}
}

func (r *storeRig) bounds(first, last uint64) {
	r.t.Helper()
	f, err := (raftLog{r.s}).FirstIndex()
	l, err2 := (raftLog{r.s}).LastIndex()
	if f != first || l != last || err != nil || err2 != nil {
		r.t.Errorf("from %d to %d (%v, %v), want from %d to %d", f, l, err, err2, first, last)
	}
}

func (r *storeRig) absent(indexes ...uint64) {
	r.t.Helper()
	for _, i := range indexes {
		if err := (raftLog{r.s}).GetLog(i, &raft.Log{}); !errors.Is(err, raft.ErrLogNotFound) {
			r.t.Errorf("entry %d: %v, want that it is absent", i, err)
		}
	}
	if err := r.s.failure(); err != nil {
		r.t.Errorf("to be absent is no failure: %v", err)
	}
}

// holds reads from the cache where that has it, and from the disk.
func (r *storeRig) holds(from, to, term uint64) {
	r.t.Helper()
	for i := from; i <= to; i++ {
		for _, get := range []func(uint64, *raft.Log) error{(raftLog{r.s}).GetLog, r.s.back.GetLog} {
			var got raft.Log
			want := logAt(i, term)
			if err := get(i, &got); err != nil || got.Index != i || got.Term != term || got.Type != want.Type ||
				!bytes.Equal(got.Data, want.Data) || !bytes.Equal(got.Extensions, want.Extensions) {
				r.t.Fatalf("entry %d: %+v, %v; want %+v", i, got, err, want)
			}
		}
	}
}
