package framework

import (
	"context"
	"slices"
	"sync"
)

// published is how far the replica has come, for readers.
type published struct {
	mu      sync.Mutex
	at      Position
	number  uint64
	time    int64
	history UUID
	byAt    waitList
	byNum   waitList
	ended   bool
}

func (p *published) init(history UUID) { p.history = history }

func (p *published) get() (at Position, number uint64, time int64, history UUID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at, p.number, p.time, p.history
}

// set publishes progress; nothing goes back while commands are replayed, but
// for a number that a new history restarts.
func (p *published) set(at Position, number uint64, time int64, history UUID) {
	p.mu.Lock()
	if at >= p.at {
		p.at, p.number, p.time, p.history = at, number, time, history
		p.byAt.release(uint64(at))
		p.byNum.release(number)
	}
	p.mu.Unlock()
}

func (p *published) position() Position {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at
}

func (p *published) waitAt(ctx context.Context, at Position) error {
	p.mu.Lock()
	if p.at >= at {
		p.mu.Unlock()
		return nil
	}
	return p.wait(ctx, &p.byAt, uint64(at))
}

func (p *published) waitNumber(ctx context.Context, number uint64) error {
	p.mu.Lock()
	if p.number >= number {
		p.mu.Unlock()
		return nil
	}
	return p.wait(ctx, &p.byNum, number)
}

// wait is called with mu held and releases it. It ends with ErrStopped when the
// replica is closed.
func (p *published) wait(ctx context.Context, l *waitList, value uint64) error {
	if p.ended {
		p.mu.Unlock()
		return ErrStopped
	}
	w := &wait{value: value, ready: make(chan struct{})}
	l.waiting = append(l.waiting, w)
	p.mu.Unlock()
	select {
	case <-w.ready:
		return w.err
	case <-ctx.Done():
	}
	p.mu.Lock()
	l.remove(w)
	p.mu.Unlock()
	return ctx.Err()
}

// end lets nobody wait any longer.
func (p *published) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	for _, l := range []*waitList{&p.byAt, &p.byNum} {
		for _, w := range l.waiting {
			w.err = ErrStopped
			close(w.ready)
		}
		l.waiting = nil
	}
}

// waitList wakes those who wait for a value that only grows.
type waitList struct{ waiting []*wait }

type wait struct {
	value uint64
	ready chan struct{}
	err   error // set before ready is closed
}

func (l *waitList) release(value uint64) {
	kept := l.waiting[:0]
	for _, w := range l.waiting {
		if w.value <= value {
			close(w.ready)
		} else {
			kept = append(kept, w)
		}
	}
	clear(l.waiting[len(kept):])
	l.waiting = kept
}

func (l *waitList) remove(w *wait) {
	if i := slices.Index(l.waiting, w); i >= 0 {
		l.waiting = slices.Delete(l.waiting, i, i+1)
	}
}
