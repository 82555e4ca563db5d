package raftengine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/goleak"

	"github.com/diarchy/diarchy/framework"
	"github.com/diarchy/diarchy/internal/memnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// within bounds every wait for something that must happen.
const within = 60 * time.Second

// recorder is a framework.Host that keeps all it is told and checks the order.
type recorder struct {
	t  testing.TB
	mu sync.Mutex

	entries  []framework.Entry // announced, in order; restarts start anew
	through  framework.Position
	installs []framework.Position
	outcomes map[uint64]framework.Outcome
	moved    chan struct{}
}

func newRecorder(t testing.TB) *recorder {
	return &recorder{t: t, outcomes: map[uint64]framework.Outcome{}, moved: make(chan struct{})}
}

func (h *recorder) stir() {
	close(h.moved)
	h.moved = make(chan struct{})
}

func (h *recorder) Announce(entries []framework.Entry, through framework.Position) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if through <= h.through {
		h.t.Errorf("announced through %d after %d", through, h.through)
	}
	at := h.through
	for _, e := range entries {
		if e.Position <= at || e.Position > through {
			h.t.Errorf("announced position %d after %d with through %d", e.Position, at, through)
		}
		at = e.Position
	}
	h.entries = append(h.entries, entries...)
	h.through = through
	h.stir()
}

func (h *recorder) Install(at framework.Position) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if at <= h.through {
		h.t.Errorf("install at %d after %d", at, h.through)
	}
	h.installs = append(h.installs, at)
	h.through = at
	h.stir()
}

func (h *recorder) Resolve(outcomes []framework.Outcome) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, o := range outcomes {
		if was, twice := h.outcomes[o.Ref]; twice {
			h.t.Errorf("proposal %d has a second outcome: %v, then %v", o.Ref, was, o)
		}
		h.outcomes[o.Ref] = o
	}
	h.stir()
}

// until waits until f holds; f is called with mu held.
func (h *recorder) until(what string, f func() bool) {
	h.t.Helper()
	limit := time.After(within)
	for {
		h.mu.Lock()
		ok, moved := f(), h.moved
		h.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-moved:
		case <-limit:
			h.t.Fatalf("not within %s: %s (through %d)", within, what, h.through)
		}
	}
}

func (h *recorder) untilThrough(p framework.Position) {
	h.t.Helper()
	h.until(fmt.Sprintf("announced through %d", p), func() bool { return h.through >= p })
}

func (h *recorder) data() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []string
	for _, e := range h.entries {
		out = append(out, string(e.Data))
	}
	return out
}

// cluster is a group over a network in memory, in a bubble, or over TCP.
type cluster struct {
	t     *testing.T
	net   *memnet.Network // nil: TCP
	group framework.GroupIdentity
	first []framework.Member
	nodes []*replica
	ref   uint64

	mu    sync.Mutex
	addrs map[framework.NodeID]string
}

type replica struct {
	c       *cluster
	id      framework.NodeID
	config  framework.EngineConfig
	seams   seams
	faults  *framework.Faults
	disk    *faultyBackend
	host    *recorder
	streams *framework.StreamNet
	e       *engine
}

// bubble runs a test of a cluster of n voters in memory, in virtual time.
func bubble(t *testing.T, n int, f func(t *testing.T, c *cluster)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, n, dir)
		c.net = memnet.New(1)
		c.net.SetQualityAll(memnet.Quality{Delay: 200 * time.Microsecond})
		defer c.close()
		f(t, c)
	})
}

// newCluster names n members; nothing runs yet. With dir each keeps its own
// directory there once config.Dir is set by onDisk.
func newCluster(t *testing.T, n int, dir string) *cluster {
	c := &cluster{
		t: t, group: framework.GroupIdentity{ID: framework.UUID{7}, Name: "test"},
		addrs: map[framework.NodeID]string{},
	}
	for i := range n {
		c.first = append(c.first, framework.Member{ID: nodeID(i)})
	}
	for range n {
		c.add(dir, c.first)
	}
	return c
}

