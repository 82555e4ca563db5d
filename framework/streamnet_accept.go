package framework

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// accept takes connections until the listener is closed. Running out of file
// descriptors only slows it down.
func (s *StreamNet) accept() {
	const shortest, longest = 5 * time.Millisecond, time.Second
	pause := shortest
	for {
		raw, err := s.c.Listener.Accept()
		if err == nil {
			pause = shortest
			s.receive(raw)
			continue
		}
		if errors.Is(err, net.ErrClosed) || s.ctx.Err() != nil {
			return
		}
		s.quiet.warn(s.c.Logger, "cannot accept connections from other nodes; trying on", "error", err)
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-s.ctx.Done():
			t.Stop()
			return
		}
		pause = min(2*pause, longest)
	}
}

// receive starts the handshake of an accepted connection. Callers that do not
// get on with theirs make room for those that do.
func (s *StreamNet) receive(raw net.Conn) {
	s.metrics.accepted.Inc()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = raw.Close()
		return
	}
	for len(s.pending) >= s.c.MaxPending {
		if c, ok := s.pending[s.oldest]; ok {
			s.metrics.dropped.WithLabelValues("displaced").Inc()
			delete(s.pending, s.oldest)
			_ = c.Close() // plain TCP: does not wait
		}
		s.oldest++
	}
	id := s.newest
	s.newest++
	s.pending[id] = raw
	s.running.Go(func() {
		if err := s.welcome(raw, id); err != nil {
			s.drop(raw, err)
		}
		s.mu.Lock()
		delete(s.pending, id)
		s.mu.Unlock()
	})
}

// errRefused means that the caller has been told why not, and it is logged.
var errRefused = errors.New("refused")

// welcome does the accepting side's handshake. With a nil error a listener has
// the connection; otherwise raw is still to be closed.
func (s *StreamNet) welcome(raw net.Conn, id uint64) error {
	keepLively(raw)
	until := time.Now().Add(s.c.HandshakeTimeout)
	if err := raw.SetDeadline(until); err != nil {
		return err
	}
	g := &guard{Conn: raw, left: handshakeBytesMax, idle: s.c.IdleTimeout, until: until}
	var over *tls.Conn
	conn, lasting := net.Conn(g), raw
	if s.c.TLS != nil {
		over = tls.Server(g, s.c.TLS.Server)
		if err := over.Handshake(); err != nil {
			if speaksPlainly(err) {
				s.refuse(raw, hello{}, refuse(RefusedIdentity, "this node takes TLS connections only"))
				return errRefused
			}
			return &tlsError{err}
		}
		conn, lasting = over, over
	}
	f, err := readFrame(conn)
	if err != nil {
		return err
	}
	h, no := s.judge(f, over)
	if s.c.Faults != nil {
		// Behind a cut nobody answers: the caller's patience decides.
		ctx, cancel := context.WithDeadline(s.ctx, until)
		defer cancel()
		if s.c.Faults.link(h.from).waitOpen(ctx) != nil {
			return os.ErrDeadlineExceeded
		}
	}
	if no == nil {
		var l *peerListener
		var c *streamConn
		if l, c, no = s.reserve(id, h, lasting, raw); no == nil {
			return s.settle(l, c, g, h)
		}
	}
	s.refuse(conn, h, no)
	return errRefused
}

// refuse tells a caller why not.
func (s *StreamNet) refuse(conn net.Conn, h hello, no *refusal) {
	s.metrics.refused.WithLabelValues(no.code.String()).Inc()
	s.quiet.warn(s.c.Logger, "refused a connection from another node", "reason", no.reason(),
		"node", string(h.from), "name", h.name, "address", conn.RemoteAddr().String())
	_, _ = conn.Write(no.encode())
}

// speaksPlainly tells whether what came instead of TLS is a node's hello.
func speaksPlainly(err error) bool {
	var header tls.RecordHeaderError
	return errors.As(err, &header) && string(header.RecordHeader[:len(handshakeMagic)]) == handshakeMagic
}

// judge decides about a hello by what it says.
func (s *StreamNet) judge(f frame, over *tls.Conn) (hello, *refusal) {
	if f.version != handshakeVersion {
		return hello{}, refuse(RefusedVersion, "this node speaks version %d of the peer protocol, the caller version %d", handshakeVersion, f.version)
	}
	if f.kind != frameHello {
		return hello{}, refuse(RefusedMalformed, "a frame of kind %d", f.kind)
	}
	h, err := decodeHello(f.body)
	if err != nil {
		return hello{}, refuse(RefusedMalformed, "%s", err)
	}
	if over != nil {
		if no := s.identify(h, over); no != nil {
			return h, no
		}
	}
	if no := sameCluster(h.plane, s.c.Cluster(), h.cluster); no != nil {
		return h, no
	}
	if h.from == s.c.Self {
		return h, refuse(RefusedSameID, "node %q and this one (%q) both have the id %s: one of them runs on a copy of the other's data directory and needs a new, empty one",
			h.name, s.c.Name, h.from)
	}
	if h.to != s.c.Self {
		return h, refuse(RefusedNode, "this is node %s (%q), not %s", s.c.Self, s.c.Name, h.to)
	}
	return h, nil
}

