package raftengine

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/diarchy/diarchy/framework"
)

func TestMembership(t *testing.T) {
	bubble(t, 3, func(t *testing.T, c *cluster) {
		c.inMemory().start()
		l := c.leader()
		l.write(numbered("x", 100)...)
		n := c.add("", nil)
		n.start()
		change := func(op framework.ChangeOp, id framework.NodeID) {
			t.Helper()
			before := l.e.Status().Membership.ID
			if err := l.e.Change(l.ctx(within), framework.Change{Op: op, Node: id}, before); err != nil {
				t.Fatalf("%v %s: %v", op, id, err)
			}
			if m := l.e.Status().Membership; m.ID <= before || !m.Committed {
				t.Errorf("after %v %s: %+v", op, id, m)
			}
		}
		role := func(want framework.Role) {
			t.Helper()
			c.until("its role is "+want.String(), func() bool { return n.e.Status().Role == want })
		}
		change(framework.AddLearner, n.id)
		last := l.write("learnt")
		n.host.untilThrough(last)
		role(framework.RoleLearner)
		c.until("the leader knows its progress", func() bool {
			for _, p := range l.e.Status().Peers {
				if p.Node == n.id && p.Match >= last {
					return true
				}
			}
			return false
		})
		change(framework.Promote, n.id)
		role(framework.RoleFollower)
		if v := l.e.Status().Membership.Voters(); v != 4 {
			t.Errorf("%d voters", v)
		}
		change(framework.Demote, n.id)
		role(framework.RoleLearner)
		change(framework.Remove, n.id)
		if _, in := l.e.Status().Membership.Find(n.id); in {
			t.Error("it is still a member")
		}
		l.write("without it")
	})
}

func TestMembershipRefusals(t *testing.T) {
	bubble(t, 3, func(t *testing.T, c *cluster) {
		c.inMemory().start()
		l := c.leader()
		f := c.others(l)[0]
		id := l.e.Status().Membership.ID
		for _, x := range []struct {
			change  framework.Change
			basedOn uint64
			want    error
		}{
			{framework.Change{Op: framework.Remove, Node: f.id}, id + 1, framework.ErrMembershipChanged},
			{framework.Change{Op: framework.AddLearner, Node: f.id}, 0, framework.ErrConflict},
			{framework.Change{Op: framework.Promote, Node: "stranger"}, 0, framework.ErrNoSuchNode},
			{framework.Change{Op: framework.Demote, Node: "stranger"}, 0, framework.ErrNoSuchNode},
			{framework.Change{Op: 99, Node: f.id}, 0, framework.ErrInvalid},
			{framework.Change{Op: framework.Promote, Node: f.id}, id, nil},     // it is one
			{framework.Change{Op: framework.Remove, Node: "stranger"}, 0, nil}, // it is none
		} {
			if err := l.e.Change(l.ctx(within), x.change, x.basedOn); !errors.Is(err, x.want) {
				t.Errorf("%v %s: %v, want %v", x.change.Op, x.change.Node, err, x.want)
			}
		}
		if err := f.e.Change(f.ctx(within), framework.Change{Op: framework.Remove, Node: f.id}, 0); !errors.Is(err, framework.ErrNotLeader) {
			t.Errorf("on a follower: %v", err)
		}
		if got := l.e.Status().Membership.ID; got != id {
			t.Errorf("the membership went from %d to %d", id, got)
		}
	})
}

func TestTheOnlyVoterStays(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		c.inMemory().start()
		n := c.leader()
		for _, op := range []framework.ChangeOp{framework.Remove, framework.Demote} {
			if err := n.e.Change(n.ctx(within), framework.Change{Op: op, Node: n.id}, 0); !errors.Is(err, framework.ErrWouldLoseQuorum) {
				t.Errorf("%v: %v", op, err)
			}
		}
	})
}

