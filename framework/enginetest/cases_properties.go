package enginetest

import (
	"context"
	"time"

	"github.com/diarchy/diarchy/framework"
)

// caseElectionSafety makes elections collide: no link is whole for long.
func caseElectionSafety(c *cluster) {
	for round := range 12 {
		for i, n := range c.nodes {
			n.cut(c.nodes[(i+round+1)%len(c.nodes)])
		}
		c.pass(700 * time.Millisecond)
		c.healAll()
		c.pass(400 * time.Millisecond)
	}
	c.mu.Lock()
	terms := len(c.leaders)
	c.mu.Unlock()
	if terms == 0 {
		c.t.Error("nobody ever led: the case shows nothing")
	}
}

// caseLeaderAppendOnly has a leader collect what it cannot commit, lose its
// place and come back.
func caseLeaderAppendOnly(c *cluster) {
	for range 3 {
		old := c.leader()
		old.isolate()
		c.lose(old, 20)
		c.leader(old)
		c.write(put(1))
		old.heal()
		c.level()
	}
}

// lose proposes what cannot be committed now, and checks that nobody is told
// that it was.
func (c *cluster) lose(n *node, count int) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	cs := make([]framework.Command, count)
	for i := range cs {
		cs[i].Data = put(1000 + i)
	}
	done := make(chan error, count)
	n.g.ProposeAsync(ctx, cs, func(_ int, _ framework.Receipt, err error) { done <- err })
	for range count {
		if err := <-done; err == nil {
			c.t.Error("a command was acknowledged without a quorum")
		}
	}
}

// caseLogMatching leaves different uncommitted ends on every replica.
func caseLogMatching(c *cluster) {
	for range 4 {
		old := c.leader()
		old.isolate()
		c.lose(old, 10)
		c.fill(20)
		c.leader(old).isolate()
		old.heal()
		c.pass(3 * time.Second)
		c.healAll()
		c.fill(20)
		c.level()
	}
}

// caseLeaderCompleteness crashes leaders the moment they have answered.
func caseLeaderCompleteness(c *cluster) {
	for i := range 6 {
		l := c.leader()
		c.fill(50)
		c.write(put(i))
		c.leader().crash()
		c.leader()
		if l.g == nil {
			l.start()
		}
		for _, n := range c.nodes {
			if n.g == nil {
				n.start()
			}
		}
	}
	c.mustRead("key5", "value5")
}

// caseStateMachineSafety loses machines at every turn, so that they are made
// anew and replayed while the group goes on.
func caseStateMachineSafety(c *cluster) {
	stop := c.load(6)
	for i := range 9 {
		c.nodes[i%3].ledger.loseNext()
		c.pass(300 * time.Millisecond)
		if i == 4 {
			_, _ = c.leader().g.Snapshot(context.Background()) // its machine may be the one that is down
		}
	}
	stop()
}
