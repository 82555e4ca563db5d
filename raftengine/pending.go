package raftengine

import (
	"encoding/binary"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/diarchy/diarchy/framework"
)

// pending holds the proposals that were given to raft and have no outcome yet,
// in the order given. It learns what became of them without raft's futures:
//
//   - raft's leader appends what it takes up in the order it was given, by one
//     call of the log store before anything else happens to it. There each gets
//     its index and term (dispatch). One that is passed over was refused by raft
//     and is in no log: it did not happen.
//   - When the entry at its index is committed (applied), it is committed if the
//     terms agree, and otherwise did not happen: another entry is there for good.
//   - When leadership ends (sweep), what is not known to be committed may have
//     happened. What raft has handed over as committed is left to applied.
//
// An own entry is recognised in the log store by its Extensions: raft passes the
// slice on as it got it, so that behind its end, within its capacity, lies the
// sequence number, at an address that only pending knows. No other replica sees
// that, and nothing of it is written.
//
// Invariants, under mu: slots is a ring of count slots from head, numbered from
// base; those before sent were dispatched or are done; indexes rise; live is the
// number of those that are not done.
type pending struct {
	mu      sync.Mutex
	slots   []slot // a power of two
	head    int
	count   int
	base    uint64
	sent    uint64
	live    int
	waiting []chan struct{} // closed once nothing is undispatched
}

type slot struct {
	ref         uint64
	index, term uint64 // 0 until dispatched
	tag         *byte
	bytes       int
	own         bool // a marker: nobody waits for its outcome
	done        bool
}

// What Extensions say of an entry.
const (
	extControl = 1
	extMarker  = 2
)

// tagBytes is the room behind an entry's Extensions: the kind, then the number.
const tagBytes = 9

func newPending() *pending { return &pending{slots: make([]slot, 256), base: 1, sent: 1} }

func (p *pending) at(seq uint64) *slot {
	if seq < p.base || seq >= p.base+uint64(p.count) {
		return nil
	}
	return &p.slots[(p.head+int(seq-p.base))&(len(p.slots)-1)]
}

// give enters proposals and returns their log entries, for raft.
func (p *pending) give(batch []framework.Proposal, into []raft.Log) []raft.Log {
	tags := make([]byte, tagBytes*len(batch))
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range batch {
		tag := tags[i*tagBytes : (i+1)*tagBytes : (i+1)*tagBytes]
		used := 0
		if batch[i].Kind == framework.KindControl {
			tag[0], used = extControl, 1
		}
		p.push(slot{ref: batch[i].Ref, bytes: len(batch[i].Data)}, tag)
		into = append(into, raft.Log{Data: batch[i].Data, Extensions: tag[:used]})
	}
	return into
}

// giveMarker enters a marker.
func (p *pending) giveMarker() raft.Log {
	tag := make([]byte, tagBytes)
	tag[0] = extMarker
	p.mu.Lock()
	defer p.mu.Unlock()
	p.push(slot{own: true}, tag)
	return raft.Log{Extensions: tag[:1]}
}

// push needs mu.
func (p *pending) push(s slot, tag []byte) {
	if p.count == len(p.slots) {
		p.grow()
	}
	binary.LittleEndian.PutUint64(tag[1:], p.base+uint64(p.count))
	s.tag = &tag[0]
	p.slots[(p.head+p.count)&(len(p.slots)-1)] = s
	p.count++
	p.live++
}

func (p *pending) grow() {
	bigger := make([]slot, 2*len(p.slots))
	n := copy(bigger, p.slots[p.head:])
	copy(bigger[n:], p.slots[:p.head])
	p.slots, p.head = bigger, 0
}

// find is the slot of an entry that is being stored, nil for another's.
func (p *pending) find(l *raft.Log) (uint64, *slot) {
	if cap(l.Extensions) != tagBytes {
		return 0, nil
	}
	tag := l.Extensions[:tagBytes]
	seq := binary.LittleEndian.Uint64(tag[1:])
	s := p.at(seq)
	if s == nil || s.tag != &tag[0] {
		return 0, nil
	}
	return seq, s
}

