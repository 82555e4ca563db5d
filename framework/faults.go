package framework

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Direction says which way between this node and another.
type Direction uint8

// Directions.
const (
	// FromNode is what arrives from the other node.
	FromNode Direction = 1 << iota
	// ToNode is what is sent to it.
	ToNode
	BothWays = FromNode | ToNode
)

// Faults are injected into this node's connections with others, below every
// engine alike. A cut is a black hole: nobody is told, bytes and new connections
// wait as TCP's do, and after the heal they go on; who has closed a connection
// meanwhile is heard of only then. A StreamNet without Faults carries none of
// this. Safe for concurrent use; the zero value is not usable, see NewFaults.
type Faults struct {
	mu    sync.Mutex
	links map[NodeID]*faultLink
}

// NewFaults makes a Faults without any.
func NewFaults() *Faults { return &Faults{links: map[NodeID]*faultLink{}} }

// Cut stops what goes one way or both between this node and another, in addition
// to what is cut already.
func (f *Faults) Cut(node NodeID, d Direction) {
	f.link(node).change(func(s *faultState) { s.cut |= d })
}

// Heal undoes the cuts; delays stay.
func (f *Faults) Heal(node NodeID) {
	f.link(node).change(func(s *faultState) { s.cut = 0 })
}

// Delay makes all that arrives from a node late by d and up to jitter more, in
// order. What is sent to it is not late: to slow both ways, delay at both nodes.
func (f *Faults) Delay(node NodeID, d, jitter time.Duration) {
	f.link(node).change(func(s *faultState) { s.delay, s.jitter = max(d, 0), max(jitter, 0) })
}

// Clear ends all faults.
func (f *Faults) Clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.links {
		l.change(func(s *faultState) { *s = faultState{} })
	}
}

func (f *Faults) link(node NodeID) *faultLink {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.links[node]
	if l == nil {
		l = &faultLink{}
		l.state.Store(&faultState{changed: make(chan struct{})})
		f.links[node] = l
	}
	return l
}

// faultLink is the present state between this node and another.
type faultLink struct {
	mu    sync.Mutex
	state atomic.Pointer[faultState]
}

// faultState does not change; changed is closed when there is a newer one.
type faultState struct {
	cut           Direction
	delay, jitter time.Duration
	changed       chan struct{}
}

func (l *faultLink) change(edit func(*faultState)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.state.Load()
	next := *old
	edit(&next)
	next.changed = make(chan struct{})
	l.state.Store(&next)
	close(old.changed)
}

// slowsArrivals tells whether what arrives is late or stopped.
func (s *faultState) slowsArrivals() bool {
	return s.cut&FromNode != 0 || s.delay > 0 || s.jitter > 0
}

// lateness draws by how much something that arrives now is late.
func (s *faultState) lateness() time.Duration {
	if s.jitter == 0 {
		return s.delay
	}
	return s.delay + rand.N(s.jitter+1)
}

