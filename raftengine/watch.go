package raftengine

import (
	"sync"
	"time"
)

// watch sees storage calls that do not return. It costs two short critical
// sections for each call; its timer runs only while calls are made.
//
// Invariants, under mu: began holds a time for each call under way and zero in
// free places; stalled is true only while one of them is older than after; the
// timer is armed whenever a call is under way and stalled is false.
type watch struct {
	after    time.Duration
	onChange func() // called without mu, when stalled changes

	mu      sync.Mutex
	began   []time.Time
	timer   *time.Timer
	armed   bool
	stalled bool
	stalls  uint64
	stopped bool
}

func newWatch(after time.Duration, onChange func()) *watch {
	w := &watch{after: after, onChange: onChange}
	w.timer = time.AfterFunc(time.Hour, w.look)
	w.timer.Stop()
	return w
}

// begin notes a call and returns its place for end.
func (w *watch) begin() int {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.arm(w.after)
	for i := range w.began {
		if w.began[i].IsZero() {
			w.began[i] = now
			return i
		}
	}
	w.began = append(w.began, now)
	return len(w.began) - 1
}

func (w *watch) end(i int) {
	w.mu.Lock()
	w.began[i] = time.Time{}
	over := w.stalled && w.oldest() < w.after
	if over {
		w.stalled = false
		w.arm(w.after)
	}
	w.mu.Unlock()
	if over {
		w.onChange()
	}
}

// arm needs mu.
func (w *watch) arm(d time.Duration) {
	if !w.armed && !w.stalled && !w.stopped {
		w.armed = true
		w.timer.Reset(d)
	}
}

// oldest is the age of the oldest call under way, 0 without one. It needs mu.
func (w *watch) oldest() time.Duration {
	var first time.Time
	for _, t := range w.began {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	if first.IsZero() {
		return 0
	}
	return max(time.Since(first), 1)
}

// look is the timer's.
func (w *watch) look() {
	w.mu.Lock()
	w.armed = false
	age := w.oldest()
	hangs := age >= w.after && !w.stopped
	switch {
	case hangs:
		w.stalled = true
		w.stalls++
	case age > 0:
		w.arm(w.after - age)
	}
	w.mu.Unlock()
	if hangs {
		w.onChange()
	}
}

// hangs tells whether a call is stalled, and for how long it has been under way.
func (w *watch) hangs() (time.Duration, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.oldest(), w.stalled
}

func (w *watch) count() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stalls
}

func (w *watch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = true
	w.timer.Stop()
}
