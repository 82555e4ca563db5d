package discovery

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/diarchy/diarchy/framework"
)

// BootstrapPool is what a Bootstrapper needs of a Pool.
type BootstrapPool interface {
	Members() []Member
	Changed() <-chan struct{}
	SetMeta(func(*Meta)) error
	// Searched: every join source has been tried once, so a cluster that is
	// there had its chance to be seen.
	Searched() bool
}

// BootstrapConfig is what a Bootstrapper is started with.
type BootstrapConfig struct {
	Pool BootstrapPool
	ID   framework.NodeID
	// Dir holds the promise; it exists.
	Dir string
	// Expect is bootstrap_expect, 0 for a node that only joins.
	Expect int
	// Cluster is the node's cluster when it has one already; then there is
	// nothing to agree on.
	Cluster framework.UUID
	// ForceNew forgets this node's promise, by an operator's word. Safe only when
	// no node of the promised set has formed.
	ForceNew bool
	// Settle is how long a set must stand still before the node prepares for it.
	// Zero takes 2 s, below zero is none.
	Settle time.Duration
	// Form makes this node one of the first members of a cluster; every node of
	// the list does the same with the same list. Join makes it a node of a
	// cluster that others have formed. Both return once that is durable, are
	// called again after an error or a crash, and must then do no harm.
	Form func(ctx context.Context, cluster framework.UUID, nodes []framework.NodeID) error
	Join func(ctx context.Context, cluster framework.UUID) error
	// Logger may be nil.
	Logger *slog.Logger
}

// BootstrapStatus tells how forming a cluster goes.
type BootstrapStatus struct {
	Phase Phase
	// Set is what the node has prepared for or promised.
	Set []framework.NodeID
	// Cluster is known when Phase is PhaseFormed.
	Cluster framework.UUID
	// Waiting says what is waited for, Complaint what must be mended by hand.
	Waiting, Complaint string
}

// Bootstrapper drives Decide: it makes promises durable before it publishes
// them, and acts when all have promised the same.
type Bootstrapper struct {
	cfg  BootstrapConfig
	self framework.UUID
	file promiseFile
	stop context.CancelFunc
	done chan struct{}
	wg   sync.WaitGroup

	mu     sync.Mutex
	own    Agreement
	status BootstrapStatus
	// failure is why the last promise or act failed, until one succeeds.
	failure string
}

const (
	settleDefault = 2 * time.Second
	actRetry      = time.Second
)

// StartBootstrap begins to form or join a cluster. It fails when the promise
// on disk cannot be read or published.
func StartBootstrap(c BootstrapConfig) (*Bootstrapper, error) {
	if c.Expect < 0 || c.Expect > ExpectMax {
		return nil, invalid("bootstrap_expect is %d: expected 0 (join only) to %d; more nodes join once the cluster is formed", c.Expect, ExpectMax)
	}
	if c.Settle == 0 {
		c.Settle = settleDefault
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	self, err := framework.ParseUUID(string(c.ID))
	if err != nil {
		return nil, invalid("the node's id is %v", err)
	}
	b := &Bootstrapper{cfg: c, self: self, file: promiseIn(c.Dir), done: make(chan struct{})}
	if err := b.recall(); err != nil {
		return nil, err
	}
	if err := b.publish(); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	b.stop = stop
	b.wg.Go(func() { b.run(ctx) })
	return b, nil
}

// recall reads what this node has promised.
func (b *Bootstrapper) recall() error {
	if b.cfg.Cluster != (framework.UUID{}) {
		b.own = Agreement{Phase: PhaseFormed, Cluster: b.cfg.Cluster}
		return nil
	}
	if b.cfg.ForceNew {
		b.cfg.Logger.Warn("the promise to form a cluster, if there was one, is forgotten by --force-new")
		return b.file.forget()
	}
	own, err := b.file.load(b.self)
	b.own = own
	return err
}

// publish tells the pool what is durable; again and again, since that is cheap.
func (b *Bootstrapper) publish() error {
	a := b.current()
	return b.cfg.Pool.SetMeta(func(m *Meta) {
		m.Expect, m.Agreement, m.Cluster = b.cfg.Expect, a, a.Cluster
	})
}

// Done is closed once the node belongs to a cluster.
func (b *Bootstrapper) Done() <-chan struct{} { return b.done }

// Status tells how it goes.
func (b *Bootstrapper) Status() BootstrapStatus {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.status
	s.Phase, s.Cluster, s.Set = b.own.Phase, b.own.Cluster, nodeIDs(b.own.Set)
	if s.Complaint == "" {
		s.Complaint = b.failure
	}
	return s
}

// Close stops it; the promise stays.
func (b *Bootstrapper) Close() {
	b.stop()
	b.wg.Wait()
}

// run looks after every change, until the node belongs to a cluster.
func (b *Bootstrapper) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var settling Agreement
	var since time.Time
	for {
		changed := b.cfg.Pool.Changed()
		published := b.publish()
		d := b.look()
		wait := time.Duration(-1) // until something changes
		switch {
		case published != nil:
			wait = b.failed(fmt.Errorf("publish the promise: %w", published))
		case b.current().Phase == PhaseFormed:
			close(b.done)
			return
		case !b.cfg.Pool.Searched():
		case d.Act != ActNone:
			wait = b.act(ctx, d)
		case !d.Next.equal(b.current()):
			if !d.Next.equal(settling) {
				settling, since = d.Next, time.Now()
			}
			// Only what can be taken back is thought over.
			if wait = b.cfg.Settle - time.Since(since); wait <= 0 || d.Next.Phase != PhasePrepared {
				wait = b.promise(d.Next)
			}
		default:
			settling = Agreement{}
		}
		var again <-chan time.Time
		if wait >= 0 {
			timer.Reset(wait)
			again = timer.C
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-again:
		}
	}
}

