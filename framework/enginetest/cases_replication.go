package enginetest

import (
	"context"
	"fmt"
	"time"

	"github.com/diarchy/diarchy/framework"
	"github.com/diarchy/diarchy/fsm/kv"
)

func put(i int) []byte { return kv.Put(fmt.Sprintf("key%d", i), fmt.Appendf(nil, "value%d", i), 0) }

// mustRead reads a key linearizably from the leader of the moment.
func (c *cluster) mustRead(key, want string) {
	c.t.Helper()
	a, err := c.query(c.leader(), key, framework.ReadQuery{})
	if err != nil {
		c.t.Fatalf("read %s: %v", key, err)
	}
	if out, err := decodeRead(a.Value); err != nil || out.value != want {
		c.t.Fatalf("read %s: %q %v, want %q", key, out.value, err, want)
	}
}

func (c *cluster) query(n *node, key string, q framework.ReadQuery) (framework.Answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	q.Data = getQuery(key)
	return n.g.Query(ctx, q)
}

func caseElect(c *cluster) {
	l := c.leader()
	c.until("everybody knows the leader", func() bool {
		for _, n := range c.nodes {
			s := n.g.EngineStatus()
			if s.Leader != l.id || s.Membership.Voters() != 3 {
				return false
			}
		}
		return true
	})
	c.pass(10 * time.Second)
	if now := c.leader(); now != l {
		c.t.Errorf("leadership moved from %s to %s though nothing failed", l.id, now.id)
	}
}

func caseReplicate(c *cluster) {
	for i := range 100 {
		if r := c.write(put(i)); r.Token.Number != uint64(i)+1 {
			c.t.Fatalf("command %d was given number %d", i+1, r.Token.Number)
		}
	}
	c.level()
	for _, n := range c.nodes {
		a, err := c.query(n, "key99", framework.ReadQuery{Consistency: framework.Stale})
		if err != nil {
			c.t.Fatal(err)
		}
		if out, _ := decodeRead(a.Value); out.value != "value99" || a.Token.Number != 100 {
			c.t.Fatalf("%s: %+v %+v", n.id, a, out)
		}
	}
}

func caseOneReplica(c *cluster) {
	c.write(put(1))
	c.nodes[0].crash()
	c.nodes[0].start()
	c.mustRead("key1", "value1")
	c.write(put(2))
	c.mustRead("key2", "value2")
}

func caseFiveReplicas(c *cluster) {
	c.fill(500)
	c.follower().crash()
	c.follower().crash()
	c.write(put(1))
	c.mustRead("key1", "value1")
	for _, n := range c.nodes {
		if n.g == nil {
			n.start()
		}
	}
}

func caseFailOver(c *cluster) {
	stop := c.load(4)
	c.pass(200 * time.Millisecond)
	old := c.leader()
	old.crash()
	c.leader()
	c.pass(200 * time.Millisecond)
	old.start()
	c.pass(200 * time.Millisecond)
	if n := stop(); n == 0 {
		c.t.Error("nothing was answered")
	}
}

func caseFailOverAgain(c *cluster) {
	stop := c.load(4)
	for range 5 {
		old := c.leader()
		old.crash()
		c.leader()
		old.start()
		c.pass(100 * time.Millisecond)
	}
	stop()
}

func caseCrashAll(c *cluster) {
	c.fill(300)
	c.write(put(7))
	for _, n := range c.nodes {
		n.crash()
	}
	for _, n := range c.nodes {
		n.start()
	}
	c.mustRead("key7", "value7")
}

func caseNewAddresses(c *cluster) {
	c.write(put(1))
	before := map[framework.NodeID]string{}
	for id, a := range c.addrs {
		before[id] = a
	}
	for _, n := range c.nodes {
		n.shut()
	}
	for _, n := range c.nodes {
		n.start() // at a new port
	}
	for id, a := range c.addrs {
		if a == before[id] {
			c.t.Fatalf("%s came back at %s; the case needs another address", id, a)
		}
	}
	c.mustRead("key1", "value1")
	c.write(put(2))
}

func caseShutdown(c *cluster) {
	c.write(put(1))
	old := c.leader()
	term := old.g.EngineStatus().Term
	ctx, cancel := context.WithTimeout(context.Background(), clientTimeout)
	r, err := old.g.Propose(ctx, framework.Command{Data: put(2)})
	cancel()
	if err != nil {
		c.t.Fatal(err)
	}
	old.shut()
	l := c.leader()
	if now := l.g.EngineStatus().Term; now <= term {
		c.t.Errorf("term %d after %d", now, term)
	}
	if s := l.g.Status(); s.Number < r.Token.Number {
		c.t.Errorf("the new leader stands at %d, %d was acknowledged", s.Number, r.Token.Number)
	}
	old.start()
}
