package enginetest

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/diarchy/diarchy/framework"
	"github.com/diarchy/diarchy/fsm"
)

// Trio is a group of three replicas over TCP and on disk, for tests of machines:
// what a machine goes through in a real group, without a Node around it.
type Trio struct {
	t        testing.TB
	driver   framework.EngineDriver
	machine  func(replica int) fsm.Factory
	snapshot framework.SnapshotPolicy
	dir      string
	streams  []*framework.StreamNet
	members  []framework.Member
	groups   [3]atomic.Pointer[framework.Group] // nil where one is stopped
}

// StartTrio starts one; it ends with the test. machine makes a replica's machine.
func StartTrio(t testing.TB, driver framework.EngineDriver, snapshots framework.SnapshotPolicy, machine func(replica int) fsm.Factory) *Trio {
	t.Helper()
	x := &Trio{
		t: t, driver: driver, machine: machine, snapshot: snapshots, dir: t.TempDir(),
	}
	addresses := map[framework.NodeID]string{}
	resolve := func(id framework.NodeID) (string, bool) { a, ok := addresses[id]; return a, ok }
	var listeners []net.Listener
	for i := range x.groups {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, l)
		x.members = append(x.members, framework.Member{ID: nodeID(i)})
		addresses[nodeID(i)] = l.Addr().String()
	}
	for i, l := range listeners {
		s, err := framework.NewStreams(framework.StreamsConfig{
			Self: nodeID(i), Name: string(nodeID(i)), Listener: l, Resolve: resolve,
			Cluster: func() framework.UUID { return framework.UUID{1} },
		})
		if err != nil {
			t.Fatal(err)
		}
		x.streams = append(x.streams, s)
		t.Cleanup(func() {
			x.Stop(i)
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	for i := range x.groups {
		x.Start(i)
	}
	return x
}

// Start starts a replica that is stopped.
func (x *Trio) Start(i int) {
	x.t.Helper()
	g, err := framework.OpenGroup(context.Background(), framework.GroupConfig{
		Identity: framework.GroupIdentity{ID: framework.UUID{2}, Name: "trio"}, Self: nodeID(i),
		Dir: filepath.Join(x.dir, string(nodeID(i))), Bootstrap: x.members, Engine: x.driver, Streams: x.streams[i],
		Machine: x.machine(i), Snapshots: x.snapshot, PeerState: x.peerState, Logger: logger(x.t),
	})
	if err != nil {
		x.t.Fatal(err)
	}
	x.groups[i].Store(g)
}

// Stop closes a replica.
func (x *Trio) Stop(i int) {
	x.t.Helper()
	g := x.groups[i].Swap(nil)
	if g == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	if err := g.Close(ctx); err != nil {
		x.t.Error(err)
	}
}

func (x *Trio) peerState(id framework.NodeID) (framework.ReplicaStatus, bool) {
	for i := range x.groups {
		if g := x.Group(i); g != nil && nodeID(i) == id {
			return g.Status(), true
		}
	}
	return framework.ReplicaStatus{}, false
}

// Group is a replica, nil while it is stopped.
func (x *Trio) Group(i int) *framework.Group { return x.groups[i].Load() }

// Running are the replicas that are not stopped.
func (x *Trio) Running() (out []*framework.Group) {
	for i := range x.groups {
		if g := x.Group(i); g != nil {
			out = append(out, g)
		}
	}
	return out
}

// Until waits for what must come true.
func (x *Trio) Until(what string, f func() bool) {
	x.t.Helper()
	for end := time.Now().Add(within); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			state := ""
			for _, g := range x.Running() {
				state += fmt.Sprintf("\n%+v", g.Status())
			}
			x.t.Fatalf("not within %s: %s%s", within, what, state)
		}
	}
}

// Leader waits for a leader, other than the one named.
func (x *Trio) Leader(not ...int) (found int) {
	x.t.Helper()
	x.Until("a leader", func() bool {
		for i := range x.groups {
			g := x.Group(i)
			if g != nil && (len(not) == 0 || not[0] != i) && g.EngineStatus().Role == framework.RoleLeader {
				found = i
				return true
			}
		}
		return false
	})
	return found
}

// OpenSession opens a session through whoever leads.
func (x *Trio) OpenSession(id framework.SessionID) {
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		for _, g := range x.Running() {
			ctx, cancel := context.WithTimeout(context.Background(), clientTimeout)
			err := g.OpenSession(ctx, id, framework.SessionOptions{})
			cancel()
			if err == nil {
				return
			}
		}
	}
	x.t.Errorf("no session within %s", within)
}

// Propose has a command executed by whoever leads, as often as it takes: give it
// a session.
func (x *Trio) Propose(c framework.Command) framework.Receipt {
	for end := time.Now().Add(within); ; time.Sleep(5 * time.Millisecond) {
		for _, g := range x.Running() {
			ctx, cancel := context.WithTimeout(context.Background(), clientTimeout)
			r, err := g.Propose(ctx, c)
			cancel()
			if err == nil {
				return r
			}
			if framework.HappenedOf(err) == framework.Yes || time.Now().After(end) {
				x.t.Errorf("propose: %v", err)
				return r
			}
		}
	}
}

// Level waits until every replica that runs has executed everything.
func (x *Trio) Level() {
	x.t.Helper()
	x.Until("all replicas level", func() bool {
		var most, least uint64 = 0, ^uint64(0)
		for _, g := range x.Running() {
			s := g.Status()
			if s.Machine.State != "running" {
				return false
			}
			most, least = max(most, s.Number), min(least, s.Number)
		}
		return most == least
	})
}
