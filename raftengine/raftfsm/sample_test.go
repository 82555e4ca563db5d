package raftfsm_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/diarchy/diarchy/fsm"
)

// words is a machine as people write them for hashicorp/raft: "set KEY VALUE",
// "delete KEY", "count". It keeps Log.Data, as raft allows.
type words struct {
	mu    sync.RWMutex
	words map[string]json.RawMessage
	last  uint64
}

func newWords() *words { return &words{words: map[string]json.RawMessage{}} }

func (w *words) Apply(l *raft.Log) any {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.apply(l)
}

func (w *words) apply(l *raft.Log) any {
	w.last = l.Index
	switch word := strings.SplitN(string(l.Data), " ", 3); {
	case word[0] == "set" && len(word) == 3 && json.Valid([]byte(word[2])):
		old := w.words[word[1]]
		w.words[word[1]] = json.RawMessage(l.Data[len(l.Data)-len(word[2]):])
		return []byte(old)
	case word[0] == "delete" && len(word) == 2:
		delete(w.words, word[1])
		return nil
	case word[0] == "count":
		return map[string]any{"count": len(w.words), "at": l.AppendedAt}
	default:
		return errors.New("no such command")
	}
}

func (w *words) Snapshot() (raft.FSMSnapshot, error) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return &wordsSnapshot{maps.Clone(w.words)}, nil
}

func (w *words) Restore(r io.ReadCloser) error {
	defer r.Close()
	fresh := map[string]json.RawMessage{}
	if err := json.NewDecoder(r).Decode(&fresh); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.words = fresh
	return nil
}

type wordsSnapshot struct{ words map[string]json.RawMessage }

func (s *wordsSnapshot) Persist(sink raft.SnapshotSink) error {
	if err := json.NewEncoder(sink).Encode(s.words); err != nil {
		_ = sink.Cancel()
		return err
	}
	return sink.Close()
}

func (s *wordsSnapshot) Release() {}

func (w *words) query(_ context.Context, q fsm.Query) ([]byte, error) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if len(q.Data) == 0 {
		return json.Marshal(w.words)
	}
	v, ok := w.words[string(q.Data)]
	if !ok {
		return nil, errors.New("no such word")
	}
	return v, nil
}

// batchedWords takes one lock a batch.
type batchedWords struct {
	words
	batches []int
}

func newBatchedWords() *batchedWords {
	return &batchedWords{words: words{words: map[string]json.RawMessage{}}}
}

func (w *batchedWords) ApplyBatch(logs []*raft.Log) []any {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.batches = append(w.batches, len(logs))
	answers := make([]any, len(logs))
	for i, l := range logs {
		answers[i] = w.apply(l)
	}
	return answers
}

func wordsCommand(r *rand.Rand) []byte {
	key := string(rune('a' + r.IntN(10)))
	switch r.IntN(5) {
	case 0:
		return []byte("delete " + key)
	case 1:
		return []byte("count")
	default:
		return fmt.Appendf(nil, "set %s %d", key, r.IntN(1000))
	}
}
