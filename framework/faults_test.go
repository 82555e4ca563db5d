package framework_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/nettest"

	"github.com/diarchy/diarchy/framework"
	"github.com/diarchy/diarchy/internal/memnet"
)

// faulty are two nodes, the first with faults, and a connection dialed by it.
type faulty struct {
	w        *streamWorld
	a, b     *testNode
	faults   *framework.Faults
	l        framework.PeerListener
	ofA, ofB net.Conn
}

func newFaulty(t *testing.T, w *streamWorld) *faulty {
	t.Helper()
	f := &faulty{w: w, faults: framework.NewFaults()}
	f.a = w.node("a", func(c *framework.StreamsConfig) { c.Faults = f.faults })
	f.b = w.node("b")
	f.l = listen(t, f.b, framework.PlaneRaft, someGroup)
	f.ofA, f.ofB = link(t, f.a, "b", f.l, framework.PlaneRaft, someGroup)
	return f
}

func wantDeadline(t *testing.T, err error) {
	t.Helper()
	var ne net.Error
	if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
		t.Fatalf("got %v, want a timeout", err)
	}
}

func TestACutIsABlackHole(t *testing.T) {
	eachNetwork(t, func(t *testing.T, w *streamWorld) {
		f := newFaulty(t, w)
		say(t, f.ofA, f.ofB, "before")
		reading := make(chan string)
		go func() { // a read that was under way when the cut came
			p := make([]byte, 64)
			n, err := io.ReadFull(f.ofA, p[:9])
			if err != nil {
				t.Errorf("read over the heal: %v", err)
			}
			reading <- string(p[:n])
		}()
		f.faults.Cut("b", framework.BothWays)
		if _, err := f.ofB.Write([]byte("from b.. ")); err != nil {
			t.Fatal(err)
		}
		_ = f.ofA.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
		_, err := f.ofA.Write([]byte("lost"))
		wantDeadline(t, err)
		_ = f.ofA.SetWriteDeadline(time.Time{})
		written := make(chan error)
		go func() { _, err := f.ofA.Write([]byte("held")); written <- err }()

		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		defer cancel()
		if _, err := f.a.Dial(ctx, "b", framework.PlaneRaft, someGroup); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("dial over a cut: %v", err)
		}
		select {
		case s := <-reading:
			t.Errorf("read %q over a cut", s)
		case err := <-written:
			t.Errorf("wrote over a cut: %v", err)
		default:
		}
		f.faults.Heal("b")
		if s := <-reading; s != "from b.. " {
			t.Errorf("after the heal came %q", s)
		}
		if err := <-written; err != nil {
			t.Errorf("the write that waited: %v", err)
		}
		hear(t, f.ofB, "held")
		say(t, f.ofB, f.ofA, "after")
	})
}

func TestACutGoesOneWay(t *testing.T) {
	eachNetwork(t, func(t *testing.T, w *streamWorld) {
		f := newFaulty(t, w)
		f.faults.Cut("b", framework.ToNode)
		say(t, f.ofB, f.ofA, "from b passes")
		_ = f.ofA.SetDeadline(time.Now().Add(20 * time.Millisecond))
		_, err := f.ofA.Write([]byte("x"))
		wantDeadline(t, err)
		f.faults.Heal("b")
		_ = f.ofA.SetDeadline(time.Time{})

		f.faults.Cut("b", framework.FromNode)
		say(t, f.ofA, f.ofB, "to b passes")
		if _, err := f.ofB.Write([]byte("held")); err != nil {
			t.Fatal(err)
		}
		_ = f.ofA.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		_, err = f.ofA.Read(make([]byte, 1))
		wantDeadline(t, err)
		f.faults.Cut("c", framework.BothWays) // another node's cut
		f.faults.Clear()
		_ = f.ofA.SetReadDeadline(time.Time{})
		hear(t, f.ofA, "held")
	})
}

