package raftengine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/diarchy/diarchy/framework"
)

// A leader whose disk hangs: the others go on without it, it says so, no write of
// its is called failed, and when the disk comes back it follows.
func TestALeaderWhoseDiskHangs(t *testing.T) {
	bubble(t, 3, func(t *testing.T, c *cluster) {
		c.inMemory().start()
		old := c.leader()
		old.write("before")
		term := old.e.Status().Term
		release := old.disk.hang()
		stuck := old.send("stuck")[0]
		waiting := old.send("waiting")[0] // raft is in the call, it cannot take this up
		since := time.Now()
		if o := old.outcome(stuck); !errors.Is(o.Err, framework.ErrMaybe) {
			t.Errorf("the write under way: %v, want may have happened", o.Err)
		}
		if o := old.outcome(waiting); o.Err == nil {
			t.Error("the write behind it was committed")
		}
		if d := time.Since(since); d < defaultStallAfter || d > defaultStallAfter+time.Second {
			t.Errorf("answered after %v, want %v", d, defaultStallAfter)
		}
		s := old.e.Status()
		if s.Role == framework.RoleLeader || !strings.Contains(s.Warning, "storage") {
			t.Errorf("while the disk hangs: %v, warning %q", s.Role, s.Warning)
		}
		refused := old.outcome(old.send("later")[0])
		if !errors.Is(refused.Err, framework.ErrNotLeader) || !strings.Contains(refused.Err.Error(), "storage") {
			t.Errorf("a proposal while the disk hangs: %v", refused.Err)
		}
		if _, err := old.e.ReadIndex(old.ctx(time.Second)); !errors.Is(err, framework.ErrNotLeader) {
			t.Errorf("a read while the disk hangs: %v", err)
		}
		now := c.leader(c.others(old)...)
		last := now.write("after")
		time.Sleep(30 * time.Second)
		if s := now.e.Status(); s.Role != framework.RoleLeader || s.Term != term+1 {
			t.Errorf("30 s later: %v in term %d, elected in %d", s.Role, s.Term, term+1)
		}
		release()
		old.host.untilThrough(last)
		if s := old.e.Status(); s.Warning != "" || s.Leader != now.id {
			t.Errorf("with the disk back: warning %q, leader %s", s.Warning, s.Leader)
		}
		if got := old.host.data(); slices.Contains(got, "waiting") || !slices.Contains(got, "after") {
			t.Errorf("it holds %v", got)
		}
		if n := old.e.store.watch.count(); n != 1 {
			t.Errorf("%d stalls counted", n)
		}
	})
}

// Without the hold of its messages a leader whose disk hangs keeps its followers
// from electing another: raft's heartbeats do not wait for the disk.
func TestHeldMessagesAreWhatEndsALeadership(t *testing.T) {
	bubble(t, 3, func(t *testing.T, c *cluster) {
		c.inMemory()
		for _, n := range c.nodes {
			n.config.StallAfter = time.Hour
		}
		c.start()
		old := c.leader()
		release := old.disk.hang()
		old.send("stuck")
		time.Sleep(30 * time.Second)
		for _, n := range c.others(old) {
			if s := n.e.Status(); s.Leader != old.id {
				t.Errorf("%s follows %q: raft alone has learned to notice", n.id, s.Leader)
			}
		}
		release()
		c.leader()
	})
}

func TestAFollowerWhoseDiskHangsDoesNotCampaign(t *testing.T) {
	bubble(t, 3, func(t *testing.T, c *cluster) {
		c.inMemory().start()
		l := c.leader()
		f := c.others(l)[0]
		term := l.e.Status().Term
		release := f.disk.hang()
		l.write("a")
		time.Sleep(time.Minute)
		if s := f.e.Status(); s.Warning == "" || s.Role == framework.RoleCandidate {
			t.Errorf("the follower: %v, warning %q", s.Role, s.Warning)
		}
		release()
		f.host.untilThrough(l.write("b"))
		if s := l.e.Status(); s.Role != framework.RoleLeader || s.Term != term {
			t.Errorf("the leader: %v in term %d, was in %d", s.Role, s.Term, term)
		}
	})
}

func TestAFailedDiskStopsTheReplicaForGood(t *testing.T) {
	bubble(t, 3, func(t *testing.T, c *cluster) {
		c.inMemory().start()
		old := c.leader()
		old.disk.fail("StoreLogs")
		changed := old.e.Changed()
		if o := old.outcome(old.send("x")[0]); framework.HappenedOf(o.Err) != framework.Maybe {
			t.Errorf("the write: %v", o.Err)
		}
		<-changed
		c.until("it has stopped", func() bool { return old.e.Status().Role == framework.RoleStopped })
		s := old.e.Status()
		if s.Err == nil || !strings.Contains(s.Err.Error(), "no space left") {
			t.Errorf("the reason given: %v", s.Err)
		}
		o := old.outcome(old.send("y")[0])
		if !errors.Is(o.Err, framework.ErrStopped) || !strings.Contains(o.Err.Error(), "no space left") {
			t.Errorf("a later proposal: %v", o.Err)
		}
		if _, err := old.e.ReadIndex(context.Background()); !errors.Is(err, framework.ErrStopped) {
			t.Errorf("a read: %v", err)
		}
		for _, err := range []error{
			old.e.Change(context.Background(), framework.Change{Op: framework.Remove, Node: old.id}, 0),
			old.e.Transfer(context.Background(), ""),
			old.e.Snapshot(context.Background(), 1, text("")),
		} {
			if !errors.Is(err, framework.ErrStopped) {
				t.Errorf("a call: %v", err)
			}
		}
		now := c.leader(c.others(old)...)
		now.write("after")
	})
}

