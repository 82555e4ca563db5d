package raftengine

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/diarchy/diarchy/framework"
)

// handover is raft's FSM: it passes committed entries on to the host and returns.
// It runs no machine and waits for nobody, so raft's goroutines never do either.
//
// Which positions are told: raft's FSM sees commands and configurations. No-ops
// it does not see; each is followed by its leader's marker, which is a command to
// raft (doc.go), and the position up to which all is committed moves past both.
type handover struct {
	e *engine
	// through is the last position told to the host. ready is the newest term
	// whose marker was committed.
	through, ready atomic.Uint64

	mu       sync.Mutex // held while the host is called
	muted    bool
	nothing  []any
	settled  []settled
	outcomes []framework.Outcome
}

var (
	_ raft.BatchingFSM = (*handover)(nil)

	errNoRaftSnapshots = errors.New("raftengine: raft takes no snapshots by itself: the framework does")
)

// Apply implements raft.FSM. With ApplyBatch there raft does not call it.
func (h *handover) Apply(l *raft.Log) any { return h.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch implements raft.BatchingFSM.
func (h *handover) ApplyBatch(logs []*raft.Log) []any {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.nothing) < len(logs) {
		h.nothing = append(h.nothing, nil)
	}
	answers := h.nothing[:len(logs)]
	// After raft was started anew (restart.go) it hands over again what follows
	// the snapshot.
	for len(logs) > 0 && logs[0].Index <= h.through.Load() {
		logs = logs[1:]
	}
	if len(logs) == 0 || h.muted {
		return answers
	}
	h.pass(logs)
	return answers
}

// pass needs mu.
func (h *handover) pass(logs []*raft.Log) {
	entries := make([]framework.Entry, 0, len(logs))
	noteworthy := false
	for _, l := range logs {
		switch entry, kind := entryOf(l); kind {
		case entryHost:
			entries = append(entries, entry)
		case entryMarker:
			h.ready.Store(l.Term)
			noteworthy = true
		case entryConfiguration:
			h.e.confs.commit(l.Index)
			noteworthy = true
		}
	}
	through := logs[len(logs)-1].Index
	h.through.Store(through)
	h.e.host.Announce(entries, framework.Position(through))
	h.settled = h.e.pend.applied(logs, h.e.lost, h.settled[:0])
	if n := len(h.settled); n > 0 {
		for len(h.outcomes) < n {
			h.outcomes = append(h.outcomes, framework.Outcome{})
		}
		h.e.tell(h.settled, h.outcomes[:n])
	}
	if noteworthy {
		h.e.wake()
	}
}

// What an entry of raft's log is to the framework.
type entryClass uint8

const (
	entryHost entryClass = iota
	entryMarker
	entryConfiguration
	entryOther // no-ops and what a later version may write for itself
)

func entryOf(l *raft.Log) (framework.Entry, entryClass) {
	switch {
	case l.Type == raft.LogConfiguration:
		return framework.Entry{}, entryConfiguration
	case l.Type != raft.LogCommand:
		return framework.Entry{}, entryOther
	}
	e := framework.Entry{
		Position: framework.Position(l.Index), Term: framework.Term(l.Term), Kind: framework.KindCommand, Data: l.Data,
	}
	if len(l.Extensions) > 0 {
		switch l.Extensions[0] {
		case extControl:
			e.Kind = framework.KindControl
		case extMarker:
			return framework.Entry{}, entryMarker
		default:
			return framework.Entry{}, entryOther
		}
	}
	return e, entryHost
}

// Snapshot implements raft.FSM; nothing asks for it.
func (h *handover) Snapshot() (raft.FSMSnapshot, error) { return nil, errNoRaftSnapshots }

// Restore implements raft.FSM. The stream is not read: the snapshot is durable in
// the store by now, and the host opens it when it wants to.
func (h *handover) Restore(rc io.ReadCloser) error {
	var source io.ReadCloser = rc
	if w, ok := rc.(raft.ReadCloserWrapper); ok {
		source = w.WrappedReadCloser()
	}
	s, ok := source.(*snapshotReader)
	if !ok {
		return fmt.Errorf("raftengine: restore from %T, which is not of this engine's store", source)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.e.confs.reset(s.meta.ConfigurationIndex, s.meta.Configuration)
	if s.meta.Index <= h.through.Load() || h.muted {
		return nil
	}
	if !h.e.store.scanning.Load() {
		h.e.store.installed(s.meta.Index, s.meta.Term)
		h.e.installs.Add(1)
	}
	h.through.Store(s.meta.Index)
	h.e.resolve(h.e.pend.overtaken(s.meta.Index, h.e.maybe))
	h.e.host.Install(framework.Position(s.meta.Index))
	h.e.wake()
	return nil
}

// mute keeps the host from being called from now on.
func (h *handover) mute() {
	h.mu.Lock()
	h.muted = true
	h.mu.Unlock()
}
