package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/diarchy/diarchy/client"
	pb "github.com/diarchy/diarchy/client/clientpb"
	"github.com/diarchy/diarchy/framework"
	"github.com/diarchy/diarchy/fsm/kv"
	"github.com/diarchy/diarchy/server"
)

func TestKeys(t *testing.T) {
	c := start(t, 3, nil)
	k := c.group(nil).KV()
	ctx := within(t, 20*time.Second)
	w, err := k.Put(ctx, "a", []byte("one"), 0)
	if err != nil || w.Revision != w.Token.Number || w.Revision == 0 {
		t.Fatalf("%+v, %v", w, err)
	}
	item, found, token, err := k.Get(ctx, "a", client.ReadOptions{})
	if err != nil || !found || string(item.Value) != "one" || item.Revision != w.Revision || token != w.Token {
		t.Errorf("%+v, %v, %+v, %v", item, found, token, err)
	}
	if w, err = k.CAS(ctx, "a", w.Revision, []byte("two"), time.Hour); err != nil {
		t.Fatal(err)
	}
	_, err = k.CAS(ctx, "a", 1<<40, []byte("three"), 0)
	var e *client.Error
	if !errors.Is(err, client.ErrConflict) || !errors.As(err, &e) || e.Index != w.Revision || e.Happened != client.No {
		t.Errorf("a conflict gave %+v", err)
	}
	if _, err = k.DeleteIf(ctx, "a", 1<<40); !errors.Is(err, client.ErrConflict) {
		t.Errorf("a conflict gave %v", err)
	}
	if w, err = k.Append(ctx, "log", []byte("abc")); err != nil || w.Number != 3 {
		t.Errorf("%+v, %v", w, err)
	}
	if w, err = k.Add(ctx, "n", 5); err != nil || w.Number != 5 {
		t.Errorf("%+v, %v", w, err)
	}
	if _, err = k.Add(ctx, "log", 1); !errors.Is(err, client.ErrRefused) || client.HappenedOf(err) != client.Yes {
		t.Errorf("adding to letters gave %v", err)
	}
	items, more, err := k.List(ctx, kv.List{Limit: 2}, client.ReadOptions{Consistency: client.FromLeader})
	if err != nil || len(items) != 2 || !more || items[0].Key != "a" {
		t.Errorf("%v, %v, %v", items, more, err)
	}
	o, _, err := k.Txn(ctx, kv.Txn{If: []kv.Guard{kv.Exists("a")}, Then: [][]byte{kv.Delete("a"), kv.Put("b", nil, 0)}})
	if err != nil || !o.OK || len(o.Results) != 2 {
		t.Errorf("%+v, %v", o, err)
	}
	if w, err = k.Delete(ctx, "a"); err != nil || w.Existed {
		t.Errorf("%+v, %v", w, err)
	}
	if _, found, _, err = k.Get(ctx, "a", client.ReadOptions{Consistency: client.Stale}); err != nil || found {
		t.Errorf("%v, %v", found, err)
	}
	for _, key := range []string{"", "a\x00b", strings.Repeat("k", 1<<16)} {
		if _, err := k.Put(ctx, key, nil, 0); !errors.Is(err, client.ErrInvalid) || client.HappenedOf(err) != client.No {
			t.Errorf("key %.10q: %v", key, err)
		}
	}
}

