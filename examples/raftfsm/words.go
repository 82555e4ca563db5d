package main

import (
	"encoding/json"
	"io"
	"strings"
	"sync"

	"github.com/hashicorp/raft"
)

// Words counts words. It was written for hashicorp/raft, as the methods and
// types say, and knows nothing of Diarchy.
type Words struct {
	mu    sync.Mutex
	count map[string]int
}

var _ raft.FSM = (*Words)(nil)

// NewWords returns an empty machine.
func NewWords() *Words { return &Words{count: map[string]int{}} }

// Apply implements raft.FSM: the answer is how many words are new.
func (w *Words) Apply(l *raft.Log) any {
	w.mu.Lock()
	defer w.mu.Unlock()
	fresh := 0
	for _, word := range strings.Fields(string(l.Data)) {
		if w.count[word] == 0 {
			fresh++
		}
		w.count[word]++
	}
	return fresh
}

// Count is how the program that it was written for read it.
func (w *Words) Count(word string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.count[word]
}

// Snapshot implements raft.FSM.
func (w *Words) Snapshot() (raft.FSMSnapshot, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	b, err := json.Marshal(w.count)
	return snapshot(b), err
}

// Restore implements raft.FSM.
func (w *Words) Restore(r io.ReadCloser) error {
	defer r.Close()
	count := map[string]int{}
	if err := json.NewDecoder(r).Decode(&count); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.count = count
	return nil
}

type snapshot []byte

// Persist implements raft.FSMSnapshot.
func (s snapshot) Persist(sink raft.SnapshotSink) error {
	if _, err := sink.Write(s); err != nil {
		_ = sink.Cancel()
		return err
	}
	return sink.Close()
}

// Release implements raft.FSMSnapshot.
func (snapshot) Release() {}
