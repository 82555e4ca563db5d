package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/diarchy/diarchy/framework"
	"github.com/diarchy/diarchy/fsm"
)

// replicas of every cluster.
const replicas = 3

// Group is three replicas of a group in this process, over TCP on loopback, each
// with a directory of its own.
type Group struct{ leader *framework.Group }

// Apply implements Target.
func (g *Group) Apply(data []byte) error {
	_, err := g.leader.Propose(context.Background(), framework.Command{Data: data})
	return err
}

// StartGroup starts one; it ends with the benchmark. machine makes a replica's
// machine.
func StartGroup(b *testing.B, driver framework.EngineDriver, machine func(replica int) fsm.Factory) *Group {
	b.Helper()
	var members []framework.Member
	var listeners []net.Listener
	addresses := map[framework.NodeID]string{}
	for i := range replicas {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		id := framework.NodeID(fmt.Sprintf("node-%d", i+1))
		members = append(members, framework.Member{ID: id})
		listeners = append(listeners, l)
		addresses[id] = l.Addr().String()
	}
	resolve := func(id framework.NodeID) (string, bool) { a, ok := addresses[id]; return a, ok }
	dir := b.TempDir()
	var groups []*framework.Group
	for i, m := range members {
		streams, err := framework.NewStreams(framework.StreamsConfig{
			Self: m.ID, Name: string(m.ID), Listener: listeners[i], Resolve: resolve,
			Cluster: func() framework.UUID { return framework.UUID{1} },
		})
		if err != nil {
			b.Fatal(err)
		}
		g, err := framework.OpenGroup(context.Background(), framework.GroupConfig{
			Identity: framework.GroupIdentity{ID: framework.UUID{2}, Name: "bench"}, Self: m.ID,
			Dir: filepath.Join(dir, string(m.ID)), Bootstrap: members, Engine: driver, Streams: streams, Machine: machine(i),
			Snapshots: framework.SnapshotPolicy{Entries: 1 << 60, Bytes: 1 << 60},
		})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			if err := errors.Join(g.Close(context.Background()), streams.Close()); err != nil {
				b.Error(err)
			}
		})
		groups = append(groups, g)
	}
	return &Group{leaderOf(b, groups)}
}

func leaderOf(b *testing.B, groups []*framework.Group) *framework.Group {
	b.Helper()
	for limit := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		for _, g := range groups {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			_, err := g.Query(ctx, framework.ReadQuery{})
			cancel()
			if framework.AsError(err).Code != framework.CodeNotLeader && g.EngineStatus().Role == framework.RoleLeader {
				return g
			}
		}
		if time.Now().After(limit) {
			b.Fatal("the group has no leader")
		}
	}
}
