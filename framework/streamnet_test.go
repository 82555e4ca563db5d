package framework_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/diarchy/diarchy/framework"
	"github.com/diarchy/diarchy/internal/memnet"
)

func TestStreamsJoinPlanesAndGroups(t *testing.T) {
	eachNetwork(t, func(t *testing.T, w *streamWorld) {
		a, b := w.node("a"), w.node("b")
		other := framework.GroupIdentity{ID: framework.UUID{8}}
		raft, bulk := listen(t, b, framework.PlaneRaft, someGroup), listen(t, b, framework.PlaneBulk, someGroup)
		second, peer := listen(t, b, framework.PlaneRaft, other), listen(t, b, framework.PlanePeer, framework.GroupIdentity{})
		for _, c := range []struct {
			l framework.PeerListener
			p framework.Plane
			g framework.GroupIdentity
		}{{raft, framework.PlaneRaft, someGroup}, {bulk, framework.PlaneBulk, someGroup}, {second, framework.PlaneRaft, other}, {peer, framework.PlanePeer, framework.GroupIdentity{}}} {
			mine, theirs := link(t, a, "b", c.l, c.p, c.g)
			if theirs.From() != "a" {
				t.Errorf("%s comes from %q", c.p, theirs.From())
			}
			for conn, want := range map[net.Conn]string{mine: "name-of-b", theirs: "name-of-a"} {
				if got := conn.(interface{ Name() string }).Name(); got != want {
					t.Errorf("the other end is %q, want %q", got, want)
				}
			}
			say(t, mine, theirs, "there")
			say(t, theirs, mine, "and back")
			if err := mine.Close(); err != nil {
				t.Error(err)
			}
			if _, err := theirs.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("after the other end's close: %v", err)
			}
			_ = theirs.Close()
		}
		if got := b.value(t, "connections") + a.value(t, "connections"); got != 0 {
			t.Errorf("%v connections are counted after all were closed", got)
		}
		if got := a.value(t, "dialed_total/connected"); got != 4 {
			t.Errorf("%v dialed", got)
		}
	})
}

func TestListenersAreOnePerName(t *testing.T) {
	eachNetwork(t, func(t *testing.T, w *streamWorld) {
		a, b := w.node("a"), w.node("b")
		l := listen(t, b, framework.PlaneRaft, someGroup)
		if _, err := b.Listen(framework.PlaneRaft, someGroup); err == nil {
			t.Error("two listeners for one name")
		}
		if _, err := b.Listen(9, someGroup); err == nil {
			t.Error("a listener on a plane that is none")
		}
		c, err := a.Dial(context.Background(), "b", framework.PlaneRaft, someGroup)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(make([]byte, 1)); err == nil {
			t.Errorf("a connection that nobody took stays open: %d", n)
		}
		_ = c.Close()
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept after close: %v", err)
		}
		again := listen(t, b, framework.PlaneRaft, someGroup)
		mine, theirs := link(t, a, "b", again, framework.PlaneRaft, someGroup)
		say(t, mine, theirs, "the name is free again")
	})
}

func TestCloseEndsEverything(t *testing.T) {
	eachNetwork(t, func(t *testing.T, w *streamWorld) {
		a, b := w.node("a"), w.node("b")
		l := listen(t, b, framework.PlaneRaft, someGroup)
		dialed, accepted := link(t, a, "b", l, framework.PlaneRaft, someGroup)
		other, _ := link(t, a, "b", l, framework.PlaneRaft, someGroup)
		accepting := make(chan error)
		go func() { _, err := l.Accept(); accepting <- err }()
		if err := b.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if err := <-accepting; !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept: %v", err)
		}
		if _, err := accepted.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("an accepted connection: %v", err)
		}
		for _, c := range []net.Conn{dialed, other} {
			if _, err := c.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("its other end: %v", err)
			}
		}
		if _, err := b.Listen(framework.PlaneRaft, someGroup); !errors.Is(err, net.ErrClosed) {
			t.Errorf("listen: %v", err)
		}
		if _, err := b.Dial(context.Background(), "a", framework.PlaneRaft, someGroup); !errors.Is(err, net.ErrClosed) {
			t.Errorf("dial: %v", err)
		}
		if err := b.Close(); err != nil {
			t.Errorf("second close: %v", err)
		}
	})
}

