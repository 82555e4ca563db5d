package framework

import (
	"context"
	"encoding/json"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/diarchy/diarchy/framework/peerpb"
)

// outbox gathers the outcomes of one stream of proposals until they are sent.
// No more than outboxOps are taken up at a time, so it is bounded by that many
// results.
type outbox struct {
	mu       sync.Mutex
	room     sync.Cond // an answer has been sent
	ready    []*peerpb.Outcome
	open     int // taken up and not sent yet
	bytes    int // of ready
	finished bool
	wake     chan struct{} // capacity 1
}

const (
	outboxOps   = 8192
	outboxBytes = 16 << 20
)

func newOutbox() *outbox {
	o := &outbox{wake: make(chan struct{}, 1)}
	o.room.L = &o.mu
	return o
}

// begin waits for room and counts n operations as taken up; false when the
// stream has ended.
func (o *outbox) begin(n int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for !o.finished && (o.open >= outboxOps || o.bytes >= outboxBytes) {
		o.room.Wait()
	}
	o.open += n
	return !o.finished
}

func (o *outbox) put(x *peerpb.Outcome) {
	o.mu.Lock()
	o.ready = append(o.ready, x)
	o.bytes += len(x.Value)
	o.mu.Unlock()
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// take returns some of what is ready, within the size of one message.
func (o *outbox) take() []*peerpb.Outcome {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, bytes := 0, 0
	for n < len(o.ready) && n < laneBatchOps && (bytes == 0 || bytes+len(o.ready[n].Value) <= laneBatchBytes) {
		bytes += len(o.ready[n].Value)
		n++
	}
	batch := o.ready[:n:n]
	if o.ready = o.ready[n:]; len(o.ready) == 0 {
		o.ready = nil
	}
	o.open -= n
	o.bytes -= bytes
	o.room.Broadcast()
	return batch
}

func (o *outbox) finish() {
	o.mu.Lock()
	o.finished = true
	o.mu.Unlock()
	o.room.Broadcast()
}

// Propose implements peerpb.PeerServer: one goroutine takes operations up, this
// one sends outcomes.
func (s peerService) Propose(stream grpc.BidiStreamingServer[peerpb.Ops, peerpb.Outcomes]) error {
	o := newOutbox()
	ended := make(chan error, 1)
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil || !o.begin(len(m.Ops)) {
				ended <- err
				return
			}
			s.takeUp(stream.Context(), m.Ops, o)
		}
	}()
	defer o.finish()
	for {
		stopping := false
		select {
		case <-o.wake:
		case err := <-ended:
			if isEnd(err) {
				return nil
			}
			return err
		case <-s.n.serving.Done():
			stopping = true
		}
		for batch := o.take(); len(batch) > 0; batch = o.take() {
			if err := stream.Send(&peerpb.Outcomes{Outcomes: batch}); err != nil {
				return err
			}
		}
		if stopping {
			return wireStatus(ErrStopped)
		}
	}
}

// takeUp proposes runs of operations of one group together.
func (s peerService) takeUp(ctx context.Context, ops []*peerpb.Op, o *outbox) {
	for len(ops) > 0 {
		n := 1
		for n < len(ops) && string(ops[n].Group) == string(ops[0].Group) {
			n++
		}
		s.proposeRun(ctx, ops[:n:n], o)
		ops = ops[n:]
	}
}

func (s peerService) proposeRun(ctx context.Context, ops []*peerpb.Op, o *outbox) {
	fail := func(err error) {
		for _, op := range ops {
			o.put(&peerpb.Outcome{Ref: op.Ref, Error: errorToWire(err)})
		}
	}
	g, err := s.group(ops[0].Group)
	if err != nil {
		fail(err)
		return
	}
	cs := make([]Command, len(ops))
	var longest int64
	for i, op := range ops {
		cs[i].Data = op.Data
		if len(op.Session) == len(SessionID{}) {
			cs[i].Session = Session{ID: SessionID(op.Session), Seq: op.Seq, AckedBelow: op.AckedBelow}
		} else if len(op.Session) != 0 {
			fail(ErrInvalid.Because("a session id of %d bytes", len(op.Session)))
			return
		}
		if op.TimeoutNs <= 0 || longest < 0 {
			longest = -1 // somebody waits for ever
		} else {
			longest = max(longest, op.TimeoutNs)
		}
	}
	cancel := func() {}
	if longest > 0 {
		ctx, cancel = context.WithTimeout(ctx, time.Duration(longest))
	}
	var open atomic.Int64
	open.Store(int64(len(ops)))
	g.ProposeAsync(ctx, cs, func(i int, r Receipt, err error) {
		out := &peerpb.Outcome{Ref: ops[i].Ref}
		if err != nil {
			out.Error = errorToWire(err)
		} else {
			out.History, out.Number, out.Value = r.Token.History[:], r.Token.Number, r.Value
			out.AppError, out.Duplicate = r.Err, r.Duplicate
		}
		o.put(out)
		if open.Add(-1) == 0 {
			cancel()
		}
	})
}

