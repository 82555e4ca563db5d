package framework

import (
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// streamConn is a connection that has passed the handshake, accepted or dialed.
// It is a PeerConn.
type streamConn struct {
	net.Conn          // plain, TLS, or either under Faults
	raw      net.Conn // below all that
	owner    *StreamNet
	from     NodeID
	name     string
	inbound  bool
}

func (s *StreamNet) newConn(c, raw net.Conn, from NodeID, name string, inbound bool) *streamConn {
	if s.c.Faults != nil {
		c = newFaultConn(c, s.c.Faults.link(from))
	}
	return &streamConn{Conn: c, raw: raw, owner: s, from: from, name: name, inbound: inbound}
}

// From is the node at the other end.
func (c *streamConn) From() NodeID { return c.from }

// Name is the label of the node at the other end: with TLS the one in its
// certificate, otherwise what it says.
func (c *streamConn) Name() string { return c.name }

// Close ends the connection. Closing again does nothing but say so.
func (c *streamConn) Close() error {
	s := c.owner
	s.mu.Lock()
	if _, open := s.conns[c]; open {
		delete(s.conns, c)
		if c.inbound {
			s.inbound--
		}
	}
	s.mu.Unlock()
	return c.Conn.Close()
}

// keepLively makes TCP send small frames at once and notice dead peers.
func keepLively(c net.Conn) {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	_ = t.SetNoDelay(true)
	_ = t.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3})
}

// peerListener is a PeerListener of a StreamNet.
type peerListener struct {
	net         *StreamNet
	key         listenerKey
	incarnation uint32
	held        int              // guarded by net.mu
	queue       chan *streamConn // sent to under net.mu, with room for all held
	closed      chan struct{}    // closed under net.mu
}

// Accept implements PeerListener.
func (l *peerListener) Accept() (PeerConn, error) {
	select {
	case <-l.closed:
		return nil, net.ErrClosed
	default:
	}
	select {
	case c := <-l.queue:
		l.release()
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// put queues a connection that has its place.
func (l *peerListener) put(c *streamConn) error {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	select {
	case <-l.closed:
		return net.ErrClosed
	default:
	}
	l.queue <- c
	return nil
}

// release gives a place in the queue free.
func (l *peerListener) release() {
	l.net.mu.Lock()
	l.held--
	l.net.mu.Unlock()
}

// Close implements PeerListener: connections that nobody has taken end.
func (l *peerListener) Close() error {
	l.net.mu.Lock()
	var left []*streamConn
	select {
	case <-l.closed:
	default:
		close(l.closed)
		delete(l.net.listeners, l.key)
		for len(l.queue) > 0 {
			left = append(left, <-l.queue)
		}
	}
	l.net.mu.Unlock()
	for _, c := range left {
		_ = c.Close()
	}
	return nil
}

// streamMetrics counts what becomes of connections between nodes.
type streamMetrics struct {
	accepted         prometheus.Counter
	dialed           *prometheus.CounterVec
	refused, dropped *prometheus.CounterVec
	all              []prometheus.Collector
}

func newStreamMetrics() *streamMetrics {
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Name: "diarchy_peer_" + name, Help: help}
	}
	return &streamMetrics{
		accepted: prometheus.NewCounter(counter("accepted_total", "Connections accepted on the peer port, before any handshake.")),
		dialed:   prometheus.NewCounterVec(counter("dialed_total", "Connections dialed to other nodes, by result."), []string{"result"}),
		refused:  prometheus.NewCounterVec(counter("refused_total", "Handshakes that this node refused, by reason."), []string{"reason"}),
		dropped:  prometheus.NewCounterVec(counter("dropped_total", "Connections dropped without an answer, by reason."), []string{"reason"}),
	}
}

// register shows the metrics of s; reg may be nil. It is all or nothing.
func (m *streamMetrics) register(reg prometheus.Registerer, s *StreamNet) error {
	if reg == nil {
		return nil
	}
	gauge := func(name, help string, read func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "diarchy_peer_" + name, Help: help}, func() float64 {
			s.mu.Lock()
			defer s.mu.Unlock()
			return float64(read())
		})
	}
	wanted := []prometheus.Collector{
		m.accepted, m.dialed, m.refused, m.dropped,
		gauge("connections", "Open connections with other nodes, dialed and accepted.", func() int { return len(s.conns) }),
		gauge("handshakes", "Accepted connections whose handshake goes on.", func() int { return len(s.pending) }),
	}
	for _, c := range wanted {
		if err := reg.Register(c); err != nil {
			m.unregister(reg)
			return errors.Join(errors.New("each StreamNet needs a registerer of its own"), err)
		}
		m.all = append(m.all, c)
	}
	return nil
}

func (m *streamMetrics) unregister(reg prometheus.Registerer) {
	for _, c := range m.all {
		reg.Unregister(c)
	}
	m.all = nil
}

// lineLimit keeps strangers from filling the log: some lines a second, then one
// that says how many were left out.
type lineLimit struct {
	mu           sync.Mutex
	second       int64
	lines, muted int
}

const linesPerSecond = 20

func (l *lineLimit) warn(log *slog.Logger, msg string, args ...any) {
	l.mu.Lock()
	muted := 0
	if now := time.Now().Unix(); now != l.second {
		l.second, l.lines, muted, l.muted = now, 0, l.muted, 0
	}
	l.lines++
	show := l.lines <= linesPerSecond
	if !show {
		l.muted++
	}
	l.mu.Unlock()
	if muted > 0 {
		log.Warn("left out lines about connections to the peer port", "lines", muted)
	}
	if show {
		log.Warn(msg, args...)
	}
}
