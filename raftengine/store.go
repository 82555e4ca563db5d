package raftengine

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// store stands between raft and the backend. It watches how long calls last,
// ends all use of a backend that has failed once (fsync is not retried: what a
// failed one left behind is not known), caches the newest entries, and is where
// the engine sees what raft writes: its own proposals on their way into the log,
// and configurations. raft uses it through raftLog and raftStable.
//
// Invariants, under mu: first and last are the backend's own (0 when empty);
// entries below floor are not given out, since an installed snapshot replaced
// them; once failed is set the backend is not called any more.
type store struct {
	back  backend
	watch *watch
	cache *cache
	confs *history
	// Called by raft's goroutines; none blocks.
	onDispatch func([]*raft.Log) // before raft's leader stores entries
	onWipe     func(stale bool)  // after the whole log went for an installed snapshot
	onChange   func()            // term or configuration
	onFail     func(error)

	scanning atomic.Bool // NewRaft is reading the log
	term     atomic.Uint64

	deleting sync.Mutex // one DeleteRange at a time, with its bookkeeping

	mu          sync.Mutex
	first, last uint64
	floor       uint64
	floorTerm   uint64 // of the entry below floor, which the snapshot stands for
	failed      error
}

// openStore reads where the log begins and ends.
func openStore(back backend, w *watch, confs *history) (*store, error) {
	s := &store{back: back, watch: w, cache: newCache(logCacheEntries, logCacheBytes), confs: confs}
	var err error
	if s.first, err = back.FirstIndex(); err == nil {
		s.last, err = back.LastIndex()
	}
	if err != nil {
		return nil, fmt.Errorf("read the log's ends: %w", err)
	}
	term, err := back.GetUint64(keyCurrentTerm)
	if err != nil && err.Error() != notFound {
		return nil, fmt.Errorf("read the term: %w", err)
	}
	s.term.Store(term)
	return s, nil
}

// raft's own name for its term in the stable store, and its way to say that a
// name is absent.
var keyCurrentTerm = []byte("CurrentTerm")

const notFound = "not found"

var errClosed = errors.New("log store: closed")

// call runs one backend call under the watch.
func (s *store) call(what string, f func() error) error {
	if err := s.failure(); err != nil {
		return err
	}
	i := s.watch.begin()
	err := f()
	s.watch.end(i)
	if err == nil || errors.Is(err, raft.ErrLogNotFound) {
		return err
	}
	return s.fail(fmt.Errorf("log store: %s: %w", what, err))
}

// fail keeps the first failure and answers it.
func (s *store) fail(err error) error {
	s.mu.Lock()
	first := s.failed == nil
	if first {
		s.failed = err
	}
	err = s.failed
	s.mu.Unlock()
	if first && s.onFail != nil {
		s.onFail(err)
	}
	return err
}

func (s *store) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// bounds are the first entry that may be given out and the last there is; with
// first > last there is none.
func (s *store) bounds() (first, last uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == 0 {
		return max(s.floor, 1), 0
	}
	return max(s.first, s.floor), s.last
}

func (s *store) holds(index uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last != 0 && index >= s.first && index <= s.last
}

// installed is called when another replica's snapshot has replaced the log up to
// index.
func (s *store) installed(index, term uint64) {
	s.mu.Lock()
	s.floor, s.floorTerm = index+1, term
	s.mu.Unlock()
}

// get reads an entry: raft.ErrLogNotFound when it is not there.
func (s *store) get(index uint64, into *raft.Log) error {
	if s.cache.get(index, into) {
		return nil
	}
	if !s.holds(index) {
		return raft.ErrLogNotFound // raft-wal goes on giving what was deleted, for a while
	}
	err := s.call("read entry", func() error { return s.back.GetLog(index, into) })
	if err == nil && s.scanning.Load() && into.Type == raft.LogConfiguration {
		s.confs.see(index, raft.DecodeConfiguration(into.Data))
	}
	return err
}

func (s *store) append(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	if s.onDispatch != nil {
		s.onDispatch(logs)
	}
	if err := s.call("append", func() error { return s.back.StoreLogs(logs) }); err != nil {
		return err
	}
	s.cache.add(logs)
	s.mu.Lock()
	if s.last == 0 {
		s.first = logs[0].Index
	}
	s.last = logs[len(logs)-1].Index
	s.mu.Unlock()
	for _, l := range logs {
		if l.Type == raft.LogConfiguration && s.confs.see(l.Index, raft.DecodeConfiguration(l.Data)) {
			s.changed()
		}
	}
	return nil
}

