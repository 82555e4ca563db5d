package framework

import "sync"

// ring passes committed entries from the engine to the applier. The engine
// never waits: what does not fit in the byte bound is dropped, and the applier
// reads it again from the engine's log.
//
// Invariants: the entries held follow each other without a gap from where the
// applier stands; once one was dropped (behind), all are until the applier has
// read up to through by itself.
type ring struct {
	mu      sync.Mutex
	entries []Entry
	bytes   int
	max     int
	behind  bool
	through Position // everything up to it is committed
	install Position // the newest snapshot announced by the engine
	jobs    []func() // run by the applier between two batches
	closed  bool     // the applier is gone
	wake    chan struct{}
}

// taken is what the applier found in the ring.
type taken struct {
	entries []Entry
	behind  bool
	through Position
	install Position
	jobs    []func()
}

func newRing(maxBytes int) *ring {
	return &ring{max: maxBytes, wake: make(chan struct{}, 1)}
}

func (r *ring) announce(entries []Entry, through Position) {
	r.mu.Lock()
	r.through = max(r.through, through)
	if !r.behind {
		bytes := 0
		for i := range entries {
			bytes += len(entries[i].Data) + entryOverhead
		}
		if r.bytes+bytes <= r.max {
			r.entries = append(r.entries, entries...)
			r.bytes += bytes
		} else {
			r.behind = true
		}
	}
	r.mu.Unlock()
	r.signal()
}

func (r *ring) announceInstall(at Position) {
	r.mu.Lock()
	r.install = max(r.install, at)
	r.through = max(r.through, at)
	r.mu.Unlock()
	r.signal()
}

// do has f run by the applier's goroutine; once that is gone, at once.
func (r *ring) do(f func()) {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		f()
		return
	}
	r.jobs = append(r.jobs, f)
	r.mu.Unlock()
	r.signal()
}

// close ends the ring and returns the jobs that nobody has run.
func (r *ring) close() []func() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed, r.behind = true, true
	r.entries, r.bytes = nil, 0
	jobs := r.jobs
	r.jobs = nil
	return jobs
}

func (r *ring) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// take empties the ring; spare is a slice it may fill next.
func (r *ring) take(spare []Entry) taken {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := taken{entries: r.entries, behind: r.behind, through: r.through, install: r.install, jobs: r.jobs}
	r.entries, r.bytes, r.jobs = spare[:0], 0, nil
	return t
}

func (r *ring) takeJobs() []func() {
	r.mu.Lock()
	defer r.mu.Unlock()
	jobs := r.jobs
	r.jobs = nil
	return jobs
}

// caughtUp ends the state behind if the applier stands where the engine does.
func (r *ring) caughtUp(at Position) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at < r.through {
		return false
	}
	r.behind = false
	return true
}

// fallBehind makes the applier read from the log: its place has changed.
func (r *ring) fallBehind() {
	r.mu.Lock()
	r.behind = true
	r.entries, r.bytes = nil, 0
	r.mu.Unlock()
}

// installed is the newest snapshot that the engine has told of.
func (r *ring) installed() Position {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.install
}

func (r *ring) committed() Position {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.through
}
