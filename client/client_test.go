package client_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/diarchy/diarchy/client"
	"github.com/diarchy/diarchy/fsm/kv"
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
