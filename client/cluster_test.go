package client_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/diarchy/diarchy/client"
	"github.com/diarchy/diarchy/server"
	"github.com/diarchy/diarchy/server/servertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cluster is n real servers in front of one cluster in memory.
type cluster struct {
	*servertest.Cluster
	t     *testing.T
	ports []*nodePort
}

// nodePort is one node's server, behind a relay that can be frozen.
type nodePort struct {
	t      *testing.T
	cfg    server.Config
	server *server.Server
	served chan error
	addr   string // of the server
	relay  *relay
}

func start(t *testing.T, n int, edit func(*server.Config)) *cluster {
	t.Helper()
	c := &cluster{Cluster: servertest.New(n), t: t}
	for i := range n {
		cfg := server.Config{Service: c.Node(i), Version: "test"}
		if edit != nil {
			edit(&cfg)
		}
		p := &nodePort{t: t, cfg: cfg}
		p.start("127.0.0.1:0")
		p.relay = newRelay(t, p.addr)
		c.Node(i).SetClientAddr(p.relay.addr())
		c.ports = append(c.ports, p)
	}
	t.Cleanup(func() {
		for _, p := range c.ports {
			p.relay.close()
			p.stop()
		}
	})
	return c
}

func (p *nodePort) start(addr string) {
	p.t.Helper()
	s, err := server.New(p.cfg)
	if err != nil {
		p.t.Fatal(err)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		p.t.Fatal(err)
	}
	p.server, p.addr, p.served = s, l.Addr().String(), make(chan error, 1)
	served := p.served
	go func() { served <- s.Serve(l) }()
}

// stop ends the server; what is under way has no time to finish.
func (p *nodePort) stop() {
	if p.server == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	_ = p.server.Close(ctx)
	if err := <-p.served; err != nil {
		p.t.Errorf("Serve: %v", err)
	}
	p.server = nil
}

func (p *nodePort) restart() { p.start(p.addr) }

// addrs are where clients reach the nodes.
func (c *cluster) addrs() []string {
	var out []string
	for _, p := range c.ports {
		out = append(out, p.relay.addr())
	}
	return out
}

// client makes a client of all nodes, or of those given.
func (c *cluster) client(edit func(*client.Config)) *client.Client {
	c.t.Helper()
	cfg := client.Config{Addresses: c.addrs(), DeadAfter: 500 * time.Millisecond}
	if edit != nil {
		edit(&cfg)
	}
	cl, err := client.New(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		if err := cl.Close(); err != nil {
			c.t.Error(err)
		}
	})
	return cl
}

func (c *cluster) group(edit func(*client.Config)) *client.Group {
	c.t.Helper()
	return c.client(edit).Group(servertest.GroupName)
}

// relay passes bytes between clients and a server. Frozen, it takes them and
// passes nothing on; cut, it closes what there is.
type relay struct {
	l  net.Listener
	to string
	wg sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]bool
	thaw   chan struct{} // not nil while frozen
	back   bool          // frozen only from the server to the client
	closed bool
	dials  int
}

func newRelay(t *testing.T, to string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{l: l, to: to, conns: map[net.Conn]bool{}}
	r.wg.Go(r.accept)
	return r
}

func (r *relay) addr() string { return r.l.Addr().String() }

func (r *relay) accept() {
	for {
		in, err := r.l.Accept()
		if err != nil {
			return
		}
		r.mu.Lock()
		r.dials++
		r.mu.Unlock()
		out, err := net.Dial("tcp", r.to)
		if err != nil || !r.keep(in, out) {
			in.Close()
			continue
		}
		r.wg.Go(func() { r.pass(in, out, false) })
		r.wg.Go(func() { r.pass(out, in, true) })
	}
}

func (r *relay) keep(conns ...net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range conns {
		if r.closed {
			c.Close()
			continue
		}
		r.conns[c] = true
	}
	return !r.closed
}

func (r *relay) pass(from, to net.Conn, back bool) {
	defer func() {
		from.Close()
		to.Close()
		r.mu.Lock()
		delete(r.conns, from)
		delete(r.conns, to)
		r.mu.Unlock()
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		r.mu.Lock()
		thaw := r.thaw
		if r.back && !back {
			thaw = nil
		}
		r.mu.Unlock()
		if thaw != nil {
			<-thaw
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// freeze holds every byte back, or only the server's, until melt.
func (r *relay) freeze(onlyAnswers bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.thaw, r.back = make(chan struct{}), onlyAnswers
}

func (r *relay) melt() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.thaw != nil {
		close(r.thaw)
		r.thaw = nil
	}
}

// cut closes every connection there is.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		c.Close()
	}
}

func (r *relay) dialled() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dials
}

func (r *relay) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.l.Close()
	r.melt()
	r.cut()
	r.wg.Wait()
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func waitFor(t *testing.T, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not come about within 10 s")
		}
	}
}
