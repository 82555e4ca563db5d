package framework

import (
	"sync"
	"time"
)

// completer is told what became of a proposal. complete must not block.
type completer interface {
	complete(i int, r Receipt, err error)
}

// pending holds the callers that wait for their commands, in a ring by ref, so
// that finding one costs no map. Each waiter leaves it exactly once: completed
// by the applier, failed by the engine, or abandoned by its caller.
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

func newPending(l QueueLimits) *pending {
	n := 1
	for n < l.Proposals {
		n <<= 1
	}
	return &pending{slots: make([]waiter, n), limit: l}
}

// add makes room for a waiter and returns its ref, 0 when the queue is full.
func (p *pending) add(who completer, i, bytes int) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.count >= p.limit.Proposals || p.bytes+bytes > p.limit.ProposalBytes {
		return 0
	}
	// A slot may still be taken by a caller far slower than the rest; step
	// over it. There is a free one, since count is below the number of slots.
	for {
		p.last++
		s := &p.slots[p.last&uint64(len(p.slots)-1)]
		if s.ref == 0 {
			*s = waiter{ref: p.last, who: who, i: i, bytes: bytes}
			p.count++
			p.bytes += bytes
			return p.last
		}
	}
}

// take removes the waiter of ref; false when it has left already.
func (p *pending) take(ref uint64) (waiter, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.takeLocked(ref)
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
}

func (c *asyncCall) complete(i int, r Receipt, err error) {
	c.metrics.observe(c.start, err)
	c.done(i, r, err)
}
