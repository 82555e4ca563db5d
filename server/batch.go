package server

import (
	"context"
	"errors"
	"io"
	"runtime"
	"sync"
	"time"

	pb "github.com/diarchy/diarchy/client/clientpb"
	"github.com/diarchy/diarchy/framework"
)

// pipe is one Stream, over whichever transport.
type pipe interface {
	Receive() (*pb.StreamRequest, error)
	Send(*pb.StreamResponse) error
	// cut makes a Send that waits for a client that does not read fail.
	cut()
	// interrupt makes a Receive that waits fail, and says whether it does so
	// before the call has ended.
	interrupt() bool
}

// batches is one client's data path. One goroutine reads, one writes, the
// framework completes; nothing is started per call but the readers of queries,
// which stay.
//
// Invariants, under mu:
//   - every call that was taken is in exactly one of: with the framework, in the
//     query queue, in done; inFlight counts all three and bytes their sizes;
//   - each is answered at most once (run.answered).
type batches struct {
	s     *Server
	right right
	out   pipe
	ctx   context.Context

	mu       sync.Mutex
	done     []outcome // answered, not sent
	spare    []outcome
	pings    int
	inFlight int
	bytes    int
	ended    bool
	reads    []read
	readers  int // running
	idle     int // of them waiting for work
	work     *sync.Cond
	wake     chan struct{} // capacity 1: done, pings or ended changed
	room     chan struct{} // capacity 1: inFlight or bytes fell
	cutOff   sync.Once
}

// outcome is one answer before it is a message.
type outcome struct {
	id        uint64
	err       error
	value     []byte
	token     framework.Token
	refusal   string
	duplicate bool
	time      time.Time
	age       time.Duration
	size      int // of the call, for the account
}

const (
	// readersMax bounds the queries of one stream that are asked at once.
	readersMax = 256
	// responseBytes is where one message ends and the next begins.
	responseBytes = 1 << 20
	// graceAfter is how long after a call's deadline the framework may still
	// say what became of it, before we say that we do not know.
	graceAfter = 500 * time.Millisecond
)

// serveBatches runs one Stream until the client ends it, it breaks, or the
// server stops; what was accepted is answered before it ends.
func (s *Server) serveBatches(ctx context.Context, have right, out pipe) error {
	ctx, cancel := context.WithCancel(ctx)
	b := &batches{
		s: s, right: have, out: out, ctx: ctx,
		wake: make(chan struct{}, 1), room: make(chan struct{}, 1),
	}
	b.work = sync.NewCond(&b.mu)
	s.metrics.streams.Inc()
	defer s.metrics.streams.Dec()
	failed := make(chan error, 1)
	received := make(chan struct{})
	go func() {
		defer close(received)
		failed <- b.receive()
	}()
	err := b.send(failed)
	cancel()
	b.stopReaders()
	if out.interrupt() {
		<-received
	}
	return err
}

// cut ends a stream whose client does not read.
func (b *batches) cut() { b.cutOff.Do(b.out.cut) }

// receive takes in batches. Its end is not the stream's: what is in flight is
// still answered.
func (b *batches) receive() error {
	for {
		in, err := b.out.Receive()
		if err != nil {
			return err
		}
		if err := b.waitForRoom(); err != nil {
			return err
		}
		b.take(in)
	}
}

// waitForRoom is the back-pressure: a client that has too much in flight is not
// read from, and the transport's flow control stops it.
func (b *batches) waitForRoom() error {
	for {
		b.mu.Lock()
		ok := b.inFlight < b.s.cfg.StreamCallsMax && b.bytes < b.s.cfg.StreamBytesMax
		b.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-b.room:
		case <-b.ctx.Done():
			return b.ctx.Err()
		}
	}
}

// send writes out answers as they come.
func (b *batches) send(failed <-chan error) error {
	stall := time.AfterFunc(b.s.cfg.StallTimeout, b.cut)
	stall.Stop()
	defer stall.Stop()
	stop := b.s.stop
	var end error // why no more is taken; nil while more is
	for {
		select {
		case <-b.wake:
		case err := <-failed:
			if !errors.Is(err, io.EOF) {
				return err // nobody to answer
			}
			end, failed = io.EOF, nil
		case <-stop:
			end, stop = errStopping, nil
		case <-b.ctx.Done():
			return b.ctx.Err()
		}
		// Completions come in bulk, by one goroutine. Letting it run on before
		// looking makes one message of what would be many.
		runtime.Gosched()
		done, pings, left := b.swap()
		for len(done) > 0 || pings > 0 {
			var m *pb.StreamResponse
			m, done = encode(done)
			pings = 0
			stall.Reset(b.s.cfg.StallTimeout)
			err := b.out.Send(m)
			stall.Stop()
			if err != nil {
				return err
			}
		}
		if end != nil && left == 0 {
			if errors.Is(end, io.EOF) {
				return nil
			}
			return end
		}
	}
}

// swap takes what is to be sent; left is how much is still to come.
func (b *batches) swap() (done []outcome, pings, left int) {
	b.mu.Lock()
	done, pings = b.done, b.pings
	clear(b.spare) // what was sent last time; its memory is used again
	b.done, b.spare, b.pings = b.spare[:0], done, 0
	b.inFlight -= len(done)
	for i := range done {
		b.bytes -= done[i].size + len(done[i].value)
	}
	left = b.inFlight
	b.mu.Unlock()
	nudge(b.room)
	return done, pings, left
}

