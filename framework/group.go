package framework

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/diarchy/diarchy/fsm"
)

// GroupConfig is what one replica of a group is opened with.
type GroupConfig struct {
	Identity GroupIdentity
	Self     NodeID
	// Dir is the replica's directory, made if absent; "" keeps nothing on disk.
	Dir string
	// Bootstrap: see EngineConfig.
	Bootstrap []Member
	Engine    EngineDriver
	// EngineOptions are handed to the engine as they are.
	EngineOptions map[string]string
	// Machine makes the user's machine; MachineName is for messages.
	Machine     fsm.Factory
	MachineName string
	Limits      Limits
	Streams     Streams
	Heartbeat   time.Duration
	Election    time.Duration
	Snapshots   SnapshotPolicy
	Queues      QueueLimits
	// StallAfter: see EngineConfig. MachineStallAfter is how long one call into
	// the machine may last before its replica counts as stalled and a leader
	// hands over; zero takes 5 s.
	StallAfter, MachineStallAfter time.Duration
	// Now stamps commands on the leader; nil takes time.Now.
	Now func() time.Time
	// PeerState is what the node last heard of another replica: its machine and
	// applied position. May be nil.
	PeerState func(NodeID) (ReplicaStatus, bool)
	// FetchPayload gets a staged backup from another node. May be nil.
	FetchPayload func(ctx context.Context, from NodeID, hash [32]byte) (io.ReadCloser, error)
	Logger       *slog.Logger
	// Metrics, when not nil, puts the group's label on what it is given.
	Metrics prometheus.Registerer
}

// SnapshotPolicy says when a replica snapshots by itself. Zero fields take the
// defaults.
type SnapshotPolicy struct {
	Entries     int64 // positions applied since the last: 100,000
	Bytes       int64 // command bytes applied since the last: 64 MiB
	BytesPerSec int64 // write rate of the payload: 0 is unlimited
}

// QueueLimits bound what a replica holds for its callers. Zero fields take the
// defaults.
type QueueLimits struct {
	Proposals     int // commands proposed and not answered: 16,384
	ProposalBytes int // their bytes: 64 MiB
	RingBytes     int // committed entries not applied: 32 MiB
	TailBytes     int // applied commands kept for Tail: 8 MiB
}

// Group is this node's replica of a group: an engine and a machine joined by
// the applier. Its methods act on this replica alone and are safe for
// concurrent use; Node adds forwarding.
type Group struct {
	cfg     GroupConfig
	a       *applier
	engine  Engine
	staged  *staging
	changes *signal
	// peerClocks is what lead makes of this leader's clock among its peers'.
	peerClocks atomic.Pointer[string]
	unmeter    func()
	closing    atomic.Bool
	closed     chan struct{} // Close has returned
	stop       context.CancelFunc
	loops      sync.WaitGroup
	calls      sync.Pool // of *call; each group its own, so that a test's bubble can hold it
}