func (b *Bootstrapper) current() Agreement {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.own
}

// look decides on what is seen now, and says so where it is new.
func (b *Bootstrapper) look() Decision {
	self, others := b.sightings()
	d := Decide(self, others)
	if !b.cfg.Pool.Searched() && d.Waiting != "" {
		d.Waiting = "waiting for the first round of the search for other nodes"
	}
	b.note(d.Complaint, d.Waiting)
	return d
}

func (b *Bootstrapper) note(complaint, waiting string) {
	b.mu.Lock()
	was := b.status
	b.status.Complaint, b.status.Waiting = complaint, waiting
	b.mu.Unlock()
	if complaint != "" && complaint != was.Complaint {
		b.cfg.Logger.Error("bootstrap: " + complaint)
	}
	if waiting != "" && waiting != was.Waiting {
		b.cfg.Logger.Info("bootstrap: " + waiting)
	}
}

// sightings turns the pool's members into what Decide takes.
func (b *Bootstrapper) sightings() (self Sighting, others []Sighting) {
	self = Sighting{ID: b.self, Alive: true, Expect: b.cfg.Expect, Agreement: b.current()}
	place := map[framework.UUID]int{}
	for _, m := range b.cfg.Pool.Members() {
		s := Sighting{ID: m.Meta.ID, Name: m.Name, Addr: m.GossipAddr, Alive: m.Status == Alive, Expect: m.Meta.Expect, Agreement: m.Meta.Agreement}
		if m.Self {
			self.Name, self.Addr = s.Name, s.Addr
			continue
		}
		if m.Status == Left || s.ID == b.self {
			continue
		}
		if at, seen := place[s.ID]; seen { // under a former name too
			if s.Alive {
				others[at] = s
			}
			continue
		}
		place[s.ID] = len(others)
		others = append(others, s)
	}
	return self, others
}

// promise makes a promise durable; the next look publishes it. It returns when
// to look again.
func (b *Bootstrapper) promise(next Agreement) time.Duration {
	if err := b.file.save(b.self, next); err != nil {
		return b.failed(err)
	}
	b.mu.Lock()
	b.own, b.failure = next, ""
	b.mu.Unlock()
	return 0
}

// act forms or joins, then keeps that. It returns when to look again.
func (b *Bootstrapper) act(ctx context.Context, d Decision) time.Duration {
	var err error
	verb := "form"
	if d.Act == ActForm {
		err = b.cfg.Form(ctx, d.Next.Cluster, nodeIDs(d.Set))
	} else {
		verb = "join"
		err = b.cfg.Join(ctx, d.Next.Cluster)
	}
	if err != nil {
		return b.failed(fmt.Errorf("%s cluster %s: %w", verb, d.Next.Cluster, err))
	}
	b.cfg.Logger.Info("bootstrap: this node belongs to a cluster", "by", verb, "cluster", d.Next.Cluster, "nodes", nodeIDs(d.Set))
	return b.promise(d.Next)
}

// failed notes what is tried again.
func (b *Bootstrapper) failed(err error) time.Duration {
	text := err.Error() + "; it is tried again"
	b.mu.Lock()
	news := b.failure != text
	b.failure = text
	b.mu.Unlock()
	if news {
		b.cfg.Logger.Error("bootstrap: " + text)
	}
	return actRetry
}

func nodeIDs(set []framework.UUID) []framework.NodeID {
	out := make([]framework.NodeID, len(set))
	for i, id := range set {
		out[i] = framework.NodeID(id.String())
	}
	return out
}
