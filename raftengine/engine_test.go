package raftengine

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/diarchy/diarchy/framework"
)

func TestReplicates(t *testing.T) {
	bubble(t, 3, func(t *testing.T, c *cluster) {
		c.inMemory().start()
		l := c.leader()
		want := numbered("x", 2000)
		last := l.write(want...)
		for _, n := range c.nodes {
			n.host.untilThrough(last)
			if got := n.host.data(); !slices.Equal(got, want) {
				t.Errorf("%s was announced %d entries, want %d in order", n.id, len(got), len(want))
			}
		}
	})
}

func TestControlEntriesKeepTheirKindEverywhere(t *testing.T) {
	bubble(t, 3, func(t *testing.T, c *cluster) {
		c.inMemory().start()
		l := c.leader()
		l.e.Propose([]framework.Proposal{
			{Kind: framework.KindCommand, Data: []byte("a"), Ref: 1},
			{Kind: framework.KindControl, Data: []byte("b"), Ref: 2},
			{Kind: framework.KindCommand, Ref: 3},
		})
		last := l.outcome(3).Position
		for _, n := range c.nodes {
			n.host.untilThrough(last)
			read, through, err := n.e.Entries(1, 1<<20)
			if err != nil || through < last {
				t.Fatalf("Entries: through %d, %v", through, err)
			}
			n.host.mu.Lock()
			announced := slices.Clone(n.host.entries)
			n.host.mu.Unlock()
			for _, got := range [][]framework.Entry{announced, read} {
				var kinds []framework.Kind
				for _, e := range got {
					kinds = append(kinds, e.Kind)
				}
				want := []framework.Kind{framework.KindCommand, framework.KindControl, framework.KindCommand}
				if !slices.Equal(kinds, want) {
					t.Errorf("%s: kinds %v, want %v", n.id, kinds, want)
				}
			}
		}
	})
}

func TestFailsOver(t *testing.T) {
	bubble(t, 3, func(t *testing.T, c *cluster) {
		c.inMemory().start()
		old := c.leader()
		old.write("before")
		term := old.e.Status().Term
		old.cut()
		now := c.leader(c.others(old)...)
		if s := now.e.Status(); s.Term <= term {
			t.Errorf("the new leader's term is %d, the old one's was %d", s.Term, term)
		}
		last := now.write("after")
		old.heal()
		old.host.untilThrough(last)
		if got := old.host.data(); !slices.Equal(got, []string{"before", "after"}) {
			t.Errorf("the old leader holds %v", got)
		}
	})
}

// A read index must arrive with no write at all: the no-op of an election is
// shown to nobody by raft.
func TestEveryPositionIsAnnouncedWithoutWrites(t *testing.T) {
	bubble(t, 3, func(t *testing.T, c *cluster) {
		c.inMemory().start()
		l := c.leader()
		at, err := l.e.ReadIndex(l.ctx(within))
		if err != nil || at == 0 {
			t.Fatalf("ReadIndex: %d, %v", at, err)
		}
		for _, n := range c.nodes {
			n.host.untilThrough(at)
		}
	})
}

func TestEveryPositionIsAnnouncedAfterRestartOnASnapshot(t *testing.T) {
	for _, store := range []string{storeWAL, storeBolt} {
		t.Run(store, func(t *testing.T) {
			bubble(t, 1, func(t *testing.T, c *cluster) {
				c.option(logStoreOption, store).start()
				n := c.leader()
				n.write("a", "b")
				at := n.snapshot("state")
				n.stop()
				n.start()
				if !slices.Equal(n.host.installs, []framework.Position{at}) {
					t.Errorf("installs %v, want one at %d", n.host.installs, at)
				}
				c.leader()
				read, err := n.e.ReadIndex(n.ctx(within))
				if err != nil || read <= at {
					t.Fatalf("ReadIndex: %d, %v; the snapshot stands at %d", read, err, at)
				}
				n.host.untilThrough(read)
				if got := n.host.data(); len(got) != 0 {
					t.Errorf("announced again: %v", got)
				}
			})
		})
	}
}

// raft's RestoreCommittedLogs would hang here: more than 128 * 64 entries follow.
func TestRestartWithAManyEntriesBehindTheSnapshot(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		c.start()
		n := c.leader()
		n.write("first")
		n.snapshot("state")
		want := numbered("x", 9000)
		n.write(want...)
		n.stop()
		n.start()
		n.host.until("all entries", func() bool { return len(n.host.entries) == len(want) })
		if got := n.host.data(); !slices.Equal(got, want) {
			t.Error("the entries are not the ones written")
		}
	})
}

