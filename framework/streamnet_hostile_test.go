package framework_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/diarchy/diarchy/framework"
	"github.com/diarchy/diarchy/internal/memnet"
)

// shout sends bytes to an address and waits until the other side hangs up.
func shout(t *testing.T, addr string, p []byte) (answer []byte) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	_, _ = c.Write(p)
	answer, err = io.ReadAll(c)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after %q the connection stays open", p[:min(len(p), 20)])
	}
	return answer
}

func TestGarbageIsDroppedAndCounted(t *testing.T) {
	w := newWorld(t, nil)
	a, b := w.node("a"), w.node("b")
	l := listen(t, b, framework.PlaneRaft, someGroup)
	addr := b.Addr().String()
	goroutines := runtime.NumGoroutine()

	rng := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 100_000)
	for i := range noise {
		noise[i] = byte(rng.Uint32())
	}
	for name, c := range map[string]struct {
		send []byte
		why  string
	}{
		"HTTP":         {[]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), "garbage"},
		"noise":        {noise, "garbage"},
		"zeros":        {make([]byte, 4096), "garbage"},
		"huge length":  {append([]byte("DRCY\x01\x01\xff\xff\x00\x00\x00\x00"), noise...), "damaged"},
		"bad checksum": {append([]byte("DRCY\x01\x01\x00\x10\x00\x00\x00\x00"), make([]byte, 16)...), "damaged"},
	} {
		before := max(b.value(t, "dropped_total/"+c.why), 0)
		if got := shout(t, addr, c.send); len(got) > 0 {
			t.Errorf("%s: answered with %q", name, got)
		}
		await(t, name+" counted as "+c.why, func() bool { return b.value(t, "dropped_total/"+c.why) == before+1 })
	}
	for range 200 {
		p := noise[:rng.IntN(200)]
		shoutAndLeave(t, addr, p)
	}
	await(t, "the end of all handshakes", func() bool { return b.value(t, "handshakes") == 0 })
	await(t, "goroutines as before", func() bool { return runtime.NumGoroutine() <= goroutines })
	if got := b.value(t, "connections"); got != 0 {
		t.Errorf("%v connections are counted", got)
	}
	if !strings.Contains(b.log.String(), "HTTP") {
		t.Error("the log does not say what came")
	}
	mine, theirs := link(t, a, "b", l, framework.PlaneRaft, someGroup)
	say(t, mine, theirs, "business goes on")
}

// shoutAndLeave does not wait for an answer.
func shoutAndLeave(t *testing.T, addr string, p []byte) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = c.Write(p)
	_ = c.Close()
}

func TestAHelloCutAtEveryByteIsHarmless(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, memnet.New(1))
		a, b := w.node("a"), w.node("b")
		l := listen(t, b, framework.PlaneRaft, someGroup)
		whole := recordHello(t, w, a)
		for n := range len(whole) {
			c, err := w.net.Dialer("x")(context.Background(), b.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			_, _ = c.Write(whole[:n])
			_ = c.Close()
		}
		synctest.Wait()
		if got := b.value(t, "handshakes"); got != 0 {
			t.Errorf("%v handshakes go on", got)
		}
		if got := b.value(t, "dropped_total/ended"); got != float64(len(whole)) {
			t.Errorf("%v of %d were counted", got, len(whole))
		}
		mine, theirs := link(t, a, "b", l, framework.PlaneRaft, someGroup)
		say(t, mine, theirs, "business goes on")
	})
}

// recordHello has node a dial node "b" at a server of ours, and returns what it
// sends.
func recordHello(t *testing.T, w *streamWorld, a *testNode) []byte {
	t.Helper()
	at, _ := w.resolve("b")
	defer w.set("b", at)
	l, err := w.net.Listen("recorder:1")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	w.set("b", "recorder:1")
	got := make(chan []byte, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			t.Error(err)
			got <- nil
			return
		}
		defer c.Close()
		p := make([]byte, 2048)
		n, _ := c.Read(p)
		got <- p[:n]
	}()
	if _, err := a.Dial(context.Background(), "b", framework.PlaneRaft, someGroup); err == nil {
		t.Fatal("connected to a recorder")
	}
	return <-got
}

func TestAnotherVersionIsToldWhich(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, memnet.New(1))
		a, b := w.node("a"), w.node("b")
		listen(t, b, framework.PlaneRaft, someGroup)
		// Between the two sits a relay that makes a's hello one of version 2.
		relay, err := w.net.Listen("relay:1")
		if err != nil {
			t.Fatal(err)
		}
		defer relay.Close()
		at := b.Addr().String()
		go func() {
			in, err := relay.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			defer in.Close()
			out, err := w.net.Dialer("relay")(context.Background(), at)
			if err != nil {
				t.Error(err)
				return
			}
			defer out.Close()
			p := make([]byte, 2048)
			n, _ := in.Read(p)
			p[4] = 2
			_, _ = out.Write(p[:n])
			_, _ = io.Copy(in, out)
		}()
		w.set("b", "relay:1")
		_, err = a.Dial(context.Background(), "b", framework.PlaneRaft, someGroup)
		wantRefused(t, err, "b", framework.RefusedVersion)
		if !strings.Contains(err.Error(), "version 1") || !strings.Contains(err.Error(), "version 2") {
			t.Errorf("%v does not name both versions", err)
		}
	})
}

