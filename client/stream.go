package client

import (
	"context"
	"errors"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	pb "github.com/diarchy/diarchy/client/clientpb"
)

// stream is the data path to one node. Callers hand over under a short lock; one
// goroutine sends what has gathered as one message, one receives.
//
// Invariants, under mu:
//   - a call is in slots from submit until it is answered, cancelled or failed,
//     and its slot's generation is that of its id;
//   - inFlight and bytes are the sums over slots;
//   - once failure is set, slots is empty and stays so.
type stream struct {
	n      *node
	cc     *grpc.ClientConn
	gs     grpc.ClientStream
	cancel context.CancelFunc
	wg     sync.WaitGroup
	heard  atomic.Int64 // when something last arrived, or was last not due

	mu       sync.Mutex
	pending  []request
	spare    []request
	arena    []byte // what pending's data is copied into
	idle     []byte // the arena before, free again once its message is out
	slots    []slot
	free     []uint32
	inFlight int
	bytes    int
	ping     bool
	failure  *Error
	wake     chan struct{} // capacity 1: pending or ping
	room     chan struct{} // capacity 1: inFlight or bytes fell
	dead     chan struct{} // closed with failure
}

type slot struct {
	c    *call
	gen  uint32
	size int32
	sent bool
}

// request is one call as it waits to be sent.
type request struct {
	id        uint64
	group     string
	data      []byte
	session   SessionID
	seq       uint64
	acked     uint64
	read      bool
	noForward bool
	level     Consistency
	after     Token
	deadline  time.Time // zero: none
}

// call is where its caller waits.
type call struct {
	done chan struct{} // capacity 1
	ans  answer
	err  *Error
}

// answer is a call's good end.
type answer struct {
	value     []byte
	token     Token
	refusal   string
	duplicate bool
	time, age int64
}

var calls = sync.Pool{New: func() any { return &call{done: make(chan struct{}, 1)} }}

// openStream connects and starts the stream's goroutines. Errors: nothing was
// sent.
func openStream(ctx context.Context, n *node) (*stream, *Error) {
	conn, e := dialDirect(ctx, &n.c.cfg, n.addr)
	if e != nil {
		return nil, e
	}
	life, cancel := context.WithCancel(n.c.ctx)
	cc, gs, err := openGRPC(ctx, life, conn)
	if err != nil {
		cancel()
		return nil, unavailable(err)
	}
	s := &stream{
		n: n, cc: cc, gs: gs, cancel: cancel,
		wake: make(chan struct{}, 1), room: make(chan struct{}, 1), dead: make(chan struct{}),
	}
	s.heard.Store(time.Now().UnixNano())
	s.wg.Go(s.sendLoop)
	s.wg.Go(s.receiveLoop)
	s.wg.Go(s.watch)
	return s, nil
}

func (s *stream) alive() bool {
	select {
	case <-s.dead:
		return false
	default:
		return true
	}
}

// do sends one call and waits for its answer. r.data may be reused when it
// returns.
func (s *stream) do(ctx context.Context, r request) (answer, *Error) {
	c := calls.Get().(*call)
	id, e := s.submit(ctx, c, r)
	if e != nil {
		calls.Put(c)
		return answer{}, e
	}
	select {
	case <-c.done:
	case <-ctx.Done():
		sent, gone := s.forget(id)
		if !gone {
			<-c.done // answered just now
			break
		}
		// The call was in no other hand.
		calls.Put(c)
		if sent {
			return answer{}, lost(ctx.Err())
		}
		return answer{}, &Error{Code: pb.CodeDeadline, Message: "the caller gave up before it was sent: " + ctx.Err().Error(), cause: ctx.Err()}
	}
	ans, e := c.ans, c.err
	c.ans, c.err = answer{}, nil
	calls.Put(c)
	return ans, e
}

// submit queues a call, waiting for room if need be.
func (s *stream) submit(ctx context.Context, c *call, r request) (uint64, *Error) {
	for {
		s.mu.Lock()
		if s.failure != nil {
			s.mu.Unlock()
			return 0, unsent(s.failure)
		}
		if s.inFlight < s.n.c.cfg.InFlightMax && (s.bytes == 0 || s.bytes+len(r.data) <= s.n.c.cfg.InFlightBytes) {
			break
		}
		s.mu.Unlock()
		select {
		case <-s.room:
		case <-s.dead:
		case <-ctx.Done():
			return 0, &Error{Code: pb.CodeDeadline, Message: "too much is in flight, and the caller gave up: " + ctx.Err().Error(), cause: ctx.Err()}
		}
	}
	more := s.inFlight+1 < s.n.c.cfg.InFlightMax
	r.id = s.addLocked(c, len(r.data))
	at := len(s.arena)
	s.arena = append(s.arena, r.data...)
	r.data = s.arena[at:len(s.arena):len(s.arena)]
	s.pending = append(s.pending, r)
	first := len(s.pending) == 1
	s.mu.Unlock()
	if first {
		nudge(s.wake)
	}
	if more {
		nudge(s.room) // whoever waits beside us may go too
	}
	return r.id, nil
}

