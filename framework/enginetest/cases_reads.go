package enginetest

import (
	"context"
	"errors"
	"time"

	"github.com/diarchy/diarchy/framework"
	"github.com/diarchy/diarchy/fsm/kv"
)

// caseSessions: every client's commands are executed once, whatever becomes of
// leaders while they are on their way; the counters in the histories tell.
func caseSessions(c *cluster) {
	stop := c.load(8)
	for i := range 8 {
		switch l := c.leader(); i % 4 {
		case 0:
			l.crash()
			c.leader()
			l.start()
		case 1:
			l.isolate()
			c.leader(l)
			l.heal()
		case 2:
			// What it sends arrives, what is answered does not: commands are agreed
			// on whose callers hear that they may have happened, and ask again.
			for _, o := range c.nodes {
				if o != l {
					o.cutTo(l)
				}
			}
			c.leader(l)
			l.heal()
		default:
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			_ = l.g.Transfer(ctx, "") // a transfer that fails is as good a disturbance
			cancel()
		}
		c.pass(300 * time.Millisecond)
	}
	if n := stop(); n < 20 {
		c.t.Errorf("only %d answers: the case shows little", n)
	}
}

func caseReadLevels(c *cluster) {
	token := c.write(put(1)).Token
	l, f := c.leader(), c.follower()
	read := func(n *node, q framework.ReadQuery) (framework.Answer, string, error) {
		a, err := c.query(n, "key1", q)
		if err != nil {
			return a, "", err
		}
		out, err := decodeRead(a.Value)
		return a, out.value, err
	}
	for _, level := range []framework.Consistency{framework.Linearizable, framework.FromLeader} {
		if a, v, err := read(l, framework.ReadQuery{Consistency: level}); err != nil || v != "value1" || a.Token.Number < token.Number {
			c.t.Errorf("%s on the leader: %+v %q %v", level, a, v, err)
		}
		_, _, err := read(f, framework.ReadQuery{Consistency: level})
		var e *framework.Error
		if !errors.As(err, &e) || e.Code != framework.CodeNotLeader || e.Leader != l.id {
			c.t.Errorf("%s on a follower: %v", level, err)
		}
	}
	// Stale with a token waits for what the client has written itself.
	for i := range 20 {
		token := c.write(put(100 + i)).Token
		a, err := c.query(f, "key1", framework.ReadQuery{Consistency: framework.Stale, After: token})
		if err != nil || a.Token.Number < token.Number {
			c.t.Fatalf("own write %d not read: %+v %v", token.Number, a, err)
		}
	}
	// A stale answer says how old it may be.
	f.isolate()
	c.pass(3 * time.Second)
	a, err := c.query(f, "key1", framework.ReadQuery{Consistency: framework.Stale})
	if err != nil || a.Age < 2*time.Second {
		c.t.Errorf("cut off for 3 s: age %s, %v", a.Age, err)
	}
	f.heal()
}

func caseReadAfterElection(c *cluster) {
	c.write(put(1))
	for range 3 {
		l := c.leader()
		l.crash()
		c.mustRead("key1", "value1") // an election, and no write
		l.start()
	}
}

// caseReadAfterNoOp: after the restart there is nothing to execute but a
// snapshot, and a read must not wait for a command to come.
func caseReadAfterNoOp(c *cluster) {
	c.write(put(1))
	c.level()
	for _, n := range c.nodes {
		c.snapshot(n)
	}
	for _, n := range c.nodes {
		n.shut()
	}
	for _, n := range c.nodes {
		n.start()
	}
	c.mustRead("key1", "value1")
	// And once more, with nothing since but the engine's own entries.
	for _, n := range c.nodes {
		n.crash()
	}
	for _, n := range c.nodes {
		n.start()
	}
	c.mustRead("key1", "value1")
}

func caseReadDuringChange(c *cluster) {
	stop := c.load(6)
	n := c.join()
	c.change(framework.Promote, n)
	c.change(framework.Remove, c.follower())
	c.change(framework.Demote, c.follower())
	stop()
}

// caseDeposedReads: a leader that has been replaced without hearing of it must
// answer no linearizable read with the past.
func caseDeposedReads(c *cluster) {
	c.write(kv.Put("x", []byte("old"), 0))
	old := c.leader()
	old.isolate()
	type answer struct {
		value string
		err   error
	}
	answers := make(chan answer, 100)
	stop := make(chan struct{})
	go func() {
		defer close(answers)
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
			ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
			a, err := old.g.Query(ctx, framework.ReadQuery{Data: getQuery("x")})
			cancel()
			out, _ := decodeRead(a.Value)
			answers <- answer{out.value, err}
		}
	}()
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		for a := range answers {
			if a.err == nil && a.value != "new" {
				c.violated("Linearizability", "a deposed leader answered %q", a.value)
			}
		}
	}()
	c.leader(old)
	c.write(kv.Put("x", []byte("new"), 0))
	c.pass(time.Second)
	old.heal() // what was on its way arrives now, late
	c.pass(2 * time.Second)
	close(stop)
	<-drained
	c.mustRead("x", "new")
}
