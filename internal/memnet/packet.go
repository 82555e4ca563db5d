package memnet

import (
	"container/heap"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	// packetBytesMax is the longest packet, as in UDP over IPv4.
	packetBytesMax = 65507
	// inboxMax is how many packets a socket holds or has in flight to it; more
	// are dropped, as a full receive buffer does.
	inboxMax = 4096
)

// Packet opens a packet socket at "host:port"; port 0 or none picks one. Its
// WriteTo takes any net.Addr whose String is an address of the network. Packets
// are lost, doubled, late and out of order as the link's Quality says; those to
// an address where no socket is vanish.
func (n *Network) Packet(addr string) (net.PacketConn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	addr = n.withPort(addr)
	if _, taken := n.sockets[addr]; taken {
		return nil, opError("listen", addr, syscall.EADDRINUSE)
	}
	c := &packetConn{net: n, addr: Addr(addr)}
	c.cond.L = &c.mu
	n.sockets[addr] = c
	return c, nil
}

type packetConn struct {
	net  *Network
	addr Addr

	mu       sync.Mutex
	cond     sync.Cond
	inbox    inbox
	arrived  uint64
	closed   bool
	readBy   alarm
	delivery *time.Timer
}

// WriteTo sends one packet. It never waits.
func (c *packetConn) WriteTo(p []byte, to net.Addr) (int, error) {
	if len(p) > packetBytesMax {
		return 0, opError("write", to.String(), syscall.EMSGSIZE)
	}
	c.mu.Lock()
	closed := c.closed
	c.mu.Unlock()
	if closed {
		return 0, opError("write", to.String(), net.ErrClosed)
	}
	target, due := c.net.route(string(c.addr), to.String())
	for _, at := range due {
		target.deliver(packet{data: append([]byte(nil), p...), from: c.addr, due: at})
	}
	return len(p), nil
}

// route draws a packet's fate: where it goes, and when each copy arrives.
func (n *Network) route(from, to string) (*packetConn, []time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	target, l := n.sockets[to], n.link(hostOf(from), hostOf(to))
	state := l.state.Load()
	if target == nil || state.cut || (state.Loss > 0 && l.rng.Float64() < state.Loss) {
		return nil, nil
	}
	due := make([]time.Time, 0, 2)
	due = append(due, time.Now().Add(state.inFlight(l.rng)))
	if state.Duplicate > 0 && l.rng.Float64() < state.Duplicate {
		due = append(due, time.Now().Add(state.inFlight(l.rng)))
	}
	return target, due
}

func (c *packetConn) deliver(p packet) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || len(c.inbox) >= inboxMax {
		return
	}
	c.arrived++
	p.order = c.arrived
	heap.Push(&c.inbox, p)
	c.cond.Broadcast()
}

// ReadFrom waits for the next packet that is due. What is longer than b is cut.
func (c *packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.closed:
			return 0, nil, opError("read", string(c.addr), net.ErrClosed)
		case c.readBy.passed():
			return 0, nil, opError("read", string(c.addr), os.ErrDeadlineExceeded)
		}
		if len(c.inbox) > 0 {
			if wait := time.Until(c.inbox[0].due); wait > 0 {
				c.wakeAfter(wait)
			} else {
				p := heap.Pop(&c.inbox).(packet)
				return copy(b, p.data), p.from, nil
			}
		}
		c.cond.Wait()
	}
}

func (c *packetConn) wakeAfter(d time.Duration) {
	if c.delivery == nil {
		c.delivery = time.AfterFunc(d, c.wake)
		return
	}
	c.delivery.Reset(d)
}

func (c *packetConn) wake() {
	c.mu.Lock()
	c.cond.Broadcast()
	c.mu.Unlock()
}

// Close frees the address.
func (c *packetConn) Close() error {
	c.net.mu.Lock()
	if c.net.sockets[string(c.addr)] == c {
		delete(c.net.sockets, string(c.addr))
	}
	c.net.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.inbox = nil
	c.readBy.stop()
	if c.delivery != nil {
		c.delivery.Stop()
	}
	c.cond.Broadcast()
	return nil
}

func (c *packetConn) LocalAddr() net.Addr { return c.addr }

func (c *packetConn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetWriteDeadline does nothing: writes do not wait.
func (c *packetConn) SetWriteDeadline(time.Time) error { return nil }

func (c *packetConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return opError("set", string(c.addr), net.ErrClosed)
	}
	c.readBy.stop()
	c.readBy.at = t
	if d := time.Until(t); !t.IsZero() && d > 0 {
		c.readBy.timer = time.AfterFunc(d, c.wake)
	}
	c.cond.Broadcast()
	return nil
}

type packet struct {
	data  []byte
	from  Addr
	due   time.Time
	order uint64
}

// inbox is a heap by due time, then by order of sending.
type inbox []packet

func (q inbox) Len() int      { return len(q) }
func (q inbox) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q inbox) Less(i, j int) bool {
	if !q[i].due.Equal(q[j].due) {
		return q[i].due.Before(q[j].due)
	}
	return q[i].order < q[j].order
}
func (q *inbox) Push(x any) { *q = append(*q, x.(packet)) }
func (q *inbox) Pop() any {
	old := *q
	last := len(old) - 1
	p := old[last]
	old[last] = packet{}
	*q = old[:last]
	return p
}
