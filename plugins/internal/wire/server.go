package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"google.golang.org/grpc"

	"github.com/diarchy/diarchy/fsm"
	"github.com/diarchy/diarchy/plugins/fsmpb"
)

// Events are what a Server's owner is told. Any may be nil.
type Events struct {
	// Opening is called before the machine's Open.
	Opening func()
	// HostGone is called when the host has ended its Attend call, which it
	// does by ending.
	HostGone func()
}

// Server is the plugin's side: it serves one machine to one host.
type Server struct {
	fsmpb.UnimplementedMachineServer
	machine fsm.Machine
	events  Events

	// state is held by the calls that may not overlap. The host sees to that;
	// the lock keeps a wrong host from becoming a data race in the machine.
	state sync.Mutex
}

// Register serves m on s, which must have been made with [ServerOptions].
func Register(s grpc.ServiceRegistrar, m fsm.Machine, events Events) {
	fsmpb.RegisterMachineServer(s, &Server{machine: m, events: events})
}

// Open implements the service.
func (s *Server) Open(ctx context.Context, _ *fsmpb.OpenRequest) (*fsmpb.OpenReply, error) {
	if s.events.Opening != nil {
		s.events.Opening()
	}
	s.state.Lock()
	defer s.state.Unlock()
	o, err := s.machine.Open(ctx)
	return &fsmpb.OpenReply{
		Name: o.Name, Version: o.Version, Host: o.Host, Failure: failureOf(err),
		Capabilities: &fsmpb.Capabilities{
			Digest: o.Capabilities.Digest, Durable: o.Capabilities.Durable, Ticks: o.Capabilities.Ticks,
		},
	}, nil
}

// Apply implements the service: one loop that takes a batch, executes it and
// answers. Batches sent ahead wait in gRPC's window.
func (s *Server) Apply(stream grpc.BidiStreamingServer[fsmpb.ApplyRequest, fsmpb.ApplyReply]) error {
	var in batchIn
	defer in.reset()
	var results []fsm.Result
	for {
		in.reset()
		for !in.last {
			if err := stream.RecvMsg(&in); err == io.EOF {
				return nil
			} else if err != nil {
				return err
			}
		}
		results = resultsFor(results, len(in.entries))
		if err := s.execute(stream.Context(), &in, results); err != nil {
			return stream.Send(&fsmpb.ApplyReply{Batch: in.batch, Last: true, Failure: failureOf(err)})
		}
		if err := sendResults(stream, in.batch, results); err != nil {
			return err
		}
	}
}

// resultsFor returns n cleared results, one for a tick, in reused's memory
// where that is enough.
func resultsFor(reused []fsm.Result, n int) []fsm.Result {
	n = max(n, 1)
	clear(reused)
	if cap(reused) < n {
		return make([]fsm.Result, n)
	}
	return reused[:n]
}

func (s *Server) execute(ctx context.Context, in *batchIn, results []fsm.Result) error {
	s.state.Lock()
	defer s.state.Unlock()
	return s.machine.Apply(ctx, fsm.Batch{Entries: in.entries, Time: in.time, Host: in.host}, results)
}

// sendResults sends all results in as few messages as ChunkBytes allows.
func sendResults(stream grpc.ServerStream, batch uint64, results []fsm.Result) error {
	out := resultsOut{batch: batch}
	first := 0
	for i := range results {
		limitResult(&results[i])
		n := sizeItem(sizeResult(&results[i]))
		if i > first && out.bytes+n > fsmpb.ChunkBytes {
			out.results = results[first:i]
			if err := stream.SendMsg(&out); err != nil {
				return err
			}
			first, out.bytes = i, 0
		}
		out.bytes += n
	}
	out.results, out.last = results[first:], true
	return stream.SendMsg(&out)
}

// limitResult makes a result that is too long to send an application error. The
// command was executed, and says so on every replica in the same words.
func limitResult(r *fsm.Result) {
	if n := len(r.Value) + len(r.Err); n > fsmpb.ResultBytesMax {
		*r = fsm.Result{Due: r.Due, Err: fmt.Sprintf("result too large (%d > %d)", n, fsmpb.ResultBytesMax)}
	}
}

