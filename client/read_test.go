package client_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/diarchy/diarchy/client"
	"github.com/diarchy/diarchy/framework"
	"github.com/diarchy/diarchy/fsm/kv"
)

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