// Tail implements peerpb.PeerServer.
func (s peerService) Tail(q *peerpb.TailRequest, stream grpc.ServerStreamingServer[peerpb.TailBatch]) error {
	g, err := s.group(q.Group)
	if err != nil {
		return wireStatus(err)
	}
	err = g.Tail(stream.Context(), q.From, func(e TailEntry) error {
		return stream.Send(&peerpb.TailBatch{Entries: []*peerpb.TailEntry{{Number: e.Number, TimeNs: e.Time.UnixNano(), Data: e.Data}}})
	})
	return wireStatus(err)
}

// Payload implements peerpb.PeerServer.
func (s peerService) Payload(q *peerpb.PayloadRequest, stream grpc.ServerStreamingServer[peerpb.Chunk]) error {
	g, err := s.group(q.Group)
	if err != nil {
		return wireStatus(err)
	}
	hash, err := wireHash(q.Hash)
	if err != nil {
		return wireStatus(err)
	}
	r, err := g.OpenStaged(hash)
	if err != nil {
		return wireStatus(err)
	}
	defer r.Close()
	_, err = io.CopyBuffer(onlyWriter{chunkWriter{stream.Send}}, r, make([]byte, peerChunkBytes))
	return wireStatus(err)
}

// Backup implements peerpb.PeerServer.
func (s peerService) Backup(q *peerpb.BackupRequest, stream grpc.ServerStreamingServer[peerpb.Chunk]) error {
	g, err := s.group(q.Group)
	if err != nil {
		return wireStatus(err)
	}
	if st := g.EngineStatus(); st.Role != RoleLeader {
		return wireStatus(notLeader(st))
	}
	rep, err := g.Backup(stream.Context(), chunkWriter{stream.Send})
	if err != nil {
		return wireStatus(err)
	}
	b, err := json.Marshal(rep)
	if err != nil {
		return wireStatus(err)
	}
	return stream.Send(&peerpb.Chunk{Report: b})
}

// Restore implements peerpb.PeerServer.
func (s peerService) Restore(stream grpc.ClientStreamingServer[peerpb.Chunk, peerpb.ReportReply]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	g, err := s.group(first.Group)
	if err != nil {
		return wireStatus(err)
	}
	r := &chunkReader{next: stream.Recv, rest: first.Data}
	rep, err := s.n.restoreHere(stream.Context(), UUID(first.Group), g, r)
	if err != nil {
		return wireStatus(err)
	}
	b, err := json.Marshal(rep)
	if err != nil {
		return wireStatus(err)
	}
	return stream.SendAndClose(&peerpb.ReportReply{Report: b})
}

// chunkWriter sends what is written as chunks.
type chunkWriter struct{ send func(*peerpb.Chunk) error }

func (w chunkWriter) Write(b []byte) (int, error) {
	for sent := 0; sent < len(b); {
		n := min(len(b)-sent, peerChunkBytes)
		if err := w.send(&peerpb.Chunk{Data: b[sent : sent+n]}); err != nil {
			return sent, err
		}
		sent += n
	}
	return len(b), nil
}

// onlyWriter hides everything but Write, so that io.CopyBuffer uses its buffer.
type onlyWriter struct{ io.Writer }

// chunkReader reads the data of chunks; a report ends it.
type chunkReader struct {
	next   func() (*peerpb.Chunk, error)
	rest   []byte
	report []byte
	err    error
}

func (r *chunkReader) Read(b []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		c, err := r.next()
		if err != nil {
			r.err = err
			continue
		}
		r.rest = c.Data
		if c.Report != nil {
			r.report = c.Report
		}
	}
	n := copy(b, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}