// remove deletes a prefix or a suffix.
func (s *store) remove(low, high uint64) error {
	s.deleting.Lock()
	defer s.deleting.Unlock()
	if err := s.call("delete entries", func() error { return s.back.DeleteRange(low, high) }); err != nil {
		return err
	}
	s.cache.remove(low, high)
	s.mu.Lock()
	switch {
	case s.last == 0 || high < s.first || low > s.last:
	case low <= s.first && high >= s.last:
		s.first, s.last = 0, 0
	case low <= s.first:
		s.first = high + 1
	default:
		s.last = low - 1
	}
	s.mu.Unlock()
	return nil
}

// removeByRaft is raft's own DeleteRange: the conflicting end of a follower's
// log, or all of it after a snapshot was installed. In the second case raft goes
// on believing in the entries that it had above the snapshot (hashicorp/raft#697,
// restart.go), which onWipe is told.
func (s *store) removeByRaft(low, high uint64) error {
	s.mu.Lock()
	first, last, floor, term := s.first, s.last, s.floor, s.floorTerm
	s.mu.Unlock()
	wipe := last != 0 && low <= first && high >= last && floor > 0
	stale := wipe && last >= floor
	if wipe && last == floor-1 {
		// raft's memory of the last entry is right if it is the snapshot's own.
		var l raft.Log
		stale = s.get(last, &l) == nil && l.Term != term
	}
	if err := s.remove(low, high); err != nil {
		return err
	}
	if !wipe && s.confs.cut(low) {
		s.changed()
	}
	if wipe && s.onWipe != nil {
		s.onWipe(stale)
	}
	return nil
}

func (s *store) changed() {
	if s.onChange != nil {
		s.onChange()
	}
}

func (s *store) set(what string, f func() error) error {
	return s.call("write "+what, f)
}

func (s *store) close() error {
	s.mu.Lock()
	if s.failed == nil {
		s.failed = errClosed
	}
	s.mu.Unlock()
	if err := s.back.Close(); err != nil {
		return fmt.Errorf("close log store: %w", err)
	}
	return nil
}

// raftLog is the store as raft's LogStore.
type raftLog struct{ *store }

func (l raftLog) FirstIndex() (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.first, l.failed
}

func (l raftLog) LastIndex() (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last, l.failed
}

func (l raftLog) GetLog(index uint64, into *raft.Log) error {
	return spare(l.get(index, into))
}

func (l raftLog) StoreLog(log *raft.Log) error { return l.append([]*raft.Log{log}) }

func (l raftLog) StoreLogs(logs []*raft.Log) error { return l.append(logs) }

func (l raftLog) DeleteRange(low, high uint64) error { return l.removeByRaft(low, high) }

// IsMonotonic makes raft empty the log when it installs a snapshot, for every
// backend alike, so that the log never has a hole.
func (raftLog) IsMonotonic() bool { return true }

// raftStable is the store as raft's StableStore.
type raftStable struct{ *store }

func (s raftStable) Set(key, value []byte) error {
	return spare(s.set(string(key), func() error { return s.back.Set(key, value) }))
}

func (s raftStable) SetUint64(key []byte, value uint64) error {
	err := s.set(string(key), func() error { return s.back.SetUint64(key, value) })
	if err == nil && string(key) == string(keyCurrentTerm) {
		s.term.Store(value)
		s.changed()
	}
	return spare(err)
}

func (s raftStable) Get(key []byte) (value []byte, err error) {
	if err := s.failure(); err != nil {
		return nil, err
	}
	return s.back.Get(key)
}

func (s raftStable) GetUint64(key []byte) (uint64, error) {
	if err := s.failure(); err != nil {
		return 0, err
	}
	return s.back.GetUint64(key)
}

// spare ends the calling goroutine where raft would answer err with a panic: it
// panics when it cannot store a term and when it cannot read a committed entry,
// and that would take down every group in the process. The store has failed, the
// replica is being stopped, and raft's main goroutine can go: its deferred calls
// answer what it still owes.
func spare(err error) error {
	if err == nil || errors.Is(err, raft.ErrLogNotFound) {
		return err
	}
	pcs := make([]uintptr, 12)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs)])
	for {
		f, more := frames.Next()
		if strings.HasSuffix(f.Function, ".(*Raft).setCurrentTerm") || strings.HasSuffix(f.Function, ".(*Raft).processLogs") {
			runtime.Goexit()
		}
		if !more {
			return err
		}
	}
}
