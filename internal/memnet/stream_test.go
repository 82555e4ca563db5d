package memnet_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/nettest"

	"github.com/diarchy/diarchy/internal/memnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestStreamsPassTheConformanceSuiteOfNetConn(t *testing.T) {
	for name, q := range map[string]memnet.Quality{
		"perfect": {},
		"late":    {Delay: 50 * time.Microsecond, Jitter: 50 * time.Microsecond},
	} {
		t.Run(name, func(t *testing.T) {
			nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
				n := memnet.New(1)
				n.SetQualityAll(q)
				a, b, l, err := connect(n, "a", "b:1")
				if err != nil {
					return nil, nil, nil, err
				}
				return a, b, func() { _, _, _ = a.Close(), b.Close(), l.Close() }, nil
			})
		})
	}
}

func connect(n *memnet.Network, from, to string) (client, server net.Conn, l net.Listener, err error) {
	if l, err = n.Listen(to); err != nil {
		return nil, nil, nil, err
	}
	if client, err = n.Dialer(from)(context.Background(), to); err != nil {
		return nil, nil, nil, err
	}
	server, err = l.Accept()
	return client, server, l, err
}

// mustConnect connects host a to b:1 and closes all at the end of the test.
func mustConnect(t *testing.T, n *memnet.Network) (a, b net.Conn) {
	t.Helper()
	a, b, l, err := connect(n, "a", "b:1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _, _ = a.Close(), b.Close(), l.Close() })
	return a, b
}

func mustWrite(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if _, err := c.Write([]byte(s)); err != nil {
		t.Fatalf("write: %v", err)
	}
}

func mustRead(t *testing.T, c net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("read %q, %v; want %q", got, err, want)
	}
}

func wantTimeout(t *testing.T, err error) {
	t.Helper()
	var ne net.Error
	if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
		t.Fatalf("got %v; want a timeout", err)
	}
}

func TestDelayAddsToEveryByteAndKeepsThroughput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(1)
		a, b := mustConnect(t, n)
		n.SetQuality("a", "b", memnet.Quality{Delay: 40 * time.Millisecond})
		start := time.Now()
		mustWrite(t, a, "one")
		time.Sleep(10 * time.Millisecond)
		mustWrite(t, a, "two")
		mustRead(t, b, "one")
		if d := time.Since(start); d != 40*time.Millisecond {
			t.Errorf("the first write took %v", d)
		}
		mustRead(t, b, "two")
		if d := time.Since(start); d != 50*time.Millisecond {
			t.Errorf("the second write arrived after %v, want 50ms: delays must overlap", d)
		}
		mustWrite(t, b, "back")
		mustRead(t, a, "back")
		if d := time.Since(start); d != 50*time.Millisecond {
			t.Errorf("the way back is slow too: %v", d)
		}
	})
}

func TestADialTakesARoundTrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(1)
		n.SetQualityAll(memnet.Quality{Delay: 15 * time.Millisecond})
		start := time.Now()
		mustConnect(t, n)
		if d := time.Since(start); d != 30*time.Millisecond {
			t.Errorf("connected after %v, want 30ms", d)
		}
	})
}

func TestACutStallsAndAHealGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(1)
		a, b := mustConnect(t, n)
		n.Cut("a", "b")
		mustWrite(t, a, "held")
		_ = b.SetReadDeadline(time.Now().Add(time.Minute))
		_, err := b.Read(make([]byte, 9))
		wantTimeout(t, err)

		_ = b.SetReadDeadline(time.Time{})
		read := make(chan struct{})
		go func() { defer close(read); mustRead(t, b, "held") }()
		synctest.Wait()
		n.Heal()
		<-read
	})
}

func TestAOneWayCutLeavesTheOtherWayOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(1)
		a, b := mustConnect(t, n)
		n.CutOneWay("a", "b")
		mustWrite(t, b, "passes")
		mustRead(t, a, "passes")
		mustWrite(t, a, "does not")
		_ = b.SetReadDeadline(time.Now().Add(time.Hour))
		_, err := b.Read(make([]byte, 9))
		wantTimeout(t, err)
		n.HealBetween("a", "b")
		_ = b.SetReadDeadline(time.Time{})
		mustRead(t, b, "does not")
	})
}

func TestAWriterWaitsWhenTheBufferIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(1)
		a, b := mustConnect(t, n)
		n.Cut("a", "b")
		_ = a.SetWriteDeadline(time.Now().Add(time.Second))
		wrote, err := a.Write(make([]byte, 1<<20))
		wantTimeout(t, err)
		if wrote < 1<<10 || wrote > 256<<10 {
			t.Errorf("%d bytes were taken without a reader", wrote)
		}
		n.Heal()
		if _, err := io.ReadFull(b, make([]byte, wrote)); err != nil {
			t.Errorf("what was taken did not arrive: %v", err)
		}
	})
}

func TestCloseDeliversThenEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(1)
		n.SetQualityAll(memnet.Quality{Delay: time.Millisecond})
		a, b := mustConnect(t, n)
		mustWrite(t, a, "last words")
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		if err := a.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("second Close: %v", err)
		}
		mustRead(t, b, "last words")
		if _, err := b.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("after the end: %v, want EOF", err)
		}
		if _, err := b.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("write to a closed end: %v, want EPIPE", err)
		}
		if _, err := a.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write on a closed end: %v", err)
		}
	})
}

func TestACloseBehindACutIsNotHeardOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(1)
		a, b := mustConnect(t, n)
		n.Cut("a", "b")
		_ = a.Close()
		_ = b.SetReadDeadline(time.Now().Add(time.Hour))
		_, err := b.Read(make([]byte, 1))
		wantTimeout(t, err)
		_ = b.SetReadDeadline(time.Time{})

		// A writer that fills the buffer hangs until the heal tells it.
		failed := make(chan error)
		go func() { _, err := b.Write(make([]byte, 1<<20)); failed <- err }()
		synctest.Wait()
		n.Heal()
		if err := <-failed; !errors.Is(err, syscall.EPIPE) {
			t.Errorf("after the heal: %v, want EPIPE", err)
		}
		if _, err := b.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("after the heal: %v, want EOF", err)
		}
	})
}

func TestResetAndCrashBreakConnectionsAtOnce(t *testing.T) {
	for name, breakIt := range map[string]func(*memnet.Network){
		"reset": func(n *memnet.Network) { n.Reset("b", "a") },
		"crash": func(n *memnet.Network) { n.Crash("b") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := memnet.New(1)
				a, b := mustConnect(t, n)
				n.Cut("a", "b")
				mustWrite(t, a, "lost")
				errs := make(chan error, 2)
				for _, c := range []net.Conn{a, b} {
					go func() { _, err := c.Read(make([]byte, 1)); errs <- err }()
				}
				synctest.Wait()
				breakIt(n)
				for range 2 {
					if err := <-errs; !errors.Is(err, syscall.ECONNRESET) {
						t.Errorf("got %v, want ECONNRESET", err)
					}
				}
				n.Heal()
				c, err := n.Dialer("a")(context.Background(), "b:1")
				if name == "crash" {
					if !errors.Is(err, syscall.ECONNREFUSED) {
						t.Errorf("dial to a crashed host: %v", err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				_ = c.Close()
			})
		})
	}
}

func TestDialing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(1)
		dial := n.Dialer("a:77")
		if _, err := dial(context.Background(), "b:1"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("nobody listens: %v", err)
		}
		l, err := n.Listen("b:1")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.Listen("b:1"); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("second listener: %v", err)
		}
		for _, cut := range []func(){
			func() { n.Cut("a", "b") }, func() { n.CutOneWay("a", "b") }, func() { n.CutOneWay("b", "a") },
			func() { n.Isolate("b") }, func() { n.Partition([]string{"a", "x"}, []string{"b", "y"}) },
		} {
			cut()
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			if _, err := dial(ctx, "b:1"); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("dial over a cut: %v", err)
			}
			cancel()
			n.Heal()
		}
		c, err := dial(context.Background(), "b:1")
		if err != nil {
			t.Fatal(err)
		}
		_ = l.Close()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("connection that nobody accepted: %v", err)
		}
		_ = c.Close()
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept after close: %v", err)
		}
	})
}

func TestAFullBacklogMakesDialersWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(1)
		l, err := n.Listen("b")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		dial, addr := n.Dialer("a"), l.Addr().String()
		for i := 0; ; i++ {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			c, err := dial(ctx, addr)
			cancel()
			if err != nil {
				if i < 8 || !errors.Is(err, context.DeadlineExceeded) {
					t.Fatalf("dial %d: %v", i, err)
				}
				break
			}
			defer c.Close()
			if i > 10_000 {
				t.Fatal("the backlog has no bound")
			}
		}
		done := make(chan error)
		go func() {
			c, err := dial(context.Background(), addr)
			if err == nil {
				_ = c.Close()
			}
			done <- err
		}()
		synctest.Wait()
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
		if err := <-done; err != nil {
			t.Errorf("room was made, yet: %v", err)
		}
	})
}

func TestABridgeReachesBothSides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(1)
		reach := func(from, to string) bool {
			l, err := n.Listen(to + ":9")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			c, err := n.Dialer(from)(ctx, to+":9")
			if err != nil {
				return false
			}
			return c.Close() == nil
		}
		n.Partition([]string{"a", "b"}, []string{"d", "e"})
		for _, c := range []struct {
			from, to string
			want     bool
		}{{"a", "b", true}, {"a", "c", true}, {"d", "c", true}, {"c", "e", true}, {"a", "d", false}, {"e", "b", false}, {"d", "d", true}} {
			if got := reach(c.from, c.to); got != c.want {
				t.Errorf("%s to %s: %v, want %v", c.from, c.to, got, c.want)
			}
		}
		n.Isolate("c")
		if reach("a", "c") || reach("f", "c") || !reach("c", "c") {
			t.Error("an isolated host is to reach itself and nobody else")
		}
	})
}

// Whatever the links do, a stream's bytes arrive once, whole and in order.
func TestStreamsStayIntactUnderFaults(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			n := memnet.New(seed)
			rng := rand.New(rand.NewPCG(seed, 1))
			a, b := mustConnect(t, n)
			n.SetQualityAll(memnet.Quality{
				Delay: time.Duration(rng.IntN(50)) * time.Millisecond, Jitter: 30 * time.Millisecond,
				Loss: rng.Float64() / 3, Duplicate: 0.3, Reorder: 0.3, ReorderBy: 20 * time.Millisecond,
			})
			sent := make([]byte, 300_000)
			for i := range sent {
				sent[i] = byte(rng.Uint32())
			}
			go func() {
				for rest := sent; len(rest) > 0; {
					k, err := a.Write(rest[:min(len(rest), 1+rng.IntN(9000))])
					if err != nil {
						t.Errorf("write: %v", err)
						break
					}
					rest = rest[k:]
				}
				_ = a.Close()
			}()
			stop := make(chan struct{})
			go func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					case <-time.After(70 * time.Millisecond):
					}
					[]func(){func() { n.Cut("a", "b") }, func() { n.CutOneWay("b", "a") }, n.Heal, n.Heal}[i%4]()
				}
			}()
			got, err := io.ReadAll(b)
			close(stop)
			if err != nil || !bytes.Equal(got, sent) {
				t.Errorf("seed %d: %d of %d bytes, %v", seed, len(got), len(sent), err)
			}
		})
	}
}

func TestEqualSeedsDrawEqualDelays(t *testing.T) {
	run := func(seed uint64) (times []time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			n := memnet.New(seed)
			n.SetQualityAll(memnet.Quality{Jitter: time.Second, Loss: 0.2})
			a, b := mustConnect(t, n)
			start := time.Now()
			for range 20 {
				mustWrite(t, a, "x")
				mustRead(t, b, "x")
				times = append(times, time.Since(start))
			}
		})
		return times
	}
	a, b, other := run(7), run(7), run(8)
	if same := equal(a, b); !same {
		t.Errorf("seed 7 twice: %v and %v", a, b)
	}
	if equal(a, other) {
		t.Error("seed 8 drew what seed 7 did")
	}
}

func equal(a, b []time.Duration) bool {
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return len(a) == len(b)
}
