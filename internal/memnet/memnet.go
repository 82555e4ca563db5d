// Package memnet is a network in memory, for tests: listeners, dialers and
// packet sockets on named hosts, joined by links that can be cut, slowed and
// made lossy, each direction by itself.
//
// It is not a simulator: goroutines run as Go schedules them, so equal seeds
// give equal draws for each link and connection, not equal runs. Everything that
// waits does so on condition variables, channels and timers, so a Network made
// inside a testing/synctest bubble, and used only there, lets the bubble's clock
// move on. It starts no goroutine.
//
// What faults do to a stream is what they do to TCP: bytes are never lost,
// doubled or swapped, they come late or not at all. A packet socket gets the
// real thing. See Quality and the Cut methods in link.go; then stream.go and
// packet.go.
package memnet

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Addr is an address on a Network: "host:port". Faults go by the host.
type Addr string

// Network says "memnet".
func (Addr) Network() string { return "memnet" }

func (a Addr) String() string { return string(a) }

const (
	// firstPort is where the ports that nobody asked for by number begin.
	firstPort = 49152
	// backlogMax is how many connections wait for an Accept.
	backlogMax = 128
	// synRetry is when a dialer tries again at a listener that is full.
	synRetry = 200 * time.Millisecond
)

// Network is a set of hosts and the links between them. A host exists by being
// named. Safe for concurrent use.
type Network struct {
	seed uint64

	mu        sync.Mutex
	listeners map[string]*listener
	sockets   map[string]*packetConn
	streams   map[*stream]struct{} // both ends of every open connection
	links     map[pair]*link
	quality   Quality // of links not set by themselves
	cuts      map[pair]bool
	isolated  map[string]bool
	ports     map[string]int
	changed   chan struct{} // closed and replaced when any link changes
}

// New makes an empty network with perfect links.
func New(seed uint64) *Network {
	return &Network{
		seed:      seed,
		listeners: map[string]*listener{},
		sockets:   map[string]*packetConn{},
		streams:   map[*stream]struct{}{},
		links:     map[pair]*link{},
		cuts:      map[pair]bool{},
		isolated:  map[string]bool{},
		ports:     map[string]int{},
		changed:   make(chan struct{}),
	}
}

// Listen takes stream connections at "host:port"; port 0 or none picks one.
func (n *Network) Listen(addr string) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	addr = n.withPort(addr)
	if _, taken := n.listeners[addr]; taken {
		return nil, opError("listen", addr, syscall.EADDRINUSE)
	}
	l := &listener{net: n, addr: Addr(addr), queue: make(chan *stream, backlogMax), closed: make(chan struct{})}
	n.listeners[addr] = l
	return l, nil
}

// withPort gives addr a port when it has none. It needs n.mu.
func (n *Network) withPort(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		host, port = addr, "0"
	}
	if port != "0" {
		return addr
	}
	n.ports[host]++
	return net.JoinHostPort(host, strconv.Itoa(firstPort+n.ports[host]-1))
}

// hostOf is the host of "host:port", or addr itself.
func hostOf(addr string) string {
	if host, _, err := net.SplitHostPort(addr); err == nil {
		return host
	}
	return addr
}

// Dialer returns a function that connects from a host (named alone or in an
// address). While the link is cut either way it waits for ctx or the heal, as a
// lost SYN does; where nobody listens it answers at once.
func (n *Network) Dialer(from string) func(ctx context.Context, addr string) (net.Conn, error) {
	host := hostOf(from)
	return func(ctx context.Context, addr string) (net.Conn, error) {
		c, err := n.dial(ctx, host, addr)
		if err != nil {
			return nil, opError("dial", addr, err)
		}
		return c, nil
	}
}

func (n *Network) dial(ctx context.Context, from, addr string) (net.Conn, error) {
	if err := n.handshakeTime(ctx, from, hostOf(addr)); err != nil {
		return nil, err
	}
	for {
		c, wait, err := n.tryConnect(from, addr)
		if c != nil || err != nil {
			return c, err
		}
		if err := pause(ctx, wait.atMost, wait.until); err != nil {
			return nil, err
		}
	}
}

// retry says when to try again.
type retry struct {
	until  <-chan struct{}
	atMost time.Duration // 0: no limit
}

