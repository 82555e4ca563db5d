package framework

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// StreamsConfig is what NewStreams is given. Self, Listener and Resolve must be;
// of the rest zero fields take what is said.
type StreamsConfig struct {
	Self NodeID
	// Name is the node's label. With TLS it is the one in its certificate.
	Name string
	// Cluster is asked at each handshake; nil or the zero UUID while no cluster
	// is formed. Then only the peer service (PlanePeer) reaches nodes of formed
	// clusters, and they this node's.
	Cluster func() UUID
	// Listener is closed by StreamNet.
	Listener net.Listener
	// Dial connects to an address; nil is TCP.
	Dial    func(ctx context.Context, addr string) (net.Conn, error)
	Resolve Resolver
	// NameOf is the name that a node's certificate must have, where known. It
	// binds node ids to certificates; without it a node may take another's id
	// as long as it shows its own name. Used with TLS only.
	NameOf func(NodeID) (string, bool)
	// TLS is nil for connections that prove nothing.
	TLS *StreamTLS
	// MaxConns bounds the accepted connections that have passed the handshake
	// (8,192), MaxPending those that have not (256): with more, the oldest of
	// them is dropped.
	MaxConns, MaxPending int
	// HandshakeTimeout bounds a handshake at either end (10 s), IdleTimeout the
	// silence of a caller within it (5 s).
	HandshakeTimeout, IdleTimeout time.Duration
	Logger                        *slog.Logger
	Metrics                       prometheus.Registerer
	// Faults are injected into every connection; nil costs nothing.
	Faults *Faults
}

// acceptQueueMax is how many connections wait for one listener's Accept.
const acceptQueueMax = 64

// StreamNet is Streams over a listener and a dial function. This file has its
// life and the dialing side, streamnet_accept.go the accepting side,
// streamnet_conn.go what both hand out, handshake.go the bytes between them.
//
// Invariants, under mu: inbound is the number of accepted connections in conns;
// a listener's held is the number on their way to its queue or in it; once
// closed is true nothing is added anywhere.
type StreamNet struct {
	c       StreamsConfig
	metrics *streamMetrics
	quiet   lineLimit
	ctx     context.Context // ends at Close
	stop    context.CancelFunc
	running sync.WaitGroup

	mu        sync.Mutex
	closed    bool
	listeners map[listenerKey]*peerListener
	conns     map[*streamConn]struct{}
	inbound   int
	pending   map[uint64]net.Conn // by order of arrival
	oldest    uint64              // nothing pending is older
	newest    uint64
}

type listenerKey struct {
	plane Plane
	group UUID
}

var _ Streams = (*StreamNet)(nil)

// NewStreams starts to accept connections.
func NewStreams(c StreamsConfig) (*StreamNet, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("connections between nodes: %w", err)
	}
	c.fill()
	s := &StreamNet{
		c: c, metrics: newStreamMetrics(), listeners: map[listenerKey]*peerListener{},
		conns: map[*streamConn]struct{}{}, pending: map[uint64]net.Conn{},
	}
	if err := s.metrics.register(c.Metrics, s); err != nil {
		return nil, fmt.Errorf("connections between nodes: metrics: %w", err)
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.running.Go(s.accept)
	return s, nil
}

func (c *StreamsConfig) check() error {
	if err := checkFit(c.Self, c.Name); err != nil {
		return err
	}
	if c.Listener == nil || c.Resolve == nil {
		return errors.New("a listener and a resolver are needed")
	}
	if c.TLS != nil {
		return c.TLS.check(c.Name)
	}
	return nil
}

func (c *StreamsConfig) fill() {
	if c.Cluster == nil {
		c.Cluster = func() UUID { return UUID{} }
	}
	if c.Dial == nil {
		c.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}
	}
	if c.NameOf == nil {
		c.NameOf = func(NodeID) (string, bool) { return "", false }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	for p, d := range map[*int]int{&c.MaxConns: 8192, &c.MaxPending: 256} {
		if *p <= 0 {
			*p = d
		}
	}
	for p, d := range map[*time.Duration]time.Duration{&c.HandshakeTimeout: 10 * time.Second, &c.IdleTimeout: 5 * time.Second} {
		if *p <= 0 {
			*p = d
		}
	}
}

// Addr is where it listens.
func (s *StreamNet) Addr() net.Addr { return s.c.Listener.Addr() }

// Close ends the listening and every connection, and returns when nothing of it
// runs any more.
func (s *StreamNet) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.stop()
	var ends []io.Closer
	for _, l := range s.listeners {
		ends = append(ends, l)
	}
	for _, c := range s.pending {
		ends = append(ends, c)
	}
	for c := range s.conns {
		// Below TLS first: its goodbye could wait for a stalled peer.
		ends = append(ends, c.raw, c)
	}
	s.mu.Unlock()
	err := s.c.Listener.Close()
	for _, c := range ends {
		_ = c.Close()
	}
	s.running.Wait()
	s.metrics.unregister(s.c.Metrics)
	return err
}

// Listen implements Streams.
func (s *StreamNet) Listen(plane Plane, group GroupIdentity) (PeerListener, error) {
	if plane < PlaneRaft || plane > PlaneBulk {
		return nil, fmt.Errorf("listen for other nodes: there is no plane %d", plane)
	}
	key := listenerKey{plane, group.ID}
	l := &peerListener{
		net: s, key: key, incarnation: group.Incarnation,
		queue: make(chan *streamConn, acceptQueueMax), closed: make(chan struct{}),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, net.ErrClosed
	}
	if _, taken := s.listeners[key]; taken {
		return nil, fmt.Errorf("listen for other nodes: %s of group %s has a listener already", plane, group.ID)
	}
	s.listeners[key] = l
	return l, nil
}

