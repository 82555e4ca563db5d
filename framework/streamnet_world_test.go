package framework_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/diarchy/diarchy/framework"
	"github.com/diarchy/diarchy/internal/memnet"
)

// streamWorld is where the nodes of a test find each other.
type streamWorld struct {
	t    *testing.T
	net  *memnet.Network // nil: TCP on the loopback
	mu   sync.Mutex
	addr map[framework.NodeID]string
}

func newWorld(t *testing.T, network *memnet.Network) *streamWorld {
	t.Helper()
	return &streamWorld{t: t, net: network, addr: map[framework.NodeID]string{}}
}

// eachNetwork runs a test over TCP and, in a bubble, over memory.
func eachNetwork(t *testing.T, test func(t *testing.T, w *streamWorld)) {
	t.Run("tcp", func(t *testing.T) {
		before := goleak.IgnoreCurrent()
		t.Cleanup(func() { goleak.VerifyNone(t, before) }) // after the nodes have closed
		test(t, newWorld(t, nil))
	})
	t.Run("memory", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { test(t, newWorld(t, memnet.New(1))) })
	})
}

func (w *streamWorld) set(id framework.NodeID, addr string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.addr[id] = addr
}

func (w *streamWorld) resolve(id framework.NodeID) (string, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	a, ok := w.addr[id]
	return a, ok
}

// testNode is a StreamNet and what it says of itself.
type testNode struct {
	*framework.StreamNet
	log     *lockedBuffer
	metrics *prometheus.Registry
}

// lockedBuffer is a log that goroutines share.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// node starts a node, which ends with the test. The edits change its settings.
func (w *streamWorld) node(id framework.NodeID, edits ...func(*framework.StreamsConfig)) *testNode {
	w.t.Helper()
	var l net.Listener
	var err error
	var dial func(context.Context, string) (net.Conn, error)
	if w.net == nil {
		l, err = net.Listen("tcp", "127.0.0.1:0")
	} else {
		l, err = w.net.Listen(string(id))
		dial = w.net.Dialer(string(id))
	}
	if err != nil {
		w.t.Fatal(err)
	}
	n := &testNode{log: &lockedBuffer{}, metrics: prometheus.NewRegistry()}
	c := framework.StreamsConfig{
		Self: id, Name: "name-of-" + string(id), Listener: l, Dial: dial, Resolve: w.resolve,
		Cluster: func() framework.UUID { return framework.UUID{1} },
		Logger:  slog.New(slog.NewTextHandler(n.log, nil)), Metrics: n.metrics,
	}
	for _, edit := range edits {
		edit(&c)
	}
	if n.StreamNet, err = framework.NewStreams(c); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = n.Close() })
	w.set(id, n.Addr().String())
	return n
}

// value reads a metric with its labels' values as "name/value"; -1 when absent.
func (n *testNode) value(t *testing.T, name string) float64 {
	t.Helper()
	families, err := n.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	name, label, labelled := strings.Cut(name, "/")
	for _, f := range families {
		if f.GetName() != "diarchy_peer_"+name {
			continue
		}
		for _, m := range f.GetMetric() {
			if labelled && (len(m.GetLabel()) != 1 || m.GetLabel()[0].GetValue() != label) {
				continue
			}
			return m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return -1
}

// await polls for a condition of another goroutine's making.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never came: %s", what)
		}
	}
}

func listen(t *testing.T, n *testNode, p framework.Plane, g framework.GroupIdentity) framework.PeerListener {
	t.Helper()
	l, err := n.Listen(p, g)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// link connects two nodes, the acceptor's end second.
func link(t *testing.T, from *testNode, to framework.NodeID, l framework.PeerListener, p framework.Plane, g framework.GroupIdentity) (net.Conn, framework.PeerConn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := from.Dial(ctx, to, p, g)
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return c, s
}

func say(t *testing.T, from, to net.Conn, s string) {
	t.Helper()
	if _, err := from.Write([]byte(s)); err != nil {
		t.Fatal(err)
	}
	hear(t, to, s)
}

func hear(t *testing.T, c net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("heard %q, %v; want %q", got, err, want)
	}
}

var someGroup = framework.GroupIdentity{ID: framework.UUID{7}, Incarnation: 2, Name: "orders"}
