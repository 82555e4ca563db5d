package raftengine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"

	"github.com/diarchy/diarchy/fsm"
	"github.com/diarchy/diarchy/internal/bench"
	"github.com/diarchy/diarchy/raftengine"
)

// BenchmarkTableRaw drives three replicas of hashicorp/raft used directly, with
// its best settings, and three of a framework.Group on this engine, in one
// process: over TCP on loopback, each replica with a log of its own in raft-wal,
// every write synced. The machines do nothing.
func BenchmarkTableRaw(b *testing.B) {
	group := bench.StartGroup(b, raftengine.Driver(), func(int) fsm.Factory {
		return func(context.Context) (fsm.Machine, error) { return idleMachine{}, nil }
	})
	bench.Compare(b, []int{1, 64, 512}, bench.Named{Name: "raw", Target: startRawCluster(b)}, bench.Named{Name: "group", Target: group},
		func(int, int) []byte { return make([]byte, 128) }) // raft keeps what it is given
}

// rawCluster is hashicorp/raft used directly.
type rawCluster struct{ nodes []*raft.Raft }

func (c *rawCluster) Apply(data []byte) error { return c.nodes[0].Apply(data, 0).Error() }

func startRawCluster(b *testing.B) *rawCluster {
	b.Helper()
	c := &rawCluster{}
	var servers []raft.Server
	for i := range 3 {
		r, address := startRawNode(b, b.TempDir(), raft.ServerID(fmt.Sprintf("raw%d", i+1)))
		c.nodes = append(c.nodes, r)
		servers = append(servers, raft.Server{ID: raft.ServerID(fmt.Sprintf("raw%d", i+1)), Address: address})
	}
	if err := c.nodes[0].BootstrapCluster(raft.Configuration{Servers: servers}).Error(); err != nil {
		b.Fatal(err)
	}
	for limit := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if i := slices.IndexFunc(c.nodes, func(r *raft.Raft) bool { return r.State() == raft.Leader }); i >= 0 {
			c.nodes[0], c.nodes[i] = c.nodes[i], c.nodes[0]
			return c
		}
		if time.Now().After(limit) {
			b.Fatal("raft has no leader")
		}
	}
}

func startRawNode(b *testing.B, dir string, id raft.ServerID) (*raft.Raft, raft.ServerAddress) {
	b.Helper()
	store, err := wal.Open(dir)
	if err != nil {
		b.Fatal(err)
	}
	cache, err := raft.NewLogCache(10_000, store)
	if err != nil {
		b.Fatal(err)
	}
	snaps, err := raft.NewFileSnapshotStore(dir, 2, io.Discard)
	if err != nil {
		b.Fatal(err)
	}
	trans, err := raft.NewTCPTransportWithConfig("127.0.0.1:0", nil, &raft.NetworkTransportConfig{
		MaxPool: 3, MaxRPCsInFlight: 2, Timeout: 10 * time.Second, Logger: hclog.NewNullLogger(),
	})
	if err != nil {
		b.Fatal(err)
	}
	conf := raft.DefaultConfig()
	conf.LocalID, conf.Logger = id, hclog.NewNullLogger()
	conf.MaxAppendEntries, conf.BatchApplyCh, conf.NoLegacyTelemetry = 1024, true, true
	conf.SnapshotInterval, conf.SnapshotThreshold = time.Hour, 1<<62
	r, err := raft.NewRaft(conf, idleFSM{}, cache, store, snaps, trans)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		err := r.Shutdown().Error()
		trans.CloseStreams() // what it dialed; raft leaves those open
		if err := errors.Join(err, store.Close()); err != nil {
			b.Error(err)
		}
	})
	return r, trans.LocalAddr()
}

// idleFSM is a raft.BatchingFSM that does nothing.
type idleFSM struct{}

func (idleFSM) Apply(*raft.Log) any                 { return nil }
func (idleFSM) ApplyBatch(logs []*raft.Log) []any   { return make([]any, len(logs)) }
func (idleFSM) Snapshot() (raft.FSMSnapshot, error) { return nil, errors.New("none") }
func (idleFSM) Restore(rc io.ReadCloser) error      { return rc.Close() }

// idleMachine is a machine that does nothing.
type idleMachine struct{ fsm.Base }

func (idleMachine) Open(context.Context) (fsm.Opened, error) {
	return fsm.Opened{Name: "idle", Version: "1"}, nil
}

func (idleMachine) Apply(context.Context, fsm.Batch, []fsm.Result) error { return nil }
