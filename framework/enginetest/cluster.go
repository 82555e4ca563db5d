package enginetest

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/diarchy/diarchy/framework"
	"github.com/diarchy/diarchy/internal/memnet"
)

// cluster is a group under test and everything around it.
type cluster struct {
	t      *testing.T
	s      Start
	driver framework.EngineDriver
	disk   func(framework.NodeID) Disk // nil: disks cannot be harmed
	net    *memnet.Network             // nil over TCP
	group  framework.GroupIdentity
	limits framework.Limits
	policy framework.SnapshotPolicy
	queues framework.QueueLimits
	clock  uint64 // see history.go

	mu      sync.Mutex
	addrs   map[framework.NodeID]string
	nodes   []*node
	leaders map[framework.Term]framework.NodeID
	faults  []string // violations seen while running
	acked   map[uint64]string

	history history
	watches sync.WaitGroup
}

// node is one member's place: it outlives the replicas that run there.
type node struct {
	c       *cluster
	id      framework.NodeID
	dir     string
	ledger  *ledger
	faults  *framework.Faults
	skew    atomic.Int64       // of its clock, in nanoseconds
	first   []framework.Member // how its group is bootstrapped; nil for late comers
	g       *framework.Group   // nil while down
	streams *framework.StreamNet
	stop    context.CancelFunc
}

// within bounds every wait for something that must happen.
const within = 120 * time.Second

func newCluster(t *testing.T, s Start, voters int) *cluster {
	c := &cluster{
		t: t, s: s, driver: s.Driver, group: framework.GroupIdentity{ID: framework.UUID{0xee}, Name: "conformance"},
		addrs: map[framework.NodeID]string{}, leaders: map[framework.Term]framework.NodeID{}, acked: map[uint64]string{},
		policy: framework.SnapshotPolicy{Entries: 1 << 40, Bytes: 1 << 40},
	}
	if s.Faulty != nil {
		c.driver, c.disk = s.Faulty()
	}
	if !s.Real {
		c.net = memnet.New(1)
		c.net.SetQualityAll(memnet.Quality{Delay: 200 * time.Microsecond, Jitter: 100 * time.Microsecond})
	}
	var first []framework.Member
	for i := range voters {
		first = append(first, framework.Member{ID: nodeID(i)})
	}
	for range voters {
		c.add(first)
	}
	for _, n := range c.nodes {
		n.start()
	}
	c.leader()
	return c
}

func nodeID(i int) framework.NodeID { return framework.NodeID(fmt.Sprintf("node-%d", i+1)) }

// add makes a place for one more node; it does not start it.
func (c *cluster) add(first []framework.Member) *node {
	n := &node{
		c: c, id: nodeID(len(c.nodes)), ledger: newLedger(), faults: framework.NewFaults(), first: first,
		dir: filepath.Join(c.t.TempDir(), string(nodeID(len(c.nodes)))),
	}
	c.mu.Lock()
	c.nodes = append(c.nodes, n)
	c.mu.Unlock()
	return n
}

func (c *cluster) resolve(id framework.NodeID) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a, ok := c.addrs[id]
	return a, ok
}

func (c *cluster) listen(n *node) (net.Listener, func(context.Context, string) (net.Conn, error), error) {
	if c.net == nil {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		return l, nil, err
	}
	l, err := c.net.Listen(string(n.id) + ":0")
	return l, c.net.Dialer(string(n.id)), err
}