// identify checks the caller's words against its certificate.
func (s *StreamNet) identify(h hello, over *tls.Conn) *refusal {
	name, no := certifiedName(over)
	if no != nil {
		return no
	}
	if name != h.name {
		return refuse(RefusedIdentity, "the caller says it is node %q and its certificate that it is %q", h.name, name)
	}
	if want, known := s.c.NameOf(h.from); known && want != name {
		return refuse(RefusedIdentity, "node %s is %q, and the certificate is that of %q", h.from, want, name)
	}
	return nil
}

// reserve finds the listener and makes the connection count as one of ours: from
// here on Close ends it.
func (s *StreamNet) reserve(id uint64, h hello, lasting, raw net.Conn) (*peerListener, *streamConn, *refusal) {
	c := s.newConn(lasting, raw, h.from, h.name, true)
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.listeners[listenerKey{h.plane, h.group}]
	switch {
	case l == nil:
		return nil, nil, refuse(RefusedListener, "%s of group %s is not open on this node", h.plane, h.group)
	case l.incarnation != h.incarnation:
		return nil, nil, refuse(RefusedIncarnation, "group %s is in incarnation %d here, the caller in %d", h.group, l.incarnation, h.incarnation)
	case s.inbound >= s.c.MaxConns:
		return nil, nil, refuse(RefusedBusy, "this node has %d connections, as many as it may", s.inbound)
	case l.held >= acceptQueueMax:
		return nil, nil, refuse(RefusedBusy, "%d connections wait to be taken by %s of group %s", l.held, h.plane, h.group)
	}
	delete(s.pending, id)
	l.held++
	s.inbound++
	s.conns[c] = struct{}{}
	if s.closed {
		_ = raw.Close() // Close has not seen it
	}
	return l, c, nil
}

// settle answers the caller and hands the connection to the listener.
func (s *StreamNet) settle(l *peerListener, c *streamConn, g *guard, h hello) error {
	err := s.answer(c, g, h)
	if err == nil {
		err = l.put(c)
	} else {
		l.release()
	}
	if err != nil {
		_ = c.Close()
	}
	return err
}

func (s *StreamNet) answer(c *streamConn, g *guard, h hello) error {
	mine := hello{
		plane: h.plane, cluster: s.c.Cluster(), group: h.group, incarnation: h.incarnation,
		from: s.c.Self, to: h.from, name: s.c.Name,
	}
	if _, err := c.Conn.Write(mine.encode(frameWelcome)); err != nil {
		return err
	}
	return g.lift()
}

// tlsError is a failed TLS handshake.
type tlsError struct{ err error }

func (e *tlsError) Error() string { return "TLS: " + e.err.Error() }
func (e *tlsError) Unwrap() error { return e.err }

// drop counts why a connection did not come about, and closes it.
func (s *StreamNet) drop(raw net.Conn, err error) {
	defer raw.Close()
	var byTLS *tlsError
	why := "damaged"
	switch {
	case errors.Is(err, errRefused):
		partFrom(raw)
		return
	case errors.Is(err, net.ErrClosed), s.ctx.Err() != nil: // displaced, or the end of all
		return
	case errors.Is(err, os.ErrDeadlineExceeded):
		why = "timeout"
	case errors.Is(err, errTalksTooMuch):
		why = "oversized"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		// Whoever only looks whether the port is open: no line in the log.
		s.metrics.dropped.WithLabelValues("ended").Inc()
		return
	case errors.Is(err, errNotOurs):
		why = "garbage"
	case errors.As(err, &byTLS):
		why = "tls"
		partFrom(raw)
	}
	s.metrics.dropped.WithLabelValues(why).Inc()
	s.quiet.warn(s.c.Logger, "dropped a connection to the peer port", "reason", err.Error(), "address", raw.RemoteAddr().String())
}

// partFrom lets the other side read what it was told last: closing with bytes
// unread would reset the connection and could destroy that on its way.
func partFrom(raw net.Conn) {
	const patience, bytesMax = 500 * time.Millisecond, 16 << 10
	half, ok := raw.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil || raw.SetReadDeadline(time.Now().Add(patience)) != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, raw, bytesMax)
}
