package raftengine

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/diarchy/diarchy/framework"
)

// streamLayer is raft's StreamLayer over framework.Streams: an address is a node
// id, found and proved below. It knows every connection it has given out, because
// NetworkTransport.Close closes none of them.
type streamLayer struct {
	streams  framework.Streams
	group    framework.GroupIdentity
	self     nodeAddr
	listener framework.PeerListener
	ctx      context.Context // ends with the layer, and dials with it
	cancel   context.CancelFunc

	mu     sync.Mutex
	closed bool
	conns  map[*layerConn]struct{}
}

var _ raft.StreamLayer = (*streamLayer)(nil)

// nodeAddr is a node id as a net.Addr.
type nodeAddr framework.NodeID

func (nodeAddr) Network() string  { return "diarchy" }
func (a nodeAddr) String() string { return string(a) }

func newStreamLayer(c *framework.EngineConfig) (*streamLayer, error) {
	l, err := c.Streams.Listen(framework.PlaneRaft, c.Group)
	if err != nil {
		return nil, fmt.Errorf("listen for the group's connections: %w", err)
	}
	s := &streamLayer{
		streams: c.Streams, group: c.Group, self: nodeAddr(c.Self), listener: l, conns: map[*layerConn]struct{}{},
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

func (s *streamLayer) Accept() (net.Conn, error) {
	c, err := s.listener.Accept()
	if err != nil {
		return nil, err
	}
	return s.track(c)
}

func (s *streamLayer) Addr() net.Addr { return s.self }

// Close ends Accept.
func (s *streamLayer) Close() error { return s.listener.Close() }

func (s *streamLayer) Dial(to raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(s.ctx, timeout)
	defer cancel()
	c, err := s.streams.Dial(ctx, framework.NodeID(to), framework.PlaneRaft, s.group)
	if err != nil {
		return nil, err
	}
	return s.track(c)
}

func (s *streamLayer) track(c net.Conn) (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = c.Close()
		return nil, net.ErrClosed
	}
	lc := &layerConn{Conn: c, layer: s}
	s.conns[lc] = struct{}{}
	return lc, nil
}

// closeConns closes every connection there is and will be.
func (s *streamLayer) closeConns() {
	s.cancel()
	s.mu.Lock()
	s.closed = true
	conns := s.conns
	s.conns = map[*layerConn]struct{}{}
	s.mu.Unlock()
	for c := range conns {
		_ = c.Conn.Close() // whoever uses it hears of it there
	}
}

type layerConn struct {
	net.Conn
	layer *streamLayer
}

func (c *layerConn) Close() error {
	c.layer.mu.Lock()
	delete(c.layer.conns, c)
	c.layer.mu.Unlock()
	return c.Conn.Close()
}
