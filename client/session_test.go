package client_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/diarchy/diarchy/client"
	"github.com/diarchy/diarchy/framework"
	"github.com/diarchy/diarchy/fsm/kv"
)

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