// The client asks the leader itself, whichever node it knows and wherever the
// leader goes.
func TestFollowsTheLeader(t *testing.T) {
	c := start(t, 3, nil)
	g := c.group(func(cfg *client.Config) { cfg.Addresses = c.addrs()[2:] })
	ctx := within(t, 20*time.Second)
	for i := range 9 {
		c.Lead(i % 3)
		if _, err := g.Propose(ctx, kv.Put("k", []byte{byte(i)}, 0)); err != nil {
			t.Fatal(err)
		}
		if i%3 == 1 {
			if _, err := g.Query(ctx, kv.GetQuery("k"), client.ReadOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := c.Number(); n != 9 {
		t.Errorf("%d commands were executed, want 9", n)
	}
}

// One address is enough: the rest is learnt, and lasts when that node goes.
func TestLearnsTheOthers(t *testing.T) {
	c := start(t, 3, nil)
	g := c.group(func(cfg *client.Config) { cfg.Addresses = c.addrs()[:1] })
	ctx := within(t, 20*time.Second)
	if _, err := g.Propose(ctx, kv.Put("k", nil, 0)); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return client.Known(g) == 3 })
	c.ports[0].stop()
	c.Lead(2)
	if _, err := g.Propose(ctx, kv.Put("k", nil, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Status(ctx); err != nil {
		t.Error(err)
	}
}

// A question about one node is never answered by another.
func TestTheNodeIsTheFirstAddress(t *testing.T) {
	c := start(t, 3, nil)
	cl := c.client(func(cfg *client.Config) { cfg.Addresses = []string{c.addrs()[1], c.addrs()[2]} })
	g := cl.Group("orders")
	ctx := within(t, 20*time.Second)
	if _, err := g.Propose(ctx, kv.Put("k", nil, 0)); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return client.Known(g) == 3 })
	for range 5 {
		if st, err := cl.Status(ctx); err != nil || st.Node.Name != "n2" {
			t.Errorf("%v, %v", st, err)
		}
		if st, err := g.LocalStatus(ctx); err != nil || st.Replicas[0].Name != "n2" {
			t.Errorf("%v, %v", st, err)
		}
	}
	c.ports[1].stop()
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	if st, err := cl.Status(short); err == nil {
		t.Errorf("with the node gone %s answered", st.Node.Name)
	}
}

// No leader for a while: callers wait, and nothing is lost or doubled.
func TestWaitsForALeader(t *testing.T) {
	c := start(t, 3, nil)
	g := c.group(nil)
	ctx := within(t, 20*time.Second)
	if _, err := g.Propose(ctx, kv.Put("warm", nil, 0)); err != nil {
		t.Fatal(err)
	}
	c.Lead(-1)
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	_, err := g.Propose(short, kv.Put("never", nil, 0))
	cancel()
	if err == nil || client.HappenedOf(err) != client.No || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without a leader: %v (happened %v)", err, client.HappenedOf(err))
	}
	done := make(chan error, 1)
	go func() {
		_, err := g.Propose(ctx, kv.Put("k", nil, 0))
		done <- err
	}()
	c.Lead(1)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := c.Number(); n != 2 {
		t.Errorf("%d commands were executed, want 2", n)
	}
}

// The leader's address works for the nodes and not for this client: the nodes
// forward.
func TestForwardsWhenTheLeaderIsOutOfReach(t *testing.T) {
	for name, addr := range map[string]string{"nobody is there": "127.0.0.1:1", "unknown": ""} {
		t.Run(name, func(t *testing.T) {
			c := start(t, 3, nil)
			c.Lead(1)
			c.Node(1).SetClientAddr(addr)
			g := c.group(func(cfg *client.Config) { cfg.Addresses = c.addrs()[:1] })
			ctx := within(t, 20*time.Second)
			for range 3 {
				if _, err := g.Propose(ctx, kv.Put("k", nil, 0)); err != nil {
					t.Fatal(err)
				}
			}
			if n := c.Number(); n != 3 {
				t.Errorf("%d commands were executed, want 3", n)
			}
		})
	}
}

