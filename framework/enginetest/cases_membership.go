package enginetest

import (
	"context"
	"errors"
	"time"

	"github.com/diarchy/diarchy/framework"
)

// change makes a membership step on whoever leads, until it is done.
func (c *cluster) change(op framework.ChangeOp, n *node) {
	c.t.Helper()
	c.until(op.String()+" "+string(n.id), func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		err := c.leader().g.Change(ctx, framework.Change{Op: op, Node: n.id}, 0, false)
		if err != nil && !errors.Is(err, framework.ErrNotLeader) && !errors.Is(err, framework.ErrMaybe) &&
			!errors.Is(err, framework.ErrChangeInProgress) && !errors.Is(err, framework.ErrConflict) {
			c.t.Logf("%s %s: %v", op, n.id, err)
		}
		m, member := c.leader().g.EngineStatus().Membership.Find(n.id)
		switch op {
		case framework.AddLearner, framework.Demote:
			return member && m.Suffrage == framework.Learner
		case framework.Promote:
			return member && m.Suffrage == framework.Voter
		default:
			return !member
		}
	})
}

// join starts a new node and makes it a learner.
func (c *cluster) join() *node {
	n := c.add(nil)
	n.start()
	c.change(framework.AddLearner, n)
	return n
}

func caseLearner(c *cluster) {
	c.fill(200)
	n := c.join()
	c.level()
	// It stores and executes, and counts for nothing: with one voter of three
	// left it cannot make a majority.
	l := c.leader()
	for _, v := range c.nodes[:3] {
		if v != l {
			v.crash()
		}
	}
	c.lose(l, 3)
	if s := n.g.Status(); s.Suffrage != "learner" {
		c.t.Errorf("%s is a %s", n.id, s.Suffrage)
	}
	for _, v := range c.nodes {
		if v.g == nil {
			v.start()
		}
	}
}

func casePromote(c *cluster) {
	n := c.join()
	c.change(framework.Promote, n)
	if v := c.leader().g.EngineStatus().Membership.Voters(); v != 4 {
		c.t.Fatalf("%d voters", v)
	}
	c.write(put(1))
	c.change(framework.Demote, n)
	c.write(put(2))
	c.level()
}

func caseRemoveFollower(c *cluster) {
	f := c.follower()
	c.change(framework.Remove, f)
	c.write(put(1))
	// It must not disturb those that stay.
	l, term := c.leader(), c.leader().g.EngineStatus().Term
	c.pass(20 * time.Second)
	if now := c.leader(f); now != l || now.g.EngineStatus().Term != term {
		c.t.Errorf("a removed replica disturbed the group: %s in term %d, %s in term %d", l.id, term, now.id, now.g.EngineStatus().Term)
	}
	f.shut()
}

func caseRemoveLeader(c *cluster) {
	stop := c.load(3)
	old := c.leader()
	c.change(framework.Remove, old)
	c.leader(old)
	c.write(put(1))
	stop()
	old.shut()
}

func caseReplace(c *cluster) {
	stop := c.load(4)
	c.fill(300)
	dead := c.follower()
	dead.crash()
	dead.wipe()
	n := c.join()
	c.change(framework.Promote, n)
	c.change(framework.Remove, dead)
	m := c.leader().g.EngineStatus().Membership
	if _, still := m.Find(dead.id); still || m.Voters() != 3 {
		c.t.Errorf("membership %+v", m)
	}
	c.leader().crash()
	c.leader()
	c.write(put(1))
	stop()
	for _, v := range c.nodes {
		if v.g == nil && v != dead {
			v.start()
		}
	}
}

func caseOneChange(c *cluster) {
	l := c.leader()
	based := l.g.EngineStatus().Membership.ID
	n := c.join()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err := c.leader().g.Change(ctx, framework.Change{Op: framework.Remove, Node: n.id}, based, true)
	if !errors.Is(err, framework.ErrMembershipChanged) || framework.HappenedOf(err) != framework.No {
		c.t.Errorf("a change based on a membership of the past: %v", err)
	}
	if _, ok := c.leader().g.EngineStatus().Membership.Find(n.id); !ok {
		c.t.Error("it was carried out")
	}
	err = c.leader().g.Change(ctx, framework.Change{Op: framework.AddLearner, Node: n.id}, 0, false)
	if !errors.Is(err, framework.ErrConflict) {
		c.t.Errorf("adding a member again: %v", err)
	}
}

func caseWouldLoseQuorum(c *cluster) {
	c.write(put(1))
	f := c.follower()
	f.crash()
	c.pass(5 * time.Second)
	l := c.leader()
	for _, n := range c.nodes {
		if n == f || n == l {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		err := l.g.Change(ctx, framework.Change{Op: framework.Remove, Node: n.id}, 0, false)
		cancel()
		if !errors.Is(err, framework.ErrWouldLoseQuorum) || framework.HappenedOf(err) != framework.No {
			c.t.Errorf("with %s dead, removing %s: %v", f.id, n.id, err)
		}
	}
	f.start()
	c.level()
}

func caseTransfer(c *cluster) {
	stop := c.load(4)
	for range 3 {
		l, to := c.leader(), c.follower()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		err := l.g.Transfer(ctx, to.id)
		cancel()
		if err != nil {
			c.t.Errorf("transfer from %s to %s: %v", l.id, to.id, err)
		}
		c.until("the one named leads", func() bool { return to.g.EngineStatus().Role == framework.RoleLeader })
	}
	stop()
	l := c.leader()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := l.g.Transfer(ctx, "nobody"); !errors.Is(err, framework.ErrNoSuchNode) {
		c.t.Errorf("transfer to nobody: %v", err)
	}
	if err := c.follower().g.Transfer(ctx, l.id); !errors.Is(err, framework.ErrNotLeader) {
		c.t.Errorf("transfer asked of a follower: %v", err)
	}
}
