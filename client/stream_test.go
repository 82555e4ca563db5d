package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/diarchy/diarchy/client"
	pb "github.com/diarchy/diarchy/client/clientpb"
	"github.com/diarchy/diarchy/fsm/kv"
	"github.com/diarchy/diarchy/server"
)

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
