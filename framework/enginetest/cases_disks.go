package enginetest

import (
	"bytes"
	"context"
	"time"

	"github.com/diarchy/diarchy/framework"
	"github.com/diarchy/diarchy/fsm/kv"
)

// caseDiskHangs: a leader whose disk does not answer gives way, says why, calls
// no write failed that may happen yet, and follows when the disk is back.
func caseDiskHangs(c *cluster) {
	if c.disk == nil {
		c.t.Skip("this engine's disks cannot be harmed")
	}
	stop := c.load(4)
	old := c.leader()
	release := c.disk(old.id).Hang()
	defer release()
	now := c.leader(old)
	c.write(put(1))
	c.until("it says that its disk hangs", func() bool {
		return old.g.Status().Warning != "" && old.g.EngineStatus().Role != framework.RoleLeader
	})
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	if _, err := old.g.Propose(ctx, framework.Command{Data: put(9)}); framework.HappenedOf(err) != framework.No {
		c.t.Errorf("a command given to a replica whose disk hangs: %v", err)
	}
	cancel()
	if _, err := c.query(old, "key1", framework.ReadQuery{}); err == nil {
		c.t.Error("a replica whose disk hangs answered a linearizable read")
	}
	term := now.g.EngineStatus().Term
	c.pass(30 * time.Second)
	if s := now.g.EngineStatus(); s.Role != framework.RoleLeader || s.Term != term {
		c.t.Errorf("a hanging disk elsewhere disturbed the group: %s is %s in term %d, led in %d", now.id, s.Role, s.Term, term)
	}
	release()
	c.level()
	if s := old.g.Status(); s.Warning != "" {
		c.t.Errorf("with the disk back it still warns: %s", s.Warning)
	}
	if n := stop(); n < 20 {
		c.t.Errorf("only %d answers: the case shows little", n)
	}
}

// caseDiskFails: a leader whose disk refuses a write stops for good and says so;
// the others go on; on a sound disk it comes back.
func caseDiskFails(c *cluster) {
	if c.disk == nil {
		c.t.Skip("this engine's disks cannot be harmed")
	}
	stop := c.load(4)
	c.pass(time.Second)
	old := c.leader()
	c.disk(old.id).Fail()
	c.leader(old)
	c.pass(time.Second)
	c.write(put(1))
	c.until("it has stopped", func() bool { return old.g.EngineStatus().Role == framework.RoleStopped })
	if s := old.g.Status(); s.Err == "" {
		c.t.Error("it does not say why it has stopped")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	if _, err := old.g.Propose(ctx, framework.Command{Data: put(9)}); framework.HappenedOf(err) != framework.No {
		c.t.Errorf("a command given to a replica that has stopped: %v", err)
	}
	cancel()
	old.crash()
	old.start()
	c.level()
	if n := stop(); n < 20 {
		c.t.Errorf("only %d answers: the case shows little", n)
	}
}

// caseLateClock: a leader whose clock has fallen behind the group's time says so
// and lets another lead; time does not go back.
func caseLateClock(c *cluster) {
	old := c.leader()
	c.write(put(1))
	before := old.g.Status().Time
	old.skew.Store(-int64(time.Minute))
	l := c.leader(old)
	c.write(put(2))
	if s := old.g.Status(); s.Warning == "" {
		c.t.Error("nobody is told of the clock")
	}
	if now := l.g.Status().Time; now.Before(before) {
		c.t.Errorf("the group's time went from %v back to %v", before, now)
	}
	old.skew.Store(0)
	if s := old.g.Status(); s.Warning != "" {
		c.t.Errorf("with the clock right it still warns: %s", s.Warning)
	}
}

// caseResultTooLarge: an answer over the limit is the same application error on
// every replica, whoever gives it, and what the command did stands.
func caseResultTooLarge(c *cluster) {
	c.limits.ResultBytes = 100
	for _, n := range c.nodes {
		n.shut()
	}
	for _, n := range c.nodes {
		n.start()
	}
	const want = "result too large (1000 > 100)"
	session := framework.SessionID{9}
	command := framework.Command{Data: kv.Put("large", longAnswer, 0), Session: framework.Session{ID: session, Seq: 1}}
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	l := c.leader()
	if err := l.g.OpenSession(ctx, session, framework.SessionOptions{}); err != nil {
		c.t.Fatal(err)
	}
	first, err := l.g.Propose(ctx, command)
	if err != nil || first.Err != want || len(first.Value) > 0 {
		c.t.Fatalf("answer %q %q, %v; want %q", first.Value, first.Err, err, want)
	}
	for range c.nodes {
		old := c.leader()
		old.crash()
		r, err := c.leader().g.Propose(ctx, command)
		if err != nil || !r.Duplicate || r.Err != first.Err || r.Token != first.Token || !bytes.Equal(r.Value, first.Value) {
			c.t.Errorf("asked again of %s: %+v, %v; was %+v", c.leader().id, r, err, first)
		}
		old.start()
		c.level()
	}
	c.mustRead("large", string(longAnswer))
}
