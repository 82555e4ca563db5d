package dev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	pb "github.com/diarchy/diarchy/client/clientpb"
)

// What a check does, and how long each part may take.
const (
	checkWithin  = 58 * time.Second
	stepWithin   = 15 * time.Second
	firstKeys    = 1000
	laterKeys    = 200
	checkClients = 32
)

// check is one run of `dev --check`.
type check struct {
	r     *Run
	store *store
	began time.Time
	// want is what each key must hold: the value of the last write that was
	// acknowledged.
	want    map[string]string
	keys    []string
	version int
	victim  *Node
	failAt  time.Time
}

// Check drives the cluster and fails with what it saw wrong.
func (r *Run) Check(ctx context.Context) error {
	if r.Nodes < 3 {
		return fmt.Errorf("--check kills a node and goes on: it needs 3 nodes or more, not %d", r.Nodes)
	}
	c := &check{r: r, began: time.Now(), want: map[string]string{}}
	return r.guarded(ctx, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, checkWithin)
		defer cancel()
		err := c.run(ctx)
		if c.store != nil {
			err = errors.Join(err, c.store.close())
		}
		if err != nil {
			return fmt.Errorf("check failed: %w", err)
		}
		c.say("all is well")
		return nil
	})
}

func (c *check) say(format string, args ...any) {
	fmt.Fprintf(c.r.Out, "[%5.1fs] %s\n", time.Since(c.began).Seconds(), fmt.Sprintf(format, args...))
}

func (c *check) run(ctx context.Context) error {
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"start", c.start}, {"write", c.writeFirst}, {"read", c.readAll},
		{"kill the leader", c.killLeader}, {"write without it", c.writeOn},
		{"restart it", c.restart}, {"kill a plugin", c.killPlugin},
		{"write again", c.writeLater}, {"read everything", c.readAll}, {"compare", c.compare},
	} {
		within := stepWithin
		if step.name == "start" {
			within = startWithin
		}
		ctx, cancel := context.WithTimeout(ctx, within)
		err := step.do(ctx)
		cancel()
		if err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return nil
}

func (c *check) start(ctx context.Context) error {
	s, err := c.r.start(ctx)
	if err != nil {
		return err
	}
	c.store, err = openStore(c.r.cluster, c.r.Group, c.r.Break)
	if err != nil {
		return err
	}
	leader, err := c.r.cluster.Leader(s)
	if err != nil {
		return err
	}
	c.say("%d nodes are up, group %s is led by %s in term %d", c.r.Nodes, c.r.Group, leader.Name, s.GetTerm())
	return nil
}

// write sets keys, several at a time, and remembers what was acknowledged.
func (c *check) write(ctx context.Context, keys []string) error {
	c.version++
	var mu sync.Mutex
	err := each(ctx, keys, func(ctx context.Context, key string) error {
		value := fmt.Sprintf("%s=%d", key, c.version)
		if err := c.store.put(ctx, key, value); err != nil {
			return fmt.Errorf("key %s was not acknowledged: %w", key, err)
		}
		mu.Lock()
		defer mu.Unlock()
		c.want[key] = value
		return nil
	})
	for _, k := range keys {
		if !slices.Contains(c.keys, k) {
			c.keys = append(c.keys, k)
		}
	}
	return err
}

// each does f for every key, some at a time, until the first failure.
func each(ctx context.Context, keys []string, f func(context.Context, string) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	work := make(chan string)
	var all sync.WaitGroup
	for range checkClients {
		all.Go(func() {
			for key := range work {
				if err := f(ctx, key); err != nil {
					cancel(err)
				}
			}
		})
	}
feed:
	for _, k := range keys {
		select {
		case work <- k:
		case <-ctx.Done():
			break feed
		}
	}
	close(work)
	all.Wait()
	return context.Cause(ctx)
}

func numbered(prefix string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("check/%s/%04d", prefix, i)
	}
	return out
}

func (c *check) writeFirst(ctx context.Context) error {
	began := time.Now()
	if err := c.write(ctx, numbered("first", firstKeys)); err != nil {
		return err
	}
	c.say("wrote %d keys, each acknowledged: %s", firstKeys, rate(firstKeys, time.Since(began)))
	return nil
}

func rate(n int, d time.Duration) string {
	return fmt.Sprintf("%.2f s, %.0f a second", d.Seconds(), float64(n)/d.Seconds())
}

