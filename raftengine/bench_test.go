package raftengine_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"

	"github.com/diarchy/diarchy/framework"
	"github.com/diarchy/diarchy/fsm"
	"github.com/diarchy/diarchy/raftengine"
)

// BenchmarkAgainstRaw drives three replicas of hashicorp/raft used directly, with
// its best settings, and three of a framework.Group on this engine, in one
// process: over TCP on loopback, each replica with a log of its own in raft-wal,
// every write synced. The machines do nothing. Rounds alternate (A B B A …) on
// clusters that stay up; a line for each number of clients says the medians, the
// range and the ratio, which is the median of the ratios of neighbouring rounds:
// what else the machine does in the meantime falls on both.
//
// BENCH_ROUNDS (15) and BENCH_ROUND (500ms) set how many and how long.
func BenchmarkAgainstRaw(b *testing.B) {
	rounds := envInt(b, "BENCH_ROUNDS", 15)
	length := envDuration(b, "BENCH_ROUND", 500*time.Millisecond)
	raw, group := startRawCluster(b), startGroupCluster(b)
	for _, clients := range []int{1, 64, 512} {
		b.Run(strconv.Itoa(clients), func(b *testing.B) {
			var results [2][]round
			for range b.N { // 1 with -benchtime 1x, which is meant
				for i := range rounds {
					order := []int{0, 1}
					if i%2 == 1 {
						order = []int{1, 0}
					}
					for _, k := range order {
						target := []applier{raw, group}[k]
						results[k] = append(results[k], drive(b, target, clients, length))
					}
				}
			}
			ratio := pairedRatio(results)
			a, g := summarize(results[0]), summarize(results[1])
			b.ReportMetric(a.rate, "raw-op/s")
			b.ReportMetric(g.rate, "group-op/s")
			b.ReportMetric(ratio, "ratio")
			b.ReportMetric(0, "ns/op")
			b.Logf("%4d clients: raw %s; group %s; median ratio of a pair of rounds %.3f", clients, a, g, ratio)
		})
	}
}

// applier executes one command and returns when its result is known.
type applier interface{ apply(data []byte) error }

type round struct {
	rate float64
	p50  time.Duration
}

func pairedRatio(results [2][]round) float64 {
	var ratios []float64
	for i := range results[0] {
		ratios = append(ratios, results[1][i].rate/results[0][i].rate)
	}
	slices.Sort(ratios)
	return ratios[len(ratios)/2]
}

type summary struct {
	round
	low, high float64
}

func (s summary) String() string {
	return fmt.Sprintf("%7.0f op/s (%.0f to %.0f), p50 %v", s.rate, s.low, s.high, s.p50.Round(time.Microsecond))
}

func summarize(rs []round) summary {
	slices.SortFunc(rs, func(x, y round) int { return cmp.Compare(x.p50, y.p50) })
	p50 := rs[len(rs)/2].p50
	slices.SortFunc(rs, func(x, y round) int { return cmp.Compare(x.rate, y.rate) })
	return summary{round{rs[len(rs)/2].rate, p50}, rs[0].rate, rs[len(rs)-1].rate}
}

// drive has clients apply one command after the other for a while.
func drive(b *testing.B, a applier, clients int, length time.Duration) round {
	b.Helper()
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		took  []time.Duration
		fails error
	)
	begin := time.Now()
	for range clients {
		wg.Go(func() {
			data := make([]byte, 128)
			var own []time.Duration
			var err error
			for err == nil && time.Since(begin) < length {
				t := time.Now()
				err = a.apply(slices.Clone(data)) // raft keeps what it is given
				own = append(own, time.Since(t))
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, own...)
			fails = errors.Join(fails, err)
		})
	}
	wg.Wait()
	elapsed := time.Since(begin)
	if fails != nil {
		b.Fatal(fails)
	}
	slices.Sort(took)
	return round{rate: float64(len(took)) / elapsed.Seconds(), p50: took[len(took)/2]}
}

func envInt(b *testing.B, name string, otherwise int) int {
	if s := os.Getenv(name); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			b.Fatalf("%s=%q: expected a number", name, s)
		}
		return n
	}
	return otherwise
}

func envDuration(b *testing.B, name string, otherwise time.Duration) time.Duration {
	if s := os.Getenv(name); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil || d <= 0 {
			b.Fatalf("%s=%q: expected a duration", name, s)
		}
		return d
	}
	return otherwise
}

const benchReplicas = 3

func benchDir(b *testing.B, name string, i int) string {
	b.Helper()
	dir := filepath.Join(b.TempDir(), fmt.Sprintf("%s%d", name, i+1))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		b.Fatal(err)
	}
	return dir
}

// rawCluster is hashicorp/raft used directly.
type rawCluster struct{ nodes []*raft.Raft }

func (c *rawCluster) apply(data []byte) error { return c.nodes[0].Apply(data, 0).Error() }

func startRawCluster(b *testing.B) *rawCluster {
	b.Helper()
	c := &rawCluster{}
	var servers []raft.Server
	for i := range benchReplicas {
		r, address := startRawNode(b, benchDir(b, "raw", i), raft.ServerID(fmt.Sprintf("raw%d", i+1)))
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

// groupCluster is a framework.Group on this engine.
type groupCluster struct{ nodes []*framework.Group }

func (c *groupCluster) apply(data []byte) error {
	_, err := c.nodes[0].Propose(context.Background(), framework.Command{Data: data})
	return err
}

func startGroupCluster(b *testing.B) *groupCluster {
	b.Helper()
	c := &groupCluster{}
	var members []framework.Member
	var listeners []net.Listener
	addresses := map[framework.NodeID]string{}
	for i := range benchReplicas {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		id := framework.NodeID(fmt.Sprintf("node-%d", i+1))
		members = append(members, framework.Member{ID: id})
		listeners = append(listeners, l)
		addresses[id] = l.Addr().String()
	}
	for i, m := range members {
		streams, err := framework.NewStreams(framework.StreamsConfig{
			Self: m.ID, Name: string(m.ID), Listener: listeners[i], Cluster: func() framework.UUID { return framework.UUID{1} },
			Resolve: func(id framework.NodeID) (string, bool) { a, ok := addresses[id]; return a, ok },
		})
		if err != nil {
			b.Fatal(err)
		}
		g, err := framework.OpenGroup(context.Background(), framework.GroupConfig{
			Identity: framework.GroupIdentity{ID: framework.UUID{2}, Name: "bench"}, Self: m.ID,
			Dir: benchDir(b, "group", i), Bootstrap: members, Engine: raftengine.Driver(), Streams: streams,
			Machine: func(context.Context) (fsm.Machine, error) { return idleMachine{}, nil }, MachineName: "idle",
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
		c.nodes = append(c.nodes, g)
	}
	for limit := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		for i, g := range c.nodes {
			if _, err := g.Propose(context.Background(), framework.Command{Data: []byte("ready")}); err == nil {
				c.nodes[0], c.nodes[i] = c.nodes[i], c.nodes[0]
				return c
			}
		}
		if time.Now().After(limit) {
			b.Fatal("the group has no leader")
		}
	}
}

// idleMachine is a machine that does nothing.
type idleMachine struct{ fsm.Base }

func (idleMachine) Open(context.Context) (fsm.Opened, error) {
	return fsm.Opened{Name: "idle", Version: "1"}, nil
}

func (idleMachine) Apply(context.Context, fsm.Batch, []fsm.Result) error { return nil }
