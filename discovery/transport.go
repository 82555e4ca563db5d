package discovery

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"
)

// streamsMax bounds the TCP connections of others that are open at once: each
// may sit idle for Timing.StreamTimeout before memberlist drops it.
const streamsMax = 256

// transport is memberlist's own over UDP and TCP, with two things added: a cap
// on open connections, and dials that end when the pool is closed.
type transport struct {
	*memberlist.NetTransport
	streams  chan net.Conn
	slots    chan struct{} // one taken by each open connection
	refused  prometheus.Counter
	stopping context.Context
	stop     context.CancelFunc
	closed   chan struct{}
	once     sync.Once
	pumped   sync.WaitGroup
}

// listen opens the sockets, UDP and TCP on the same port. It has nothing open
// when it fails.
func listen(ip netip.Addr, port uint16, logger *log.Logger, refused prometheus.Counter) (*transport, netip.AddrPort, error) {
	var nt *memberlist.NetTransport
	var err error
	// A free TCP port need not be free for UDP: where we may choose, try again.
	for range 10 {
		nt, err = memberlist.NewNetTransport(&memberlist.NetTransportConfig{
			BindAddrs: []string{ip.String()}, BindPort: int(port), Logger: logger,
		})
		if err == nil || port != 0 {
			break
		}
	}
	if err != nil {
		return nil, netip.AddrPort{}, listenError(ip, port, err)
	}
	t := &transport{NetTransport: nt, streams: make(chan net.Conn), slots: make(chan struct{}, streamsMax), closed: make(chan struct{}), refused: refused}
	t.stopping, t.stop = context.WithCancel(context.Background())
	t.pumped.Go(t.pump)
	return t, netip.AddrPortFrom(ip, uint16(nt.GetAutoBindPort())), nil
}

func listenError(ip netip.Addr, port uint16, err error) error {
	at := netip.AddrPortFrom(ip, port)
	// memberlist wraps with %v: the cause is in the text alone.
	if busy := syscall.EADDRINUSE.Error(); errors.Is(err, syscall.EADDRINUSE) || strings.Contains(err.Error(), busy) {
		return invalid("gossip address %s is in use by another program: choose another gossip.bind, or stop what uses it (%v)", at, err)
	}
	if strings.Contains(err.Error(), syscall.EADDRNOTAVAIL.Error()) {
		return invalid("gossip address %s does not belong to this machine: set gossip.bind to one of its addresses (%v)", at, err)
	}
	return fmt.Errorf("listen for gossip on %s: %w", at, err)
}

// pump hands accepted connections on while there is a slot for them. From the
// beginning of Shutdown to its end it takes whatever comes and drops it, since
// the sockets' goroutines end only once they are rid of what they hold.
func (t *transport) pump() {
	for t.stopping.Err() == nil {
		select {
		case <-t.stopping.Done():
		case c := <-t.NetTransport.StreamCh():
			t.hand(c)
		}
	}
	for {
		select {
		case <-t.closed:
			return
		case c := <-t.NetTransport.StreamCh():
			_ = c.Close()
		case <-t.PacketCh():
		}
	}
}

func (t *transport) hand(c net.Conn) {
	select {
	case t.slots <- struct{}{}:
	default:
		t.refused.Inc()
		_ = c.Close()
		return
	}
	s := &stream{Conn: c, slots: t.slots}
	select {
	case t.streams <- s:
	case <-t.stopping.Done():
		_ = s.Close()
	}
}

func (t *transport) StreamCh() <-chan net.Conn { return t.streams }

func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

func (t *transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(t.stopping, timeout)
	defer cancel()
	return (&net.Dialer{}).DialContext(ctx, "tcp", a.Addr)
}

// Shutdown closes the sockets and waits for their goroutines.
func (t *transport) Shutdown() error {
	t.stop()
	err := t.NetTransport.Shutdown()
	t.once.Do(func() { close(t.closed) })
	t.pumped.Wait()
	return err
}

// stream gives its slot back when it is closed.
type stream struct {
	net.Conn
	slots chan struct{}
	once  sync.Once
}

func (s *stream) Close() error {
	s.once.Do(func() { <-s.slots })
	return s.Conn.Close()
}
