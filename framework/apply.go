package framework

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/diarchy/diarchy/fsm"
)

// batch is the applier's working memory for one Apply, used again and again.
type batch struct {
	entries []fsm.Entry
	results []fsm.Result
	steps   []step
	ready   []settled
	bytes   int
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

// settled is a caller and what to tell it, once the lock is given back.
type settled struct {
	w   waiter
	r   Receipt
	err error
}

func (b *batch) init() {
	b.entries = make([]fsm.Entry, 0, batchMax)
	b.results = make([]fsm.Result, 0, batchMax)
	b.steps = make([]step, 0, batchMax)
}

func (b *batch) reset() {
	clear(b.entries)
	clear(b.results)
	clear(b.steps)
	clear(b.ready)
	b.entries, b.results, b.steps, b.ready, b.bytes = b.entries[:0], b.results[:0], b.steps[:0], b.ready[:0], 0
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
		if before <= a.hostAt && e.Position > a.hostAt {
			// What a durable machine holds already and what it does not must
			// not share a batch.
			if err := a.flush(before); err != nil {
				return err
			}
		}
		data, err := decodeEntry(e.Data, &h)
		switch {
		case err != nil:
			// Every replica passes it over alike.
			a.log.Error("entry passed over", "position", e.Position, "err", err)
		case e.Kind == KindControl:
			if err := a.flush(before); err != nil {
				return err
			}
			a.st.time = max(a.st.time, h.time)
			if err := a.control(&h, data, e.Position); err != nil {
				return err
			}
			a.at = e.Position
			a.publish() // also when it is the last and nobody here waits for it
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
		a.batch.bytes += len(data)
	}
	a.batch.steps = append(a.batch.steps, s)
}

// flush executes the batch and tells everybody who waits for it. The replica
// stands at position to afterwards.
func (a *applier) flush(to Position) error {
	if to <= a.at && len(a.batch.steps) == 0 && len(a.batch.ready) == 0 {
		return nil
	}
	b := &a.batch
	defer b.reset()
	b.results = b.results[:len(b.entries)]
	told := to > a.hostAt
	if len(b.entries) > 0 && told {
		if err := a.callApply(to); err != nil {
			return err
		}
	}
	for i := range b.results {
		a.limitResult(&b.results[i])
	}
	a.pending.mu.Lock() // once for the batch
	for i := range b.steps {
		a.settle(&b.steps[i], told)
	}
	a.pending.mu.Unlock()
	a.tail.add(b.entries)
	a.at = max(a.at, to)
	a.publish()
	a.tell()
	return nil
}

// callApply is the one place where commands reach the machine.
func (a *applier) callApply(to Position) error {
	b := &a.batch
	fb := fsm.Batch{Entries: b.entries, Time: a.st.time}
	if a.opened.Capabilities.Durable {
		fb.Host = a.hostBytes(to)
	}
	a.state.begin(time.Now())
	err := a.machine.Apply(a.ctx, fb, b.results)
	a.state.end()
	if err != nil {
		return fmt.Errorf("%w: apply of commands %d to %d: %w", fsm.ErrLost,
			b.entries[0].Index, b.entries[len(b.entries)-1].Index, err)
	}
	if a.opened.Capabilities.Ticks {
		a.due.Store(b.results[len(b.results)-1].Due)
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

// settle records a result in its session and finds the caller. told is false
// when a durable machine had executed the command before this start, so that
// its result is not known.
func (a *applier) settle(s *step, told bool) {
	b := &a.batch
	r := Receipt{Token: Token{Number: s.number}}
	err := s.err
	switch s.verdict {
	case execute:
		if !told {
			err = ErrResultGone.Because("command %d happened before this replica restarted; its result is not known", s.number)
			break
		}
		res := &b.results[s.result]
		if s.session == nil && s.ref == 0 {
			return
		}
		r.Value, r.Err = bytes.Clone(res.Value), res.Err
		if s.session != nil {
			s.session.keep(s.seq, r.Value, r.Err, a.limits.SessionResultBytes)
		}
	case duplicate:
		r, err = repeated(s)
	}
	if s.ref == 0 {
		return
	}
	if w, ok := a.pending.takeLocked(s.ref); ok {
		r.Token.History = a.history()
		b.ready = append(b.ready, settled{w, r, err})
	}
}

// repeated answers a command that had been executed before.
func repeated(s *step) (Receipt, error) {
	at, found := s.session.find(s.seq)
	if !found {
		return Receipt{}, &Error{Code: CodeResultGone, Happened: Yes, Message: "the command happened and its answer was acknowledged"}
	}
	rec := &s.session.records[at]
	if !rec.kept {
		return Receipt{}, &Error{Code: CodeResultGone, Happened: Yes, Index: rec.number,
			Message: fmt.Sprintf("the command happened, as number %d; its result is no longer kept", rec.number)}
	}
	return Receipt{Token: Token{Number: rec.number}, Value: rec.value, Err: rec.err, Duplicate: true}, nil
}

// tell answers the callers, after everything is published: who has an answer
// reads its own write here.
func (a *applier) tell() {
	for i := range a.batch.ready {
		s := &a.batch.ready[i]
		s.w.who.complete(s.w.i, s.r, s.err)
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
	a.seen.set(a.at, a.st.number, a.st.time, a.history())
	if a.state.phase() != phaseReplaying || a.at < a.replayTo {
		return
	}
	a.backoff = 0
	a.state.set(phaseRunning, nil)
	a.changed()
}

func (a *applier) history() UUID { return historyOf(a.cfg.Identity, a.st.history) }

// control acts on one of the framework's own entries.
func (a *applier) control(h *header, data []byte, at Position) error {
	d := decoder{b: data}
	var err error
	switch kind := control(d.byte()); kind {
	case controlOpenSession:
		var id SessionID
		copy(id[:], d.take(16))
		if ordered := d.byte()&1 == 1; !d.bad {
			err = a.st.sessions.open(id, ordered)
		}
	case controlCloseSession:
		var id SessionID
		copy(id[:], d.take(16))
		a.st.sessions.close(id)
	case controlTick:
		if e := a.tick(); e != nil {
			return e
		}
	case controlRestore:
		var hash [32]byte
		var history UUID
		copy(hash[:], d.take(32))
		copy(history[:], d.take(16))
		if e := a.restore(hash, history, at); e != nil {
			return e
		}
	default:
		err = ErrUnsupported.Because("control entry of unknown kind %d", kind)
	}
	if d.bad {
		err = ErrInvalid.Because("malformed control entry")
	}
	if h.origin == a.origin {
		if w, ok := a.pending.take(h.ref); ok {
			r := Receipt{Token: Token{Number: a.st.number, History: a.history()}}
			a.batch.ready = append(a.batch.ready, settled{w, r, err})
		}
	}
	return nil
}

// tick tells a machine with deadlines that time has moved on.
func (a *applier) tick() error {
	if !a.opened.Capabilities.Ticks {
		return nil
	}
	var result [1]fsm.Result
	fb := fsm.Batch{Time: a.st.time}
	if a.opened.Capabilities.Durable {
		fb.Host = a.hostBytes(a.at)
	}
	a.state.begin(time.Now())
	err := a.machine.Apply(a.ctx, fb, result[:])
	a.state.end()
	if err != nil {
		return fmt.Errorf("%w: tick: %w", fsm.ErrLost, err)
	}
	a.due.Store(result[0].Due)
	return nil
}

// hostBytes is what a durable machine stores with its data: where it stands.
// The history tells a machine of another group or of before a restore.
func (a *applier) hostBytes(to Position) []byte {
	b := append(make([]byte, 0, 64), 1)
	b = binary.LittleEndian.AppendUint64(b, uint64(to))
	b = binary.LittleEndian.AppendUint64(b, a.st.number)
	return append(b, a.st.history[:]...)
}

// readHostBytes gives the position a durable machine stands at, 0 for none.
func readHostBytes(b []byte) (at Position, number uint64, history UUID) {
	if len(b) != 1+8+8+16 || b[0] != 1 {
		return 0, 0, UUID{}
	}
	copy(history[:], b[17:])
	return Position(binary.LittleEndian.Uint64(b[1:])), binary.LittleEndian.Uint64(b[9:]), history
}