func TestRestartOfAllWithNewAddresses(t *testing.T) {
	bubble(t, 3, func(t *testing.T, c *cluster) {
		c.start()
		c.leader().write("a")
		c.close()
		c.start()
		last := c.leader().write("b")
		for _, n := range c.nodes {
			n.host.untilThrough(last)
			if got := n.host.data(); !slices.Equal(got, []string{"a", "b"}) {
				t.Errorf("%s: %v", n.id, got)
			}
		}
	})
}

func TestStatusAndChanged(t *testing.T) {
	bubble(t, 3, func(t *testing.T, c *cluster) {
		c.inMemory().start()
		changed := make([]<-chan struct{}, 3)
		for i, n := range c.nodes {
			changed[i] = n.e.Changed()
		}
		l := c.leader()
		last := l.write("a")
		for i, n := range c.nodes {
			<-changed[i] // nobody is left waiting
			n.host.untilThrough(last)
		}
		time.Sleep(time.Second) // heartbeats go round
		synctest.Wait()
		for _, n := range c.nodes {
			s := n.e.Status()
			if s.Leader != l.id || s.Term == 0 || s.Last != last || s.Commit != last || s.First != 1 || s.Err != nil || s.Warning != "" {
				t.Errorf("%s: %+v", n.id, s)
			}
			if !s.Membership.Committed || s.Membership.Voters() != 3 || s.Membership.ID != 1 {
				t.Errorf("%s: membership %+v", n.id, s.Membership)
			}
			if time.Since(s.LeaderContact) > time.Second {
				t.Errorf("%s: leader heard of at %v", n.id, s.LeaderContact)
			}
			if n != l {
				continue
			}
			for _, p := range s.Peers {
				if p.Match != last || time.Since(p.Contact) > time.Second {
					t.Errorf("peer %+v, want match %d", p, last)
				}
			}
			if len(s.Peers) != 2 {
				t.Errorf("%d peers", len(s.Peers))
			}
		}
	})
}

// Leadership comes and goes quickly, and whoever only watches Changed and reads
// Status ends up with the truth.
func TestNoLeadershipNoticeIsLost(t *testing.T) {
	bubble(t, 3, func(t *testing.T, c *cluster) {
		c.inMemory().start()
		type view struct {
			role framework.Role
			term framework.Term
		}
		seen := make([]view, 3)
		stop := make(chan struct{})
		ended := make(chan struct{}, 3)
		for i, n := range c.nodes {
			go func() {
				defer func() { ended <- struct{}{} }()
				for {
					changed := n.e.Changed()
					s := n.e.Status()
					seen[i] = view{s.Role, s.Term}
					select {
					case <-changed:
					case <-stop:
						return
					}
				}
			}()
		}
		for range 5 {
			l := c.leader()
			l.cut()
			c.leader(c.others(l)...)
			l.heal()
			time.Sleep(3 * time.Second)
		}
		c.leader()
		time.Sleep(3 * time.Second)
		synctest.Wait()
		for i, n := range c.nodes {
			if s := n.e.Status(); seen[i] != (view{s.Role, s.Term}) {
				t.Errorf("%s: the watcher believes %v, the engine says %v in term %d", n.id, seen[i], s.Role, s.Term)
			}
		}
		close(stop)
		for range c.nodes {
			<-ended
		}
	})
}

func TestCloseAnswersEverything(t *testing.T) {
	bubble(t, 3, func(t *testing.T, c *cluster) {
		c.inMemory().start()
		l := c.leader()
		l.cut() // nothing commits any more
		refs := l.send(numbered("x", 5000)...)
		synctest.Wait() // raft has some of them, and some wait
		e, host := l.e, l.host
		l.stop()
		for _, ref := range refs {
			if o, ok := host.outcomes[ref]; !ok || o.Err == nil {
				t.Fatalf("proposal %d: %v, answered %v", ref, o, ok)
			}
		}
		if s := e.Status(); s.Role != framework.RoleStopped || s.Err != nil {
			t.Errorf("after Close: %v, %v", s.Role, s.Err)
		}
		if err := e.Close(l.ctx(within)); err != nil {
			t.Errorf("second Close: %v", err)
		}
		l.c.ref++
		e.Propose([]framework.Proposal{{Kind: framework.KindCommand, Ref: l.c.ref}})
		if o := host.outcomes[l.c.ref]; framework.HappenedOf(o.Err) != framework.No {
			t.Errorf("a proposal after Close: %v", o.Err)
		}
	})
}
