package raftengine

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/diarchy/diarchy/framework"
)

func TestProposeRefusals(t *testing.T) {
	bubble(t, 3, func(t *testing.T, c *cluster) {
		c.inMemory()
		for _, n := range c.nodes {
			n.config.EntryBytesMax, n.config.QueueMax, n.config.QueueBytesMax = 100, 10, 500
		}
		c.start()
		l := c.leader()
		f := c.others(l)[0]
		o := f.outcome(f.send("x")[0])
		if !errors.Is(o.Err, framework.ErrNotLeader) || framework.AsError(o.Err).Leader != l.id {
			t.Errorf("on a follower: %v, leader %q", o.Err, framework.AsError(o.Err).Leader)
		}
		if o := l.outcome(l.send(string(make([]byte, 101)))[0]); !errors.Is(o.Err, framework.ErrTooLarge) {
			t.Errorf("too large: %v", o.Err)
		}
		c.ref++
		l.e.Propose([]framework.Proposal{{Kind: 9, Ref: c.ref}})
		if o := l.outcome(c.ref); !errors.Is(o.Err, framework.ErrInvalid) {
			t.Errorf("unknown kind: %v", o.Err)
		}
		l.cut()
		refs := l.send(numbered("x", 15)...)
		for i, ref := range refs[10:] {
			if o := l.outcome(ref); !errors.Is(o.Err, framework.ErrBusy) {
				t.Errorf("proposal %d of 15 with room for 10: %v", 10+i, o.Err)
			}
		}
		for _, ref := range refs[:10] {
			l.outcome(ref)
		}
		l.heal()
		l = c.leader()
		// With all of them answered there is room again, also for bytes.
		l.write(numbered("y", 10)...)
		l.cut()
		hundred := string(make([]byte, 100))
		refs = l.send(hundred, hundred, hundred, hundred, hundred[:90], hundred, "small")
		for _, ref := range refs[5:] {
			if o := l.outcome(ref); !errors.Is(o.Err, framework.ErrBusy) {
				t.Errorf("over the bytes, and what follows, which would fit: %v", o.Err)
			}
		}
	})
}

// Leaders are cut off, paused by their disks, asked to hand over and restarted
// while everyone proposes everywhere. Each proposal has exactly one outcome (the
// recorder checks that there is no second), committed means there, and "did not
// happen" means in no log.
func TestOutcomesAreTrue(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			bubble(t, 3, func(t *testing.T, c *cluster) {
				c.inMemory().start()
				rng := rand.New(rand.NewPCG(seed, 1))
				c.leader()
				sent := map[uint64]*replica{}
				for range 60 {
					disturb(c, rng)
					for range 20 {
						n := c.nodes[rng.IntN(len(c.nodes))]
						var batch []string
						for range 1 + rng.IntN(30) {
							batch = append(batch, fmt.Sprint(c.ref+1+uint64(len(batch))))
						}
						for _, ref := range n.send(batch...) {
							sent[ref] = n
						}
						time.Sleep(time.Duration(rng.IntN(20)) * time.Millisecond)
					}
				}
				for _, n := range c.nodes {
					n.heal()
				}
				last := c.leader().write("the end")
				for _, n := range c.nodes {
					n.host.untilThrough(last)
				}
				checkOutcomes(t, c, sent)
			})
		})
	}
}

// disturb makes one of the things happen that end leaderships.
func disturb(c *cluster, rng *rand.Rand) {
	n := c.nodes[rng.IntN(len(c.nodes))]
	switch rng.IntN(6) {
	case 0:
		n.cut()
	case 1, 2:
		for _, o := range c.nodes {
			o.heal()
		}
	case 3:
		ctx := n.ctx(2 * time.Second)
		go func() { _ = n.e.Transfer(ctx, "") }() // it may fail; the outcomes are what counts
	case 4:
		release := n.disk.hang()
		time.AfterFunc(time.Duration(rng.IntN(6))*time.Second, release)
		time.Sleep(6 * time.Second)
	case 5:
		time.Sleep(3 * time.Second)
	}
}

