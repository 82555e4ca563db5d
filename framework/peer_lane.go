package framework

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/diarchy/diarchy/framework/peerpb"
)

// laneLimits bound what a lane holds for its callers.
type laneLimits struct{ ops, bytes int }

const (
	laneBatchOps   = 512
	laneBatchBytes = 1 << 20
)

// lane carries forwarded commands to one node: batches on one stream, many in
// flight. Every command gets one answer: from the other side; "did not happen"
// when it never left; "may have happened" when it left and the stream broke.
//
// Invariants (under mu):
//   - an op is in queue or in flight, never both, until its call is told;
//   - count and bytes are over both;
//   - flight holds ops of the present stream only.
type lane struct {
	ps   *peers
	peer *peer
	wake chan struct{} // capacity 1: there is something to send, or a stream broke

	mu      sync.Mutex
	queue   []*laneOp
	flight  map[uint64]*laneOp
	nextRef uint64
	count   int
	bytes   int
	running bool
	closed  bool
}

// laneOp is one command on its way.
type laneOp struct {
	call  *laneCall
	i     int
	ref   uint64
	group UUID
	cmd   Command
	left  bool // handed to the stream
	over  bool // told
}

// laneCall is what was submitted together.
type laneCall struct {
	ctx  context.Context
	done func(i int, r Receipt, err error)
	// open counts what is not told yet; at 0 the context is no longer watched.
	open    atomic.Int64
	unwatch func() bool
}

func (c *laneCall) tell(i int, r Receipt, err error) {
	c.done(i, r, err)
	if c.open.Add(-1) == 0 && c.unwatch != nil {
		c.unwatch()
	}
}

func newLane(ps *peers, p *peer) *lane {
	return &lane{ps: ps, peer: p, wake: make(chan struct{}, 1), flight: map[uint64]*laneOp{}}
}

// submit takes cs[i] for every i in which (all of cs when nil). done is called
// once for each, perhaps before submit returns; it must not block.
func (l *lane) submit(ctx context.Context, group UUID, cs []Command, which []int, done func(i int, r Receipt, err error)) {
	n := len(which)
	if which == nil {
		n = len(cs)
	}
	ops := make([]*laneOp, n)
	for k := range ops {
		i := k
		if which != nil {
			i = which[k]
		}
		ops[k] = &laneOp{i: i, group: group, cmd: cs[i]}
	}
	call := &laneCall{ctx: ctx, done: done}
	call.open.Store(int64(n))
	for _, op := range ops {
		op.call = call
	}
	if ctx.Done() != nil {
		call.unwatch = context.AfterFunc(ctx, func() { l.expire(ops) })
	}
	taken, refusal := l.take(ops)
	for _, op := range ops[taken:] {
		call.tell(op.i, Receipt{}, refusal)
	}
}

// take queues as many of ops as there is room for, and says why not all.
func (l *lane) take(ops []*laneOp) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		for _, op := range ops {
			op.over = true
		}
		return 0, ErrStopped.Because("this node is shutting down")
	}
	if !l.running {
		l.running = true
		l.ps.wg.Add(1)
		go l.run()
	}
	for k, op := range ops {
		if l.count >= l.ps.limits.ops || l.bytes+len(op.cmd.Data) > l.ps.limits.bytes {
			for _, op := range ops[k:] {
				op.over = true
			}
			l.kick()
			return k, ErrBusy
		}
		if op.over { // its context had ended before it was taken
			continue
		}
		l.nextRef++
		op.ref = l.nextRef
		l.queue = append(l.queue, op)
		l.count++
		l.bytes += len(op.cmd.Data)
	}
	l.kick()
	return len(ops), nil
}

func (l *lane) kick() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// finish marks an op told and gives its room back; false when it was told
// before. Called with mu held.
func (l *lane) finish(op *laneOp) bool {
	if op.over {
		return false
	}
	op.over = true
	if op.ref != 0 {
		delete(l.flight, op.ref)
		l.count--
		l.bytes -= len(op.cmd.Data)
	}
	return true
}

// expire tells the rest of a call whose context has ended.
func (l *lane) expire(ops []*laneOp) {
	for _, op := range ops {
		l.mu.Lock()
		mine, left := l.finish(op), op.left
		l.mu.Unlock()
		if !mine {
			continue
		}
		if left {
			op.call.tell(op.i, Receipt{}, ErrMaybe.Because("no answer from node %s in time: the command may have happened, or may yet", l.peer.node))
		} else {
			op.call.tell(op.i, Receipt{}, ErrDeadline)
		}
	}
}

// run is the lane's one sender. It ends with the node.
func (l *lane) run() {
	defer l.ps.wg.Done()
	var s *laneStream
	for {
		select {
		case <-l.wake:
		case <-l.ps.ctx.Done():
			l.drop(s)
			l.shut()
			return
		}
		for {
			if s != nil && s.broken.Load() {
				l.drop(s)
				s = nil
			}
			batch := l.nextBatch(s == nil)
			if batch == nil {
				break
			}
			if s == nil {
				var err error
				if s, err = l.openStream(); err != nil {
					l.failQueued(batch, err)
					continue
				}
				continue // now take the batch for good
			}
			if err := s.stream.Send(batch.wire); err != nil {
				l.drop(s)
				s = nil
			}
		}
	}
}

// laneBatch is what is sent at once.
type laneBatch struct {
	wire *peerpb.Ops
	ops  []*laneOp
}