// A refusal arrives whole even when more was sent than was read: a reset could
// overtake it.
func TestARefusalIsNotLostInAReset(t *testing.T) {
	w := newWorld(t, nil)
	b := w.node("b")
	m := newWorld(t, memnet.New(1))
	hello := recordHello(t, m, m.node("a"))
	c, err := net.Dial("tcp", b.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := c.Write(append(hello, make([]byte, 5000)...)); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(c)
	if err != nil || !strings.Contains(string(answer), "is not open on this node") {
		t.Errorf("got %q, %v", answer, err)
	}
}

// rogue answers every connection with the same bytes.
func rogue(t *testing.T, w *streamWorld, id framework.NodeID, answer []byte) {
	t.Helper()
	l, err := w.net.Listen(string(id))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	w.set(id, l.Addr().String())
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 2048))
			_, _ = c.Write(answer)
			_ = c.Close()
		}
	}()
}

func TestTheCallerChecksTheAnswerToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, memnet.New(1))
		a, b := w.node("a"), w.node("b")
		listen(t, b, framework.PlaneRaft, someGroup)
		// A welcome that b gave for this very connection, then replayed by others.
		conn, err := w.net.Dialer("x")(context.Background(), b.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write(recordHello(t, w, a))
		p := make([]byte, 2048)
		n, err := conn.Read(p)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
		welcome := p[:n]

		w.set("b", "")
		rogue(t, w, "good", welcome)
		at, _ := w.resolve("good")
		w.set("b", at)
		if c, err := a.Dial(context.Background(), "b", framework.PlaneRaft, someGroup); err != nil {
			t.Errorf("the welcome itself: %v", err)
		} else {
			_ = c.Close()
		}
		for name, c := range map[string]struct {
			to    framework.NodeID
			plane framework.Plane
			group framework.GroupIdentity
			code  framework.RefusalCode
		}{
			"another node":        {"good", framework.PlaneRaft, someGroup, framework.RefusedNode},
			"another plane":       {"b", framework.PlaneBulk, someGroup, framework.RefusedMalformed},
			"another group":       {"b", framework.PlaneRaft, framework.GroupIdentity{ID: framework.UUID{9}, Incarnation: 2}, framework.RefusedMalformed},
			"another incarnation": {"b", framework.PlaneRaft, framework.GroupIdentity{ID: someGroup.ID, Incarnation: 9}, framework.RefusedMalformed},
		} {
			_, err := a.Dial(context.Background(), c.to, c.plane, c.group)
			var r *framework.RefusedError
			if !errors.As(err, &r) || r.Code != c.code {
				t.Errorf("%s: %v", name, err)
			}
		}
		stranger := w.node("stranger", func(c *framework.StreamsConfig) {
			c.Self = "a"
			c.Cluster = func() framework.UUID { return framework.UUID{2} }
		})
		_, err = stranger.Dial(context.Background(), "b", framework.PlaneRaft, someGroup)
		wantRefused(t, err, "b", framework.RefusedCluster)

		for i, answer := range [][]byte{{}, []byte("HTTP/1.1 400 Bad Request\r\n"), welcome[:len(welcome)-1], bytes.Repeat([]byte{0xff}, 4096), []byte("DRCY\x01\x03\x00\x00\x00\x00\x00\x00")} {
			id := framework.NodeID(rune('p' + i))
			rogue(t, w, id, answer)
			if _, err := a.Dial(context.Background(), id, framework.PlaneRaft, someGroup); err == nil {
				t.Errorf("connected to one who answers %q", answer)
			}
		}
	})
}

func TestSlowCallersAreCutOff(t *testing.T) {
	for name, c := range map[string]struct {
		every time.Duration // a byte each; 0: none at all
		after time.Duration
	}{
		"silent":  {0, 5 * time.Second},
		"trickle": {time.Second, 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, memnet.New(1))
				b := w.node("b")
				conn, err := w.net.Dialer("x")(context.Background(), b.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				start := time.Now()
				var trickle sync.WaitGroup
				defer trickle.Wait()
				if c.every > 0 {
					trickle.Go(func() {
						for _, x := range []byte("DRCY\x01\x01\x02\x00\x00\x00\x00\x00" + strings.Repeat("x", 600)) {
							if _, err := conn.Write([]byte{x}); err != nil {
								return
							}
							time.Sleep(c.every)
						}
					})
				}
				if _, err := conn.Read(make([]byte, 1)); err == nil {
					t.Error("got an answer")
				}
				if d := time.Since(start); d != c.after {
					t.Errorf("cut off after %v, want %v", d, c.after)
				}
				synctest.Wait()
				if got := b.value(t, "dropped_total/timeout"); got != 1 {
					t.Errorf("counted %v times", got)
				}
			})
		})
	}
}

