package framework

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"github.com/diarchy/diarchy/fsm"
)

// batch is the applier's working memory for one Apply, used again and again.
type batch struct {
	entries []fsm.Entry
	results []fsm.Result
	steps   []step
	ready   []settled
}

// step is what one committed command comes to, in the order of the log.
type step struct {
	ref     uint64 // of our own caller; 0 when the proposal came from elsewhere
	session *session
	seq     uint64
	number  uint64
	verdict verdict
	result  int // its place in results, for execute
	err     error
}

// settled is a caller and what to tell it, once everything is published.
type settled struct {
	ref uint64
	w   waiter
	r   Receipt
	err error
}

func (b *batch) reset() {
	clear(b.entries)
	clear(b.results)
	clear(b.steps)
	clear(b.ready)
	b.entries, b.results, b.steps, b.ready = b.entries[:0], b.results[:0], b.steps[:0], b.ready[:0]
}

// applySome runs committed entries as one batch, broken only by control
// entries. On an error the machine is lost and the state with it: reload.
func (a *applier) applySome(entries []Entry) error {
	var h header
	for i := range entries {
		e := &entries[i]
		if e.Position <= a.at {
			continue
		}
		before := a.at
		if i > 0 {
			before = max(before, entries[i-1].Position)
		}
		data, err := decodeEntry(e.Data, &h)
		if err != nil || e.Kind == KindControl || before <= a.hostAt && e.Position > a.hostAt {
			// What a durable machine holds already and what it does not must
			// not share a batch.
			if err := a.flush(before); err != nil {
				return err
			}
		}
		switch {
		case err != nil:
			return unknownEntry(e.Position, err)
		case e.Kind == KindControl:
			if err := a.act(&h, data, e.Position); err != nil {
				return err
			}
		default:
			a.admit(&h, data)
		}
		a.sinceSnap.entries++
		a.sinceSnap.bytes += int64(len(e.Data))
	}
	if len(entries) == 0 {
		return nil
	}
	return a.flush(entries[len(entries)-1].Position)
}

// unknownEntry stops this replica's machine, and not the replica: where this
// version passed over what another understands the replicas would part.
func unknownEntry(at Position, err error) error {
	return ErrUnsupported.Because("the entry at position %d is not understood (%s): give this node the version that the others run", at, err)
}

// admit adds a command to the batch, or what it comes to instead.
func (a *applier) admit(h *header, data []byte) {
	a.st.time = max(a.st.time, h.time)
	s := step{number: a.st.number + 1, seq: h.session.Seq}
	if h.origin == a.origin {
		s.ref = h.ref
	}
	if h.session.ID != (SessionID{}) {
		s.session, s.verdict, s.err = a.st.sessions.admit(h.session, s.number)
	}
	if s.verdict == execute {
		a.st.number++
		s.result = len(a.batch.entries)
		a.batch.entries = append(a.batch.entries, fsm.Entry{Index: s.number, Time: a.st.time, Data: data})
	}
	a.batch.steps = append(a.batch.steps, s)
}

// flush executes the batch and tells everybody who waits for it. The replica
// stands at position to afterwards.
func (a *applier) flush(to Position) error {
	b := &a.batch
	if to <= a.at && len(b.steps) == 0 {
		return nil
	}
	defer b.reset()
	n := len(b.entries)
	b.results = slices.Grow(b.results, n)[:n]
	told := to > a.hostAt
	if n > 0 && told {
		if err := a.callApply(to); err != nil {
			return err
		}
	}
	for i := range b.results {
		a.limitResult(&b.results[i])
	}
	for i := range b.steps {
		a.settle(&b.steps[i], told)
	}
	a.pending.claim(b.ready)
	a.tail.add(b.entries)
	a.at = max(a.at, to)
	a.publish()
	tell(b.ready)
	return nil
}

// callApply is the one place where commands reach the machine. The batch has
// the time of its last command and not the group's: what came after that and
// was not executed may share the batch here and not on another replica.
func (a *applier) callApply(to Position) error {
	b := &a.batch
	last := len(b.entries) - 1
	fb := fsm.Batch{Entries: b.entries, Time: b.entries[last].Time}
	if a.opened.Capabilities.Durable {
		fb.Host = a.hostBytes(to)
	}
	a.state.begin(time.Now())
	err := a.machine.Apply(a.ctx, fb, b.results)
	a.state.end()
	if err != nil {
		return fmt.Errorf("%w: apply of commands %d to %d: %w", fsm.ErrLost, b.entries[0].Index, b.entries[last].Index, err)
	}
	if a.opened.Capabilities.Ticks {
		a.due.Store(b.results[last].Due)
	}
	return nil
}

// limitResult makes what is too long an application error, alike everywhere;
// the change of state stands.
func (a *applier) limitResult(r *fsm.Result) {
	if n := len(r.Value) + len(r.Err); n > a.limits.ResultBytes {
		r.Value = nil
		r.Err = fmt.Sprintf("result too large (%d > %d)", n, a.limits.ResultBytes)
	}
}

// settle records a result in its session and makes the answer for a caller of
// ours. The machine's bytes are copied: they are its own again after the next
// Apply, and neither the session nor a caller may see the other write to them.
// told is false when a durable machine had executed the command before this
// start, so that its result is not known.
func (a *applier) settle(s *step, told bool) {
	b := &a.batch
	r := Receipt{Token: Token{History: a.history, Number: s.number}}
	err := s.err
	switch {
	case s.verdict == duplicate:
		if s.ref != 0 {
			r, err = a.repeated(s)
		}
	case s.verdict == execute && !told:
		err = &Error{Code: CodeResultGone, Happened: Yes, Index: s.number,
			Message: fmt.Sprintf("command %d happened before the machine was started again; its result is not known", s.number)}
	case s.verdict == execute:
		res := &b.results[s.result]
		if s.session != nil {
			s.session.keep(s.seq, res.Value, res.Err, a.limits.SessionResultBytes)
		}
		if s.ref != 0 {
			r.Value, r.Err = bytes.Clone(res.Value), res.Err
		}
	}
	if s.ref != 0 {
		b.ready = append(b.ready, settled{ref: s.ref, r: r, err: err})
	}
}

// repeated answers a command that had been executed before.
func (a *applier) repeated(s *step) (Receipt, error) {
	at, found := s.session.find(s.seq)
	if !found {
		return Receipt{}, &Error{Code: CodeResultGone, Happened: Yes, Message: "the command happened and its answer was acknowledged"}
	}
	rec := &s.session.records[at]
	if !rec.kept {
		return Receipt{}, &Error{Code: CodeResultGone, Happened: Yes, Index: rec.number,
			Message: fmt.Sprintf("the command happened, as number %d; its result is no longer kept", rec.number)}
	}
	return Receipt{Token: Token{History: a.history, Number: rec.number}, Value: bytes.Clone(rec.value), Err: rec.err, Duplicate: true}, nil
}

// tell answers the callers, after everything is published: who has an answer
// reads its own write here.
func tell(ready []settled) {
	for i := range ready {
		if s := &ready[i]; s.w.who != nil {
			s.w.who.complete(s.w.i, s.r, s.err)
		}
	}
}

// moveTo publishes that everything up to position to is applied; what lies
// between was the engine's own.
func (a *applier) moveTo(to Position) {
	if to > a.at {
		a.at = to
		a.publish()
	}
}

func (a *applier) publish() {
	a.seen.set(a.at, a.st.number, a.st.time, a.history)
	if a.at < a.replayTo || a.state.phase() != phaseReplaying {
		return
	}
	a.upSince = time.Now()
	a.state.set(phaseRunning, nil)
	a.changed()
}