// nextBatch takes ops from the queue and puts them in flight. With peek they
// stay queued: there is no stream yet.
func (l *lane) nextBatch(peek bool) *laneBatch {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, bytes, n := &laneBatch{wire: &peerpb.Ops{}}, 0, 0
	for _, op := range l.queue {
		if len(b.ops) >= laneBatchOps || bytes > 0 && bytes+len(op.cmd.Data) > laneBatchBytes {
			break
		}
		n++
		if op.over {
			continue
		}
		bytes += len(op.cmd.Data)
		b.ops = append(b.ops, op)
		if !peek {
			op.left = true
			l.flight[op.ref] = op
			b.wire.Ops = append(b.wire.Ops, op.wire())
		}
	}
	if !peek || len(b.ops) == 0 {
		clear(l.queue[:n])
		if l.queue = l.queue[n:]; len(l.queue) == 0 {
			l.queue = nil
		}
	}
	if len(b.ops) == 0 {
		return nil
	}
	return b
}

func (op *laneOp) wire() *peerpb.Op {
	w := &peerpb.Op{Ref: op.ref, Group: op.group[:], Data: op.cmd.Data}
	if s := &op.cmd.Session; s.ID != (SessionID{}) {
		w.Session, w.Seq, w.AckedBelow = s.ID[:], s.Seq, s.AckedBelow
	}
	if d, ok := op.call.ctx.Deadline(); ok {
		w.TimeoutNs = max(1, int64(time.Until(d)))
	}
	return w
}

// failQueued tells ops that never left: the node cannot be reached.
func (l *lane) failQueued(b *laneBatch, err error) {
	gone := map[*laneOp]bool{}
	var tell []*laneOp
	l.mu.Lock()
	for _, op := range b.ops {
		gone[op] = true
		if l.finish(op) {
			tell = append(tell, op)
		}
	}
	kept := l.queue[:0]
	for _, op := range l.queue {
		if !gone[op] {
			kept = append(kept, op)
		}
	}
	clear(l.queue[len(kept):])
	l.queue = kept
	l.mu.Unlock()
	for _, op := range tell {
		op.call.tell(op.i, Receipt{}, err)
	}
}

// shut tells everything that is left when the node closes.
func (l *lane) shut() {
	l.mu.Lock()
	l.closed = true
	rest := l.queue
	l.queue = nil
	for _, op := range l.flight {
		rest = append(rest, op)
	}
	var tell []*laneOp
	for _, op := range rest {
		if l.finish(op) {
			tell = append(tell, op)
		}
	}
	l.mu.Unlock()
	for _, op := range tell {
		if op.left {
			op.call.tell(op.i, Receipt{}, ErrMaybe)
		} else {
			op.call.tell(op.i, Receipt{}, ErrStopped.Because("this node is shutting down"))
		}
	}
}

// laneStream is one stream and its receiver.
type laneStream struct {
	stream grpc.BidiStreamingClient[peerpb.Ops, peerpb.Outcomes]
	cancel context.CancelFunc
	broken atomic.Bool
	done   chan struct{}
}

// drop ends a stream (nil: none) and tells what is in flight on it: also what
// the sender put there after the receiver had gone.
func (l *lane) drop(s *laneStream) {
	if s == nil {
		return
	}
	s.cancel()
	<-s.done
	l.failFlight()
}

func (l *lane) openStream() (*laneStream, error) {
	ctx, cancel := context.WithCancel(l.ps.ctx)
	stream, err := l.peer.Propose(ctx)
	if err != nil {
		cancel()
		return nil, callError(l.peer.node, err, false, false)
	}
	s := &laneStream{stream: stream, cancel: cancel, done: make(chan struct{})}
	go l.receive(s)
	return s, nil
}

func (l *lane) receive(s *laneStream) {
	defer close(s.done)
	for {
		m, err := s.stream.Recv()
		if err != nil {
			s.broken.Store(true)
			s.cancel()
			l.failFlight()
			l.kick()
			return
		}
		for _, o := range m.Outcomes {
			l.resolve(o)
		}
	}
}

func (l *lane) resolve(o *peerpb.Outcome) {
	l.mu.Lock()
	op := l.flight[o.Ref]
	mine := op != nil && l.finish(op)
	l.mu.Unlock()
	if !mine {
		return // told already: its context had ended
	}
	if o.Error != nil {
		op.call.tell(op.i, Receipt{}, errorFromWire(o.Error))
		return
	}
	r := Receipt{Value: o.Value, Err: o.AppError, Duplicate: o.Duplicate, Token: Token{Number: o.Number}}
	copy(r.Token.History[:], o.History)
	op.call.tell(op.i, r, nil)
}

// failFlight tells everything in flight on a stream that broke.
func (l *lane) failFlight() {
	var tell []*laneOp
	l.mu.Lock()
	for _, op := range l.flight {
		if l.finish(op) {
			tell = append(tell, op)
		}
	}
	l.mu.Unlock()
	for _, op := range tell {
		op.call.tell(op.i, Receipt{}, ErrMaybe.Because("the connection to node %s was lost before its answer: the command may have happened", l.peer.node))
	}
}

// do forwards one command and waits for its answer.
func (l *lane) do(ctx context.Context, group UUID, c Command) (Receipt, error) {
	type answer struct {
		r   Receipt
		err error
	}
	got := make(chan answer, 1)
	l.submit(ctx, group, []Command{c}, nil, func(_ int, r Receipt, err error) { got <- answer{r, err} })
	// It is told in any case, at the end of ctx at the latest.
	a := <-got
	return a.r, a.err
}
