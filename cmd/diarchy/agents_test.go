//go:build unix

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/diarchy/diarchy/client"
	"github.com/diarchy/diarchy/internal/dev"
)

const ordersGroup = `group "orders" {
  engine   = "raft"
  machine  = "builtin:kv"
  replicas = 3
}
`

// agents starts three nodes from three HCL files.
func agents(t *testing.T) *dev.Cluster {
	t.Helper()
	dir := tempHere(t)
	cl, err := dev.NewCluster(dev.ClusterConfig{Binary: binary, Dir: dir, Nodes: 3, Blocks: ordersGroup, AnyPorts: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, n := range cl.Nodes {
				t.Logf("%s:\n%s", n.Log, n.LastLines(40))
			}
		}
		cl.Kill()
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := cl.Start(ctx); err != nil {
		t.Fatal(err)
	}
	settled(t, cl)
	return cl
}

// settled waits until all three replicas run and have applied everything.
func settled(t *testing.T, cl *dev.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := cl.AwaitGroup(ctx, "orders", dev.AllRunning(3)); err != nil {
		t.Fatal(err)
	}
}

func clientOf(t *testing.T, cl *dev.Cluster) *client.Client {
	t.Helper()
	var addrs []string
	for _, n := range cl.Nodes {
		addrs = append(addrs, n.ClientAddr())
	}
	c, err := client.New(client.Config{Addresses: addrs})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// load writes keys, each once, and logs what was acknowledged.
type load struct {
	mu    sync.Mutex
	acked map[string]uint64 // key to the command's number
	count atomic.Int64
	stop  context.CancelFunc
	all   sync.WaitGroup
}

const loadWriters = 8

func startLoad(t *testing.T, g *client.Group) *load {
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{acked: map[string]uint64{}, stop: cancel}
	for w := range loadWriters {
		l.all.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				key := fmt.Sprintf("w%d/%06d", w, i)
				written, err := g.KV().Put(ctx, key, []byte(key), 0)
				if err != nil {
					if ctx.Err() == nil {
						t.Errorf("write of %s: %v", key, err)
					}
					return // at the end of the test: may have happened, not acknowledged
				}
				l.mu.Lock()
				l.acked[key] = written.Token.Number
				l.mu.Unlock()
				l.count.Add(1)
			}
		})
	}
	t.Cleanup(func() { l.stop(); l.all.Wait() })
	return l
}

// more waits for so many acknowledgements from now on.
func (l *load) more(t *testing.T, n int64) time.Duration {
	t.Helper()
	began, from := time.Now(), l.count.Load()
	eventually(t, 30*time.Second, fmt.Sprintf("%d more acknowledgements", n), func() bool { return l.count.Load() >= from+n })
	return time.Since(began)
}

// verify reads every acknowledged key back linearizably: it must be there, as
// written, by the very command that was acknowledged.
func (l *load) verify(t *testing.T, g *client.Group) {
	t.Helper()
	l.stop()
	l.all.Wait()
	keys := slices.Sorted(maps.Keys(l.acked))
	numbers := map[uint64]string{}
	for _, k := range keys {
		if other, twice := numbers[l.acked[k]]; twice {
			t.Errorf("commands of %s and %s were acknowledged with one number, %d", k, other, l.acked[k])
		}
		numbers[l.acked[k]] = k
	}
	var lost atomic.Int64
	var all sync.WaitGroup
	for w := range loadWriters {
		all.Go(func() {
			for i := w; i < len(keys); i += loadWriters {
				item, found, _, err := g.KV().Get(t.Context(), keys[i], client.ReadOptions{})
				switch {
				case err != nil:
					t.Errorf("read of %s: %v", keys[i], err)
					return
				case !found || string(item.Value) != keys[i] || item.Revision != l.acked[keys[i]]:
					lost.Add(1)
					t.Errorf("%s was acknowledged as command %d; read: found %t, %q, revision %d", keys[i], l.acked[keys[i]], found, item.Value, item.Revision)
				}
			}
		})
	}
	all.Wait()
	t.Logf("%d writes were acknowledged, %d of them lost", len(keys), lost.Load())
	if len(keys) == 0 {
		t.Error("nothing was written: this test shows nothing")
	}
}

// sameState compares the three replicas at one command number.
func sameState(t *testing.T, cl *dev.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	number, sum, err := cl.Compare(ctx, "orders")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("all replicas agree at command %d: %.16s…", number, sum)
}