// readAll reads every key linearizably and compares it with what was
// acknowledged.
func (c *check) readAll(ctx context.Context) error {
	began := time.Now()
	var mu sync.Mutex
	var wrong []string
	err := each(ctx, c.keys, func(ctx context.Context, key string) error {
		got, found, err := c.store.get(ctx, key)
		if err != nil {
			return fmt.Errorf("key %s cannot be read: %w", key, err)
		}
		mu.Lock()
		defer mu.Unlock()
		switch want := c.want[key]; {
		case !found:
			wrong = append(wrong, fmt.Sprintf("key %s was acknowledged and is not there", key))
		case got != want:
			wrong = append(wrong, fmt.Sprintf("key %s holds %q, acknowledged was %q", key, got, want))
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(wrong) > 0 {
		return fmt.Errorf("%d of %d reads are wrong: %s", len(wrong), len(c.keys), wrong[0])
	}
	c.say("read %d keys linearizably, all as acknowledged: %s", len(c.keys), rate(len(c.keys), time.Since(began)))
	return nil
}

func (c *check) killLeader(ctx context.Context) error {
	s, err := c.r.cluster.Status(ctx, c.r.Group)
	if err != nil {
		return err
	}
	c.victim, err = c.r.cluster.Leader(s)
	if err != nil {
		return err
	}
	pid := c.victim.Process().PID()
	c.failAt = time.Now()
	c.victim.Process().Kill()
	c.say("killed the leader %s (process %d, SIGKILL)", c.victim.Name, pid)
	if c.r.Break == breakLeader {
		for _, n := range c.r.cluster.Nodes {
			if n != c.victim {
				n.Process().Kill()
				break
			}
		}
	}
	return nil
}

func (c *check) writeOn(ctx context.Context) error {
	if err := c.write(ctx, numbered("alone", 1)); err != nil {
		return fmt.Errorf("no write was acknowledged in the %s since the leader was killed: %w", time.Since(c.failAt).Round(time.Second), err)
	}
	gap := time.Since(c.failAt)
	// Half of them are new, half were written before.
	keys := append(numbered("second", laterKeys/2), c.keys[:laterKeys/2]...)
	if err := c.write(ctx, keys); err != nil {
		return err
	}
	c.say("wrote on without it: the first acknowledgement after %.2f s, then %d keys", gap.Seconds(), len(keys))
	return nil
}

func (c *check) restart(ctx context.Context) error {
	if c.r.Break == breakLose {
		// The node is not started again and its data is gone.
		if err := os.RemoveAll(c.victim.DataDir); err != nil {
			return err
		}
	} else if err := c.victim.Start(); err != nil {
		return err
	}
	began := time.Now()
	if _, err := c.r.cluster.AwaitGroup(ctx, c.r.Group, AllRunning(c.r.Nodes)); err != nil {
		return fmt.Errorf("node %s has not come back: %w", c.victim.Name, err)
	}
	c.say("restarted %s: back and caught up after %.2f s", c.victim.Name, time.Since(began).Seconds())
	return nil
}

// killPlugin kills the machine of the present leader.
func (c *check) killPlugin(ctx context.Context) error {
	s, err := c.r.cluster.Status(ctx, c.r.Group)
	if err != nil {
		return err
	}
	leader, err := c.r.cluster.Leader(s)
	if err != nil {
		return err
	}
	pid, err := leader.PluginPID(ctx, c.r.Group)
	if err != nil {
		return err
	}
	began := time.Now()
	process, err := os.FindProcess(pid)
	if err == nil {
		err = process.Kill()
	}
	if err != nil {
		return fmt.Errorf("kill the plugin process %d: %w", pid, err)
	}
	_, err = c.r.cluster.AwaitGroup(ctx, c.r.Group, func(s *pb.GroupStatusResponse) error {
		if now, err := leader.PluginPID(ctx, c.r.Group); err != nil || now == pid {
			return fmt.Errorf("the machine on %s has not been started again", leader.Name)
		}
		return AllRunning(c.r.Nodes)(s)
	})
	if err != nil {
		return err
	}
	c.say("killed the plugin of %s (process %d, SIGKILL): its machine runs again after %.2f s", leader.Name, pid, time.Since(began).Seconds())
	return nil
}

func (c *check) writeLater(ctx context.Context) error {
	keys := append(numbered("third", laterKeys/2), c.keys[laterKeys/2:laterKeys]...)
	if err := c.write(ctx, keys); err != nil {
		return err
	}
	c.say("wrote %d keys more, half of them over older ones", len(keys))
	return nil
}

// compare hashes every replica's state at the same command number.
func (c *check) compare(ctx context.Context) error {
	number, sum, err := c.r.cluster.Compare(ctx, c.r.Group)
	if err == nil {
		c.say("compared the state of %d replicas at command %d: all %.16s…", c.r.Nodes, number, sum)
	}
	return err
}