// start runs a replica, at a new address.
func (n *node) start() {
	c := n.c
	c.t.Helper()
	l, dial, err := c.listen(n)
	if err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	c.addrs[n.id] = l.Addr().String()
	c.mu.Unlock()
	n.streams, err = framework.NewStreams(framework.StreamsConfig{
		Self: n.id, Name: string(n.id), Cluster: func() framework.UUID { return framework.UUID{1} },
		Listener: l, Dial: dial, Resolve: c.resolve, Faults: n.faults,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	g, err := framework.OpenGroup(context.Background(), framework.GroupConfig{
		Identity: c.group, Self: n.id, Dir: n.dir, Bootstrap: n.first, Engine: c.driver, EngineOptions: c.s.Options,
		Machine: n.ledger.factory, MachineName: "builtin:kv", Limits: c.limits, Streams: n.streams,
		Heartbeat: c.s.Heartbeat, Election: c.s.Election, Snapshots: c.policy, Queues: c.queues,
		PeerState: n.peerState, FetchPayload: c.fetchPayload, Logger: logger(c.t), Now: n.now,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	n.stop = stop
	c.mu.Lock()
	n.g = g
	c.mu.Unlock()
	c.watches.Go(func() { c.watch(ctx, n.id, g) })
}

// now is the time by the node's own clock.
func (n *node) now() time.Time { return time.Now().Add(time.Duration(n.skew.Load())) }

// logger is silent unless asked for by the environment: a failing case is run
// again with ENGINETEST_LOG=1.
func logger(t testing.TB) *slog.Logger {
	if os.Getenv("ENGINETEST_LOG") == "" {
		return nil
	}
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// crash ends a replica as a killed process would for the others: cut off first,
// so that it hands nothing over; what it wrote stays.
func (n *node) crash() {
	for _, o := range n.c.nodes {
		if o != n {
			n.cut(o)
		}
	}
	n.down(canceled())
	n.heal()
}

func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// shut closes a replica as an operator would.
func (n *node) shut() {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	n.down(ctx)
}

func (n *node) down(ctx context.Context) {
	n.c.mu.Lock()
	g := n.g
	n.g = nil
	n.c.mu.Unlock()
	if g == nil {
		return
	}
	_ = g.Close(ctx) // a crash does not close well, and need not
	n.stop()
	if err := n.streams.Close(); err != nil {
		n.c.t.Error(err)
	}
}

// wipe removes everything a node had on disk.
func (n *node) wipe() {
	if err := os.RemoveAll(n.dir); err != nil {
		n.c.t.Fatal(err)
	}
}

// cut lets nothing pass between two nodes, at both ends.
func (n *node) cut(o *node) {
	n.faults.Cut(o.id, framework.ToNode|framework.FromNode)
	o.faults.Cut(n.id, framework.ToNode|framework.FromNode)
}

// cutTo lets nothing pass from n to o.
func (n *node) cutTo(o *node) {
	n.faults.Cut(o.id, framework.ToNode)
	o.faults.Cut(n.id, framework.FromNode)
}

// isolate cuts a node off from all others.
func (n *node) isolate() {
	for _, o := range n.c.nodes {
		if o != n {
			n.cut(o)
		}
	}
}

// heal undoes every cut at this node.
func (n *node) heal() {
	for _, o := range n.c.nodes {
		n.faults.Heal(o.id)
		o.faults.Heal(n.id)
	}
}

func (c *cluster) healAll() {
	for _, n := range c.nodes {
		n.heal()
	}
}

// peerState stands in for the node's polling of the others.
func (n *node) peerState(id framework.NodeID) (framework.ReplicaStatus, bool) {
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	for _, o := range n.c.nodes {
		if o.id == id && o.g != nil {
			s := o.g.Status()
			ahead := s.Clock.Sub(n.now())
			s.ClockAhead = &ahead
			return s, true
		}
	}
	return framework.ReplicaStatus{}, false
}

func (c *cluster) fetchPayload(_ context.Context, from framework.NodeID, hash [32]byte) (io.ReadCloser, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.nodes {
		if n.id == from && n.g != nil {
			return n.g.OpenStaged(hash)
		}
	}
	return nil, framework.ErrNoSuchNode
}

// live are the running nodes.
func (c *cluster) live() []*node {
	var out []*node
	for _, n := range c.nodes {
		if n.g != nil {
			out = append(out, n)
		}
	}
	return out
}

// until waits for something that must come true.
func (c *cluster) until(what string, f func() bool) {
	c.t.Helper()
	for end := time.Now().Add(within); !f(); {
		if time.Now().After(end) {
			c.t.Fatalf("not within %s: %s\n%s", within, what, c.describe())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// pass lets time go by, for what must not happen in it. Of long times real time
// is given less: bubbles show what minutes do.
func (c *cluster) pass(d time.Duration) {
	if enough := 3 * time.Second; c.s.Real && d > enough {
		d = enough + (d-enough)/8
	}
	time.Sleep(d)
}

func (c *cluster) describe() string {
	out := ""
	for _, n := range c.nodes {
		if n.g == nil {
			out += fmt.Sprintf("%s down\n", n.id)
			continue
		}
		s := n.g.Status()
		out += fmt.Sprintf("%s %s term %d leader %q commit %d last %d snapshot %d applied %d number %d machine %s %s %s %s members %v\n",
			n.id, s.Role, s.Term, s.Leader, s.Commit, s.Last, s.Snapshot, s.Applied, s.Number, s.Machine.State, s.Machine.Err, s.Warning, s.Err,
			n.g.EngineStatus().Membership)
	}
	return out
}

// leader waits for a leader that a read confirms and returns it. Nodes named in
// not do not count.
func (c *cluster) leader(not ...*node) *node {
	c.t.Helper()
	var found *node
	c.until("a leader", func() bool {
		for _, n := range c.live() {
			if contains(not, n) || n.g.EngineStatus().Role != framework.RoleLeader {
				continue
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			_, err := n.g.Query(ctx, framework.ReadQuery{Data: getQuery("x")})
			cancel()
			if err == nil {
				found = n
				return true
			}
		}
		return false
	})
	return found
}

func contains(ns []*node, n *node) bool {
	for _, x := range ns {
		if x == n {
			return true
		}
	}
	return false
}

// follower returns a running voter that is not the leader.
func (c *cluster) follower() *node {
	l := c.leader()
	m := l.g.EngineStatus().Membership
	for _, n := range c.live() {
		if v, ok := m.Find(n.id); ok && n != l && v.Suffrage == framework.Voter {
			return n
		}
	}
	c.t.Fatal("no follower")
	return nil
}

// level waits until the running nodes given have applied the same number, at
// least that of the furthest, and run.
func (c *cluster) level(ns ...*node) {
	c.t.Helper()
	if len(ns) == 0 {
		ns = c.live()
	}
	c.until("all replicas level", func() bool {
		var most uint64
		for _, n := range c.live() {
			most = max(most, n.g.Status().Number)
		}
		for _, n := range ns {
			if s := n.g.Status(); s.Number < most || s.Machine.State != "running" {
				return false
			}
		}
		return true
	})
}

// finish checks everything that must hold of any cluster, and takes it down.
func (c *cluster) finish() {
	c.t.Helper()
	if !c.t.Failed() {
		c.healAll()
		for _, n := range c.nodes {
			n.ledger.release()
		}
		c.leader()
		c.level(c.members()...)
		c.checkProperties()
	}
	for _, n := range c.nodes {
		n.ledger.release()
		n.shut()
	}
	c.watches.Wait()
	c.checkHistory()
	for _, f := range c.faults {
		c.t.Error(f)
	}
}

// members are the running nodes that the leader's membership names.
func (c *cluster) members() []*node {
	m := c.leader().g.EngineStatus().Membership
	var out []*node
	for _, n := range c.live() {
		if _, ok := m.Find(n.id); ok {
			out = append(out, n)
		}
	}
	return out
}