// raft answers a failed write of its term with a panic, and a committed entry that
// it cannot read too; a process with other groups must survive both.
func TestAFailureThatRaftWouldPanicOver(t *testing.T) {
	for _, call := range []string{"SetUint64", "GetLog"} {
		t.Run(call, func(t *testing.T) {
			bubble(t, 3, func(t *testing.T, c *cluster) {
				c.inMemory().start()
				old := c.leader()
				old.write("a")
				f := c.others(old)[0]
				if call == "GetLog" {
					f.cut()
					old.write("b")
					cache := f.e.store.cache // of one entry: the disk is read
					cache.mu.Lock()
					cache.empty()
					cache.ring = make([]*raft.Log, 1)
					cache.mu.Unlock()
				}
				f.disk.fail(call)
				f.heal()
				old.cut() // a new term for the others
				old.send(numbered("x", 50)...)
				if call == "GetLog" {
					old.heal()
				}
				c.until("it has stopped", func() bool { return f.e.Status().Role == framework.RoleStopped })
				if s := f.e.Status(); s.Err == nil || !strings.Contains(s.Err.Error(), "injected") {
					t.Errorf("the reason given: %v", s.Err)
				}
				old.heal()
				c.leader(c.others(f)...).write("goes on")
			})
		})
	}
}

func TestCloseWhileTheDiskHangs(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		c.inMemory().start()
		n := c.leader()
		release := n.disk.hang()
		ref := n.send("stuck")[0]
		time.Sleep(time.Second)
		if err := n.e.Close(n.ctx(time.Second)); err == nil || !strings.Contains(err.Error(), "storage") {
			t.Errorf("Close: %v", err)
		}
		if o := n.outcome(ref); framework.HappenedOf(o.Err) != framework.Maybe {
			t.Errorf("the write: %v", o.Err)
		}
		release()
		<-n.e.done
		if err := n.e.Close(n.ctx(time.Second)); err != nil {
			t.Errorf("Close once more: %v", err)
		}
	})
}

// A context that has ended already does not leave anything open.
func TestCloseWithAnEndedContext(t *testing.T) {
	bubble(t, 3, func(t *testing.T, c *cluster) {
		c.start()
		l := c.leader()
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := l.e.Close(ctx); err != nil {
			t.Error(err)
		}
		_ = l.streams.Close()
		l.start()
		c.leader()
	})
}

func TestTwoReplicasInOneDirectory(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		c.start()
		_, err := lockDir(c.nodes[0].config.Dir, "other")
		if err == nil || !strings.Contains(err.Error(), "node n1") {
			t.Errorf("a second start: %v, want one that names the holder", err)
		}
	})
}

func TestADamagedSnapshotCostsOnlyTime(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		c.option(trailingLogsOption, "0").start()
		n := c.leader()
		n.write("a")
		first := n.snapshot("first")
		n.write("b")
		n.snapshot("second")
		n.write("c")
		damageNewest(t, n)
		if _, _, err := n.e.OpenSnapshot(); err == nil {
			t.Error("the damage was not found")
		}
		if at, r, err := n.e.OpenSnapshot(); err != nil || at != first {
			t.Errorf("the one before: %d, %v", at, err)
		} else {
			_ = r.Close()
		}
		n.stop()
		n.start()
		c.leader()
		if !slices.Equal(n.host.installs, []framework.Position{first}) {
			t.Errorf("it started from %v, want %d", n.host.installs, first)
		}
		if got := n.host.data(); !slices.Equal(got, []string{"b", "c"}) {
			t.Errorf("and was told %v", got)
		}
	})
}

func damageNewest(t *testing.T, n *replica) {
	t.Helper()
	all := must(n.e.snaps.List())
	path := filepath.Join(n.config.Dir, snapshotDir, all[0].ID, "state.bin")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[0] ^= 1
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestALogWithoutItsSnapshotIsRefused(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		c.option(trailingLogsOption, "0").start()
		n := c.leader()
		for _, s := range []string{"a", "b", "c"} {
			n.write(s)
			n.snapshot(s)
		}
		n.stop()
		if err := os.RemoveAll(filepath.Join(n.config.Dir, snapshotDir)); err != nil {
			t.Fatal(err)
		}
		if err := n.tryStart(); err == nil || !strings.Contains(err.Error(), "group replace") {
			t.Errorf("start: %v", err)
		}
	})
}

func TestAnotherLogStoreIsRefused(t *testing.T) {
	for _, order := range [][2]string{{storeWAL, storeBolt}, {storeBolt, storeWAL}} {
		bubble(t, 1, func(t *testing.T, c *cluster) {
			c.option(logStoreOption, order[0]).start()
			n := c.leader()
			n.stop()
			c.option(logStoreOption, order[1])
			if err := n.tryStart(); err == nil || !strings.Contains(err.Error(), order[0]) {
				t.Errorf("from %s to %s: %v", order[0], order[1], err)
			}
		})
	}
}

func TestACrashInBootstrapIsMadeGood(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		n := c.nodes[0]
		n.disk = &faultyBackend{}
		n.seams.backend = func(b backend) backend {
			n.disk = &faultyBackend{backend: b}
			n.disk.fail("StoreLogs")
			return n.disk
		}
		if err := n.tryStart(); err == nil {
			t.Fatal("it started without a log")
		}
		n.seams.backend = nil
		n.start()
		c.leader().write("a")
	})
}
