package framework

import (
	"sync"
	"sync/atomic"
	"time"
)

// completer is told what became of a proposal. complete must not block.
type completer interface {
	complete(i int, r Receipt, err error)
}

// pending holds the callers that wait for their commands, in a ring by ref, so
// that finding one costs no map. Each waiter leaves it exactly once: completed
// by the applier, failed by the engine, or abandoned by its caller.
//
// Invariants: a waiter of ref is in slots[ref mod len(slots)]; count and bytes
// are those of the waiters; len(slots) >= count, and it grows where many wait.
type pending struct {
	mu    sync.Mutex
	slots []waiter // a power of two
	last  uint64   // the newest ref given
	count int
	bytes int
	limit QueueLimits
	idle  chan struct{} // closed when count falls to 0; nil unless somebody waits
}

type waiter struct {
	ref   uint64 // 0: the slot is free
	who   completer
	i     int
	bytes int
}

const slotsMin = 64

func newPending(l QueueLimits) *pending {
	return &pending{slots: make([]waiter, slotsMin), limit: l}
}

// add makes room for a waiter and returns its ref, 0 when the queue is full.
func (p *pending) add(who completer, i, bytes int) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.addLocked(who, i, bytes)
}

func (p *pending) addLocked(who completer, i, bytes int) uint64 {
	if p.count >= p.limit.Proposals || p.bytes+bytes > p.limit.ProposalBytes {
		return 0
	}
	for {
		p.last++
		s := &p.slots[p.last&uint64(len(p.slots)-1)]
		if s.ref == 0 {
			*s = waiter{ref: p.last, who: who, i: i, bytes: bytes}
			p.count++
			p.bytes += bytes
			return p.last
		}
		// Taken by a caller far slower than the rest: step over it, unless it
		// is rather that there are many.
		if p.count > len(p.slots)/2 {
			p.grow()
		}
	}
}

// grow doubles the slots. Waiters that had slots of their own have them still.
func (p *pending) grow() {
	old := p.slots
	p.slots = make([]waiter, 2*len(old))
	for _, w := range old {
		if w.ref != 0 {
			p.slots[w.ref&uint64(len(p.slots)-1)] = w
		}
	}
}

// take removes the waiter of ref; false when it has left already.
func (p *pending) take(ref uint64) (waiter, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.takeLocked(ref)
}

// claim takes the waiters of all that is ready; those that have left are nil.
func (p *pending) claim(ready []settled) {
	if len(ready) == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range ready {
		ready[i].w, _ = p.takeLocked(ready[i].ref)
	}
}

func (p *pending) takeLocked(ref uint64) (waiter, bool) {
	s := &p.slots[ref&uint64(len(p.slots)-1)]
	if ref == 0 || s.ref != ref {
		return waiter{}, false
	}
	w := *s
	*s = waiter{}
	p.count--
	p.bytes -= w.bytes
	if p.count == 0 && p.idle != nil {
		close(p.idle)
		p.idle = nil
	}
	return w, true
}

// drained returns a channel that is closed once nobody waits.
func (p *pending) drained() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.count == 0 {
		none := make(chan struct{})
		close(none)
		return none
	}
	if p.idle == nil {
		p.idle = make(chan struct{})
	}
	return p.idle
}

// failAll ends every wait with err.
func (p *pending) failAll(err error) {
	p.mu.Lock()
	var out []waiter
	for i := range p.slots {
		if ref := p.slots[i].ref; ref != 0 {
			w, _ := p.takeLocked(ref)
			out = append(out, w)
		}
	}
	p.mu.Unlock()
	for _, w := range out {
		w.who.complete(w.i, Receipt{}, err)
	}
}

// call is one blocking Propose.
type call struct {
	done     chan struct{} // capacity 1
	receipt  Receipt
	err      error
	proposal [1]Proposal
}

func newCall() any { return &call{done: make(chan struct{}, 1)} }

func (c *call) complete(_ int, r Receipt, err error) {
	c.receipt, c.err = r, err
	c.done <- struct{}{}
}

// asyncCall is one ProposeAsync.
type asyncCall struct {
	done    func(i int, r Receipt, err error)
	start   time.Time
	metrics *groupMetrics
	open    atomic.Int64 // commands without an answer, and the call itself
	refs    []uint64
	stop    func() bool // takes the registration with the context back; may be nil
}

func (c *asyncCall) complete(i int, r Receipt, err error) {
	c.metrics.observe(c.start, err)
	c.done(i, r, err)
	c.finish(1)
}

// finish counts answers. The last lets the context go, which may live on for
// long and would hold on to the call.
func (c *asyncCall) finish(n int) {
	if c.open.Add(int64(-n)) == 0 && c.stop != nil {
		c.stop()
	}
}

// waiting is how many callers wait.
func (p *pending) waiting() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count
}