// 400 callers that do not get on with their handshake cost little, and do not
// keep a node out.
func TestIdleCallersAreBoundedInNumberAndMemory(t *testing.T) {
	// The most that TLS can be made to hold: a hello that goes on almost to where
	// it is stopped.
	endless := append([]byte("\x16\x03\x01\x40\x00\x01\x00\xff\xff"), make([]byte, 15<<10)...)
	for name, c := range map[string]struct {
		tls  bool
		says []byte
	}{
		"plain": {false, []byte("DRCY\x01\x01\x04\x00abcdefgh")},
		"tls":   {true, []byte("\x16")},
		"greed": {true, endless},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			pki := newPKI(t)
			dress := func(id string) func(*framework.StreamsConfig) {
				return func(s *framework.StreamsConfig) {
					s.HandshakeTimeout, s.IdleTimeout = time.Minute, time.Minute
					if s.Name = id; c.tls {
						s.TLS = pki.node(t, id)
					}
				}
			}
			a, b := w.node("a", dress("a")), w.node("b", dress("b"))
			l := listen(t, b, framework.PlaneRaft, someGroup)
			warm, warmed := link(t, a, "b", l, framework.PlaneRaft, someGroup)
			say(t, warm, warmed, "warm")

			before := memoryInUse()
			var idle []net.Conn
			for range 400 {
				conn, err := net.Dial("tcp", b.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				_, _ = conn.Write(c.says)
				idle = append(idle, conn)
			}
			await(t, "the oldest callers' end", func() bool { return b.value(t, "dropped_total/displaced") == 400-256 })
			if got := b.value(t, "handshakes"); got != 256 {
				t.Errorf("%v handshakes go on", got)
			}
			per := (int64(memoryInUse()) - int64(before)) / 256
			t.Logf("%d bytes for each idle caller", per)
			if per > 64<<10 {
				t.Errorf("%d bytes for each idle caller, at most %d are allowed", per, 64<<10)
			}
			if log := b.log.String(); log != "" {
				t.Errorf("callers who had to make room are in the log: %s", log)
			}
			_ = idle[0].SetReadDeadline(time.Now().Add(30 * time.Second))
			if _, err := idle[0].Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the oldest caller is still there: %v", err)
			}
			mine, theirs := link(t, a, "b", l, framework.PlaneRaft, someGroup)
			say(t, mine, theirs, "a node gets in")
		})
	}
}

func memoryInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// starving is a listener that is out of file descriptors for a while.
type starving struct {
	net.Listener
	failures atomic.Int32
}

func (l *starving) Accept() (net.Conn, error) {
	if l.failures.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: syscall.EMFILE}
	}
	return l.Listener.Accept()
}

func TestAcceptOutlivesAWantOfFileDescriptors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, memnet.New(1))
		a := w.node("a")
		b := w.node("b", func(c *framework.StreamsConfig) {
			l := &starving{Listener: c.Listener}
			l.failures.Store(12)
			c.Listener = l
		})
		l := listen(t, b, framework.PlaneRaft, someGroup)
		mine, theirs := link(t, a, "b", l, framework.PlaneRaft, someGroup)
		say(t, mine, theirs, "in the end")
		if !strings.Contains(b.log.String(), "too many open files") {
			t.Errorf("the log says nothing of it: %q", b.log)
		}
	})
}

func TestStrangersDoNotFillTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, memnet.New(1))
		b := w.node("b")
		knock := func() {
			c, err := w.net.Dialer("x")(context.Background(), b.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			_, _ = c.Write([]byte("garbage and more of it"))
			_, _ = io.ReadAll(c)
			_ = c.Close()
		}
		for range 1000 {
			knock()
		}
		if lines := strings.Count(b.log.String(), "\n"); lines < 5 || lines > 50 {
			t.Errorf("1,000 callers made %d lines", lines)
		}
		time.Sleep(2 * time.Second)
		knock()
		synctest.Wait()
		if !strings.Contains(b.log.String(), "lines=980") {
			t.Errorf("how many were left out is not said: %s", b.log)
		}
		if got := b.value(t, "dropped_total/garbage"); got != 1001 {
			t.Errorf("%v are counted", got)
		}
	})
}