// encode makes one message of about responseBytes and returns what is left.
func encode(done []outcome) (*pb.StreamResponse, []outcome) {
	size, n := 0, 0
	for n < len(done) && (n == 0 || size+len(done[n].value) <= responseBytes) {
		size += len(done[n].value) + 64
		n++
	}
	m := &pb.StreamResponse{}
	slab := make([]pb.Outcome, n)
	ptrs := make([]*pb.Outcome, n)
	var run *pb.OutcomeRun
	var history framework.UUID
	for i := range n {
		o := &done[i]
		if run == nil || o.err == nil && o.token.History != history {
			history = o.token.History
			run = &pb.OutcomeRun{History: append([]byte(nil), history[:]...), Outcomes: ptrs[i:i]}
			m.Runs = append(m.Runs, run)
		}
		p := &slab[i]
		ptrs[i] = p
		run.Outcomes = run.Outcomes[:len(run.Outcomes)+1]
		p.Id = o.id
		if o.err != nil {
			p.Failure = errorPB(asError(o.err))
			continue
		}
		p.Value, p.Number, p.Error, p.Duplicate = o.value, o.token.Number, o.refusal, o.duplicate
		p.Time, p.Age = unixNano(o.time), int64(o.age)
	}
	return m, done[n:]
}

// take begins the calls of one message. An empty one is a ping.
func (b *batches) take(in *pb.StreamRequest) {
	if len(in.Runs) == 0 {
		b.mu.Lock()
		b.pings++
		b.mu.Unlock()
		nudge(b.wake)
		return
	}
	timeout := b.s.timeoutFor(time.Duration(in.TimeoutMs) * time.Millisecond)
	for _, r := range in.Runs {
		b.takeRun(r, timeout)
	}
}

// run is the calls of one message for one group: they share a deadline.
type run struct {
	b        *batches
	group    string
	ids      []uint64
	sizes    []int
	answered []bool // under b.mu
	left     int    // under b.mu
	ctx      context.Context
	cancel   context.CancelFunc
	unwatch  func() bool
}

func (b *batches) takeRun(m *pb.Run, timeout time.Duration) {
	n := len(m.Proposals) + len(m.Reads)
	if n == 0 {
		return
	}
	r := &run{b: b, group: m.Group, ids: make([]uint64, n), sizes: make([]int, n), answered: make([]bool, n), left: n}
	size := 0
	for i, p := range m.Proposals {
		r.ids[i], r.sizes[i] = p.Id, len(p.Data)
		size += len(p.Data)
	}
	for i, q := range m.Reads {
		j := len(m.Proposals) + i
		r.ids[j], r.sizes[j] = q.Id, len(q.Data)
		size += len(q.Data)
	}
	b.mu.Lock()
	b.inFlight += n
	b.bytes += size
	b.mu.Unlock()
	r.ctx, r.cancel = context.WithTimeout(b.ctx, timeout)
	r.unwatch = context.AfterFunc(r.ctx, func() { time.AfterFunc(graceAfter, r.expire) })
	if len(m.Proposals) > 0 {
		r.propose(m)
	}
	if len(m.Reads) > 0 {
		r.read(m)
	}
}

func (r *run) propose(m *pb.Run) {
	b := r.b
	b.s.metrics.calls.WithLabelValues("propose").Add(float64(len(m.Proposals)))
	refusal := allow(b.right, admin)
	if refusal == nil && b.s.stopping() {
		refusal = errStopping
	}
	commands := make([]framework.Command, 0, len(m.Proposals))
	index := make([]int, 0, len(m.Proposals))
	for i, p := range m.Proposals {
		err := refusal
		var session framework.Session
		if err == nil {
			session, err = sessionFromPB(m.Session, p.Seq, m.AckedBelow)
		}
		if err == nil {
			err = b.s.fits(p.Data)
		}
		if err != nil {
			r.finish(i, outcome{err: err})
			continue
		}
		commands = append(commands, framework.Command{Data: p.Data, Session: session, NoForward: m.NoForward})
		index = append(index, i)
	}
	if len(commands) == 0 {
		return
	}
	b.s.svc.ProposeAsync(r.ctx, r.group, commands, func(i int, rec framework.Receipt, err error) {
		r.finish(index[i], outcome{err: err, value: rec.Value, token: rec.Token, refusal: rec.Err, duplicate: rec.Duplicate})
	})
}

// finish answers the i-th call of the run, unless that was done already.
func (r *run) finish(i int, o outcome) {
	b := r.b
	b.mu.Lock()
	last := r.finishLocked(i, o)
	first := len(b.done) == 1
	over := b.bytes > 2*b.s.cfg.StreamBytesMax
	b.mu.Unlock()
	if first {
		nudge(b.wake)
	}
	if over {
		b.cut() // results pile up because the client does not read them
	}
	if last {
		r.unwatch()
		r.cancel()
	}
}

func (r *run) finishLocked(i int, o outcome) (last bool) {
	if r.answered[i] {
		return false
	}
	r.answered[i] = true
	r.left--
	o.id, o.size = r.ids[i], r.sizes[i]
	r.b.bytes += len(o.value)
	r.b.done = append(r.b.done, o)
	return r.left == 0
}

// expire answers what the framework has not answered long after its deadline.
func (r *run) expire() {
	b := r.b
	b.mu.Lock()
	for i := range r.ids {
		r.finishLocked(i, outcome{err: framework.ErrMaybe.Because("no answer within the time given: it may have happened, or may yet")})
	}
	b.mu.Unlock()
	nudge(b.wake)
	r.cancel()
}
