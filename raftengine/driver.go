package raftengine

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/hashicorp/raft"

	"github.com/diarchy/diarchy/framework"
	"github.com/diarchy/diarchy/internal/hlog"
)

// startRaft starts raft on the engine's storage and transport.
func (e *engine) startRaft() error {
	conf := e.raftConfig()
	if e.tune != nil {
		e.tune(conf)
	}
	type started struct {
		r   *raft.Raft
		err error
	}
	// In a goroutine of its own: raft panics over a damaged log, and ends this
	// goroutine (store.go, spare) over a failed store.
	result := make(chan started, 1)
	go func() {
		out := started{err: errors.New("raft did not start")}
		defer func() {
			if p := recover(); p != nil {
				out.err = fmt.Errorf("raft did not start: %v", p)
			}
			result <- out
		}()
		e.store.scanning.Store(true)
		defer e.store.scanning.Store(false)
		out.r, out.err = raft.NewRaft(conf, e.fsm, raftLog{e.store}, raftStable{e.store}, e.snaps, e.trans)
	}()
	out := <-result
	if out.err != nil {
		if err := e.store.failure(); err != nil {
			return err
		}
		return out.err
	}
	// Observed by a filter that keeps nothing: it is called where raft changes
	// its state, cannot be missed, and cannot make raft wait.
	out.r.RegisterObserver(raft.NewObserver(nil, false, func(*raft.Observation) bool {
		e.wake()
		return false
	}))
	e.raft.Store(out.r)
	return nil
}

func (e *engine) raftConfig() *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = e.id
	c.HeartbeatTimeout, c.ElectionTimeout = e.set.heartbeat, e.set.election
	c.LeaderLeaseTimeout = min(leaderLeaseMax, e.set.heartbeat)
	c.CommitTimeout = max(time.Millisecond, min(commitTimeoutMax, e.set.heartbeat/10))
	c.MaxAppendEntries, c.BatchApplyCh = maxAppendEntries, true
	c.ShutdownOnRemove = false // a removed or demoted leader follows; see Status
	c.SnapshotInterval, c.SnapshotThreshold = snapshotIntervalNone, 1<<62
	c.TrailingLogs = e.set.trailing
	c.NoLegacyTelemetry = true
	c.Logger = hlog.New(e.log, "raft", slog.LevelWarn)
	return c
}

// wake has watchRaft look again. Safe to call from anywhere.
func (e *engine) wake() { signal(e.wakeUp) }

// markerRetry is how long a leader waits for raft to take up its marker before it
// gives it another.
const markerRetry = 100 * time.Millisecond

// watchRaft is the goroutine that follows raft's state. It looks at the state as
// it is, so it may miss a state, never the last one.
func (e *engine) watchRaft() {
	retry := time.NewTimer(time.Hour)
	defer retry.Stop()
	var led uint64
	for {
		select {
		case <-e.wakeUp:
		case <-retry.C:
			if led != 0 && e.wantsMarker() {
				e.askForMarker()
			}
		case <-e.stopping:
			return
		}
		if e.restartWanted.CompareAndSwap(true, false) {
			e.restart()
		}
		if now := e.leads(); now != led {
			e.leadershipMoved(led, now)
			led = now
		}
		switch {
		case led == 0: // with whom it is known to lead now
			refusal := e.notLeader("")
			e.refuse(refusal)
			e.reads.lead(0, refusal)
		case e.wantsMarker() || e.afterHandover.Load():
			retry.Reset(markerRetry)
		}
		signal(e.readWake)
		e.show()
	}
}

// leads is the term this replica leads and may act in, 0 for none.
func (e *engine) leads() uint64 {
	if _, hangs := e.store.watch.hangs(); hangs {
		return 0
	}
	r := e.raft.Load()
	for {
		before := r.CurrentTerm()
		if r.State() != raft.Leader {
			return 0
		}
		if r.CurrentTerm() == before {
			return before
		}
	}
}

// leadershipMoved ends what belongs to the leadership before and begins the next.
func (e *engine) leadershipMoved(before, now uint64) {
	if before != 0 {
		if now == 0 {
			e.refuse(e.notLeader(""))
		} else {
			e.hold(false)
		}
		// What raft has handed over by now is committed and gets its outcome in
		// the FSM. The rest may be in other logs.
		applied := e.raft.Load().AppliedIndex()
		e.resolve(e.pend.sweep(now, applied, e.maybe, e.maybe, nil))
	}
	if now != 0 {
		e.inHandover.Store(false)
		e.afterHandover.Store(false)
		e.hold(true)
		e.reads.lead(now, nil)
	}
}

// wantsMarker tells whether raft may have refused what it was given.
func (e *engine) wantsMarker() bool {
	e.inbox.mu.Lock()
	holding := e.inbox.mode == holding
	e.inbox.mu.Unlock()
	return !e.inHandover.Load() && (holding || e.pend.undispatched() > 0 && e.afterHandover.Load())
}

// askForMarker gives raft a marker. When it goes into the log, all that was given
// before has gone there too, or been refused (pending.dispatch).
func (e *engine) askForMarker() {
	e.inbox.mu.Lock()
	e.inbox.marker = e.inbox.mode != refusing
	e.inbox.mu.Unlock()
	signal(e.feedWake)
}

// notLeader is the refusal of a replica that does not lead, with whom it knows
// to.
func (e *engine) notLeader(why string) *framework.Error {
	s := e.Status()
	err := *framework.ErrNotLeader
	switch {
	case s.Err != nil || s.Role == framework.RoleStopped:
		return e.whyStopped()
	case s.Warning != "":
		err.Message = "this replica cannot lead: " + s.Warning
	case why != "":
		err.Message = "this replica does not take proposals now: " + why
	}
	if s.Role != framework.RoleLeader {
		err.Leader = s.Leader
	}
	return &err
}

// storageHangs is called when a storage call hangs or has come back.
func (e *engine) storageHangs() {
	if !e.opened.Load() {
		return
	}
	e.hanging.Lock() // two calls, one for each change, leave the later state
	defer e.hanging.Unlock()
	age, hangs := e.store.watch.hangs()
	switch changed := e.trans.gate.set(hangs); {
	case changed && hangs:
		e.log.Warn("a storage call does not return; this replica takes no part until it does", "for", age)
	case changed:
		e.log.Warn("the storage call has returned; this replica takes part again")
	}
	e.wake()
}