func TestOneChangeAtATime(t *testing.T) {
	bubble(t, 3, func(t *testing.T, c *cluster) {
		c.inMemory().start()
		l := c.leader()
		for _, f := range c.others(l) {
			defer f.disk.hang()()
		}
		first := make(chan error, 1)
		go func() {
			first <- l.e.Change(l.ctx(300*time.Millisecond), framework.Change{Op: framework.AddLearner, Node: "new"}, 0)
		}()
		synctest.Wait()
		err := l.e.Change(l.ctx(within), framework.Change{Op: framework.AddLearner, Node: "newer"}, 0)
		if !errors.Is(err, framework.ErrChangeInProgress) {
			t.Errorf("beside another: %v", err)
		}
		if err := <-first; !errors.Is(err, framework.ErrMaybe) {
			t.Errorf("one that is not committed in time: %v", err)
		}
		if m := l.e.Status().Membership; m.Committed {
			t.Errorf("the membership counts as committed: %+v", m)
		}
		err = l.e.Change(l.ctx(100*time.Millisecond), framework.Change{Op: framework.AddLearner, Node: "newer"}, 0)
		if !errors.Is(err, framework.ErrChangeInProgress) {
			t.Errorf("while it is not committed: %v", err)
		}
	})
}

// A removed replica keeps what it has, says what it is, and leaves the others in
// peace; the same goes for a leader that removes itself.
func TestRemovedReplicas(t *testing.T) {
	bubble(t, 4, func(t *testing.T, c *cluster) {
		c.inMemory().start()
		l := c.leader()
		f := c.others(l)[0]
		f.cut() // it does not hear of its removal
		if err := l.e.Change(l.ctx(within), framework.Change{Op: framework.Remove, Node: f.id}, 0); err != nil {
			t.Fatal(err)
		}
		f.heal()
		if err := l.e.Change(l.ctx(within), framework.Change{Op: framework.Remove, Node: l.id}, 0); err != nil {
			t.Fatal(err)
		}
		var rest []*replica
		for _, n := range c.nodes {
			if n != l && n != f {
				rest = append(rest, n)
			}
		}
		now := c.leader(rest...)
		now.write("goes on")
		term := now.e.Status().Term
		time.Sleep(time.Minute)
		if s := now.e.Status(); s.Role != framework.RoleLeader || s.Term != term {
			t.Errorf("a minute later: %v in term %d, was %d", s.Role, s.Term, term)
		}
		if s := l.e.Status(); s.Role != framework.RoleLearner || s.Warning == "" || s.Last == 0 || s.Err != nil {
			t.Errorf("the removed leader: %+v", s)
		}
		if s := f.e.Status(); s.Role == framework.RoleLeader || s.Last == 0 || s.Err != nil {
			t.Errorf("the removed follower: %+v", s)
		}
		// It can come back.
		if err := now.e.Change(now.ctx(within), framework.Change{Op: framework.AddLearner, Node: l.id}, 0); err != nil {
			t.Fatal(err)
		}
		l.host.untilThrough(now.write("welcome"))
	})
}

// During a change reads go on, by the membership that is in the log.
func TestReadsDuringAChange(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *cluster) {
		c.inMemory().start()
		l := c.leader()
		n := c.add("", nil)
		n.start()
		for _, op := range []framework.ChangeOp{framework.AddLearner, framework.Promote} {
			if err := l.e.Change(l.ctx(within), framework.Change{Op: op, Node: n.id}, 0); err != nil {
				t.Fatal(err)
			}
			if _, err := l.e.ReadIndex(l.ctx(within)); err != nil {
				t.Error(err)
			}
		}
		// Three voters now: with two cut off there is no read, with one there is.
		f := c.nodes[0]
		if f == l {
			f = c.nodes[1]
		}
		f.cut()
		if _, err := l.e.ReadIndex(l.ctx(within)); err != nil {
			t.Errorf("with two of three: %v", err)
		}
		n.cut()
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		if _, err := l.e.ReadIndex(ctx); err == nil {
			t.Error("with one of three")
		}
	})
}
