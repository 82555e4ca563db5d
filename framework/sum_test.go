package framework

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/diarchy/diarchy/fsm"
)

// sumMachine adds numbers: a command of 8 bytes is added, the answer is the
// sum; "no" is refused, "big" answers 1,000 bytes.
type sumMachine struct {
	fsm.Base
	shared *sumShared
	mu     sync.Mutex
	sum    uint64
	seen   []uint64
	closed bool
}

// sumShared is what outlives one machine.
type sumShared struct {
	mu      sync.Mutex
	made    int
	closed  int
	dieAt   map[uint64]int     // lose the machine that many times at this number
	hang    map[string]*hanger // by method
	ticks   bool
	ticked  []int64 // times of the ticks
	due     func(e fsm.Entry) int64
	overdue bool // after a tick something is due still
	durable bool
	stored  *sumMachine // what a durable machine has on disk
	host    []byte
	hosts   []Position // positions that a durable machine was told to store
	dirty   error      // Restore's error
	unread  bool       // Restore leaves the end unread
	batches []fsm.Batch
	abuse   []string // what no host may do
	lost    chan struct{}
	none    bool // has no snapshots
}

// hanger holds one call into the machine up.
type hanger struct {
	entered chan struct{} // capacity 1
	gate    chan struct{}
	deaf    bool // not even the context or Close ends it
}

func newShared() *sumShared {
	return &sumShared{dieAt: map[uint64]int{}, hang: map[string]*hanger{}}
}

// stop makes the next calls of a method hang until the function returned is
// called; entered says when one does.
func (s *sumShared) stop(method string, deaf bool) (entered <-chan struct{}, open func()) {
	h := &hanger{entered: make(chan struct{}, 1), gate: make(chan struct{}), deaf: deaf}
	s.mu.Lock()
	s.hang[method] = h
	s.mu.Unlock()
	return h.entered, func() {
		s.mu.Lock()
		if s.hang[method] == h {
			delete(s.hang, method)
		}
		s.mu.Unlock()
		close(h.gate)
	}
}

