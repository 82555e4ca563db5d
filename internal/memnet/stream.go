package memnet

import (
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const (
	// bufferBytesMax is how much one direction of a connection holds before
	// its writer waits.
	bufferBytesMax = 64 << 10
	// segmentBytesMax is how much of a write is late or on time together.
	segmentBytesMax = 16 << 10
)

// stream is one end of a connection.
type stream struct {
	net           *Network
	local, remote Addr
	in, out       *half
}

// newStreams makes both ends. It needs n.mu.
func newStreams(n *Network, from, to string, out, back *link) (client, server *stream) {
	out.opened++
	name := from + ">" + to + "#" + strconv.Itoa(out.opened)
	there := newHalf(out, back, n.newRand(name+">"))
	here := newHalf(back, out, n.newRand(name+"<"))
	client = &stream{net: n, local: Addr(from), remote: Addr(to), in: here, out: there}
	server = &stream{net: n, local: Addr(to), remote: Addr(from), in: there, out: here}
	return client, server
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.in.read(p)
	return n, s.failed("read", err)
}

func (s *stream) Write(p []byte) (int, error) {
	n, err := s.out.write(p)
	return n, s.failed("write", err)
}

func (s *stream) failed(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return &net.OpError{Op: op, Net: "memnet", Source: s.local, Addr: s.remote, Err: err}
}

// Close ends both directions: the other end reads what was written, then EOF.
func (s *stream) Close() error {
	s.net.mu.Lock()
	delete(s.net.streams, s)
	s.net.mu.Unlock()
	wasOpen := s.in.closeReader()
	s.out.finish(net.ErrClosed)
	if !wasOpen {
		return s.failed("close", net.ErrClosed)
	}
	return nil
}

// CloseWrite ends the direction to the other end alone.
func (s *stream) CloseWrite() error {
	s.out.finish(syscall.EPIPE)
	return nil
}

// reset breaks both directions at once, for both ends. The ends stay in the
// network's set until each is closed, as a socket stays a descriptor.
func (s *stream) reset() {
	s.in.reset()
	s.out.reset()
}

func (s *stream) LocalAddr() net.Addr  { return s.local }
func (s *stream) RemoteAddr() net.Addr { return s.remote }

func (s *stream) SetDeadline(t time.Time) error {
	if err := s.SetReadDeadline(t); err != nil {
		return err
	}
	return s.SetWriteDeadline(t)
}

func (s *stream) SetReadDeadline(t time.Time) error {
	return s.failed("set", s.in.setDeadline(&s.in.readBy, t))
}

func (s *stream) SetWriteDeadline(t time.Time) error {
	return s.failed("set", s.out.setDeadline(&s.out.writeBy, t))
}

// half is one direction of a connection: a bounded queue of segments, each with
// the time it is due. Invariants: size is the sum of the segments' bytes and at
// most bufferBytesMax; due times do not decrease.
type half struct {
	link, back *link // writer's host to reader's, and the way back

	mu       sync.Mutex
	cond     sync.Cond
	rng      *rand.Rand
	segments []segment
	size     int
	lastDue  time.Time
	// ended is what the writer's further writes get; nil while it may write.
	ended    error
	endDue   time.Time
	unread   bool // the reader has closed
	broken   bool
	readBy   alarm
	writeBy  alarm
	delivery *time.Timer
}

type segment struct {
	data []byte
	due  time.Time // zero: at once
}

// alarm is a deadline and the timer that wakes who waits for it.
type alarm struct {
	at    time.Time
	timer *time.Timer
}

func (a *alarm) passed() bool { return !a.at.IsZero() && !time.Now().Before(a.at) }

func newHalf(l, back *link, rng *rand.Rand) *half {
	h := &half{link: l, back: back, rng: rng}
	h.cond.L = &h.mu
	return h
}

// wake makes reader and writer look again.
func (h *half) wake() {
	h.mu.Lock()
	h.cond.Broadcast()
	h.mu.Unlock()
}

func (h *half) read(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.unread:
			return 0, net.ErrClosed
		case h.broken:
			return 0, syscall.ECONNRESET
		case h.readBy.passed():
			return 0, os.ErrDeadlineExceeded
		case len(p) == 0:
			return 0, nil
		}
		if !h.link.isCut() {
			if n := h.take(p); n > 0 {
				h.cond.Broadcast()
				return n, nil
			}
			if h.atEnd() {
				return 0, io.EOF
			}
		}
		h.cond.Wait()
	}
}