// Dial implements Streams. Its error is a *RefusedError where the other side, or
// this one of the other side, said no; otherwise the node could not be reached.
func (s *StreamNet) Dial(ctx context.Context, to NodeID, plane Plane, group GroupIdentity) (net.Conn, error) {
	c, err := s.dial(ctx, to, plane, group)
	if err != nil {
		s.metrics.dialed.WithLabelValues("failed").Inc()
		return nil, err
	}
	s.metrics.dialed.WithLabelValues("connected").Inc()
	return c, nil
}

func (s *StreamNet) dial(ctx context.Context, to NodeID, plane Plane, group GroupIdentity) (net.Conn, error) {
	if s.ctx.Err() != nil {
		return nil, fmt.Errorf("dial node %s: %w", to, net.ErrClosed)
	}
	if to == s.c.Self {
		return nil, fmt.Errorf("dial node %s: that is this node", to)
	}
	if err := checkFit(to, ""); err != nil {
		return nil, err
	}
	addr, ok := s.c.Resolve(to)
	if !ok {
		return nil, fmt.Errorf("dial node %s: its address is not known now", to)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	if s.c.Faults != nil {
		if s.c.Faults.link(to).waitOpen(ctx) != nil {
			return nil, fmt.Errorf("dial node %s at %s: %w", to, addr, s.whyEnded(ctx))
		}
	}
	raw, err := s.c.Dial(ctx, addr)
	if err != nil {
		if ctx.Err() != nil {
			err = s.whyEnded(ctx)
		}
		return nil, fmt.Errorf("dial node %s at %s: %w", to, addr, err)
	}
	c, err := s.introduce(ctx, raw, to, plane, group)
	if err != nil {
		_ = raw.Close()
		var refused *RefusedError
		if errors.As(err, &refused) {
			return nil, err
		}
		return nil, fmt.Errorf("dial node %s at %s: %w", to, addr, err)
	}
	return c, nil
}

// introduce does the dialing side's handshake.
func (s *StreamNet) introduce(ctx context.Context, raw net.Conn, to NodeID, plane Plane, group GroupIdentity) (net.Conn, error) {
	keepLively(raw)
	_ = raw.SetDeadline(time.Now().Add(s.c.HandshakeTimeout))
	gaveUp := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	c, err := s.exchange(raw, to, plane, group)
	if !gaveUp() {
		return nil, s.whyEnded(ctx)
	}
	if err != nil {
		return nil, err
	}
	if err := raw.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, net.ErrClosed
	}
	s.conns[c] = struct{}{}
	return c, nil
}

// whyEnded tells the caller's end of patience from ours.
func (s *StreamNet) whyEnded(ctx context.Context) error {
	if s.ctx.Err() != nil {
		return net.ErrClosed
	}
	return ctx.Err()
}

func (s *StreamNet) exchange(raw net.Conn, to NodeID, plane Plane, group GroupIdentity) (*streamConn, error) {
	conn, certified := raw, ""
	if s.c.TLS != nil {
		over := tls.Client(raw, s.c.TLS.client(raw.RemoteAddr()))
		if err := over.Handshake(); err != nil {
			return nil, fmt.Errorf("TLS: %w", err)
		}
		name, no := certifiedName(over)
		if want, known := s.c.NameOf(to); no == nil && known && want != name {
			no = refuse(RefusedIdentity, "the certificate there is that of node %q and %q is wanted", name, want)
		}
		if no != nil {
			return nil, &RefusedError{To: to, Code: no.code, Reason: no.reason()}
		}
		conn, certified = over, name
	}
	mine := hello{
		plane: plane, cluster: s.c.Cluster(), group: group.ID, incarnation: group.Incarnation,
		from: s.c.Self, to: to, name: s.c.Name,
	}
	if _, err := conn.Write(mine.encode(frameHello)); err != nil {
		return nil, fmt.Errorf("send the handshake: %w", err)
	}
	theirs, err := readAnswer(conn, to)
	if err != nil {
		return nil, err
	}
	if no := mine.contradicts(theirs, certified); no != nil {
		return nil, &RefusedError{To: to, Code: no.code, Reason: no.reason()}
	}
	return s.newConn(conn, raw, to, theirs.name, false), nil
}

// readAnswer reads the other side's welcome or refusal.
func readAnswer(conn net.Conn, to NodeID) (hello, error) {
	f, err := readFrame(conn)
	if err != nil {
		return hello{}, err
	}
	switch {
	case f.kind == frameRefusal:
		no, err := decodeRefusal(f.body)
		if err != nil {
			return hello{}, err
		}
		return hello{}, &RefusedError{To: to, Code: no.code, Reason: no.reason()}
	case f.version != handshakeVersion || f.kind != frameWelcome:
		return hello{}, fmt.Errorf("%w: an answer of kind %d, version %d", errDamaged, f.kind, f.version)
	}
	return decodeHello(f.body)
}

// contradicts checks a welcome against the hello that it answers.
func (h hello) contradicts(w hello, certified string) *refusal {
	switch {
	case w.from != h.to:
		return refuse(RefusedNode, "node %s (%q) answered", w.from, w.name)
	case w.to != h.from || w.plane != h.plane || w.group != h.group || w.incarnation != h.incarnation:
		return refuse(RefusedMalformed, "the answer is for another connection")
	case certified != "" && w.name != certified:
		return refuse(RefusedIdentity, "it says it is %q and its certificate that it is %q", w.name, certified)
	}
	return sameCluster(h.plane, h.cluster, w.cluster)
}