func nodeID(i int) framework.NodeID { return framework.NodeID(fmt.Sprintf("n%d", i+1)) }

func (c *cluster) add(dir string, first []framework.Member) *replica {
	id := nodeID(len(c.nodes))
	n := &replica{c: c, id: id, faults: framework.NewFaults()}
	n.config = framework.EngineConfig{Group: c.group, Self: id, Bootstrap: first, Logger: testLogger(c.t, id)}
	n.seams.backend = func(b backend) backend { n.disk = &faultyBackend{backend: b}; return n.disk }
	c.nodes = append(c.nodes, n)
	if dir != "" {
		n.config.Dir = filepath.Join(dir, string(id))
		if err := os.MkdirAll(n.config.Dir, 0o700); err != nil {
			c.t.Fatal(err)
		}
	}
	return n
}

// testLogger is silent unless RAFTENGINE_LOG is set.
func testLogger(t *testing.T, id framework.NodeID) *slog.Logger {
	if os.Getenv("RAFTENGINE_LOG") == "" {
		return nil
	}
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", id)
}

// inMemory forgets the directories.
func (c *cluster) inMemory() *cluster {
	for _, n := range c.nodes {
		n.config.Dir = ""
	}
	return c
}

func (c *cluster) option(key, value string) *cluster {
	for _, n := range c.nodes {
		if n.config.Options == nil {
			n.config.Options = map[string]string{}
		}
		n.config.Options[key] = value
	}
	return c
}

func (c *cluster) start() *cluster {
	c.t.Helper()
	for _, n := range c.nodes {
		n.start()
	}
	return c
}

func (c *cluster) close() {
	for _, n := range c.nodes {
		n.stop()
	}
}

func (n *replica) start() {
	n.c.t.Helper()
	if err := n.tryStart(); err != nil {
		n.c.t.Fatal(err)
	}
}

func (n *replica) tryStart() (err error) {
	c := n.c
	n.connect()
	n.host = newRecorder(c.t)
	n.config.Streams, n.config.Host = n.streams, n.host
	if n.e, err = start(n.config, n.seams); err != nil {
		n.e = nil
		_ = n.streams.Close()
	}
	return err
}