func TestRefusalsAreNamedToTheCaller(t *testing.T) {
	none, here, elsewhere := framework.UUID{}, framework.UUID{1}, framework.UUID{2}
	cluster := func(u framework.UUID) func(*framework.StreamsConfig) {
		return func(c *framework.StreamsConfig) { c.Cluster = func() framework.UUID { return u } }
	}
	peer, noGroup := framework.PlanePeer, framework.GroupIdentity{}
	raft := framework.PlaneRaft
	for name, c := range map[string]struct {
		caller, called framework.UUID
		plane          framework.Plane
		group          framework.GroupIdentity
		want           framework.RefusalCode // 0: taken
	}{
		"same cluster":               {here, here, raft, someGroup, 0},
		"other cluster, raft":        {elsewhere, here, raft, someGroup, framework.RefusedCluster},
		"other cluster, peer":        {elsewhere, here, peer, noGroup, framework.RefusedCluster},
		"forming, peer":              {none, none, peer, noGroup, 0},
		"caller is forming, peer":    {none, here, peer, noGroup, 0},
		"called is forming, peer":    {here, none, peer, noGroup, 0},
		"caller is forming, raft":    {none, here, raft, someGroup, framework.RefusedCluster},
		"called is forming, raft":    {here, none, raft, someGroup, framework.RefusedCluster},
		"no such group":              {here, here, raft, framework.GroupIdentity{ID: framework.UUID{99}}, framework.RefusedListener},
		"group not on this plane":    {here, here, framework.PlaneVSR, someGroup, framework.RefusedListener},
		"a plane of the future":      {here, here, 77, someGroup, framework.RefusedListener},
		"older incarnation":          {here, here, raft, framework.GroupIdentity{ID: someGroup.ID, Incarnation: 1}, framework.RefusedIncarnation},
		"newer incarnation":          {here, here, raft, framework.GroupIdentity{ID: someGroup.ID, Incarnation: 3}, framework.RefusedIncarnation},
		"the name is not looked at":  {here, here, raft, framework.GroupIdentity{ID: someGroup.ID, Incarnation: 2, Name: "x"}, 0},
		"no cluster on either, raft": {none, none, raft, someGroup, 0},
	} {
		t.Run(name, func(t *testing.T) {
			eachNetwork(t, func(t *testing.T, w *streamWorld) {
				a, b := w.node("a", cluster(c.caller)), w.node("b", cluster(c.called))
				listen(t, b, raft, someGroup)
				listen(t, b, peer, noGroup)
				conn, err := a.Dial(context.Background(), "b", c.plane, c.group)
				if c.want == 0 {
					if err != nil {
						t.Fatal(err)
					}
					_ = conn.Close()
					return
				}
				wantRefused(t, err, "b", c.want)
				if got := b.value(t, "refused_total/"+c.want.String()); got != 1 {
					t.Errorf("counted %v times", got)
				}
				if log := b.log.String(); !strings.Contains(log, c.want.String()) || !strings.Contains(log, "name-of-a") {
					t.Errorf("the log of the one who refused: %q", log)
				}
				if got := a.value(t, "dialed_total/failed"); got != 1 {
					t.Errorf("the caller counts %v failures", got)
				}
			})
		})
	}
}

func wantRefused(t *testing.T, err error, to framework.NodeID, code framework.RefusalCode) {
	t.Helper()
	var r *framework.RefusedError
	if !errors.As(err, &r) || r.Code != code || r.To != to || !strings.HasPrefix(r.Reason, code.String()+": ") {
		t.Fatalf("got %v (%T), want a refusal for %q", err, err, code)
	}
}

func TestAnAddressThatHasChangedHands(t *testing.T) {
	eachNetwork(t, func(t *testing.T, w *streamWorld) {
		a, b := w.node("a"), w.node("b")
		listen(t, b, framework.PlaneRaft, someGroup)
		w.set("gone", b.Addr().String())
		_, err := a.Dial(context.Background(), "gone", framework.PlaneRaft, someGroup)
		wantRefused(t, err, "gone", framework.RefusedNode)
		if !strings.Contains(err.Error(), "name-of-b") {
			t.Errorf("%v does not say who is there", err)
		}
		if got := b.value(t, "refused_total/other node"); got != 1 {
			t.Errorf("the node that is there has refused %v", got)
		}
		if _, err = a.Dial(context.Background(), "unheard-of", framework.PlaneRaft, someGroup); err == nil {
			t.Error("dialed a node without an address")
		}
		if _, err = a.Dial(context.Background(), "a", framework.PlaneRaft, someGroup); err == nil {
			t.Error("dialed itself")
		}
	})
}

func TestACopiedDataDirectoryIsNamed(t *testing.T) {
	eachNetwork(t, func(t *testing.T, w *streamWorld) {
		b := w.node("b")
		at := b.Addr().String()
		listen(t, b, framework.PlaneRaft, someGroup)
		double := newWorld(t, w.net)
		copied := double.node("copy", func(c *framework.StreamsConfig) { c.Self = "b" })
		double.set("a", at)
		_, err := copied.Dial(context.Background(), "a", framework.PlaneRaft, someGroup)
		wantRefused(t, err, "a", framework.RefusedSameID)
		if !strings.Contains(err.Error(), "data directory") {
			t.Errorf("%v does not say why", err)
		}
	})
}