func (s *sumShared) enter(ctx context.Context, method string) error {
	s.mu.Lock()
	h := s.hang[method]
	s.mu.Unlock()
	if h == nil {
		return nil
	}
	select {
	case h.entered <- struct{}{}:
	default:
	}
	if h.deaf {
		<-h.gate
		return nil
	}
	select {
	case <-h.gate:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

func (s *sumShared) machines() (made, closed int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.made, s.closed
}

func (s *sumShared) factory(context.Context) (fsm.Machine, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.made++
	if s.durable && s.stored != nil {
		return &sumMachine{shared: s, sum: s.stored.sum, seen: slices.Clone(s.stored.seen)}, nil
	}
	return &sumMachine{shared: s}, nil
}

func (m *sumMachine) Open(ctx context.Context) (fsm.Opened, error) {
	if err := m.shared.enter(ctx, "open"); err != nil {
		return fsm.Opened{}, err
	}
	m.shared.mu.Lock()
	defer m.shared.mu.Unlock()
	return fsm.Opened{Name: "sum", Version: "1", Host: m.shared.host, Lost: m.shared.lost,
		Capabilities: fsm.Capabilities{Ticks: m.shared.ticks, Durable: m.shared.durable}}, nil
}

func (m *sumMachine) Apply(ctx context.Context, b fsm.Batch, results []fsm.Result) error {
	if err := m.shared.enter(ctx, "apply"); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.shared
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := b
	kept.Entries = slices.Clone(b.Entries)
	s.batches = append(s.batches, kept)
	if len(b.Entries) == 0 {
		s.ticked = append(s.ticked, b.Time)
		if s.overdue {
			results[0].Due = 1
		}
	}
	for i, e := range b.Entries {
		die := s.dieAt[e.Index] > 0
		s.dieAt[e.Index]--
		if die {
			return errors.New("told to die")
		}
		m.seen = append(m.seen, e.Index)
		switch string(e.Data) {
		case "no":
			results[i].Err = "refused"
		case "big":
			results[i].Value = make([]byte, 1000)
		default:
			if len(e.Data) == 8 {
				m.sum += binary.LittleEndian.Uint64(e.Data)
			}
			results[i].Value = binary.LittleEndian.AppendUint64(nil, m.sum)
		}
		if s.due != nil {
			results[i].Due = s.due(e)
		}
	}
	m.store(b.Host)
	return nil
}

// store is called with both locks held.
func (m *sumMachine) store(host []byte) {
	s := m.shared
	if !s.durable {
		return
	}
	s.stored = &sumMachine{sum: m.sum, seen: slices.Clone(m.seen)}
	s.host = bytes.Clone(host)
	at, _, _ := readHostBytes(host)
	s.hosts = append(s.hosts, at)
}

func (m *sumMachine) Query(ctx context.Context, _ fsm.Query) ([]byte, error) {
	m.mu.Lock()
	sum, closed := m.sum, m.closed
	m.mu.Unlock()
	if closed {
		m.shared.mu.Lock()
		m.shared.abuse = append(m.shared.abuse, "Query after Close")
		m.shared.mu.Unlock()
	}
	if err := m.shared.enter(ctx, "query"); err != nil {
		return nil, err
	}
	return binary.LittleEndian.AppendUint64(nil, sum), nil
}

type sumSnapshot struct {
	sum    uint64
	shared *sumShared
}

func (s sumSnapshot) WriteTo(w io.Writer) (int64, error) {
	if s.shared != nil {
		if err := s.shared.enter(context.Background(), "write"); err != nil {
			return 0, err
		}
	}
	n, err := w.Write(binary.LittleEndian.AppendUint64(nil, s.sum))
	return int64(n), err
}
func (sumSnapshot) Release() {}

func (m *sumMachine) Snapshot(ctx context.Context) (fsm.Snapshot, error) {
	if m.shared.none {
		return nil, fsm.ErrUnsupported
	}
	if err := m.shared.enter(ctx, "snapshot"); err != nil {
		return nil, err
	}
	return sumSnapshot{m.sum, m.shared}, nil
}

func (m *sumMachine) Restore(ctx context.Context, info fsm.SnapshotInfo, r io.Reader) error {
	if err := m.shared.enter(ctx, "restore"); err != nil {
		return err
	}
	m.shared.mu.Lock()
	defer m.shared.mu.Unlock()
	if m.shared.dirty != nil {
		return m.shared.dirty
	}
	if m.shared.unread {
		_, err := io.ReadFull(r, make([]byte, 4))
		return err
	}
	b, err := io.ReadAll(r)
	if err != nil || len(b) != 8 {
		return errors.Join(err, errors.New("not a sum"))
	}
	m.sum, m.seen = binary.LittleEndian.Uint64(b), nil
	m.store(info.Host)
	return nil
}

func (m *sumMachine) Close() error {
	m.mu.Lock()
	again := m.closed
	m.closed = true
	m.mu.Unlock()
	m.shared.mu.Lock()
	defer m.shared.mu.Unlock()
	m.shared.closed++
	if again {
		m.shared.abuse = append(m.shared.abuse, "Close after Close")
	}
	return nil
}

// rig is one replica on the fake engine.
type rig struct {
	t      testing.TB
	engine *fakeEngine
	shared *sumShared
	cfg    GroupConfig
	g      *Group
}

func newRig(t testing.TB, set func(*rig)) *rig {
	r := &rig{t: t, engine: &fakeEngine{}, shared: newShared()}
	r.cfg = GroupConfig{
		Identity: GroupIdentity{ID: UUID{1}, Name: "g"}, Self: "self", Dir: t.TempDir(),
		Engine: r.engine.driver(), Machine: r.shared.factory,
	}
	if set != nil {
		set(r)
	}
	r.open()
	t.Cleanup(func() {
		r.close()
		for _, a := range r.shared.abuse {
			t.Error(a)
		}
	})
	return r
}

func (r *rig) open() {
	r.t.Helper()
	g, err := OpenGroup(context.Background(), r.cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	r.g = g
}

func (r *rig) close() {
	if err := r.g.Close(context.Background()); err != nil {
		r.t.Error(err)
	}
}

func num(n uint64) []byte { return binary.LittleEndian.AppendUint64(nil, n) }

// patience bounds what must happen.
const patience = 20 * time.Second

func soon() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), patience)
}

func (r *rig) add(n uint64, s Session) (Receipt, error) {
	ctx, cancel := soon()
	defer cancel()
	return r.g.Propose(ctx, Command{Data: num(n), Session: s})
}

func (r *rig) mustAdd(n uint64, s Session) Receipt {
	r.t.Helper()
	rec, err := r.add(n, s)
	if err != nil {
		r.t.Fatal(err)
	}
	return rec
}

func (r *rig) session(b byte) SessionID {
	r.t.Helper()
	ctx, cancel := soon()
	defer cancel()
	if err := r.g.OpenSession(ctx, SessionID{b}, SessionOptions{}); err != nil {
		r.t.Fatal(err)
	}
	return SessionID{b}
}

func (r *rig) sum() uint64 {
	r.t.Helper()
	ctx, cancel := soon()
	defer cancel()
	for {
		changed := r.g.Changed()
		a, err := r.g.Query(ctx, ReadQuery{})
		if err == nil {
			return binary.LittleEndian.Uint64(a.Value)
		}
		if !errors.Is(err, ErrMachineDown) || ctx.Err() != nil {
			r.t.Fatal(err)
		}
		<-changed
	}
}

// until waits for what must come true, looking again at each change.
func (r *rig) until(what string, f func() bool) {
	r.t.Helper()
	for end := time.Now().Add(patience); ; {
		changed := r.g.Changed()
		if f() {
			return
		}
		if time.Now().After(end) {
			r.t.Fatalf("not in time: %s; %+v", what, r.g.Status())
		}
		select {
		case <-changed:
		case <-time.After(time.Millisecond):
		}
	}
}

// finishes fails when f does not return in time.
func finishes(t testing.TB, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("%s does not end", what)
	}
}
