package framework

import (
	"bytes"
	"context"
	"io"
	"slices"
	"sync"
)

// fakeEngine is a replicated log of one replica: what is proposed is committed
// at once, at every second position (gaps are allowed, so there are some). It
// outlives the groups that run on it, as a directory would.
type fakeEngine struct {
	mu      sync.Mutex
	host    Host
	log     []Entry
	oldest  Position
	last    Position
	behind  bool // when opened again nothing is known to be committed yet
	snapAt  Position
	snap    []byte
	notLead bool
	term    Term
	members []Member
	held    []Proposal // while holding, committed by release
	holding bool
	closed  bool
	changed chan struct{}
	// What the engine does instead of what it should.
	snapFail  error
	keepLog   bool // snapshots do not shorten the log
	transfers []NodeID
	transfer  func(n int) error // of the n-th hand-over; nil stays leader and says all is well
	peers     []PeerProgress
}

func (f *fakeEngine) driver() EngineDriver {
	return EngineDriver{New: func(_ context.Context, c EngineConfig) (Engine, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.host, f.changed, f.closed = c.Host, make(chan struct{}), false
		if f.oldest == 0 {
			f.oldest = 1
		}
		if f.snapAt > 0 {
			f.host.Install(f.snapAt)
		}
		if !f.behind {
			f.host.Announce(slices.Clone(f.log), f.last)
		}
		return f, nil
	}}
}

func (f *fakeEngine) Propose(batch []Proposal) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed || f.notLead:
		err := ErrNotLeader
		if f.closed {
			err = ErrStopped
		}
		for _, p := range batch {
			f.host.Resolve([]Outcome{{Ref: p.Ref, Err: err}})
		}
	case f.holding:
		f.held = append(f.held, batch...)
	default:
		f.commit(batch)
	}
}

func (f *fakeEngine) commit(batch []Proposal) {
	out := make([]Entry, 0, len(batch))
	for _, p := range batch {
		f.last += 2
		out = append(out, Entry{Position: f.last, Term: 1, Kind: p.Kind, Data: p.Data})
		f.host.Resolve([]Outcome{{Ref: p.Ref, Position: f.last}})
	}
	f.log = append(f.log, out...)
	f.last++
	f.host.Announce(out, f.last)
}

// append commits entries of another replica.
func (f *fakeEngine) append(es ...Entry) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range es {
		f.last++
		es[i].Position, es[i].Term = f.last, 1
	}
	f.log = append(f.log, es...)
	f.host.Announce(es, f.last)
}

// release commits what was held, in one announcement.
func (f *fakeEngine) release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.holding = false
	f.commit(f.held)
	f.held = nil
}

func (f *fakeEngine) hold() {
	f.mu.Lock()
	f.holding = true
	f.mu.Unlock()
}

func (f *fakeEngine) heldNow() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.held)
}

// install stands for a snapshot from another replica.
func (f *fakeEngine) install(at Position, payload []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log, f.oldest, f.last = nil, at+1, at
	f.snapAt, f.snap = at, payload
	f.host.Install(at)
}

func (f *fakeEngine) raise() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// lead makes it the leader of another term, or none.
func (f *fakeEngine) lead(leads bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.notLead = !leads
	f.term++
	f.raise()
}

func (f *fakeEngine) ReadIndex(context.Context) (Position, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.notLead {
		return 0, ErrNotLeader
	}
	return f.last, nil
}

func (f *fakeEngine) Entries(from Position, maxBytes int) ([]Entry, Position, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if from < f.oldest {
		return nil, 0, &CompactedError{Oldest: f.oldest}
	}
	i, _ := slices.BinarySearchFunc(f.log, from, func(e Entry, p Position) int { return int(e.Position) - int(p) })
	var out []Entry
	for n := 0; i < len(f.log) && n < maxBytes; i++ {
		out = append(out, f.log[i])
		n += len(f.log[i].Data)
	}
	if i < len(f.log) {
		return out, out[len(out)-1].Position, nil
	}
	return out, f.last, nil
}

func (f *fakeEngine) Snapshot(_ context.Context, at Position, payload io.WriterTo) error {
	var b bytes.Buffer
	if _, err := payload.WriteTo(&b); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.snapFail != nil {
		return f.snapFail
	}
	if at <= f.snapAt {
		return nil
	}
	f.snapAt, f.snap = at, b.Bytes()
	if f.keepLog {
		return nil
	}
	f.log = slices.DeleteFunc(f.log, func(e Entry) bool { return e.Position <= at })
	f.oldest = at + 1
	return nil
}

func (f *fakeEngine) OpenSnapshot() (Position, io.ReadCloser, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.snapAt == 0 {
		return 0, nil, ErrNoSnapshot
	}
	return f.snapAt, io.NopCloser(bytes.NewReader(f.snap)), nil
}

func (f *fakeEngine) Change(context.Context, Change, uint64) error { return ErrUnsupported }

func (f *fakeEngine) Transfer(_ context.Context, to NodeID) error {
	f.mu.Lock()
	f.transfers = append(f.transfers, to)
	n, then := len(f.transfers), f.transfer
	f.mu.Unlock()
	if then == nil {
		return nil
	}
	return then(n)
}

func (f *fakeEngine) transferred() []NodeID {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.transfers)
}

func (f *fakeEngine) Features() Features { return Features{} }

func (f *fakeEngine) Close(context.Context) error {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	return nil
}

func (f *fakeEngine) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

func (f *fakeEngine) Status() EngineStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := EngineStatus{Role: RoleLeader, Term: 1 + f.term, Leader: "self", Last: f.last, Commit: f.last, First: f.oldest, Snapshot: f.snapAt,
		Membership: Membership{ID: 1, Members: append([]Member{{ID: "self"}}, f.members...), Committed: true}, Peers: f.peers}
	if f.notLead {
		s.Role, s.Leader = RoleFollower, "other"
	}
	return s
}

// announceAll tells that the whole log is committed, after a start that knew
// of nothing.
func (f *fakeEngine) announceAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.host.Announce(slices.Clone(f.log), f.last)
}
