package enginetest

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/diarchy/diarchy/framework"
)

func caseCutLeader(c *cluster) {
	stop := c.load(4)
	old := c.leader()
	old.isolate()
	c.leader(old)
	c.write(put(1))
	c.until("the old leader steps down", func() bool { return old.g.EngineStatus().Role != framework.RoleLeader })
	old.heal()
	stop()
	c.level()
}

// caseCutOneWay: what a node says is lost, what it hears is not, and the other
// way round. Neither may stop the group, for however long it lasts.
func caseCutOneWay(c *cluster) {
	for _, outward := range []bool{true, false} {
		old := c.leader()
		stop := c.load(3)
		for _, o := range c.nodes {
			if o == old {
				continue
			}
			if outward {
				old.cutTo(o)
			} else {
				o.cutTo(old)
			}
		}
		l := c.leader(old)
		stop()
		c.pass(20 * time.Second)
		if now := c.leader(old); now != l {
			c.t.Errorf("leadership moved from %s to %s while one node was cut off one way", l.id, now.id)
		}
		old.heal()
		c.level()
	}
	// A follower that hears nothing but is heard must not unseat the leader.
	l := c.leader()
	f := c.follower()
	for _, o := range c.nodes {
		if o != f {
			o.cutTo(f)
		}
	}
	c.pass(20 * time.Second)
	if now := c.leader(f); now != l {
		c.t.Errorf("a follower that hears nothing unseated %s", l.id)
	}
	f.heal()
}

// caseBridge: two pairs that see each other only through the fifth.
func caseBridge(c *cluster) {
	stop := c.load(4)
	for _, a := range c.nodes[:2] {
		for _, b := range c.nodes[2:4] {
			a.cut(b)
		}
	}
	c.pass(2 * time.Second)
	stop()
	c.pass(15 * time.Second)
	c.write(put(1))
	c.healAll()
	c.level()
}

func caseMinority(c *cluster) {
	l := c.leader()
	f := c.follower()
	for _, a := range []*node{l, f} {
		for _, b := range c.nodes {
			if b != l && b != f {
				a.cut(b)
			}
		}
	}
	c.lose(l, 5)
	if _, err := c.query(l, "key1", framework.ReadQuery{}); err == nil {
		c.t.Error("a minority answered a linearizable read")
	}
	c.leader(l, f)
	c.write(put(1))
	c.healAll()
	c.level()
}

// casePauseLeader holds back everything that a leader sends and hears for a
// while, then lets it all go on: messages of the past arrive.
func casePauseLeader(c *cluster) {
	stop := c.load(6)
	for _, d := range []time.Duration{100 * time.Millisecond, 2 * time.Second, 10 * time.Second} {
		old := c.leader()
		old.isolate() // streams stall and go on; nothing is lost
		c.pass(d)
		old.heal()
		c.leader()
		c.pass(200 * time.Millisecond)
	}
	stop()
}

// caseFaultsUnderLoad throws everything at a group, drawn from a seed.
func caseFaultsUnderLoad(c *cluster) {
	rng := rand.New(rand.NewPCG(3, 14))
	stop := c.load(8)
	for range 15 {
		n := c.nodes[rng.IntN(len(c.nodes))]
		switch rng.IntN(6) {
		case 0:
			n.isolate()
		case 1:
			n.cutTo(c.nodes[rng.IntN(len(c.nodes))])
		case 2:
			if len(c.live()) > 3 {
				n.crash()
			}
		case 3:
			n.ledger.loseNext()
		case 4:
			c.healAll()
		case 5:
			for _, n := range c.nodes {
				if n.g == nil {
					n.start()
				}
			}
		}
		c.pass(time.Duration(rng.IntN(1500)) * time.Millisecond)
	}
	c.healAll()
	for _, n := range c.nodes {
		if n.g == nil {
			n.start()
		}
	}
	c.leader()
	stop()
}

// caseMachineHangs: one replica's machine does not return for a minute. Its
// replica goes on storing and voting, and the group committing.
func caseMachineHangs(c *cluster) {
	hang := time.Minute
	if c.s.Real {
		hang = 8 * time.Second
	}
	f := c.follower()
	f.ledger.hang()
	c.write(put(1))
	for _, n := range c.nodes {
		if n != f && n != c.leader() {
			n.crash() // now the quorum needs the replica whose machine hangs
		}
	}
	for end := time.Now().Add(hang); time.Now().Before(end); {
		c.write(put(2))
		c.pass(500 * time.Millisecond)
	}
	s := f.g.Status()
	if l := c.leader().g.EngineStatus(); s.Last < l.Commit {
		c.t.Errorf("the replica has stored %d of %d", s.Last, l.Commit)
	}
	if s.Machine.State != "stalled" {
		c.t.Errorf("its machine is said to be %s", s.Machine.State)
	}
	if _, err := c.query(f, "key1", framework.ReadQuery{Consistency: framework.Stale, After: c.write(put(3)).Token}); err == nil {
		c.t.Error("a replica answered for a command its machine has not executed")
	}
	f.ledger.release()
	for _, n := range c.nodes {
		if n.g == nil {
			n.start()
		}
	}
	c.level()
}

// caseMachineLost: a leader whose machine does not come back gives leadership
// to one whose machine runs.
func caseMachineLost(c *cluster) {
	old := c.leader()
	old.ledger.hang()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	_, err := old.g.Propose(ctx, framework.Command{Data: put(1)})
	cancel()
	if err == nil {
		c.t.Fatal("a hanging machine answered")
	}
	c.until("leadership moves to a replica with a machine", func() bool {
		return c.leader(old) != nil && old.g.EngineStatus().Role != framework.RoleLeader
	})
	c.write(put(2))
	old.ledger.release()
	c.level()
}

// caseBackPressure fills every queue: what does not fit is refused at once and
// did not happen, what was taken is answered, once.
func caseBackPressure(c *cluster) {
	l := c.leader()
	l.isolate() // nothing can be committed, so queues fill
	const n = 40_000
	var mu sync.Mutex
	var wg sync.WaitGroup
	busy, maybe := 0, 0
	wg.Add(n)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for range n / 1000 {
		cs := make([]framework.Command, 1000)
		for i := range cs {
			cs[i].Data = put(i)
		}
		l.g.ProposeAsync(ctx, cs, func(_ int, _ framework.Receipt, err error) {
			defer wg.Done()
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, framework.ErrBusy):
				busy++
			case framework.HappenedOf(err) == framework.Maybe:
				maybe++
			}
		})
	}
	mu.Lock()
	if busy < n-20_000 {
		c.t.Errorf("%d of %d refused; the queue is not bounded", busy, n)
	}
	mu.Unlock()
	l.heal()
	c.leader()
	c.pass(5 * time.Second)
	cancel()
	wg.Wait()
	c.write(put(1))
}