func checkOutcomes(t *testing.T, c *cluster, sent map[uint64]*replica) {
	t.Helper()
	log := c.nodes[0].host.data()
	for _, n := range c.nodes[1:] {
		if !slices.Equal(log, n.host.data()) {
			t.Fatalf("%s was told something else than %s", n.id, c.nodes[0].id)
		}
	}
	at := map[string]framework.Position{}
	for _, e := range c.nodes[0].host.entries {
		if at[string(e.Data)] != 0 {
			t.Errorf("%s is in the log twice", e.Data)
		}
		at[string(e.Data)] = e.Position
	}
	var count [3]int
	for ref, n := range sent {
		o := n.outcome(ref)
		where := at[fmt.Sprint(ref)]
		switch {
		case o.Err == nil && where != o.Position:
			t.Errorf("proposal %d: committed at %d, but is at %d", ref, o.Position, where)
		case o.Err != nil && framework.HappenedOf(o.Err) == framework.No && where != 0:
			t.Errorf("proposal %d: did not happen (%v), but is at %d", ref, o.Err, where)
		}
		if o.Err == nil {
			count[2]++
		} else {
			count[framework.HappenedOf(o.Err)]++
		}
	}
	t.Logf("%d did not happen, %d may have, %d committed", count[0], count[1], count[2])
	if count[0] == 0 || count[2] == 0 {
		t.Error("the run shows nothing: all outcomes are of one kind")
	}
}

func TestTransferLosesNothing(t *testing.T) {
	bubble(t, 3, func(t *testing.T, c *cluster) {
		c.inMemory().start()
		for range 5 {
			l := c.leader()
			to := c.others(l)[0]
			refs := l.send(numbered("x", 100)...)
			if err := l.e.Transfer(l.ctx(within), to.id); err != nil {
				t.Fatal(err)
			}
			for _, ref := range refs {
				if o := l.outcome(ref); o.Err != nil && !errors.Is(o.Err, framework.ErrNotLeader) {
					t.Errorf("a proposal before the hand-over: %v", o.Err)
				}
			}
			if got := c.leader(); got != to {
				t.Errorf("%s leads, not %s", got.id, to.id)
			}
		}
	})
}

// A hand-over that fails leaves a leader that works, with nothing stuck.
func TestTransferThatFails(t *testing.T) {
	bubble(t, 3, func(t *testing.T, c *cluster) {
		c.inMemory().start()
		l := c.leader()
		to := c.others(l)[0]
		to.cut()
		l.write("before") // the one cut off lacks it
		done := make(chan error, 1)
		go func() { done <- l.e.Transfer(l.ctx(within), to.id) }()
		time.Sleep(50 * time.Millisecond)
		refs := l.send("during")
		if err := <-done; !errors.Is(err, framework.ErrDeadline) {
			t.Errorf("the hand-over: %v", err)
		}
		if o := l.outcome(refs[0]); o.Err != nil {
			t.Errorf("a proposal during the hand-over: %v", o.Err)
		}
		l.write("after")
		if s := l.e.Status(); s.Role != framework.RoleLeader {
			t.Errorf("afterwards it is %v", s.Role)
		}
	})
}

func TestTransferRefusals(t *testing.T) {
	bubble(t, 3, func(t *testing.T, c *cluster) {
		c.inMemory().start()
		l := c.leader()
		f := c.others(l)[0]
		if err := f.e.Transfer(f.ctx(within), ""); !errors.Is(err, framework.ErrNotLeader) {
			t.Errorf("from a follower: %v", err)
		}
		for _, to := range []framework.NodeID{l.id, "stranger"} {
			if err := l.e.Transfer(l.ctx(within), to); !errors.Is(err, framework.ErrInvalid) {
				t.Errorf("to %s: %v", to, err)
			}
		}
		l.write("goes on")
	})
}