// waitOpen waits until a new connection's handshake passes, both ways.
func (l *faultLink) waitOpen(ctx context.Context) error {
	for {
		s := l.state.Load()
		if s.cut == 0 {
			return nil
		}
		select {
		case <-s.changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// faultConn is a connection under Faults. While its link has always been perfect
// it hands calls through; from the first fault on, a pump reads ahead into a
// bounded queue, from which Read takes what is due.
type faultConn struct {
	net.Conn
	link    *faultLink
	done    chan struct{} // closed by Close
	closing sync.Once
	// turn is held by the Read under way; a channel, so that waiting for it
	// does not look like progress to a synctest bubble.
	turn chan struct{}

	mu      sync.Mutex
	late    *lateQueue // nil until the first fault; set by the turn's holder
	readBy  *alarm
	writeBy *alarm
}

func newFaultConn(c net.Conn, l *faultLink) *faultConn {
	return &faultConn{
		Conn: c, link: l, done: make(chan struct{}), turn: make(chan struct{}, 1),
		readBy: newAlarm(), writeBy: newAlarm(),
	}
}

func (c *faultConn) Read(p []byte) (int, error) {
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	if c.late == nil {
		if !c.link.state.Load().slowsArrivals() {
			n, err := c.Conn.Read(p)
			if isOwn(err) || !c.link.state.Load().slowsArrivals() {
				return n, err
			}
			// A fault began while this was on its way.
			c.startLate(p[:n], err)
		} else {
			c.startLate(nil, nil)
		}
	}
	return c.readLate(p)
}

// isOwn tells errors of this end from what the other end has caused.
func isOwn(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed)
}

// startLate begins to read ahead. From here on deadlines are ours alone.
func (c *faultConn) startLate(first []byte, end error) {
	q := &lateQueue{arrived: make(chan struct{}, 1), taken: make(chan struct{}, 1)}
	c.mu.Lock()
	c.late = q
	_ = c.Conn.SetReadDeadline(time.Time{})
	c.mu.Unlock()
	if len(first) > 0 {
		q.put(first, c.link.state.Load())
	}
	if end != nil {
		q.finish(end)
		return
	}
	go c.pump(q)
}

// pump reads ahead until the connection ends, which Close sees to.
func (c *faultConn) pump(q *lateQueue) {
	buf := make([]byte, 32<<10)
	for {
		n, err := c.Conn.Read(buf)
		for n > 0 && !q.hasRoom() {
			select {
			case <-q.taken:
			case <-c.done:
				return
			}
		}
		if n > 0 {
			q.put(buf[:n], c.link.state.Load())
		}
		if err != nil {
			q.finish(err)
			return
		}
	}
}

func (c *faultConn) readLate(p []byte) (int, error) {
	for {
		select {
		case <-c.done:
			return 0, c.failed("read", net.ErrClosed)
		case <-c.readBy.passed():
			return 0, c.failed("read", os.ErrDeadlineExceeded)
		default:
		}
		s := c.link.state.Load()
		var wait time.Duration
		if s.cut&FromNode == 0 {
			n, dueIn, err := c.late.take(p)
			if n > 0 || err != nil || len(p) == 0 {
				return n, err
			}
			wait = dueIn
		}
		c.awaitLate(s, wait)
	}
}

// awaitLate waits until it is worth looking again: for dueIn, where that is not
// 0, or until something has changed.
func (c *faultConn) awaitLate(s *faultState, dueIn time.Duration) {
	var due <-chan time.Time
	if dueIn > 0 {
		t := time.NewTimer(dueIn)
		defer t.Stop()
		due = t.C
	}
	select {
	case <-s.changed:
	case <-due:
	case <-c.late.arrived:
	case <-c.readBy.passed():
	case <-c.done:
	}
}

// Write waits while the way to the node is cut, as behind a full send buffer.
func (c *faultConn) Write(p []byte) (int, error) {
	for {
		s := c.link.state.Load()
		if s.cut&ToNode == 0 {
			return c.Conn.Write(p)
		}
		select {
		case <-s.changed:
		case <-c.writeBy.passed():
			return 0, c.failed("write", os.ErrDeadlineExceeded)
		case <-c.done:
			return 0, c.failed("write", net.ErrClosed)
		}
	}
}

func (c *faultConn) failed(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

func (c *faultConn) Close() error {
	c.closing.Do(func() { close(c.done) })
	c.readBy.set(time.Time{})
	c.writeBy.set(time.Time{})
	return c.Conn.Close()
}

func (c *faultConn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

func (c *faultConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readBy.set(t)
	if c.late != nil {
		return nil
	}
	return c.Conn.SetReadDeadline(t)
}

func (c *faultConn) SetWriteDeadline(t time.Time) error {
	c.writeBy.set(t)
	return c.Conn.SetWriteDeadline(t)
}

// lateBytesMax is how much is read ahead for a slow link; then the other end's
// writes stall. It bounds what a link carries to this much in one delay.
const lateBytesMax = 4 << 20

// lateQueue holds what has arrived and is not due yet.
type lateQueue struct {
	arrived, taken chan struct{} // capacity 1: something was put, taken

	mu     sync.Mutex
	pieces []latePiece
	bytes  int
	last   time.Time
	end    error // after the last piece
}

type latePiece struct {
	data []byte
	due  time.Time
}

func (q *lateQueue) hasRoom() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.bytes < lateBytesMax
}

func (q *lateQueue) put(p []byte, s *faultState) {
	q.mu.Lock()
	if due := time.Now().Add(s.lateness()); due.After(q.last) {
		q.last = due
	}
	q.pieces = append(q.pieces, latePiece{data: append([]byte(nil), p...), due: q.last})
	q.bytes += len(p)
	q.mu.Unlock()
	mark(q.arrived)
}

func (q *lateQueue) finish(err error) {
	q.mu.Lock()
	q.end = err
	q.mu.Unlock()
	mark(q.arrived)
}

// take moves what is due to p. With nothing due it says how long to wait, 0 for
// until something arrives.
func (q *lateQueue) take(p []byte) (n int, wait time.Duration, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for n < len(p) && len(q.pieces) > 0 {
		first := &q.pieces[0]
		if wait = time.Until(first.due); wait > 0 {
			break
		}
		k := copy(p[n:], first.data)
		n, q.bytes = n+k, q.bytes-k
		if first.data = first.data[k:]; len(first.data) == 0 {
			q.pieces[0] = latePiece{}
			q.pieces = q.pieces[1:]
		}
	}
	if n > 0 {
		mark(q.taken)
		return n, 0, nil
	}
	if len(q.pieces) == 0 {
		return 0, 0, q.end
	}
	return 0, max(wait, 0), nil
}

// mark leaves a sign that need not be seen at once.
func mark(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// alarm is a deadline to select on.
type alarm struct {
	mu      sync.Mutex
	timer   *time.Timer
	setting uint64 // counts the settings: the timer of an earlier one is void
	ring    chan struct{}
	rung    bool // ring is closed
}

func newAlarm() *alarm { return &alarm{ring: make(chan struct{})} }

// passed is closed once the deadline has passed. Who waits for it follows later
// settings too, unless it has passed already.
func (a *alarm) passed() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ring
}

// set moves the deadline; zero is none.
func (a *alarm) set(t time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.timer != nil {
		a.timer.Stop()
		a.timer = nil
	}
	a.setting++
	left := time.Until(t)
	if !t.IsZero() && left <= 0 {
		a.sound()
		return
	}
	if a.rung {
		a.ring, a.rung = make(chan struct{}), false
	}
	if !t.IsZero() {
		mine := a.setting
		a.timer = time.AfterFunc(left, func() {
			a.mu.Lock()
			defer a.mu.Unlock()
			if mine == a.setting {
				a.sound()
			}
		})
	}
}

// sound needs mu.
func (a *alarm) sound() {
	if !a.rung {
		a.rung = true
		close(a.ring)
	}
}