// TestAgentsSurviveKill: each of the three is killed in turn under load, the
// leader among them.
func TestAgentsSurviveKill(t *testing.T) {
	t.Parallel()
	cl := agents(t)
	g := clientOf(t, cl).Group("orders")
	l := startLoad(t, g)
	l.more(t, 200)
	for _, victim := range cl.Nodes {
		s, err := cl.Status(t.Context(), "orders")
		if err != nil {
			t.Fatal(err)
		}
		role := "a follower"
		if leader, err := cl.Leader(s); err == nil && leader == victim {
			role = "the leader"
		}
		victim.Process().Kill()
		gap := l.more(t, 1)
		l.more(t, 300)
		if err := victim.Start(); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		settledUnderLoad(t, cl, victim)
		t.Logf("killed %s (%s): the next acknowledgement after %s; back and caught up %s after its start",
			victim.Name, role, gap.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	}
	l.verify(t, g)
	settled(t, cl)
	sameState(t, cl)
}

// settledUnderLoad waits until a node's replica has applied what the group had
// committed when it was asked.
func settledUnderLoad(t *testing.T, cl *dev.Cluster, n *dev.Node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := n.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	var want uint64
	eventually(t, 30*time.Second, n.Name+" has caught up", func() bool {
		s, err := cl.Status(ctx, "orders")
		if err != nil {
			return false
		}
		for _, r := range s.GetReplicas() {
			if r.GetNode() == s.GetLeader() && want == 0 {
				want = r.GetNumber()
			}
		}
		for _, r := range s.GetReplicas() {
			if r.GetName() == n.Name && want > 0 {
				return r.GetReachable() && r.GetNumber() >= want
			}
		}
		return false
	})
}

// TestWipedNodeIsReplaced: a node whose disk is new must not vote in its old
// place, and 'group replace' puts it in anew.
func TestWipedNodeIsReplaced(t *testing.T) {
	t.Parallel()
	cl := agents(t)
	c := clientOf(t, cl)
	g := c.Group("orders")
	l := startLoad(t, g)
	l.more(t, 100)
	victim, others := cl.Nodes[2], cl.Nodes[:2]
	before := idOf(t, victim)
	victim.Process().Kill()
	if err := os.RemoveAll(victim.DataDir); err != nil {
		t.Fatal(err)
	}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "the wiped node is in the pool as a new one", func() bool {
		id := idOf(t, victim)
		return id != "" && id != before && strings.Contains(must(t, "members", "--addr", others[0].ClientAddr()), id)
	})
	after := idOf(t, victim)
	l.more(t, 100)
	for _, m := range peersOf(t, others[0]) {
		if m.ID == after {
			t.Errorf("the wiped node is a member by itself: %+v", m)
		}
	}
	out, code := diarchy(t, "group", "promote", "orders", after, "--addr", others[0].ClientAddr())
	if code != 1 {
		t.Errorf("the wiped node was made a voter: exit code %d\n%s", code, out)
	}
	t.Logf("promoting the wiped node: %s", strings.TrimSpace(out))
	// Its log says what to do, for each group, once it has its old name again.
	for _, group := range []string{"orders", "system"} {
		advice := "diarchy group replace " + group + " n3 n3"
		eventually(t, 30*time.Second, "the wiped node's log says: "+advice, func() bool { return strings.Contains(readAll(t, victim.Log), advice) })
		t.Logf("%s", strings.TrimSpace(must(t, "group", "replace", group, "n3", "n3", "--addr", others[0].ClientAddr(), "--timeout", "60s")))
	}
	voters := map[string]bool{}
	for _, m := range peersOf(t, others[0]) {
		voters[m.ID] = m.Suffrage == "voter"
	}
	if len(voters) != 3 || !voters[after] || voters[before] {
		t.Errorf("members after the replacement: %v; expected %s to vote and %s to be gone", voters, after, before)
	}
	l.more(t, 100)
	l.verify(t, g)
	settled(t, cl)
	sameState(t, cl)
}

func readAll(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// idOf is a node's id by its own data directory; "" while there is none.
func idOf(t *testing.T, n *dev.Node) string {
	t.Helper()
	b, err := os.ReadFile(n.DataDir + "/node.json")
	if errors.Is(err, os.ErrNotExist) {
		return ""
	}
	var r struct {
		ID string `json:"id"`
	}
	if err != nil || json.Unmarshal(b, &r) != nil {
		return ""
	}
	return r.ID
}

type peer struct {
	ID, Node, Suffrage string
}

func peersOf(t *testing.T, n *dev.Node) []peer {
	t.Helper()
	var out struct{ Members []peer }
	if err := json.Unmarshal([]byte(must(t, "group", "peers", "orders", "-o", "json", "--addr", n.ClientAddr())), &out); err != nil {
		t.Fatal(err)
	}
	return out.Members
}

// TestSecondStartFindsEverything: SIGTERM to all, then all again.
func TestSecondStartFindsEverything(t *testing.T) {
	t.Parallel()
	cl := agents(t)
	addr := cl.Nodes[0].ClientAddr()
	must(t, "kv", "put", "a", "1", "--group", "orders", "--addr", addr)
	for _, n := range cl.Nodes {
		_ = n.Process().Signal(syscall.SIGTERM)
	}
	for _, n := range cl.Nodes {
		if err := n.Process().Err(); err != nil {
			t.Errorf("%s ended with %v:\n%s", n.Name, err, n.LastLines(5))
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := cl.Start(ctx); err != nil {
		t.Fatal(err)
	}
	settled(t, cl)
	if got := must(t, "kv", "get", "a", "--group", "orders", "--addr", addr); got != "1\n" {
		t.Errorf("after a restart the key holds %q", got)
	}
}
