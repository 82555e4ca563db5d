package raftengine

import (
	"context"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/diarchy/diarchy/framework"
)

// reads gives read indexes. One round serves every call that waits when it
// starts: it notes the commit index, has heartbeats sent, and ends when a majority
// of the voters has answered, in this term, to messages sent after it began. A
// leader replaced without knowing it cannot collect those: every majority holds a
// voter that has moved to a newer term.
//
// raft's own VerifyLeader is called to have heartbeats sent at once and for
// nothing else. Its answer counts every answer that is read after the call, also
// to a heartbeat sent before it, so it may confirm a leader already replaced.
//
// The commit index of a new leader is not the group's until an entry of its own
// term is committed. The marker tells (fsm.ready); rounds wait for it.
//
// Invariants, under mu: next collects callers; current is the round under way.
// Both are nil without a leadership of ours (term 0) and after the end.
type reads struct {
	mu      sync.Mutex
	term    uint64
	refusal error
	next    *readRound
	current *readRound
}

type readRound struct {
	done  chan struct{}
	at    framework.Position
	err   error
	term  uint64
	round uint64
}

// ReadIndex implements framework.Engine.
func (e *engine) ReadIndex(ctx context.Context) (framework.Position, error) {
	q := &e.reads
	q.mu.Lock()
	if q.term == 0 {
		err := q.refusal
		q.mu.Unlock()
		return 0, err
	}
	if q.next == nil {
		q.next = &readRound{done: make(chan struct{}), term: q.term}
	}
	round := q.next
	q.mu.Unlock()
	signal(e.readWake)
	select {
	case <-round.done:
		return round.at, round.err
	case <-ctx.Done():
		return 0, framework.ErrNoQuorum.Because("no majority of the group confirmed this leader: %v", ctx.Err())
	}
}

// lead tells reads which term is led, 0 for none and why.
func (q *reads) lead(term uint64, refusal error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.refusal = refusal
	if q.term == term {
		return
	}
	q.term = term
	for _, r := range []*readRound{q.current, q.next} {
		if r != nil {
			r.err = refusal
			if refusal == nil {
				r.err = framework.ErrNotLeader // of that term; a newer one has begun
			}
			close(r.done)
		}
	}
	q.current, q.next = nil, nil
}

// serveReads is the goroutine that runs the rounds.
func (e *engine) serveReads() {
	for {
		select {
		case <-e.readWake:
		case <-e.stopping:
			return
		}
		for e.stepReads() {
		}
	}
}

// stepReads ends the current round if it can be, or starts the next; false when
// there is nothing to do now.
func (e *engine) stepReads() bool {
	q := &e.reads
	r := e.raft.Load()
	q.mu.Lock()
	if q.current != nil {
		defer q.mu.Unlock()
		return e.endRound(r)
	}
	if q.next == nil || e.fsm.ready.Load() != q.term {
		q.mu.Unlock()
		return false
	}
	q.current, q.next = q.next, nil
	q.current.at = framework.Position(r.CommitIndex())
	q.current.round = e.trans.peers.newRound()
	q.mu.Unlock()
	if c, _ := e.confs.latest(); !isOnlyVoter(c.conf, e.id) {
		r.VerifyLeader()
	}
	return true
}

// endRound needs reads.mu.
func (e *engine) endRound(r *raft.Raft) bool {
	q := &e.reads
	c, _ := e.confs.latest()
	if !e.trans.peers.confirmed(q.current.round, q.current.term, c.conf, e.id) {
		return false
	}
	// This replica's own confirmation, which confirmed took for granted.
	if r.State() != raft.Leader || r.CurrentTerm() != q.current.term {
		return false // whoever watches raft's state will end the round
	}
	e.trans.peers.endRound()
	close(q.current.done)
	q.current = nil
	return true
}

func isOnlyVoter(c raft.Configuration, self raft.ServerID) bool {
	for _, s := range c.Servers {
		if s.Suffrage == raft.Voter && s.ID != self {
			return false
		}
	}
	return true
}