// dispatch is called with what is about to be stored, before it is. It returns
// those passed over, whose error the caller fills in, and whether a marker went
// by.
func (p *pending) dispatch(logs []*raft.Log) (refused []settled, marker bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range logs {
		seq, s := p.find(l)
		if s == nil {
			continue
		}
		s.index, s.term = l.Index, l.Term
		marker = marker || s.own
		for ; p.sent < seq; p.sent++ {
			if passed := p.at(p.sent); passed != nil && !passed.done && passed.index == 0 {
				refused = p.finish(passed, 0, nil, refused)
			}
		}
		p.sent = max(p.sent, seq+1)
	}
	p.wake()
	return refused, marker
}

// settled is an outcome and the room that it frees.
type settled struct {
	framework.Outcome
	bytes int
}

// finish needs mu.
func (p *pending) finish(s *slot, at uint64, err error, out []settled) []settled {
	s.done = true
	p.live--
	if s.own {
		return out
	}
	return append(out, settled{framework.Outcome{Ref: s.ref, Position: framework.Position(at), Err: err}, s.bytes})
}

// applied is called with committed entries, in order.
func (p *pending) applied(logs []*raft.Log, lost error, out []settled) []settled {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range logs {
		for p.count > 0 {
			s := &p.slots[p.head]
			switch {
			case s.done:
			case s.index == 0 || s.index > l.Index:
				goto next
			case s.index == l.Index && s.term == l.Term:
				out = p.finish(s, l.Index, nil, out)
			default:
				out = p.finish(s, 0, lost, out)
			}
			p.pop()
		}
		return out
	next:
	}
	return out
}

func (p *pending) pop() {
	p.slots[p.head] = slot{}
	p.head = (p.head + 1) & (len(p.slots) - 1)
	p.count--
	p.base++
	p.sent = max(p.sent, p.base)
}

// sweep ends what leadership of another term than keep has left open, but for
// what raft has handed over as committed (up to applied). Those not seen in the
// log yet end with fresh, the others with maybe.
func (p *pending) sweep(keep, applied uint64, fresh, maybe error, out []settled) []settled {
	p.mu.Lock()
	defer p.mu.Unlock()
	for seq := p.base; seq < p.base+uint64(p.count); seq++ {
		s := p.at(seq)
		switch {
		case s.done || keep != 0 && s.term == keep:
		case s.index == 0:
			out = p.finish(s, 0, fresh, out)
		case s.index > applied:
			out = p.finish(s, 0, maybe, out)
		}
	}
	for p.count > 0 && p.slots[p.head].done {
		p.pop()
	}
	p.wake()
	return out
}

// overtaken ends what a snapshot from another replica covers: whether it is part
// of the state there is not known here.
func (p *pending) overtaken(index uint64, maybe error) (out []settled) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.count > 0 {
		s := &p.slots[p.head]
		if !s.done && (s.index == 0 || s.index > index) {
			break
		}
		if !s.done {
			out = p.finish(s, 0, maybe, out)
		}
		p.pop()
	}
	return out
}

// undispatched is the number of those that raft has not taken up.
func (p *pending) undispatched() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.undispatchedLocked()
}

func (p *pending) undispatchedLocked() int {
	n := 0
	for seq := p.sent; seq < p.base+uint64(p.count); seq++ {
		if s := p.at(seq); !s.done && s.index == 0 {
			n++
		}
	}
	return n
}

// dispatched returns a channel that is closed once raft has taken up or refused
// all that it was given.
func (p *pending) dispatched() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	done := make(chan struct{})
	p.waiting = append(p.waiting, done)
	p.wake()
	return done
}

// wake needs mu.
func (p *pending) wake() {
	if len(p.waiting) > 0 && p.undispatchedLocked() == 0 {
		for _, w := range p.waiting {
			close(w)
		}
		p.waiting = nil
	}
}