func (c *GroupConfig) withDefaults() {
	c.Limits = c.Limits.WithDefaults()
	setInt := func(p *int64, d int64) {
		if *p == 0 {
			*p = d
		}
	}
	setInt(&c.Snapshots.Entries, 100_000)
	setInt(&c.Snapshots.Bytes, 64<<20)
	for p, d := range map[*int]int{
		&c.Queues.Proposals: 16 << 10, &c.Queues.ProposalBytes: 64 << 20,
		&c.Queues.RingBytes: 32 << 20, &c.Queues.TailBytes: 8 << 20,
	} {
		if *p == 0 {
			*p = d
		}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.MachineStallAfter == 0 {
		c.MachineStallAfter = 5 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Logger = c.Logger.With("group", c.Identity.Name)
}

// OpenGroup starts a replica. It returns once the engine runs; the machine may
// still be starting or replaying (see Status).
func OpenGroup(ctx context.Context, c GroupConfig) (*Group, error) {
	c.withDefaults()
	if c.Dir != "" {
		if err := os.MkdirAll(c.Dir, 0o700); err != nil {
			return nil, fmt.Errorf("group %s: %w", c.Identity.Name, err)
		}
	}
	staged, err := newStaging(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("group %s: %w", c.Identity.Name, err)
	}
	g := &Group{cfg: c, staged: staged, changes: newSignal(), closed: make(chan struct{}), calls: sync.Pool{New: newCall}}
	g.a = newApplier(&g.cfg, drawOrigin(), staged, g.changes.raise)
	g.engine, err = c.Engine.New(ctx, EngineConfig{
		Group: c.Identity, Self: c.Self, Dir: engineDir(c.Dir), Bootstrap: c.Bootstrap, Streams: c.Streams, Host: g.a,
		Options: c.EngineOptions, Heartbeat: c.Heartbeat, Election: c.Election,
		EntryBytesMax: max(g.cfg.Limits.CommandBytes, controlBytesMax) + entryOverhead, QueueBytesMax: g.cfg.Queues.ProposalBytes,
		QueueMax: g.cfg.Queues.Proposals, StallAfter: c.StallAfter, Logger: g.cfg.Logger, Metrics: c.Metrics,
	})
	if err != nil {
		staged.close()
		return nil, fmt.Errorf("group %s: start engine: %w", c.Identity.Name, err)
	}
	g.a.engine = g.engine
	g.a.begin = g.a.ring.installed()
	if g.unmeter, err = g.registerMetrics(); err != nil {
		staged.close()
		return nil, errors.Join(fmt.Errorf("group %s: %w", c.Identity.Name, err), g.engine.Close(ctx))
	}
	loopCtx, stop := context.WithCancel(context.Background())
	g.stop = stop
	go g.a.run()
	g.a.ring.signal()
	g.loops.Add(2)
	go func() { defer g.loops.Done(); g.relayChanges(loopCtx) }()
	go func() { defer g.loops.Done(); g.lead(loopCtx) }()
	return g, nil
}

func engineDir(dir string) string {
	if dir == "" {
		return ""
	}
	d := filepath.Join(dir, "engine")
	_ = os.MkdirAll(d, 0o700) // the engine reports what is wrong with it
	return d
}

func drawOrigin() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.LittleEndian.Uint64(b[:])
}

// Propose has a command executed and waits for its result. Errors that did not
// happen: ErrNotLeader, ErrBusy, ErrTooLarge, ErrDeadline, ErrStopped, ErrWindow,
// ErrOutOfOrder. May have happened: ErrMaybe (also when ctx ends while it is on
// its way), ErrSessionExpired. Happened: ErrResultGone.
func (g *Group) Propose(ctx context.Context, c Command) (Receipt, error) {
	if err := g.mayPropose(ctx, &c); err != nil {
		return Receipt{}, err
	}
	start := time.Now()
	r, err := g.await(ctx, KindCommand, c.Session, c.Data)
	g.a.metrics.observe(start, err)
	return r, err
}

// control proposes one of the framework's own entries and waits for it.
func (g *Group) control(ctx context.Context, body []byte) (Receipt, error) {
	if err := g.mayPropose(ctx, &Command{}); err != nil {
		return Receipt{}, err
	}
	return g.await(ctx, KindControl, Session{}, body)
}

func (g *Group) mayPropose(ctx context.Context, c *Command) error {
	if g.closing.Load() {
		return ErrStopped
	}
	if ctx.Err() != nil {
		return ErrDeadline
	}
	if len(c.Data) > g.cfg.Limits.CommandBytes {
		return ErrTooLarge.Because("command of %d bytes; this group takes up to %d (limits.command_bytes)", len(c.Data), g.cfg.Limits.CommandBytes)
	}
	if c.Session.ID != (SessionID{}) && c.Session.Seq == 0 {
		return ErrInvalid.Because("sequence numbers of a session start at 1")
	}
	return nil
}

func (g *Group) await(ctx context.Context, kind Kind, s Session, data []byte) (Receipt, error) {
	w := g.calls.Get().(*call)
	w.proposal[0] = Proposal{Kind: kind}
	if !g.enqueue(&w.proposal[0], w, 0, s, data) {
		g.calls.Put(w)
		return Receipt{}, ErrBusy
	}
	ref := w.proposal[0].Ref
	g.engine.Propose(w.proposal[:])
	select {
	case <-w.done:
	case <-ctx.Done():
		if _, mine := g.a.pending.take(ref); mine {
			// Nobody will complete it now, and the engine may still hold the
			// proposal, so the call is not used again.
			return Receipt{}, ErrMaybe.Because("no answer in time (%v): the command may have happened, or may yet", ctx.Err())
		}
		<-w.done
	}
	r, err := w.receipt, w.err
	w.receipt, w.err, w.proposal[0] = Receipt{}, nil, Proposal{}
	g.calls.Put(w)
	return r, err
}

// enqueue makes room for a waiter and encodes its entry; false when full.
func (g *Group) enqueue(p *Proposal, who completer, i int, s Session, data []byte) bool {
	h := header{origin: g.a.origin, time: g.cfg.Now().UnixNano(), session: s}
	n := encodedBytes(&h, data)
	h.ref = g.a.pending.add(who, i, n)
	if h.ref == 0 {
		return false
	}
	p.Ref, p.Data = h.ref, appendEntry(make([]byte, 0, n), &h, data)
	return true
}

// ProposeAsync takes many commands; done is called once for each, from any
// goroutine, and must not block. What comes after a command for which there was
// no room is refused as well, so that their order stays.
func (g *Group) ProposeAsync(ctx context.Context, cs []Command, done func(i int, r Receipt, err error)) {
	w := &asyncCall{done: done, start: time.Now(), metrics: g.a.metrics}
	w.open.Store(int64(len(cs)) + 1)
	batch := g.enqueueAll(ctx, cs, w)
	if len(batch) > 0 {
		if ctx.Done() != nil {
			w.refs = make([]uint64, len(batch))
			for i := range batch {
				w.refs[i] = batch[i].Ref
			}
			w.stop = context.AfterFunc(ctx, func() { g.abandon(w.refs, ctx.Err()) })
		}
		g.engine.Propose(batch)
	}
	w.finish(1) // only now: w.stop is there for whoever is last
}

// enqueueAll makes room for all commands at once and encodes them; those that
// cannot be taken are answered.
func (g *Group) enqueueAll(ctx context.Context, cs []Command, w *asyncCall) []Proposal {
	refused := make(map[int]error)
	for i := range cs {
		if err := g.mayPropose(ctx, &cs[i]); err != nil {
			refused[i] = err
		}
	}
	h := header{origin: g.a.origin, time: g.cfg.Now().UnixNano()}
	batch := make([]Proposal, 0, len(cs))
	places := make([]int, 0, len(cs))
	bytes := 0
	p := g.a.pending
	full := false
	p.mu.Lock()
	for i := range cs {
		if refused[i] != nil {
			continue
		}
		h.session = cs[i].Session
		n := encodedBytes(&h, cs[i].Data)
		var ref uint64
		if !full {
			ref = p.addLocked(w, i, n)
		}
		if full = ref == 0; full {
			refused[i] = ErrBusy
			continue
		}
		bytes += n
		batch = append(batch, Proposal{Kind: KindCommand, Ref: ref})
		places = append(places, i)
	}
	p.mu.Unlock()
	room := entryRoom{left: bytes}
	for k, i := range places {
		h.session, h.ref = cs[i].Session, batch[k].Ref
		batch[k].Data = appendEntry(room.take(encodedBytes(&h, cs[i].Data)), &h, cs[i].Data)
	}
	for i, err := range refused {
		w.complete(i, Receipt{}, err)
	}
	return batch
}

// entryRoom gives the entries of a batch memory in few pieces. They are not too
// large: whoever keeps one entry keeps the others of its piece.
type entryRoom struct {
	left  int
	piece []byte
}

const entryPieceBytes = 16 << 10

func (r *entryRoom) take(n int) []byte {
	if n > len(r.piece) {
		if n > entryPieceBytes/4 {
			r.left -= n
			return make([]byte, 0, n)
		}
		r.piece = make([]byte, max(n, min(r.left, entryPieceBytes)))
	}
	r.left -= n
	p := r.piece[:0:n]
	r.piece = r.piece[n:]
	return p
}

// abandon tells those that still wait when their context has ended.
func (g *Group) abandon(refs []uint64, why error) {
	for _, ref := range refs {
		if w, ok := g.a.pending.take(ref); ok {
			w.who.complete(w.i, Receipt{}, ErrMaybe.Because("no answer in time (%v): the command may have happened, or may yet", why))
		}
	}
}

// OpenSession registers a session; idempotent by id.
func (g *Group) OpenSession(ctx context.Context, id SessionID, o SessionOptions) error {
	if id == (SessionID{}) {
		return ErrInvalid.Because("a session needs an id of 128 random bits")
	}
	body := append([]byte{byte(controlOpenSession)}, id[:]...)
	_, err := g.control(ctx, append(body, boolByte(o.Ordered)))
	return err
}

// CloseSession forgets a session.
func (g *Group) CloseSession(ctx context.Context, id SessionID) error {
	_, err := g.control(ctx, append([]byte{byte(controlCloseSession)}, id[:]...))
	return err
}

// relayChanges makes the engine's changes the group's.
func (g *Group) relayChanges(ctx context.Context) {
	for {
		c := g.engine.Changed()
		g.changes.raise()
		select {
		case <-c:
		case <-ctx.Done():
			return
		}
	}
}

// signal is a level-triggered notice: closed channels, never a queue.
type signal struct {
	mu sync.Mutex
	c  chan struct{}
}

func newSignal() *signal { return &signal{c: make(chan struct{})} }

func (s *signal) wait() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.c
}

func (s *signal) raise() {
	s.mu.Lock()
	close(s.c)
	s.c = make(chan struct{})
	s.mu.Unlock()
}

// Entries gives committed entries as the engine keeps them; see Engine.
func (g *Group) Entries(from Position, maxBytes int) ([]Entry, Position, error) {
	return g.engine.Entries(from, maxBytes)
}