func (s *stream) addLocked(c *call, size int) uint64 {
	if len(s.free) == 0 {
		s.slots = append(s.slots, slot{})
		s.free = append(s.free, uint32(len(s.slots)-1))
	}
	i := s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	sl := &s.slots[i]
	sl.gen++
	sl.c, sl.size, sl.sent = c, int32(size), false
	s.inFlight++
	s.bytes += size
	return uint64(sl.gen)<<32 | uint64(i)
}

// slotLocked finds a call that still waits.
func (s *stream) slotLocked(id uint64) *slot {
	i := int(uint32(id))
	if i >= len(s.slots) || s.slots[i].c == nil || s.slots[i].gen != uint32(id>>32) {
		return nil
	}
	return &s.slots[i]
}

func (s *stream) releaseLocked(id uint64, sl *slot) *call {
	c := sl.c
	sl.c = nil
	s.inFlight--
	s.bytes -= int(sl.size)
	s.free = append(s.free, uint32(id))
	return c
}

// forget takes a call back whose caller has given up; false when it was
// answered already.
func (s *stream) forget(id uint64) (sent, gone bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sl := s.slotLocked(id)
	if sl == nil {
		return false, false
	}
	sent = sl.sent
	s.releaseLocked(id, sl)
	nudge(s.room)
	return sent, true
}

func (s *stream) sendLoop() {
	for {
		select {
		case <-s.wake:
		case <-s.dead:
			return
		}
		// Callers are woken in bulk and come back one after another. Letting
		// them run first makes one message of what would be many.
		runtime.Gosched()
		batch, arena, ping := s.takePending()
		if len(batch) == 0 && !ping {
			continue
		}
		if err := s.gs.SendMsg(encode(batch)); err != nil {
			if !errors.Is(err, io.EOF) { // of io.EOF RecvMsg tells the reason
				s.end(lost(err))
			}
			return
		}
		s.giveBack(batch, arena)
	}
}

// takePending takes what has gathered, without calls that were cancelled.
func (s *stream) takePending() (batch []request, arena []byte, ping bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	batch, ping, arena = s.pending, s.ping, s.arena
	s.pending, s.ping, s.arena = s.spare[:0], false, s.idle[:0]
	s.spare, s.idle = nil, nil
	kept := batch[:0]
	for i := range batch {
		if sl := s.slotLocked(batch[i].id); sl != nil {
			sl.sent = true
			kept = append(kept, batch[i])
		}
	}
	return kept, arena, ping
}

// arenaKept bounds the memory that a quiet stream keeps for its next burst.
const arenaKept = 1 << 20

// giveBack keeps the memory of a batch that is out.
func (s *stream) giveBack(batch []request, arena []byte) {
	clear(batch)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spare = batch[:0]
	if cap(arena) <= arenaKept {
		s.idle = arena
	}
}

func (s *stream) receiveLoop() {
	for {
		m := new(pb.StreamResponse)
		if err := s.gs.RecvMsg(m); err != nil {
			s.end(fromStatus(err))
			return
		}
		s.heard.Store(time.Now().UnixNano())
		s.deliver(m)
	}
}

// deliver wakes the callers whose answers came.
func (s *stream) deliver(m *pb.StreamResponse) {
	for _, run := range m.Runs {
		var history [16]byte
		copy(history[:], run.History)
		s.mu.Lock()
		for _, o := range run.Outcomes {
			sl := s.slotLocked(o.Id)
			if sl == nil {
				continue
			}
			c := s.releaseLocked(o.Id, sl)
			if o.Failure != nil {
				c.err = errorFrom(o.Failure)
			} else {
				c.ans = answer{
					value: o.Value, token: Token{History: history, Number: o.Number},
					refusal: o.Error, duplicate: o.Duplicate, time: o.Time, age: o.Age,
				}
			}
			c.done <- struct{}{}
		}
		s.mu.Unlock()
	}
	nudge(s.room)
}

// watch gives the stream up when the node is silent although answers are due.
// A node that is merely slow answers pings.
func (s *stream) watch() {
	limit := s.n.c.cfg.DeadAfter
	tick := time.NewTicker(max(limit/4, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-s.dead:
			return
		case <-tick.C:
		}
		now := time.Now()
		s.mu.Lock()
		due := s.inFlight > 0
		s.ping = s.ping || due
		s.mu.Unlock()
		if !due {
			s.heard.Store(now.UnixNano())
			continue
		}
		if now.UnixNano()-s.heard.Load() > int64(limit) {
			s.end(lost(errSilent))
			return
		}
		nudge(s.wake)
	}
}

// end fails every call and closes the connection; the first reason counts.
func (s *stream) end(why *Error) {
	s.mu.Lock()
	if s.failure != nil {
		s.mu.Unlock()
		return
	}
	s.failure = why
	for i := range s.slots {
		sl := &s.slots[i]
		if sl.c == nil {
			continue
		}
		sent := sl.sent
		c := s.releaseLocked(uint64(i), sl)
		if c.err = unsent(why); sent {
			c.err = broken(why)
		}
		c.done <- struct{}{}
	}
	s.pending, s.spare, s.arena, s.idle = nil, nil, nil, nil
	close(s.dead)
	s.mu.Unlock()
	s.cancel()
	s.cc.Close()
}

// wait returns when the stream's goroutines have ended.
func (s *stream) wait() { s.wg.Wait() }

func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