// An answer that is lost on the way: within a session the command is executed
// once and the answer is had, however often it is lost.
func TestLostAnswersInASession(t *testing.T) {
	c := start(t, 3, nil)
	g := c.group(nil)
	ctx := within(t, 20*time.Second)
	s, err := g.OpenSession(client.SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i, propose := range []func(context.Context, []byte) (client.Result, error){g.Propose, s.Propose} {
		command := kv.Add(fmt.Sprint("n", i), 1)
		c.LoseAnswers(1)
		res, err := propose(ctx, command)
		if err != nil || !res.Duplicate {
			t.Fatalf("%+v, %v", res, err)
		}
		if n := c.Executed(command); n != 1 {
			t.Errorf("executed %d times", n)
		}
	}
	if err := s.Close(ctx); err != nil {
		t.Error(err)
	}
	if _, err := s.Propose(ctx, kv.Add("n", 1)); !errors.Is(err, client.ErrSessionExpired) {
		t.Errorf("a closed session gave %v", err)
	}
}

// Without a session the caller is told, and nothing is repeated.
func TestLostAnswersWithoutASession(t *testing.T) {
	c := start(t, 3, nil)
	g := c.group(nil)
	ctx := within(t, 20*time.Second)
	command := kv.Add("n", 1)
	c.LoseAnswers(1)
	_, err := g.ProposeWithoutSession(ctx, command)
	if !errors.Is(err, client.ErrOutcomeUnknown) || client.HappenedOf(err) != client.Maybe {
		t.Errorf("%v", err)
	}
	if n := c.Executed(command); n != 1 {
		t.Errorf("executed %d times", n)
	}
	// What did not happen is asked again all the same.
	c.FailNext(framework.ErrBusy, framework.ErrNoQuorum, framework.ErrMachineDown)
	if _, err := g.ProposeWithoutSession(ctx, command); err != nil {
		t.Error(err)
	}
	if n := c.Executed(command); n != 2 {
		t.Errorf("executed %d times, want 2", n)
	}
}

// The connection breaks after the command was taken and before its answer.
func TestBrokenStream(t *testing.T) {
	c := start(t, 1, nil)
	g := c.group(nil)
	ctx := within(t, 20*time.Second)
	if _, err := g.Propose(ctx, kv.Put("warm", nil, 0)); err != nil {
		t.Fatal(err)
	}
	for name, propose := range map[string]func(context.Context, []byte) (client.Result, error){"own": g.Propose, "none": g.ProposeWithoutSession} {
		release := c.Hang()
		done := make(chan error, 1)
		command := kv.Add(name, 1)
		go func() {
			_, err := propose(ctx, command)
			done <- err
		}()
		waitFor(t, func() bool { return c.Waiting() == 1 })
		c.ports[0].relay.cut()
		if name == "none" {
			if err := <-done; !errors.Is(err, client.ErrOutcomeUnknown) {
				t.Errorf("without a session: %v", err)
			}
			release()
			continue
		}
		release()
		if err := <-done; err != nil {
			t.Errorf("in a session: %v", err)
		}
		if n := c.Executed(command); n != 1 {
			t.Errorf("in a session: executed %d times", n)
		}
	}
}

// A node that takes everything and answers nothing, as one that is paused does,
// is given up for another.
func TestSilentNode(t *testing.T) {
	c := start(t, 2, nil)
	g := c.group(nil)
	ctx := within(t, 20*time.Second)
	if _, err := g.Propose(ctx, kv.Put("warm", nil, 0)); err != nil {
		t.Fatal(err)
	}
	c.ports[0].relay.freeze(true)
	c.Lead(1)
	command := kv.Add("n", 1)
	if _, err := g.Propose(ctx, command); err != nil {
		t.Error(err)
	}
	if n := c.Executed(command); n != 1 {
		t.Errorf("executed %d times", n)
	}
}

// A node that is slow is not silent.
func TestSlowAnswersAreWaitedFor(t *testing.T) {
	c := start(t, 1, nil)
	g := c.group(func(cfg *client.Config) { cfg.DeadAfter = 100 * time.Millisecond })
	ctx := within(t, 20*time.Second)
	if _, err := g.Propose(ctx, kv.Put("warm", nil, 0)); err != nil {
		t.Fatal(err)
	}
	before := c.ports[0].relay.dialled()
	release := c.Hang()
	done := make(chan error, 1)
	go func() {
		_, err := g.ProposeWithoutSession(ctx, kv.Put("k", nil, 0))
		done <- err
	}()
	select {
	case err := <-done:
		t.Errorf("given up: %v", err)
	case <-time.After(400 * time.Millisecond):
	}
	release()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if after := c.ports[0].relay.dialled(); after != before {
		t.Errorf("the stream was made anew %d times", after-before)
	}
}

func TestCallerGivesUp(t *testing.T) {
	c := start(t, 1, nil)
	g := c.group(nil)
	if _, err := g.Propose(within(t, 20*time.Second), kv.Put("warm", nil, 0)); err != nil {
		t.Fatal(err)
	}
	release := c.Hang()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	command := bytes.Clone(kv.Put("k", []byte("mine"), 0))
	go func() {
		_, err := g.Propose(ctx, command)
		clear(command) // ours again
		done <- err
	}()
	waitFor(t, func() bool { return c.Waiting() == 1 })
	cancel()
	if err := <-done; client.HappenedOf(err) != client.Maybe || !errors.Is(err, context.Canceled) {
		t.Errorf("%v (happened %v)", err, client.HappenedOf(err))
	}
	release()
	// Not sent at all: it did not happen.
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := g.Propose(gone, kv.Put("k", nil, 0)); client.HappenedOf(err) == client.Yes || err == nil {
		t.Errorf("with an ended context: %v", err)
	}
}

// Evicted between two commands: a new session takes the second, since nothing of
// it was sent before.
func TestEvictedSession(t *testing.T) {
	c := start(t, 1, nil)
	g := c.group(nil)
	ctx := within(t, 20*time.Second)
	for i := range 3 {
		command := kv.Add(fmt.Sprint(i), 1)
		if _, err := g.Propose(ctx, command); err != nil {
			t.Fatal(err)
		}
		if n := c.Executed(command); n != 1 {
			t.Errorf("executed %d times", n)
		}
		c.ExpireSessions()
	}
	// A session of the caller's own says so, and does not repeat anything.
	s, err := g.OpenSession(client.SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Propose(ctx, kv.Add("x", 1)); err != nil {
		t.Fatal(err)
	}
	c.ExpireSessions()
	if _, err := s.Propose(ctx, kv.Add("x", 1)); !errors.Is(err, client.ErrSessionExpired) {
		t.Errorf("%v", err)
	}
	if n := c.Executed(kv.Add("x", 1)); n != 1 {
		t.Errorf("executed %d times", n)
	}
}

// Evicted after a try whose answer was lost: nobody can say, and the caller is
// told just that.
func TestEvictedInDoubt(t *testing.T) {
	c := start(t, 1, nil)
	g := c.group(nil)
	ctx := within(t, 20*time.Second)
	if _, err := g.Propose(ctx, kv.Put("warm", nil, 0)); err != nil {
		t.Fatal(err)
	}
	command := kv.Add("n", 1)
	c.FailNext(framework.ErrMaybe, framework.ErrSessionExpired)
	_, err := g.Propose(ctx, command)
	if !errors.Is(err, client.ErrSessionExpired) || client.HappenedOf(err) != client.Maybe {
		t.Errorf("%v (happened %v)", err, client.HappenedOf(err))
	}
	if n := c.Executed(command); n != 0 {
		t.Errorf("executed %d times", n)
	}
}

// A "no" after a "maybe" is a maybe.
func TestNoAfterMaybe(t *testing.T) {
	c := start(t, 1, nil)
	g := c.group(nil)
	ctx := within(t, 20*time.Second)
	if _, err := g.Propose(ctx, kv.Put("warm", nil, 0)); err != nil {
		t.Fatal(err)
	}
	c.FailNext(framework.ErrMaybe, framework.ErrDenied)
	if _, err := g.Propose(ctx, kv.Put("k", nil, 0)); !errors.Is(err, client.ErrDenied) || client.HappenedOf(err) != client.Maybe {
		t.Errorf("%v (happened %v)", err, client.HappenedOf(err))
	}
	c.FailNext(framework.ErrDenied)
	if _, err := g.Propose(ctx, kv.Put("k", nil, 0)); !errors.Is(err, client.ErrDenied) || client.HappenedOf(err) != client.No {
		t.Errorf("%v (happened %v)", err, client.HappenedOf(err))
	}
}

func TestResultGone(t *testing.T) {
	c := start(t, 1, nil)
	g := c.group(nil)
	ctx := within(t, 20*time.Second)
	if _, err := g.Propose(ctx, kv.Put("warm", nil, 0)); err != nil {
		t.Fatal(err)
	}
	c.ForgetResults()
	c.LoseAnswers(1)
	_, err := g.Propose(ctx, kv.Put("k", nil, 0))
	var gone *client.ResultGoneError
	if !errors.As(err, &gone) || gone.Index != 2 || client.HappenedOf(err) != client.Yes {
		t.Errorf("%v", err)
	}
}

func TestOrderedSession(t *testing.T) {
	c := start(t, 1, nil)
	g := c.group(nil)
	ctx := within(t, 20*time.Second)
	s, err := g.OpenSession(client.SessionOptions{Ordered: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Propose(ctx, kv.Put("k", nil, 0)); err != nil {
		t.Fatal(err)
	}
	// One that is given up leaves a hole; what follows cannot be executed.
	c.FailNext(framework.ErrTooLarge)
	if _, err := s.Propose(ctx, kv.Put("k", nil, 0)); !errors.Is(err, client.ErrTooLarge) {
		t.Fatal(err)
	}
	if _, err := s.Propose(ctx, kv.Put("k", nil, 0)); !errors.Is(err, client.ErrSessionExpired) || client.HappenedOf(err) != client.No {
		t.Errorf("%v", err)
	}
	if err := s.Close(ctx); err != nil {
		t.Error(err)
	}
}

// Many callers, leaders that move, streams that break, answers that are lost:
// every command exactly once.
func TestManyCallersThroughTrouble(t *testing.T) {
	c := start(t, 3, nil)
	g := c.group(func(cfg *client.Config) { cfg.SessionWindow, cfg.SessionsMax = 8, 3 })
	ctx := within(t, 60*time.Second)
	const callers, each = 40, 50
	stop := make(chan struct{})
	var trouble, work sync.WaitGroup
	trouble.Go(func() {
		for i := 0; ; i++ {
			// The next trouble when some work is done, or none gets done.
			before := c.Number()
			for pause := 0; pause < 10 && c.Number() < before+20; pause++ {
				select {
				case <-stop:
					return
				case <-time.After(200 * time.Microsecond):
				}
			}
			switch i % 5 {
			case 0, 1:
				c.Lead(i % 3)
			case 2:
				c.ports[i%3].relay.cut()
			case 3:
				c.LoseAnswers(5)
			case 4:
				c.Lead(-1)
			}
		}
	})
	for n := range callers {
		work.Go(func() {
			for i := range each {
				command := kv.Put(fmt.Sprintf("%d/%d", n, i), nil, 0)
				if _, err := g.Propose(ctx, command); err != nil {
					t.Errorf("caller %d: %v", n, err)
					return
				}
				if k := c.Executed(command); k != 1 {
					t.Errorf("command %d/%d: acknowledged and executed %d times", n, i, k)
				}
			}
		})
	}
	work.Wait()
	close(stop)
	trouble.Wait()
	c.Lead(0)
	c.LoseAnswers(0)
	if n := c.Number(); n != callers*each {
		t.Errorf("%d commands were executed, want %d", n, callers*each)
	}
	if n := c.Sessions(); n < 1 || n > 3 {
		t.Errorf("%d sessions are open, want 1 to 3", n)
	}
}

// Calls that come together go together.
func TestCallsShareAStream(t *testing.T) {
	c := start(t, 1, nil)
	g := c.group(nil)
	ctx := within(t, 20*time.Second)
	if _, err := g.Propose(ctx, kv.Put("warm", nil, 0)); err != nil {
		t.Fatal(err)
	}
	before := c.ports[0].relay.dialled()
	var wg sync.WaitGroup
	for i := range 500 {
		wg.Go(func() {
			var err error
			if i%2 == 0 {
				_, err = g.Propose(ctx, kv.Put(fmt.Sprint(i), nil, 0))
			} else {
				_, err = g.Query(ctx, kv.GetQuery("warm"), client.ReadOptions{Consistency: client.Consistency(i % 3)})
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := c.ports[0].relay.dialled() - before; n != 0 {
		t.Errorf("%d connections were made for calls on one stream", n)
	}
}

// What is in flight is bounded; what is over waits for room.
func TestInFlightIsBounded(t *testing.T) {
	c := start(t, 1, nil)
	g := c.group(func(cfg *client.Config) { cfg.InFlightMax, cfg.InFlightBytes = 4, 100 })
	ctx := within(t, 20*time.Second)
	if _, err := g.Propose(ctx, kv.Put("warm", nil, 0)); err != nil {
		t.Fatal(err)
	}
	release := c.Hang()
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if _, err := g.Propose(ctx, kv.Put(fmt.Sprint(i), bytes.Repeat([]byte("x"), i*10), 0)); err != nil {
				t.Error(err)
			}
		})
	}
	waitFor(t, func() bool { return c.Waiting() > 0 })
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	_, err := g.ProposeWithoutSession(short, bytes.Repeat([]byte("y"), 99))
	cancel()
	if client.CodeOf(err) != pb.CodeDeadline || client.HappenedOf(err) != client.No {
		t.Errorf("%v", err)
	}
	if n := c.Waiting(); n > 4 {
		t.Errorf("%d calls are in flight, want at most 4", n)
	}
	release()
	wg.Wait()
}

// A server that reads no further because too much is in flight loses nothing.
func TestServerBackPressure(t *testing.T) {
	c := start(t, 1, func(cfg *server.Config) { cfg.StreamCallsMax = 3 })
	g := c.group(func(cfg *client.Config) { cfg.DeadAfter = 20 * time.Second })
	ctx := within(t, 20*time.Second)
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			for j := range 5 {
				if _, err := g.Propose(ctx, kv.Put(fmt.Sprint(i, j), nil, 0)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := c.Number(); n != 500 {
		t.Errorf("%d commands were executed, want 500", n)
	}
}

// Nobody knocks all the time at a node that is down.
func TestReconnectsWithPauses(t *testing.T) {
	c := start(t, 1, nil)
	g := c.group(func(cfg *client.Config) { cfg.PauseMin, cfg.PauseMax = 50*time.Millisecond, 200*time.Millisecond })
	ctx := within(t, 20*time.Second)
	if _, err := g.Propose(ctx, kv.Put("warm", nil, 0)); err != nil {
		t.Fatal(err)
	}
	c.ports[0].stop()
	before := c.ports[0].relay.dialled()
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			if _, err := g.ProposeWithoutSession(short, kv.Put("k", nil, 0)); client.HappenedOf(err) != client.No {
				t.Errorf("%v", err)
			}
		})
	}
	wg.Wait()
	// A pause is at least half of 100 ms after the first failure.
	if n := c.ports[0].relay.dialled() - before; n < 1 || n > 30 {
		t.Errorf("200 callers made %d connection attempts in a second", n)
	}
	c.ports[0].restart()
	if _, err := g.Propose(ctx, kv.Put("k", nil, 0)); err != nil {
		t.Error(err)
	}
}

func TestReadLevelsAndTokens(t *testing.T) {
	c := start(t, 3, nil)
	g := c.group(nil)
	ctx := within(t, 20*time.Second)
	res, err := g.Propose(ctx, kv.Put("k", []byte("v"), 0))
	if err != nil {
		t.Fatal(err)
	}
	for _, level := range []client.Consistency{client.Linearizable, client.FromLeader, client.Stale} {
		a, err := g.Query(ctx, kv.GetQuery("k"), client.ReadOptions{Consistency: level, After: res.Token})
		if err != nil || a.Token.Number < res.Token.Number || a.Token.History != res.Token.History || a.Time.IsZero() {
			t.Errorf("%v: %+v, %v", level, a, err)
		}
	}
	other := res.Token
	other.History[0]++
	if _, err := g.Query(ctx, kv.GetQuery("k"), client.ReadOptions{After: other}); !errors.Is(err, client.ErrOtherHistory) || client.HappenedOf(err) != client.No {
		t.Errorf("%v", err)
	}
	if _, err := g.Query(ctx, nil, client.ReadOptions{Consistency: 9}); !errors.Is(err, client.ErrInvalid) {
		t.Errorf("%v", err)
	}
	// A read may be asked again whatever became of it.
	c.FailNext(framework.ErrInternal, framework.ErrMaybe)
	if _, err := g.Query(ctx, kv.GetQuery("k"), client.ReadOptions{}); err != nil {
		t.Error(err)
	}
}

func TestTail(t *testing.T) {
	c := start(t, 2, nil)
	g := c.group(nil)
	ctx := within(t, 20*time.Second)
	put := func(i int) {
		t.Helper()
		if _, err := g.Propose(ctx, kv.Put(fmt.Sprint(i), nil, 0)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 5 {
		put(i)
	}
	next := uint64(2)
	for e, err := range g.Tail(ctx, 2) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Number != next || len(e.Data) == 0 {
			t.Fatalf("entry %d, want %d", e.Number, next)
		}
		switch next {
		case 5:
			for _, p := range c.ports {
				p.relay.cut() // it goes on where it was
			}
			put(6)
		case 6:
			put(7)
		}
		if next++; next == 8 {
			break
		}
	}
	if next != 8 {
		t.Errorf("the tail ended at %d", next)
	}
	c.Compact(4)
	for _, err := range g.Tail(ctx, 1) {
		var old *client.CompactedError
		if !errors.As(err, &old) || old.Oldest != 4 {
			t.Errorf("%v", err)
		}
	}
	// From the next one to come.
	got := make(chan uint64, 1)
	tctx, cancel := context.WithCancel(ctx)
	started := make(chan struct{})
	go func() {
		defer close(got)
		close(started)
		for e, err := range g.Tail(tctx, 0) {
			if err == nil {
				got <- e.Number
			}
			return
		}
	}()
	<-started
	waitFor(t, func() bool {
		put(9)
		select {
		case n := <-got:
			return n > 7
		default:
			return false
		}
	})
	cancel()
}

func TestWatch(t *testing.T) {
	c := start(t, 1, nil)
	k := c.group(nil).KV()
	ctx := within(t, 20*time.Second)
	step := 0
	for e, err := range k.Watch(ctx, "k") {
		if err != nil {
			t.Fatal(err)
		}
		switch step {
		case 0:
			if e.Found {
				t.Error("found what is not there")
			}
			if _, err := k.Put(ctx, "other", nil, 0); err != nil { // no event
				t.Fatal(err)
			}
			if _, err := k.Put(ctx, "k", []byte("v"), 0); err != nil {
				t.Fatal(err)
			}
		case 1:
			if !e.Found || string(e.Item.Value) != "v" {
				t.Errorf("event %+v", e)
			}
			if _, err := k.Delete(ctx, "k"); err != nil {
				t.Fatal(err)
			}
		case 2:
			if e.Found {
				t.Errorf("event %+v", e)
			}
		}
		if step++; step == 3 {
			break
		}
	}
	if step != 3 {
		t.Errorf("%d events", step)
	}
}

func TestWaitIndex(t *testing.T) {
	c := start(t, 1, nil)
	g := c.group(nil)
	ctx := within(t, 20*time.Second)
	done := make(chan uint64, 1)
	go func() {
		n, err := g.WaitIndex(ctx, 0)
		if err != nil {
			t.Error(err)
		}
		done <- n
	}()
	if _, err := g.Propose(ctx, kv.Put("k", nil, 0)); err != nil {
		t.Fatal(err)
	}
	if n := <-done; n != 1 {
		t.Errorf("reached %d", n)
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := g.WaitIndex(short, 1); err == nil || client.HappenedOf(err) != client.No {
		t.Errorf("%v", err)
	}
}

func TestAdministration(t *testing.T) {
	c := start(t, 2, nil)
	cl := c.client(nil)
	g := cl.Group("orders")
	ctx := within(t, 20*time.Second)
	if l, err := cl.Groups(ctx); err != nil || len(l) != 1 {
		t.Errorf("%v, %v", l, err)
	}
	if _, err := cl.CreateGroup(ctx, &pb.GroupSpec{Name: "orders"}); client.CodeOf(err) != pb.CodeGroupExists {
		t.Errorf("%v", err)
	}
	if i, err := cl.CreateGroup(ctx, &pb.GroupSpec{Name: "new"}); err != nil || i.Spec.Name != "new" {
		t.Errorf("%v, %v", i, err)
	}
	if err := cl.DestroyGroup(ctx, "orders", "no"); !errors.Is(err, client.ErrInvalid) {
		t.Errorf("%v", err)
	}
	if l, err := cl.Nodes(ctx); err != nil || len(l) != 2 {
		t.Errorf("%v, %v", l, err)
	}
	for _, call := range []func() error{
		func() error { _, err := cl.Members(ctx); return err },
		func() error { _, err := cl.Join(ctx, "x:1"); return err },
		func() error { return cl.Leave(ctx) },
		func() error { return cl.ForceLeave(ctx, "x") },
		func() error { _, err := cl.Plugins(ctx); return err },
		func() error { _, err := cl.Plugin(ctx, "x"); return err },
	} {
		if err := call(); !errors.Is(err, client.ErrUnsupported) {
			t.Errorf("%v", err)
		}
	}
	if st, err := cl.Status(ctx); err != nil || !st.Ready {
		t.Errorf("%v, %v", st, err)
	}
	if v, err := cl.Version(ctx); err != nil || v.Version != "test" {
		t.Errorf("%v, %v", v, err)
	}
	if st, err := g.Status(ctx); err != nil || len(st.Replicas) != 2 {
		t.Errorf("%v, %v", st, err)
	}
	if st, err := g.LocalStatus(ctx); err != nil || len(st.Replicas) != 1 {
		t.Errorf("%v, %v", st, err)
	}
	if err := g.ChangeMembership(ctx, pb.ChangeOp_CHANGE_OP_PROMOTE, "n9", 0, false); client.CodeOf(err) != pb.CodeNoSuchNode {
		t.Errorf("%v", err)
	}
	if err := g.Replace(ctx, "n1", "n2", false); err != nil {
		t.Error(err)
	}
	if err := g.Transfer(ctx, "n2"); err != nil {
		t.Error(err)
	}
	if st, err := g.Status(ctx); err != nil || st.Leader != st.Replicas[1].Node {
		t.Errorf("%v, %v", st, err)
	}
	if _, err := g.TakeSnapshot(ctx); err != nil {
		t.Error(err)
	}
	if s, err := g.Checksum(ctx); err != nil || len(s.Sha256) != 64 {
		t.Errorf("%v, %v", s, err)
	}
	if _, err := cl.Group("nobody").Status(ctx); !errors.Is(err, client.ErrNoSuchGroup) {
		t.Errorf("%v", err)
	}
	if _, err := cl.Group("nobody").Propose(ctx, nil); !errors.Is(err, client.ErrNoSuchGroup) {
		t.Errorf("%v", err)
	}
}

type failingWriter struct{ after int }

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.after -= len(p); w.after < 0 {
		return 0, errors.New("disk full")
	}
	return len(p), nil
}

func TestSnapshots(t *testing.T) {
	c := start(t, 2, nil)
	g := c.group(nil)
	ctx := within(t, 20*time.Second)
	big := bytes.Repeat([]byte("v"), 700<<10)
	if _, err := g.KV().Put(ctx, "k", big, 0); err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	rep, err := g.SaveSnapshot(ctx, &archive)
	if err != nil || rep.Number != 1 || rep.Bytes != int64(archive.Len()) {
		t.Fatalf("%v, %v", rep, err)
	}
	if _, err := g.SaveSnapshot(ctx, &failingWriter{after: 300 << 10}); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("%v", err)
	}
	if _, err := g.KV().Put(ctx, "k", []byte("changed"), 0); err != nil {
		t.Fatal(err)
	}
	before, err := g.Checksum(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.RestoreSnapshot(ctx, bytes.NewReader(archive.Bytes()[:archive.Len()/2])); !errors.Is(err, client.ErrInvalid) {
		t.Errorf("half an archive: %v", err)
	}
	if after, err := g.Checksum(ctx); err != nil || after.Sha256 != before.Sha256 {
		t.Errorf("half an archive changed the state: %v", err)
	}
	if _, err := g.RestoreSnapshot(ctx, bytes.NewReader(archive.Bytes())); err != nil {
		t.Fatal(err)
	}
	item, _, _, err := g.KV().Get(ctx, "k", client.ReadOptions{})
	if err != nil || !bytes.Equal(item.Value, big) {
		t.Errorf("%d bytes, %v", len(item.Value), err)
	}
}

func TestTokens(t *testing.T) {
	c := start(t, 1, func(cfg *server.Config) { cfg.AdminToken, cfg.ReadToken = "admin", "read" })
	ctx := within(t, 20*time.Second)
	for token, want := range map[string]string{"": pb.CodeUnauthenticated, "wrong": pb.CodeUnauthenticated, "read": pb.CodeDenied, "admin": ""} {
		g := c.group(func(cfg *client.Config) { cfg.Token = token })
		if _, err := g.ProposeWithoutSession(ctx, kv.Put("k", nil, 0)); client.CodeOf(err) != want || want != "" && client.HappenedOf(err) != client.No {
			t.Errorf("token %q: propose gave %v", token, err)
		}
		if want == pb.CodeDenied {
			want = ""
		}
		if _, err := g.Query(ctx, kv.GetQuery("k"), client.ReadOptions{}); client.CodeOf(err) != want {
			t.Errorf("token %q: query gave %v", token, err)
		}
		if _, err := g.Status(ctx); client.CodeOf(err) != want {
			t.Errorf("token %q: status gave %v", token, err)
		}
	}
}

func TestClosedClient(t *testing.T) {
	c := start(t, 1, nil)
	cl := c.client(nil)
	g := cl.Group("orders")
	ctx := within(t, 20*time.Second)
	if _, err := g.Propose(ctx, kv.Put("k", nil, 0)); err != nil {
		t.Fatal(err)
	}
	release := c.Hang()
	done := make(chan error, 1)
	go func() {
		_, err := g.ProposeWithoutSession(ctx, kv.Put("k", nil, 0))
		done <- err
	}()
	waitFor(t, func() bool { return c.Waiting() == 1 })
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		if err := cl.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := <-done; client.HappenedOf(err) != client.Maybe {
		t.Errorf("a call under way: %v", err)
	}
	release()
	<-closed
	for _, call := range []func() error{
		func() error { _, err := g.Propose(ctx, nil); return err },
		func() error { _, err := g.ProposeWithoutSession(ctx, nil); return err },
		func() error { _, err := g.Query(ctx, nil, client.ReadOptions{}); return err },
		func() error { _, err := g.Status(ctx); return err },
		func() error { _, err := g.SaveSnapshot(ctx, nil); return err },
	} {
		if err := call(); !errors.Is(err, client.ErrClosed) || client.HappenedOf(err) != client.No {
			t.Errorf("after Close: %v", err)
		}
	}
	if err := cl.Close(); err != nil {
		t.Error(err)
	}
}

// Close says goodbye to its sessions.
func TestCloseEndsSessions(t *testing.T) {
	c := start(t, 1, nil)
	cl := c.client(nil)
	if _, err := cl.Group("orders").Propose(within(t, 20*time.Second), kv.Put("k", nil, 0)); err != nil {
		t.Fatal(err)
	}
	if n := c.Sessions(); n != 1 {
		t.Errorf("%d sessions", n)
	}
	if err := cl.Close(); err != nil {
		t.Fatal(err)
	}
	if n := c.Sessions(); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
}

func TestAddresses(t *testing.T) {
	for _, cfg := range []client.Config{
		{}, {Addresses: []string{"nonsense"}}, {Addresses: []string{"host:"}}, {Addresses: []string{"ftp://h:1"}},
		{Addresses: []string{"https://h:1"}}, {Addresses: []string{"http://h:1/path"}}, {Addresses: []string{"ok:1", ""}},
	} {
		if _, err := client.New(cfg); err == nil {
			t.Errorf("%q: accepted", cfg.Addresses)
		}
	}
	for _, a := range []string{"h:1", "[::1]:1", "http://h:1", "http://h:1/"} {
		c, err := client.New(client.Config{Addresses: []string{a}})
		if err != nil {
			t.Errorf("%q: %v", a, err)
			continue
		}
		c.Close()
	}
}

// Nothing answers, or something that is no node.
func TestNobodyThere(t *testing.T) {
	ctx := within(t, 300*time.Millisecond)
	c, err := client.New(client.Config{Addresses: []string{"127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for name, call := range map[string]func() error{
		"propose": func() error { _, err := c.Group("g").ProposeWithoutSession(ctx, nil); return err },
		"session": func() error { _, err := c.Group("g").Propose(ctx, nil); return err },
		"query":   func() error { _, err := c.Group("g").Query(ctx, nil, client.ReadOptions{}); return err },
		"status":  func() error { _, err := c.Status(ctx); return err },
	} {
		err := call()
		if client.HappenedOf(err) != client.No && name != "status" || err == nil {
			t.Errorf("%s: %v (happened %v)", name, err, client.HappenedOf(err))
		}
	}
}