// tryConnect makes the connection, or says when to try again.
func (n *Network) tryConnect(from, addr string) (net.Conn, retry, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	out, back := n.link(from, hostOf(addr)), n.link(hostOf(addr), from)
	if out.isCut() || back.isCut() {
		return nil, retry{until: n.changed}, nil
	}
	l := n.listeners[addr]
	if l == nil {
		return nil, retry{}, syscall.ECONNREFUSED
	}
	if len(l.queue) == cap(l.queue) {
		return nil, retry{until: l.closed, atMost: synRetry}, nil
	}
	client, server := newStreams(n, n.withPort(from), addr, out, back)
	n.streams[client], n.streams[server] = struct{}{}, struct{}{}
	l.queue <- server // has room: only we send, under n.mu
	return client, retry{}, nil
}

// handshakeTime lets a round trip of the link's delay pass.
func (n *Network) handshakeTime(ctx context.Context, from, to string) error {
	n.mu.Lock()
	out, back := n.link(from, to), n.link(to, from)
	d := out.lateness(out.rng) + back.lateness(back.rng)
	n.mu.Unlock()
	if d == 0 {
		return ctx.Err()
	}
	return pause(ctx, d, nil)
}

// pause waits until early is closed, for atMost at the longest where that is
// not 0.
func pause(ctx context.Context, atMost time.Duration, early <-chan struct{}) error {
	var late <-chan time.Time
	if atMost > 0 {
		t := time.NewTimer(atMost)
		defer t.Stop()
		late = t.C
	}
	select {
	case <-late:
	case <-early:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// Reset breaks every connection between two hosts, at both ends and at once,
// whatever the link's state: reads and writes fail with ECONNRESET.
func (n *Network) Reset(a, b string) {
	for _, s := range n.streamsWhere(func(p pair) bool { return p == pair{a, b} || p == pair{b, a} }) {
		s.reset()
	}
}

// Crash is what a host's process dying looks like to the others: its listeners
// and packet sockets are gone and its connections are reset.
func (n *Network) Crash(host string) {
	n.mu.Lock()
	var listeners []*listener
	for addr, l := range n.listeners {
		if hostOf(addr) == host {
			listeners = append(listeners, l)
		}
	}
	var sockets []*packetConn
	for addr, s := range n.sockets {
		if hostOf(addr) == host {
			sockets = append(sockets, s)
		}
	}
	n.mu.Unlock()
	for _, l := range listeners {
		_ = l.Close()
	}
	for _, s := range sockets {
		_ = s.Close()
	}
	for _, s := range n.streamsWhere(func(p pair) bool { return p.from == host || p.to == host }) {
		s.reset()
	}
}

func (n *Network) streamsWhere(want func(pair) bool) []*stream {
	n.mu.Lock()
	defer n.mu.Unlock()
	var found []*stream
	for s := range n.streams {
		if want(pair{hostOf(string(s.local)), hostOf(string(s.remote))}) {
			found = append(found, s)
		}
	}
	return found
}

// newRand seeds a source from the network's seed and a name.
func (n *Network) newRand(name string) *rand.Rand {
	h := uint64(14695981039346656037)
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * 1099511628211
	}
	return rand.New(rand.NewPCG(n.seed, h))
}

// listener is a net.Listener.
type listener struct {
	net    *Network
	addr   Addr
	queue  chan *stream  // sent to under net.mu only
	closed chan struct{} // closed under net.mu
}

// Accept waits for the next connection.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case <-l.closed:
		return nil, opError("accept", string(l.addr), net.ErrClosed)
	default:
	}
	select {
	case s := <-l.queue:
		return s, nil
	case <-l.closed:
		return nil, opError("accept", string(l.addr), net.ErrClosed)
	}
}

// Close frees the address and resets the connections that nobody accepted.
func (l *listener) Close() error {
	l.net.mu.Lock()
	var left []*stream
	select {
	case <-l.closed:
	default:
		close(l.closed)
		delete(l.net.listeners, string(l.addr))
		for len(l.queue) > 0 {
			left = append(left, <-l.queue)
		}
	}
	l.net.mu.Unlock()
	for _, s := range left {
		s.reset()
		_ = s.Close()
	}
	return nil
}

// Addr is where it listens.
func (l *listener) Addr() net.Addr { return l.addr }

func opError(op, addr string, err error) error {
	return &net.OpError{Op: op, Net: "memnet", Addr: Addr(addr), Err: err}
}

// pair is a directed pair of hosts.
type pair struct{ from, to string }

func (p pair) String() string { return fmt.Sprintf("%s>%s", p.from, p.to) }
