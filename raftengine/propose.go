package raftengine

import (
	"runtime"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/diarchy/diarchy/framework"
)

// inbox takes proposals from any goroutine and never waits: raft's own entrance
// blocks while its leader is in fsync. One goroutine (feed) carries them on.
//
// Invariants, under mu: items is empty while mode is refusing; held and heldBytes
// count everything accepted that has no outcome yet, here and in pending.
type inbox struct {
	mu        sync.Mutex
	items     []framework.Proposal
	mode      feeding
	refusal   *framework.Error // why, while mode is refusing
	marker    bool             // feed is to give raft a marker
	held      int
	heldBytes int
}

// feeding says what becomes of proposals.
type feeding uint8

const (
	// refusing: not leading; each gets the refusal.
	refusing feeding = iota
	// holding: leading, but raft might not take them: a new term whose marker was
	// not taken up yet, or a hand-over of leadership. They wait in the inbox.
	holding
	// open: raft takes what it is given, in order, unless leadership ends.
	open
)

// Propose implements framework.Engine.
func (e *engine) Propose(batch []framework.Proposal) {
	in := &e.inbox
	var refused []framework.Outcome
	took, full := false, false
	in.mu.Lock()
	for i := range batch {
		err := e.admit(&batch[i])
		if full = full || err == framework.ErrBusy; full {
			err = framework.ErrBusy // nor what comes after it: the order stays
		}
		if err != nil {
			refused = append(refused, framework.Outcome{Ref: batch[i].Ref, Err: err})
			continue
		}
		in.items = append(in.items, batch[i])
		in.held++
		in.heldBytes += len(batch[i].Data)
		took = true
	}
	in.mu.Unlock()
	if took {
		signal(e.feedWake)
	}
	if len(refused) > 0 {
		e.host.Resolve(refused)
	}
}

// admit says why a proposal is not accepted. It needs inbox.mu.
func (e *engine) admit(p *framework.Proposal) *framework.Error {
	in := &e.inbox
	switch {
	case in.mode == refusing:
		return in.refusal
	case len(p.Data) > e.set.entryBytes:
		return framework.ErrTooLarge.Because("entry of %d bytes: this engine was started for up to %d", len(p.Data), e.set.entryBytes)
	case p.Kind != framework.KindCommand && p.Kind != framework.KindControl:
		return framework.ErrInvalid.Because("an entry of unknown kind %d", p.Kind)
	case in.held >= e.set.queue, in.heldBytes+len(p.Data) > e.set.queueBytes:
		return framework.ErrBusy
	}
	return nil
}

// crowdLasts is after how many batches of one feed takes it that there is one
// caller alone.
const crowdLasts = 16

// feed is the goroutine that gives proposals to raft.
func (e *engine) feed() {
	var batch []framework.Proposal
	var logs []raft.Log
	crowd := 0
	for {
		select {
		case <-e.feedWake:
		case <-e.stopping:
			return
		}
		// Callers that were answered together come again together. Letting those
		// that are about to run go first makes one batch of what would be a small
		// one and, after its fsync, a large one. One caller alone has nobody to
		// wait for.
		if crowd > 0 {
			runtime.Gosched()
		}
		for {
			var r *raft.Raft
			if r, batch, logs = e.nextFeed(batch[:0], logs[:0]); len(logs) == 0 {
				break
			}
			if crowd = max(crowd-1, 0); len(logs) > 1 {
				crowd = crowdLasts
			}
			for i := range logs {
				// It blocks while raft's leader is busy, and returns when raft is
				// shut down. Its future is not needed; see pending.
				r.ApplyLog(logs[i], 0)
			}
			clear(batch)
			clear(logs)
		}
	}
}

// nextFeed moves what may be given to raft from the inbox to pending.
func (e *engine) nextFeed(batch []framework.Proposal, logs []raft.Log) (*raft.Raft, []framework.Proposal, []raft.Log) {
	in := &e.inbox
	in.mu.Lock()
	defer in.mu.Unlock()
	r := e.raft.Load()
	if in.marker {
		in.marker = false
		return r, batch, append(logs, e.pend.giveMarker())
	}
	if in.mode != open || len(in.items) == 0 {
		return r, batch, logs
	}
	batch, in.items = in.items, batch
	return r, batch, e.pend.give(batch, logs)
}

// dispatching is called by raft's leader before it stores entries.
func (e *engine) dispatching(logs []*raft.Log) {
	refused, marker := e.pend.dispatch(logs)
	if len(refused) > 0 {
		why := e.notLeader("leadership was being handed over")
		for i := range refused {
			refused[i].Err = why
		}
		e.resolve(refused)
	}
	if marker {
		e.inbox.mu.Lock()
		if e.inbox.mode == holding && !e.inHandover.Load() {
			e.inbox.mode = open
		}
		e.inbox.mu.Unlock()
		signal(e.feedWake)
	}
}

// hold keeps proposals back until a marker has gone into the log.
func (e *engine) hold(marker bool) {
	e.inbox.mu.Lock()
	e.inbox.mode, e.inbox.refusal = holding, nil
	e.inbox.marker = e.inbox.marker || marker
	e.inbox.mu.Unlock()
	if marker {
		signal(e.feedWake)
	}
}

// refuse ends all that waits in the inbox, none of which happened, and all that
// comes from now on.
func (e *engine) refuse(why *framework.Error) {
	in := &e.inbox
	in.mu.Lock()
	in.mode, in.refusal, in.marker = refusing, why, false
	var out []settled
	for _, p := range in.items {
		out = append(out, settled{framework.Outcome{Ref: p.Ref, Err: why}, len(p.Data)})
	}
	in.items = nil
	in.mu.Unlock()
	e.resolve(out)
}

// resolve frees the room of settled proposals and tells their outcomes.
func (e *engine) resolve(out []settled) {
	if len(out) == 0 {
		return
	}
	outcomes := make([]framework.Outcome, len(out))
	e.tell(out, outcomes)
}

// tell is resolve with a slice to use.
func (e *engine) tell(out []settled, outcomes []framework.Outcome) {
	bytes := 0
	for i := range out {
		outcomes[i] = out[i].Outcome
		bytes += out[i].bytes
	}
	e.inbox.mu.Lock()
	e.inbox.held -= len(out)
	e.inbox.heldBytes -= bytes
	e.inbox.mu.Unlock()
	e.host.Resolve(outcomes)
}
