package framework

import (
	"encoding/binary"
	"errors"
	"slices"
)

// sessionTable is the replicated memory that makes retries safe (contract 4).
// It is a function of the log alone: every replica that has applied the same
// entries holds an equal table. Kept results are an addition and take no part
// in that: they may be dropped at any time, and eviction does not look at them.
//
// Invariants:
//   - len(byID) <= limit; every session is in byID and in the list exactly once
//   - the list runs from the least to the most recently committed
//   - a session's records are sorted by seq, all >= acked, < acked+window
//   - resultBytes is the sum over its kept results, <= resultMax
//
// Owned by the applier's goroutine.
type sessionTable struct {
	limit, window, resultMax int
	byID                     map[SessionID]*session
	oldest, newest           *session
}

type session struct {
	id          SessionID
	ordered     bool
	acked       uint64 // the client has all answers below it
	next        uint64 // one above the highest seq executed
	records     []record
	resultBytes int
	prev, after *session
}

// record remembers that seq was executed, as the command called number.
type record struct {
	seq, number uint64
	kept        bool // value and err are here
	value       []byte
	err         string
}

func (r *record) bytes() int { return len(r.value) + len(r.err) }

func newSessionTable(l Limits) *sessionTable {
	return &sessionTable{
		limit: l.Sessions, window: l.SessionWindow, resultMax: l.SessionResultBytes,
		byID: map[SessionID]*session{},
	}
}

// open registers a session, evicting the least recently committed one when the
// table is full. Opening what is open already is fine with the same options.
func (t *sessionTable) open(id SessionID, ordered bool) error {
	if s := t.byID[id]; s != nil {
		if s.ordered != ordered {
			return ErrInvalid.Because("session %x is open already with ordered=%v", id[:4], s.ordered)
		}
		t.touch(s)
		return nil
	}
	if len(t.byID) >= t.limit {
		t.remove(t.oldest)
	}
	s := &session{id: id, ordered: ordered, acked: 1, next: 1}
	t.byID[id] = s
	t.push(s)
	return nil
}

func (t *sessionTable) close(id SessionID) {
	if s := t.byID[id]; s != nil {
		t.remove(s)
	}
}

// verdict is what the table says of a command that has been committed.
type verdict uint8

const (
	execute   verdict = iota // new: it was recorded, execute it
	duplicate                // executed before, or earlier in this batch
	refused                  // err says why; it is not executed
)

// admit judges a committed command with a session. For execute it has been
// recorded under number.
func (t *sessionTable) admit(c Session, number uint64) (*session, verdict, error) {
	s := t.byID[c.ID]
	if s == nil {
		return nil, refused, ErrSessionExpired
	}
	t.touch(s)
	if c.Seq == 0 {
		return s, refused, ErrInvalid.Because("sequence numbers of a session start at 1")
	}
	s.acknowledge(min(c.AckedBelow, c.Seq))
	if c.Seq < s.acked {
		return s, refused, &Error{Code: CodeResultGone, Happened: Yes,
			Message: "the command happened and its answer was acknowledged"}
	}
	if _, found := s.find(c.Seq); found {
		return s, duplicate, nil
	}
	if c.Seq >= s.acked+uint64(t.window) {
		return s, refused, ErrWindow.Because("command %d is beyond the session's window of %d above %d", c.Seq, t.window, s.acked)
	}
	if s.ordered && c.Seq != s.next {
		return s, refused, ErrOutOfOrder.Because("command %d of an ordered session came before command %d", c.Seq, s.next)
	}
	at, _ := s.find(c.Seq)
	s.records = slices.Insert(s.records, at, record{seq: c.Seq, number: number})
	s.next = max(s.next, c.Seq+1)
	return s, execute, nil
}

// find returns seq's place in the records, and whether it is there.
func (s *session) find(seq uint64) (int, bool) {
	n := len(s.records)
	if n == 0 || s.records[n-1].seq < seq {
		return n, false
	}
	return slices.BinarySearchFunc(s.records, seq, func(r record, seq uint64) int {
		switch {
		case r.seq < seq:
			return -1
		case r.seq > seq:
			return 1
		}
		return 0
	})
}

// acknowledge drops what the client will not ask for again.
func (s *session) acknowledge(below uint64) {
	if below <= s.acked {
		return
	}
	s.acked = below
	s.next = max(s.next, below)
	n, _ := s.find(below)
	for i := range n {
		s.resultBytes -= s.records[i].bytes()
	}
	s.records = slices.Delete(s.records, 0, n)
}