// take moves what is due to p, and sees that the reader wakes for what is not.
func (h *half) take(p []byte) int {
	n := 0
	for n < len(p) && len(h.segments) > 0 {
		s := &h.segments[0]
		if !s.due.IsZero() && s.due.After(time.Now()) {
			h.wakeAt(s.due)
			break
		}
		k := copy(p[n:], s.data)
		n += k
		s.data = s.data[k:]
		if len(s.data) == 0 {
			h.segments[0] = segment{}
			h.segments = h.segments[1:]
		}
	}
	h.size -= n
	return n
}

func (h *half) atEnd() bool {
	if h.ended == nil || len(h.segments) > 0 {
		return false
	}
	if h.endDue.After(time.Now()) {
		h.wakeAt(h.endDue)
		return false
	}
	return true
}

func (h *half) wakeAt(t time.Time) {
	if h.delivery == nil {
		h.delivery = time.AfterFunc(time.Until(t), h.wake)
		return
	}
	h.delivery.Reset(time.Until(t))
}

func (h *half) write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for {
		switch {
		case n == len(p) && n > 0:
			return n, nil
		case h.broken:
			return n, syscall.ECONNRESET
		case h.ended != nil:
			return n, h.ended
		case h.writeBy.passed():
			return n, os.ErrDeadlineExceeded
		case h.unread && !h.link.isCut() && !h.back.isCut():
			// The other end answers data for a closed socket with a reset.
			return n, syscall.EPIPE
		case len(p) == 0:
			return 0, nil
		}
		if room := min(bufferBytesMax-h.size, segmentBytesMax, len(p)-n); room > 0 {
			h.put(p[n : n+room])
			n += room
			h.cond.Broadcast()
			continue
		}
		h.cond.Wait()
	}
}

// put queues a copy of p.
func (h *half) put(p []byte) {
	due := h.dueNow()
	h.size += len(p)
	if last := len(h.segments) - 1; last >= 0 && due.IsZero() && h.segments[last].due.IsZero() &&
		len(h.segments[last].data)+len(p) <= segmentBytesMax {
		h.segments[last].data = append(h.segments[last].data, p...)
		return
	}
	h.segments = append(h.segments, segment{data: append([]byte(nil), p...), due: due})
}

// dueNow is when something sent now arrives: never before what was sent earlier.
func (h *half) dueNow() time.Time {
	late, now := h.link.lateness(h.rng), time.Now()
	if late == 0 && !h.lastDue.After(now) {
		return time.Time{}
	}
	if due := now.Add(late); due.After(h.lastDue) {
		h.lastDue = due
	}
	return h.lastDue
}

// finish ends the writing; what is queued still arrives, then EOF.
func (h *half) finish(further error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended == nil {
		h.endDue = h.dueNow()
	}
	h.ended = further
	h.writeBy.stop()
	h.cond.Broadcast()
}

// closeReader drops what has not been read. It tells whether this was news.
func (h *half) closeReader() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	was := h.unread
	h.unread = true
	h.segments, h.size = nil, 0
	h.readBy.stop()
	if h.delivery != nil {
		h.delivery.Stop()
	}
	h.cond.Broadcast()
	return !was
}

func (h *half) reset() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.broken = true
	h.segments, h.size = nil, 0
	h.cond.Broadcast()
}

// setDeadline sets one of the two alarms. After the close of that side it fails.
func (h *half) setDeadline(a *alarm, t time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if (a == &h.readBy && h.unread) || (a == &h.writeBy && h.ended == net.ErrClosed) {
		return net.ErrClosed
	}
	a.stop()
	a.at = t
	if d := time.Until(t); !t.IsZero() && d > 0 {
		a.timer = time.AfterFunc(d, h.wake)
	}
	h.cond.Broadcast()
	return nil
}

func (a *alarm) stop() {
	if a.timer != nil {
		a.timer.Stop()
		a.timer = nil
	}
}