func TestConnectionsAreCapped(t *testing.T) {
	eachNetwork(t, func(t *testing.T, w *streamWorld) {
		a := w.node("a")
		b := w.node("b", func(c *framework.StreamsConfig) { c.MaxConns = 2 })
		l := listen(t, b, framework.PlaneRaft, someGroup)
		first, taken := link(t, a, "b", l, framework.PlaneRaft, someGroup)
		link(t, a, "b", l, framework.PlaneRaft, someGroup)
		_, err := a.Dial(context.Background(), "b", framework.PlaneRaft, someGroup)
		wantRefused(t, err, "b", framework.RefusedBusy)
		_ = first.Close()
		_ = taken.Close()
		mine, theirs := link(t, a, "b", l, framework.PlaneRaft, someGroup)
		say(t, mine, theirs, "room again")
	})
}

func TestWhereNobodyAcceptsTheQueueIsBounded(t *testing.T) {
	eachNetwork(t, func(t *testing.T, w *streamWorld) {
		a, b := w.node("a"), w.node("b")
		l := listen(t, b, framework.PlaneRaft, someGroup)
		held := 0
		for ; ; held++ {
			_, err := a.Dial(context.Background(), "b", framework.PlaneRaft, someGroup)
			if err == nil {
				if held > 10_000 {
					t.Fatal("there is no bound")
				}
				continue
			}
			wantRefused(t, err, "b", framework.RefusedBusy)
			break
		}
		if held < 8 {
			t.Errorf("only %d connections wait", held)
		}
		for range held {
			if _, err := l.Accept(); err != nil {
				t.Fatal(err)
			}
		}
		mine, theirs := link(t, a, "b", l, framework.PlaneRaft, someGroup)
		say(t, mine, theirs, "taken again")
	})
}

func TestADialEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, memnet.New(1))
		a := w.node("a", func(c *framework.StreamsConfig) { c.HandshakeTimeout = time.Hour })
		silent, err := w.net.Listen("s:1")
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
		w.set("s", "s:1")
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		start := time.Now()
		if _, err := a.Dial(ctx, "s", framework.PlaneRaft, someGroup); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if d := time.Since(start); d != 3*time.Second {
			t.Errorf("after %v", d)
		}
		ended := make(chan error)
		go func() {
			_, err := a.Dial(context.Background(), "s", framework.PlaneRaft, someGroup)
			ended <- err
		}()
		synctest.Wait()
		_ = a.Close()
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("at the end of all: %v", err)
		}
	})
}

func TestTheHandshakesDeadlinesEndWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, memnet.New(1))
		a, b := w.node("a"), w.node("b")
		l := listen(t, b, framework.PlaneRaft, someGroup)
		mine, theirs := link(t, a, "b", l, framework.PlaneRaft, someGroup)
		time.Sleep(time.Hour)
		say(t, mine, theirs, "an hour")
		say(t, theirs, mine, "later")
	})
}

func TestASilentServerIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, memnet.New(1))
		a := w.node("a")
		silent, err := w.net.Listen("s:1")
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
		w.set("s", "s:1")
		start := time.Now()
		if _, err := a.Dial(context.Background(), "s", framework.PlaneRaft, someGroup); err == nil || !strings.Contains(err.Error(), "timeout") {
			t.Errorf("got %v", err)
		}
		if d := time.Since(start); d != 10*time.Second {
			t.Errorf("after %v", d)
		}
	})
}

func TestBadSettings(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	resolve := func(framework.NodeID) (string, bool) { return "", false }
	for name, c := range map[string]framework.StreamsConfig{
		"no id":       {Listener: l, Resolve: resolve},
		"long id":     {Self: framework.NodeID(strings.Repeat("x", 100)), Listener: l, Resolve: resolve},
		"bad name":    {Self: "a", Name: "a\nb", Listener: l, Resolve: resolve},
		"no listener": {Self: "a", Resolve: resolve},
		"no resolver": {Self: "a", Listener: l},
		"half a TLS":  {Self: "a", Listener: l, Resolve: resolve, TLS: &framework.StreamTLS{}},
	} {
		if s, err := framework.NewStreams(c); err == nil {
			_ = s.Close()
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestMetricsOfTwoNetsDoNotMix(t *testing.T) {
	w := newWorld(t, nil)
	a := w.node("a")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := framework.StreamsConfig{Self: "b", Listener: l, Resolve: w.resolve, Metrics: a.metrics}
	if _, err := framework.NewStreams(c); err == nil {
		t.Fatal("two nets share counters")
	}
	_ = a.Close()
	b, err := framework.NewStreams(c)
	if err != nil {
		t.Fatalf("after the first has gone: %v", err)
	}
	_ = b.Close()
}