// keep remembers a copy of the result of an executed command, if it still has a
// record, dropping the oldest results over the bound.
func (s *session) keep(seq uint64, value []byte, err string, resultMax int) {
	at, found := s.find(seq)
	if !found || len(value)+len(err) > resultMax {
		return
	}
	r := &s.records[at]
	r.kept, r.value, r.err = true, slices.Clone(value), err
	s.resultBytes += r.bytes()
	for i := 0; s.resultBytes > resultMax; i++ {
		old := &s.records[i]
		s.resultBytes -= old.bytes()
		old.kept, old.value, old.err = false, nil, ""
	}
}

func (t *sessionTable) push(s *session) {
	s.prev, s.after = t.newest, nil
	if t.newest != nil {
		t.newest.after = s
	} else {
		t.oldest = s
	}
	t.newest = s
}

func (t *sessionTable) unlink(s *session) {
	if s.prev != nil {
		s.prev.after = s.after
	} else {
		t.oldest = s.after
	}
	if s.after != nil {
		s.after.prev = s.prev
	} else {
		t.newest = s.prev
	}
}

func (t *sessionTable) touch(s *session) {
	if t.newest != s {
		t.unlink(s)
		t.push(s)
	}
}

func (t *sessionTable) remove(s *session) {
	t.unlink(s)
	delete(t.byID, s.id)
}

// appendTo writes the table, least recently committed first:
// count, then for each session id, flags, acked, next, the number of records
// and for each seq, number, kept, and the result when kept. Of the results at
// most resultsMax bytes are written, those of the most recent sessions: a
// snapshot must not outgrow its format.
func (t *sessionTable) appendTo(b []byte, resultsMax int) []byte {
	b = binary.AppendUvarint(b, uint64(len(t.byID)))
	results := 0
	for s := t.oldest; s != nil; s = s.after {
		results += s.resultBytes
	}
	for s := t.oldest; s != nil; s = s.after {
		fits := results <= resultsMax
		results -= s.resultBytes
		b = append(b, s.id[:]...)
		b = append(b, boolByte(s.ordered))
		b = binary.AppendUvarint(b, s.acked)
		b = binary.AppendUvarint(b, s.next)
		b = binary.AppendUvarint(b, uint64(len(s.records)))
		for i := range s.records {
			r := &s.records[i]
			b = binary.AppendUvarint(b, r.seq)
			b = binary.AppendUvarint(b, r.number)
			b = append(b, boolByte(r.kept && fits))
			if r.kept && fits {
				b = appendBytes(b, r.value)
				b = appendBytes(b, []byte(r.err))
			}
		}
	}
	return b
}

var errBadSessions = errors.New("session table is damaged")

// readFrom replaces an empty table by what appendTo wrote, and returns what
// follows it.
func (t *sessionTable) readFrom(b []byte) ([]byte, error) {
	d := decoder{b: b}
	for range d.count(16) {
		s := &session{}
		copy(s.id[:], d.take(16))
		s.ordered = d.byte() == 1
		s.acked, s.next = d.uvarint(), d.uvarint()
		for range d.count(3) {
			r := record{seq: d.uvarint(), number: d.uvarint(), kept: d.byte() == 1}
			if r.kept {
				r.value = slices.Clone(d.bytes())
				r.err = string(d.bytes())
				s.resultBytes += r.bytes()
			}
			if n := len(s.records); n > 0 && s.records[n-1].seq >= r.seq {
				return nil, errBadSessions
			}
			s.records = append(s.records, r)
		}
		if d.bad || t.byID[s.id] != nil {
			return nil, errBadSessions
		}
		t.byID[s.id] = s
		t.push(s)
	}
	if d.bad {
		return nil, errBadSessions
	}
	return d.b, nil
}

func boolByte(b bool) byte {
	if b {
		return 1
	}
	return 0
}

func appendBytes(b, p []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(p))), p...)
}

// decoder reads the framework's own encodings. After the first fault bad is
// set and everything reads as zero, so that one check at the end is enough.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) fail() {
	d.bad, d.b = true, nil
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) take(n int) []byte {
	if n < 0 || n > len(d.b) {
		d.fail()
		return nil
	}
	p := d.b[:n]
	d.b = d.b[n:]
	return p
}

func (d *decoder) byte() byte {
	if p := d.take(1); p != nil {
		return p[0]
	}
	return 0
}

func (d *decoder) bytes() []byte {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.fail()
		return nil
	}
	return d.take(int(n))
}

// count reads a number of items of at least least bytes each, so that a
// damaged count cannot make a loop run away.
func (d *decoder) count(least int) int {
	n := d.uvarint()
	if n > uint64(len(d.b)/least) {
		d.fail()
		return 0
	}
	return int(n)
}
