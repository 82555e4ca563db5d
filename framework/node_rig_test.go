package framework_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	. "github.com/diarchy/diarchy/framework"
	"github.com/diarchy/diarchy/fsm"
)

// notes is a machine that keeps every command and answers with how many it has.
type notes struct {
	fsm.Base
	mu   sync.Mutex
	kept [][]byte
}

func (m *notes) Open(context.Context) (fsm.Opened, error) {
	return fsm.Opened{Name: "notes", Version: "1"}, nil
}

func (m *notes) Apply(_ context.Context, b fsm.Batch, results []fsm.Result) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, e := range b.Entries {
		m.kept = append(m.kept, bytes.Clone(e.Data))
		results[i] = fsm.Result{Value: fmt.Appendf(nil, "%d", len(m.kept))}
	}
	return nil
}

func (m *notes) Query(context.Context, fsm.Query) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return bytes.Join(m.kept, []byte(" ")), nil
}

type notesSnapshot [][]byte

func (s notesSnapshot) Release() {}
func (s notesSnapshot) WriteTo(w io.Writer) (int64, error) {
	var b []byte
	for _, k := range s {
		b = append(binary.LittleEndian.AppendUint32(b, uint32(len(k))), k...)
	}
	n, err := w.Write(b)
	return int64(n), err
}

func (m *notes) Snapshot(context.Context) (fsm.Snapshot, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return notesSnapshot(slices.Clone(m.kept)), nil
}

func (m *notes) Restore(_ context.Context, _ fsm.SnapshotInfo, r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.kept = nil
	for len(b) >= 4 {
		n := int(binary.LittleEndian.Uint32(b))
		m.kept = append(m.kept, bytes.Clone(b[4:4+n]))
		b = b[4+n:]
	}
	return nil
}

// rig is some nodes in this process, each with real connections on loopback.
type rig struct {
	t      *testing.T
	driver EngineDriver
	dir    string
	tune   func(*NodeConfig)
	log    *slog.Logger

	mu      sync.Mutex
	nodes   map[string]*rigNode // by name; stopped ones stay
	changed chan struct{}
}

type rigNode struct {
	*Node
	name    string
	dir     string
	id      NodeID
	addr    string
	streams *StreamNet
	running bool
}

func newRig(t *testing.T, driver EngineDriver) *rig {
	r := &rig{t: t, driver: driver, dir: t.TempDir(), nodes: map[string]*rigNode{}, changed: make(chan struct{})}
	if os.Getenv("DIARCHY_TEST_LOG") != "" {
		r.log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	t.Cleanup(func() {
		var wg sync.WaitGroup
		for name, n := range r.nodes {
			if n.running {
				wg.Go(func() { r.stop(name) })
			}
		}
		wg.Wait()
	})
	return r
}

func (r *rig) ctx(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	r.t.Cleanup(cancel)
	return ctx
}

// members is what gossip would say.
func (r *rig) members() []NodeInfo {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []NodeInfo
	for _, n := range r.nodes {
		info := NodeInfo{ID: n.id, Name: n.name, Status: "failed", PeerAddr: n.addr, ClientAddr: "client-of-" + n.name}
		if n.running {
			info.Status = "alive"
		}
		if n.Node != nil {
			info.Cluster = n.Cluster()
		}
		out = append(out, info)
	}
	return out
}

func (r *rig) membersChanged() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

func (r *rig) raise() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *rig) resolve(id NodeID) (string, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range r.nodes {
		if n.id == id && n.running {
			return n.addr, true
		}
	}
	return "", false
}

// start runs a node from its directory, at a new address each time.
func (r *rig) start(name string) *rigNode {
	r.t.Helper()
	n, err := r.tryStart(name, name, filepath.Join(r.dir, name))
	if err != nil {
		r.t.Fatalf("start %s: %v", name, err)
	}
	return n
}

