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

// fakeEngine is a replicated log of one replica: what is proposed is committed
// at once, at every second position (gaps are allowed, so there are some).
type fakeEngine struct {
	mu       sync.Mutex
	host     Host
	log      []Entry
	oldest   Position
	last     Position
	snapAt   Position
	snap     []byte
	notLead  bool
	held     []Proposal // while holding, committed by release
	holding  bool
	changed  chan struct{}
	snapFail error
}

func (f *fakeEngine) driver() EngineDriver {
	return EngineDriver{New: func(_ context.Context, c EngineConfig) (Engine, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.host, f.changed = c.Host, make(chan struct{})
		if f.oldest == 0 {
			f.oldest = 1
		}
		if f.snapAt > 0 {
			f.host.Install(f.snapAt)
		}
		f.host.Announce(nil, f.last)
		return f, nil
	}}
}

func (f *fakeEngine) Propose(batch []Proposal) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.notLead {
		for _, p := range batch {
			f.host.Resolve([]Outcome{{Ref: p.Ref, Err: ErrNotLeader}})
		}
		return
	}
	if f.holding {
		f.held = append(f.held, batch...)
		return
	}
	f.commit(batch)
}

func (f *fakeEngine) commit(batch []Proposal) {
	var out []Entry
	for _, p := range batch {
		f.last += 2
		out = append(out, Entry{Position: f.last, Term: 1, Kind: p.Kind, Data: p.Data})
		f.host.Resolve([]Outcome{{Ref: p.Ref, Position: f.last}})
	}
	f.log = append(f.log, out...)
	f.last++
	f.host.Announce(out, f.last)
}

func (f *fakeEngine) release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.holding = false
	f.commit(f.held)
	f.held = nil
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
	f.snapAt, f.snap = at, b.Bytes()
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
func (f *fakeEngine) Transfer(context.Context, NodeID) error       { return nil }
func (f *fakeEngine) Features() Features                           { return Features{} }
func (f *fakeEngine) Close(context.Context) error                  { return nil }
func (f *fakeEngine) Changed() <-chan struct{}                     { return f.changed }
func (f *fakeEngine) Status() EngineStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := EngineStatus{Role: RoleLeader, Term: 1, Leader: "self", Last: f.last, Commit: f.last, First: f.oldest, Snapshot: f.snapAt,
		Membership: Membership{ID: 1, Members: []Member{{ID: "self"}}, Committed: true}}
	if f.notLead {
		s.Role = RoleFollower
	}
	return s
}

// sumMachine adds numbers: a command of 8 bytes is added, the answer is the
// sum; "die" loses the machine, "no" is refused, "big" answers 1,000 bytes.
type sumMachine struct {
	fsm.Base
	shared *sumShared
	mu     sync.Mutex
	sum    uint64
	last   int64
	seen   []uint64
}

// sumShared is what outlives one machine.
type sumShared struct {
	mu      sync.Mutex
	made    int
	dieAt   map[uint64]int // lose the machine that many times at this number
	gate    chan struct{}  // Apply waits for it when not nil
	entered chan struct{}
	ticks   bool
	durable bool
	stored  *sumMachine
	host    []byte
	dirty   error // Restore's error
}

func (s *sumShared) factory(context.Context) (fsm.Machine, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.made++
	if s.durable && s.stored != nil {
		return &sumMachine{shared: s, sum: s.stored.sum, seen: s.stored.seen}, nil
	}
	return &sumMachine{shared: s}, nil
}

func (m *sumMachine) Open(context.Context) (fsm.Opened, error) {
	return fsm.Opened{Name: "sum", Version: "1", Host: m.shared.host,
		Capabilities: fsm.Capabilities{Ticks: m.shared.ticks, Durable: m.shared.durable}}, nil
}

func (m *sumMachine) Apply(_ context.Context, b fsm.Batch, results []fsm.Result) error {
	m.shared.mu.Lock()
	gate, entered := m.shared.gate, m.shared.entered
	m.shared.mu.Unlock()
	if gate != nil {
		close(entered)
		<-gate
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(b.Entries) == 0 {
		m.last = b.Time
		return nil
	}
	for i, e := range b.Entries {
		m.shared.mu.Lock()
		die := m.shared.dieAt[e.Index] > 0
		m.shared.dieAt[e.Index]--
		m.shared.mu.Unlock()
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
		if m.shared.ticks {
			results[i].Due = e.Time + int64(time.Minute)
		}
	}
	if m.shared.durable {
		m.shared.mu.Lock()
		m.shared.stored = &sumMachine{sum: m.sum, seen: slices.Clone(m.seen)}
		m.shared.host = bytes.Clone(b.Host)
		m.shared.mu.Unlock()
	}
	return nil
}

func (m *sumMachine) Query(context.Context, fsm.Query) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return binary.LittleEndian.AppendUint64(nil, m.sum), nil
}

type sumSnapshot uint64

func (s sumSnapshot) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(binary.LittleEndian.AppendUint64(nil, uint64(s)))
	return int64(n), err
}
func (sumSnapshot) Release() {}

func (m *sumMachine) Snapshot(context.Context) (fsm.Snapshot, error) {
	return sumSnapshot(m.sum), nil
}

func (m *sumMachine) Restore(_ context.Context, _ fsm.SnapshotInfo, r io.Reader) error {
	if m.shared.dirty != nil {
		return m.shared.dirty
	}
	b, err := io.ReadAll(r)
	if err != nil || len(b) != 8 {
		return errors.Join(err, errors.New("not a sum"))
	}
	m.sum, m.seen = binary.LittleEndian.Uint64(b), nil
	return nil
}

// rig is one replica on the fake engine.
type rig struct {
	t      *testing.T
	engine *fakeEngine
	shared *sumShared
	cfg    GroupConfig
	g      *Group
}

func newRig(t *testing.T, set func(*rig)) *rig {
	r := &rig{t: t, engine: &fakeEngine{}, shared: &sumShared{dieAt: map[uint64]int{}}}
	r.cfg = GroupConfig{
		Identity: GroupIdentity{ID: UUID{1}, Name: "g"}, Self: "self", Dir: t.TempDir(),
		Engine: r.engine.driver(), Machine: r.shared.factory,
	}
	if set != nil {
		set(r)
	}
	r.open()
	t.Cleanup(func() { r.close() })
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

func (r *rig) add(n uint64, s Session) (Receipt, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
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

func (r *rig) sum() uint64 {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for {
		a, err := r.g.Query(ctx, ReadQuery{})
		if err == nil {
			return binary.LittleEndian.Uint64(a.Value)
		}
		if !errors.Is(err, ErrMachineDown) || ctx.Err() != nil {
			r.t.Fatal(err)
		}
		<-r.g.Changed()
	}
}