func TestACutHidesTheOthersCloseAndAnswersNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFaulty(t, newWorld(t, memnet.New(1)))
		la := listen(t, f.a, framework.PlaneRaft, someGroup)
		reading := make(chan error)
		go func() { _, err := f.ofA.Read(make([]byte, 1)); reading <- err }()
		synctest.Wait()
		f.faults.Cut("b", framework.FromNode)
		_ = f.ofB.Close()
		synctest.Wait()
		_ = f.ofA.SetReadDeadline(time.Now().Add(time.Hour))
		err := <-reading // the one under way when the cut came
		wantDeadline(t, err)
		_, err = f.ofA.Read(make([]byte, 1))
		wantDeadline(t, err)
		// Neither a welcome nor a refusal comes out of a cut.
		for _, g := range []framework.GroupIdentity{someGroup, {ID: framework.UUID{55}}} {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			_, err = f.b.Dial(ctx, "a", framework.PlaneRaft, g)
			var refused *framework.RefusedError
			if err == nil || errors.As(err, &refused) {
				t.Errorf("dial into a cut: %v", err)
			}
			cancel()
		}
		f.faults.Heal("b")
		_ = f.ofA.SetReadDeadline(time.Time{})
		if _, err := f.ofA.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("after the heal: %v", err)
		}
		mine, theirs := link(t, f.b, "a", la, framework.PlaneRaft, someGroup)
		say(t, mine, theirs, "healed")
	})
}

func TestADialWaitsForTheHeal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFaulty(t, newWorld(t, memnet.New(1)))
		f.faults.Cut("b", framework.BothWays)
		done := make(chan error)
		go func() {
			_, err := f.a.Dial(context.Background(), "b", framework.PlaneRaft, someGroup)
			done <- err
		}()
		synctest.Wait()
		f.faults.Heal("b")
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestADelayIsExactAndOverlaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFaulty(t, newWorld(t, memnet.New(1)))
		f.faults.Delay("b", 40*time.Millisecond, 0)
		start := time.Now()
		go func() {
			for range 3 {
				_, _ = f.ofB.Write([]byte("x"))
				time.Sleep(10 * time.Millisecond)
			}
		}()
		for i := range 3 {
			hear(t, f.ofA, "x")
			if d, want := time.Since(start), time.Duration(40+10*i)*time.Millisecond; d != want {
				t.Errorf("byte %d came after %v, want %v", i, d, want)
			}
		}
		start = time.Now()
		say(t, f.ofA, f.ofB, "the other way")
		if d := time.Since(start); d != 0 {
			t.Errorf("the other way took %v", d)
		}
		f.faults.Delay("b", 0, 0)
		say(t, f.ofB, f.ofA, "quick again")
		if d := time.Since(start); d != 0 {
			t.Errorf("after the delay's end: %v", d)
		}
		f.faults.Delay("b", time.Second, time.Second)
		for range 50 {
			start = time.Now()
			say(t, f.ofB, f.ofA, "y")
			if d := time.Since(start); d < time.Second || d > 2*time.Second {
				t.Errorf("with jitter: %v", d)
			}
		}
	})
}

func TestCloseWakesWhatWaitsAtACut(t *testing.T) {
	eachNetwork(t, func(t *testing.T, w *streamWorld) {
		f := newFaulty(t, w)
		f.faults.Cut("b", framework.BothWays)
		errs := make(chan error, 2)
		go func() { _, err := f.ofA.Read(make([]byte, 1)); errs <- err }()
		go func() { _, err := f.ofA.Write([]byte("x")); errs <- err }()
		_ = f.ofA.Close()
		for range 2 {
			if err := <-errs; !errors.Is(err, net.ErrClosed) {
				t.Errorf("got %v", err)
			}
		}
	})
}

// What is read ahead behind a cut is bounded.
func TestACutStallsAFloodingPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFaulty(t, newWorld(t, memnet.New(1)))
		f.faults.Cut("b", framework.FromNode)
		go func() { _, _ = f.ofA.Read(make([]byte, 1)) }()
		_ = f.ofB.SetWriteDeadline(time.Now().Add(time.Minute))
		n, err := f.ofB.Write(make([]byte, 64<<20))
		wantDeadline(t, err)
		if n > 6<<20 {
			t.Errorf("%d bytes were taken behind a cut", n)
		}
	})
}

func TestConnectionsUnderFaultsAreNetConns(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	for name, delay := range map[string]time.Duration{"none": 0, "late": 20 * time.Microsecond} {
		t.Run(name, func(t *testing.T) {
			nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
				w := newWorld(t, nil)
				fa, fb := framework.NewFaults(), framework.NewFaults()
				a := w.node("a", func(c *framework.StreamsConfig) { c.Faults = fa })
				b := w.node("b", func(c *framework.StreamsConfig) { c.Faults = fb })
				fa.Delay("b", delay, delay)
				fb.Delay("a", delay, delay)
				l := listen(t, b, framework.PlaneRaft, someGroup)
				mine, theirs := link(t, a, "b", l, framework.PlaneRaft, someGroup)
				return mine, theirs, func() { _, _ = a.Close(), b.Close() }, nil
			})
		})
	}
}