// tryStart runs a node known to the rig as key and called name.
func (r *rig) tryStart(key, name, dir string) (*rigNode, error) {
	id, err := LoadNodeID(dir)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	n := &rigNode{name: name, dir: dir, id: id, addr: l.Addr().String()}
	var node *Node
	var nodeMu sync.Mutex
	n.streams, err = NewStreams(StreamsConfig{Self: id, Name: name, Listener: l, Resolve: r.resolve, Cluster: func() UUID {
		nodeMu.Lock()
		defer nodeMu.Unlock()
		if node == nil {
			return UUID{}
		}
		return node.Cluster()
	}})
	if err != nil {
		return nil, err
	}
	c := NodeConfig{
		ID: id, Name: name, DataDir: dir, Streams: n.streams, Engines: map[string]EngineDriver{"raft": r.driver},
		Machines: func(_, m string) (fsm.Factory, error) {
			if m != "builtin:notes" {
				return nil, fmt.Errorf("there is no machine %q", m)
			}
			return func(context.Context) (fsm.Machine, error) { return &notes{}, nil }, nil
		},
		Members: r.members, MembersChanged: r.membersChanged,
		PeerAddr: n.addr, ClientAddr: "client-of-" + name, Version: "test",
		Tick: 100 * time.Millisecond, CallTimeout: time.Second, LeaderWait: 2 * time.Second, Logger: r.log,
	}
	if r.tune != nil {
		r.tune(&c)
	}
	nodeMu.Lock()
	node, err = OpenNode(context.Background(), c)
	nodeMu.Unlock()
	if err != nil {
		_ = n.streams.Close()
		return nil, err
	}
	n.Node, n.running = node, true
	r.mu.Lock()
	r.nodes[key] = n
	r.mu.Unlock()
	r.raise()
	return n, nil
}

func (r *rig) stop(key string) {
	r.t.Helper()
	r.mu.Lock()
	n := r.nodes[key]
	n.running = false
	r.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := n.Close(ctx); err != nil {
		r.t.Errorf("close %s: %v", key, err)
	}
	if err := n.streams.Close(); err != nil {
		r.t.Errorf("close the streams of %s: %v", key, err)
	}
	r.raise()
}

// form starts nodes n1 to nN and makes them a cluster.
func (r *rig) form(count int) []*rigNode {
	r.t.Helper()
	var nodes []*rigNode
	var ids []NodeID
	for i := range count {
		n := r.start(fmt.Sprintf("n%d", i+1))
		nodes, ids = append(nodes, n), append(ids, n.id)
	}
	for _, n := range nodes {
		if err := n.Form(r.ctx(5*time.Second), ClusterID(ids), ids); err != nil {
			r.t.Fatalf("form: %v", err)
		}
	}
	for _, n := range nodes {
		r.registered(n)
	}
	return nodes
}

func (r *rig) registered(n *rigNode) {
	r.t.Helper()
	if err := n.AwaitRegistered(r.ctx(15 * time.Second)); err != nil {
		r.t.Fatalf("%s is not registered: %v", n.name, err)
	}
}

// eventually waits for a condition that nothing announces.
func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if ok() {
			return
		}
	}
	r.t.Fatalf("not in time: %s", what)
}

func (r *rig) create(n *rigNode, name string, replicas int) GroupInfo {
	r.t.Helper()
	info, err := n.CreateGroup(r.ctx(15*time.Second), GroupSpec{Name: name, Machine: "builtin:notes", Replicas: replicas})
	if err != nil {
		r.t.Fatalf("create %s: %v", name, err)
	}
	return info
}

// propose has a command executed exactly once, however often the machine that
// runs the tests is too slow for the group to keep its leader.
func (r *rig) propose(n *rigNode, group, data string) Receipt {
	r.t.Helper()
	ctx := r.ctx(20 * time.Second)
	var id SessionID
	_, _ = rand.Read(id[:])
	c := Command{Data: []byte(data), Session: Session{ID: id, Seq: 1}}
	err := n.OpenSession(ctx, group, id, SessionOptions{})
	for {
		var out Receipt
		if err == nil {
			if out, err = n.Propose(ctx, group, c); err == nil {
				return out
			}
		}
		if ctx.Err() != nil {
			r.t.Fatalf("propose %q to %s through %s: %v", data, group, n.name, err)
		}
		time.Sleep(20 * time.Millisecond)
		err = n.OpenSession(ctx, group, id, SessionOptions{})
	}
}

func (r *rig) read(n *rigNode, group string) string {
	r.t.Helper()
	a, err := n.Query(r.ctx(15*time.Second), group, ReadQuery{})
	if err != nil {
		r.t.Fatalf("query %s through %s: %v", group, n.name, err)
	}
	return string(a.Value)
}