// Query implements the service.
func (s *Server) Query(ctx context.Context, q *fsmpb.QueryRequest) (*fsmpb.QueryReply, error) {
	v, err := s.machine.Query(ctx, fsm.Query{Data: q.GetData(), Index: q.GetIndex(), Time: q.GetTime()})
	if err == nil && len(v) > fsmpb.ResultBytesMax {
		v, err = nil, fmt.Errorf("answer too large (%d > %d)", len(v), fsmpb.ResultBytesMax)
	}
	if err != nil {
		return &fsmpb.QueryReply{Failure: failureOf(err)}, nil
	}
	return &fsmpb.QueryReply{Value: v}, nil
}

// Snapshot implements the service.
func (s *Server) Snapshot(_ *fsmpb.SnapshotRequest, stream grpc.ServerStreamingServer[fsmpb.SnapshotReply]) error {
	snap, err := s.capture(stream.Context())
	if err != nil {
		return stream.Send(&fsmpb.SnapshotReply{Failure: failureOf(err)})
	}
	defer snap.Release()
	if err := stream.Send(&fsmpb.SnapshotReply{Captured: true}); err != nil {
		return err
	}
	w := newChunkWriter(func(chunk []byte) error {
		return stream.Send(&fsmpb.SnapshotReply{Chunk: chunk})
	})
	_, err = snap.WriteTo(w)
	if err == nil {
		err = w.flush()
	}
	if err != nil {
		return stream.Send(&fsmpb.SnapshotReply{Failure: failureOf(err)})
	}
	return stream.Send(&fsmpb.SnapshotReply{End: true, Size: w.written})
}

func (s *Server) capture(ctx context.Context) (fsm.Snapshot, error) {
	s.state.Lock()
	defer s.state.Unlock()
	return s.machine.Snapshot(ctx)
}

// Restore implements the service.
func (s *Server) Restore(stream grpc.ClientStreamingServer[fsmpb.RestoreRequest, fsmpb.RestoreReply]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	info := fsm.SnapshotInfo{
		Index: first.GetInfo().GetIndex(), Time: first.GetInfo().GetTime(),
		Name: first.GetInfo().GetName(), Version: first.GetInfo().GetVersion(),
		Size: first.GetInfo().GetSize(), Host: first.GetInfo().GetHost(),
	}
	r := &chunkReader{next: stream.Recv}
	s.state.Lock()
	err = s.machine.Restore(stream.Context(), info, r)
	s.state.Unlock()
	if err == nil {
		// A machine that stops at the end of its own format leaves damage
		// behind it unseen.
		_, err = io.Copy(io.Discard, r)
	}
	return stream.SendAndClose(&fsmpb.RestoreReply{Failure: failureOf(err)})
}

// Digest implements the service.
func (s *Server) Digest(ctx context.Context, _ *fsmpb.DigestRequest) (*fsmpb.DigestReply, error) {
	s.state.Lock()
	defer s.state.Unlock()
	d, err := s.machine.Digest(ctx)
	return &fsmpb.DigestReply{Digest: d, Failure: failureOf(err)}, nil
}

// Close implements the service. It does not wait for calls under way.
func (s *Server) Close(context.Context, *fsmpb.CloseRequest) (*fsmpb.CloseReply, error) {
	return &fsmpb.CloseReply{Failure: failureOf(s.machine.Close())}, nil
}

// Attend implements the service.
func (s *Server) Attend(_ *fsmpb.AttendRequest, stream grpc.ServerStreamingServer[fsmpb.AttendReply]) error {
	// An error is that of a call that has ended, which is what is waited for.
	_ = stream.Send(&fsmpb.AttendReply{})
	<-stream.Context().Done()
	if s.events.HostGone != nil {
		s.events.HostGone()
	}
	return nil
}

// failureOf is the machine's error as it crosses the line; nil for none.
func failureOf(err error) *fsmpb.Failure {
	if err == nil {
		return nil
	}
	return &fsmpb.Failure{
		Unsupported: errors.Is(err, fsm.ErrUnsupported),
		Message:     strings.ToValidUTF8(err.Error(), "\uFFFD"),
	}
}