// connect gives the replica a new address.
func (n *replica) connect() {
	c := n.c
	c.t.Helper()
	var (
		l    net.Listener
		dial func(context.Context, string) (net.Conn, error)
		err  error
	)
	if c.net == nil {
		l, err = net.Listen("tcp", "127.0.0.1:0")
	} else {
		l, err = c.net.Listen(string(n.id) + ":0")
		dial = c.net.Dialer(string(n.id))
	}
	if err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	c.addrs[n.id] = l.Addr().String()
	c.mu.Unlock()
	n.streams, err = framework.NewStreams(framework.StreamsConfig{
		Self: n.id, Name: string(n.id), Cluster: func() framework.UUID { return framework.UUID{1} },
		Listener: l, Dial: dial, Faults: n.faults, Resolve: func(id framework.NodeID) (string, bool) {
			c.mu.Lock()
			defer c.mu.Unlock()
			a, ok := c.addrs[id]
			return a, ok
		},
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

func (n *replica) stop() {
	n.c.t.Helper()
	if n.e == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	if err := n.e.Close(ctx); err != nil {
		n.c.t.Error(err)
	}
	if err := n.streams.Close(); err != nil {
		n.c.t.Error(err)
	}
	n.e = nil
}

// cut stops everything between a replica and the others, as a lost cable does.
func (n *replica) cut() {
	for _, o := range n.c.nodes {
		if o != n {
			n.faults.Cut(o.id, framework.BothWays)
		}
	}
}

func (n *replica) heal() { n.faults.Clear() }

// until polls a condition that nothing announces.
func (c *cluster) until(what string, f func() bool) {
	c.t.Helper()
	for limit := time.Now().Add(within); !f(); {
		if time.Now().After(limit) {
			c.t.Fatalf("not within %s: %s", within, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// leader waits until one of the replicas given (all by default) leads and may
// read.
func (c *cluster) leader(among ...*replica) (found *replica) {
	c.t.Helper()
	if len(among) == 0 {
		among = c.nodes
	}
	c.until("a leader", func() bool {
		for _, n := range among {
			if n.e == nil || n.e.Status().Role != framework.RoleLeader {
				continue
			}
			ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
			_, err := n.e.ReadIndex(ctx)
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

func (c *cluster) others(n *replica) (out []*replica) {
	for _, o := range c.nodes {
		if o != n {
			out = append(out, o)
		}
	}
	return out
}

// send proposes and returns the refs.
func (n *replica) send(data ...string) (refs []uint64) {
	var batch []framework.Proposal
	for _, d := range data {
		n.c.ref++
		refs = append(refs, n.c.ref)
		batch = append(batch, framework.Proposal{Kind: framework.KindCommand, Data: []byte(d), Ref: n.c.ref})
	}
	n.e.Propose(batch)
	return refs
}

func (n *replica) outcome(ref uint64) (o framework.Outcome) {
	n.c.t.Helper()
	n.host.until(fmt.Sprintf("an outcome of proposal %d", ref), func() (ok bool) {
		o, ok = n.host.outcomes[ref]
		return ok
	})
	return o
}

// write proposes and expects every one committed; it returns the last position.
func (n *replica) write(data ...string) (last framework.Position) {
	n.c.t.Helper()
	for _, ref := range n.send(data...) {
		o := n.outcome(ref)
		if o.Err != nil {
			n.c.t.Fatalf("proposal %d: %v", ref, o.Err)
		}
		last = o.Position
	}
	return last
}

func (n *replica) ctx(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	n.c.t.Cleanup(cancel)
	return ctx
}

func numbered(prefix string, n int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprintf("%s%d", prefix, i))
	}
	return out
}

// text is a snapshot's payload.
type text string

func (s text) WriteTo(w io.Writer) (int64, error) {
	n, err := io.WriteString(w, string(s))
	return int64(n), err
}

// snapshot takes one at what was announced, and returns where.
func (n *replica) snapshot(payload string) framework.Position {
	n.c.t.Helper()
	n.host.mu.Lock()
	at := n.host.through
	n.host.mu.Unlock()
	if err := n.e.Snapshot(context.Background(), at, text(payload)); err != nil {
		n.c.t.Fatal(err)
	}
	return at
}

// faultyBackend can hold or fail the calls of a backend.
type faultyBackend struct {
	backend
	mu    sync.Mutex
	gate  chan struct{} // non-nil: writes wait for it
	fails map[string]error
}

func (b *faultyBackend) hang() (release func()) {
	gate := make(chan struct{})
	b.mu.Lock()
	b.gate = gate
	b.mu.Unlock()
	return func() {
		b.mu.Lock()
		b.gate = nil
		b.mu.Unlock()
		close(gate)
	}
}

func (b *faultyBackend) fail(call string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fails == nil {
		b.fails = map[string]error{}
	}
	b.fails[call] = errors.New("injected: no space left on device")
}

func (b *faultyBackend) wait(call string) error {
	b.mu.Lock()
	gate, err := b.gate, b.fails[call]
	b.mu.Unlock()
	if gate != nil {
		<-gate
	}
	return err
}

func (b *faultyBackend) StoreLogs(logs []*raft.Log) error {
	if err := b.wait("StoreLogs"); err != nil {
		return err
	}
	return b.backend.StoreLogs(logs)
}

func (b *faultyBackend) GetLog(index uint64, l *raft.Log) error {
	b.mu.Lock()
	err := b.fails["GetLog"]
	b.mu.Unlock()
	if err != nil {
		return err
	}
	return b.backend.GetLog(index, l)
}

func (b *faultyBackend) SetUint64(key []byte, v uint64) error {
	if err := b.wait("SetUint64"); err != nil {
		return err
	}
	return b.backend.SetUint64(key, v)
}
