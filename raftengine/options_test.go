package raftengine

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"
	"pgregory.net/rapid"

	"github.com/diarchy/diarchy/framework"
)

func testLoggerOrNone(t *testing.T, n *replica) *slog.Logger {
	if l := testLogger(t, n.id); l != nil {
		return l
	}
	return slog.New(slog.DiscardHandler)
}

func TestCheckNamesWhatIsWrong(t *testing.T) {
	for _, x := range []struct {
		durability string
		options    map[string]string
		says       string // "" for good
	}{
		{"", nil, ""},
		{"disk", map[string]string{"log_store": "boltdb", "trailing_logs": "0", "heartbeat": "2s", "election": "3s"}, ""},
		{"memory", nil, "engine vsr"},
		{"paper", nil, `only "disk"`},
		{"", map[string]string{"log_stor": "wal"}, "log_store"},
		{"", map[string]string{"log_store": "sqlite"}, `"wal" or "boltdb"`},
		{"", map[string]string{"log_store": "memory"}, "tests only"},
		{"", map[string]string{"trailing_logs": "-1"}, "whole number"},
		{"", map[string]string{"heartbeat": "fast"}, "duration"},
		{"", map[string]string{"election": "1ms"}, "at least 5ms"},
		{"", map[string]string{"heartbeat": "2s", "election": "1s"}, "at least the heartbeat"},
	} {
		err := Driver().Check(x.durability, x.options)
		if (err == nil) != (x.says == "") || err != nil && !strings.Contains(err.Error(), x.says) {
			t.Errorf("durability %q, options %v: %v, want it to say %q", x.durability, x.options, err, x.says)
		}
	}
}

func TestNewRefusesBadConfiguration(t *testing.T) {
	dir := t.TempDir()
	members := func(ids ...framework.NodeID) (m []framework.Member) {
		for _, id := range ids {
			m = append(m, framework.Member{ID: id})
		}
		return m
	}
	for _, x := range []struct {
		c    framework.EngineConfig
		says string
	}{
		{framework.EngineConfig{Dir: dir, Self: "a", Bootstrap: members("b")}, "does not hold this node"},
		{framework.EngineConfig{Dir: dir, Self: "a", Bootstrap: members("a", "a")}, "named twice"},
		{framework.EngineConfig{Dir: dir, Self: "a", Bootstrap: []framework.Member{}}, "no voter"},
		{framework.EngineConfig{Dir: dir, Self: "a", Heartbeat: 2 * time.Second, Election: time.Second}, "election timeout"},
		{framework.EngineConfig{Dir: dir, Self: "a", Heartbeat: time.Millisecond}, "heartbeat"},
		{framework.EngineConfig{Dir: dir, Self: "a", EntryBytesMax: 1 << 30}, "log stores take"},
		{framework.EngineConfig{Dir: dir, Self: "a", Options: map[string]string{"log_store": "memory"}}, "tests only"},
		{framework.EngineConfig{Self: "a", Options: map[string]string{"log_store": "wal"}}, "needs a directory"},
		{framework.EngineConfig{Dir: dir + "/absent", Self: "a"}, "directory"},
	} {
		if _, err := New(context.Background(), x.c); err == nil || !strings.Contains(err.Error(), x.says) {
			t.Errorf("%+v: %v, want it to say %q", x.c, err, x.says)
		}
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := New(ended, framework.EngineConfig{}); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
}

func TestMetrics(t *testing.T) {
	bubble(t, 3, func(t *testing.T, c *cluster) {
		reg := prometheus.NewRegistry()
		for _, n := range c.nodes {
			n.config.Metrics = prometheus.WrapRegistererWith(prometheus.Labels{"node": string(n.id)}, reg)
		}
		c.start()
		l := c.leader()
		last := l.write("a")
		c.until("the followers are heard of", func() bool {
			return !slices.ContainsFunc(l.e.Status().Peers, func(p framework.PeerProgress) bool { return p.Match < last })
		})
		got := map[string]float64{}
		for _, f := range must(reg.Gather()) {
			for _, m := range f.Metric {
				got[f.GetName()] = max(got[f.GetName()], m.GetGauge().GetValue()+m.GetCounter().GetValue())
			}
		}
		for name, want := range map[string]float64{
			"diarchy_raft_leads": 1, "diarchy_raft_last_position": float64(last), "diarchy_raft_commit_position": float64(last),
			"diarchy_raft_peer_match_position": float64(last), "diarchy_raft_storage_stalls_total": 0,
		} {
			if v, ok := got[name]; !ok || v != want {
				t.Errorf("%s is %v (there: %v), want %v", name, v, ok, want)
			}
		}
		if got["diarchy_raft_wal"] == 0 {
			t.Error("nothing of raft-wal")
		}
		if n := c.nodes[0]; n.config.Metrics.Register(n.e.gauges) == nil {
			t.Error("registered twice")
		}
		c.close()
		if left := must(reg.Gather()); len(left) != 0 {
			t.Errorf("%d families are left after Close", len(left))
		}
		c.start() // the names are free again
	})
}

// The cache against a plain map.
func TestCacheHoldsWhatTheLogHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newCache(8, 40)
		log := map[uint64]*raft.Log{}
		var first, last uint64 = 1, 0
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0, 1:
				var batch []*raft.Log
				for range rapid.IntRange(1, 10).Draw(t, "entries") {
					last++
					l := &raft.Log{Index: last, Term: rapid.Uint64Range(1, 9).Draw(t, "term"), Data: make([]byte, rapid.IntRange(0, 12).Draw(t, "size"))}
					batch = append(batch, l)
					log[last] = l
				}
				c.add(batch)
			case 2: // a prefix
				to := rapid.Uint64Range(first, last+1).Draw(t, "to")
				c.remove(first, to)
				for i := first; i <= to; i++ {
					delete(log, i)
				}
				first = to + 1
				last = max(last, to)
			case 3: // a suffix
				from := rapid.Uint64Range(first, last+1).Draw(t, "from")
				c.remove(from, last)
				for i := from; i <= last; i++ {
					delete(log, i)
				}
				last = from - 1
			}
			bytes, held := 0, 0
			for i := uint64(0); i <= last+2; i++ {
				var got raft.Log
				if !c.get(i, &got) {
					continue
				}
				want, ok := log[i]
				if !ok || want.Term != got.Term || got.Index != i {
					t.Fatalf("entry %d: cached %+v, in the log %+v (%v)", i, got, want, slices.Sorted(maps.Keys(log)))
				}
				bytes += len(got.Data)
				held++
			}
			if held > 8 || bytes != c.bytes || bytes > 40 && held > 1 {
				t.Fatalf("%d entries of %d bytes are held, it counts %d", held, bytes, c.bytes)
			}
			if last >= first && last != 0 {
				if newest := log[last]; newest != nil && held == 0 && c.hi != 0 {
					t.Fatal("it lost its newest entry")
				}
			}
		}
	})
}
