package server

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "github.com/diarchy/diarchy/client/clientpb"
)

var _ tls.Config

// echo answers every proposal of a batch at once: what is left is the cost of
// the stream.
func echo(in *pb.StreamRequest) *pb.StreamResponse {
	run := &pb.OutcomeRun{}
	for _, r := range in.Runs {
		slab := make([]pb.Outcome, len(r.Proposals))
		for i, p := range r.Proposals {
			slab[i].Id = p.Id
			slab[i].Number = p.Id
			slab[i].Value = p.Data[:8]
			run.Outcomes = append(run.Outcomes, &slab[i])
		}
	}
	return &pb.StreamResponse{Runs: []*pb.OutcomeRun{run}}
}

type connectEcho struct{ pb.UnimplementedDiarchyHandler }

func (connectEcho) Stream(_ context.Context, s *connect.BidiStream[pb.StreamRequest, pb.StreamResponse]) error {
	for {
		in, err := s.Receive()
		if err != nil {
			return err
		}
		if err := s.Send(echo(in)); err != nil {
			return err
		}
	}
}

var grpcEcho = grpc.ServiceDesc{
	ServiceName: pb.DiarchyName,
	HandlerType: (*any)(nil),
	Streams: []grpc.StreamDesc{{
		StreamName: "Stream", ServerStreams: true, ClientStreams: true,
		Handler: func(_ any, s grpc.ServerStream) error {
			for {
				in := new(pb.StreamRequest)
				if err := s.RecvMsg(in); err != nil {
					return err
				}
				if err := s.SendMsg(echo(in)); err != nil {
					return err
				}
			}
		},
	}},
}

type benchStream interface {
	send(*pb.StreamRequest) error
	receive() (*pb.StreamResponse, error)
}

type connectStream struct {
	*connect.BidiStreamForClientSimple[pb.StreamRequest, pb.StreamResponse]
}

func (s connectStream) send(m *pb.StreamRequest) error       { return s.Send(m) }
func (s connectStream) receive() (*pb.StreamResponse, error) { return s.Receive() }

type grpcStream struct{ grpc.ClientStream }

func (s grpcStream) send(m *pb.StreamRequest) error { return s.SendMsg(m) }
func (s grpcStream) receive() (*pb.StreamResponse, error) {
	m := new(pb.StreamResponse)
	return m, s.RecvMsg(m)
}

func listen(b *testing.B) net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	return l
}

func connectServer(b *testing.B) string {
	l := listen(b)
	mux := http.NewServeMux()
	mux.Handle(pb.NewDiarchyHandler(connectEcho{}))
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	hs := &http.Server{Handler: mux, Protocols: p}
	go hs.Serve(l)
	b.Cleanup(func() { hs.Close() })
	return l.Addr().String()
}

func grpcServer(b *testing.B, overHTTP bool) string {
	l := listen(b)
	gs := grpc.NewServer()
	gs.RegisterService(&grpcEcho, nil)
	if overHTTP {
		p := new(http.Protocols)
		p.SetHTTP1(true)
		p.SetUnencryptedHTTP2(true)
		hs := &http.Server{Handler: gs, Protocols: p}
		go hs.Serve(l)
		b.Cleanup(func() { hs.Close() })
		return l.Addr().String()
	}
	go gs.Serve(l)
	b.Cleanup(gs.Stop)
	return l.Addr().String()
}

func connectClient(b *testing.B, addr string) benchStream {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: p}
	c := pb.NewDiarchyClient(&http.Client{Transport: tr}, "http://"+addr, connect.WithGRPC())
	ctx, cancel := context.WithCancel(context.Background())
	s, err := c.Stream(ctx)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { cancel(); tr.CloseIdleConnections() })
	return connectStream{s}
}

func grpcClient(b *testing.B, addr string) benchStream {
	cc, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s, err := cc.NewStream(ctx, &grpcEcho.Streams[0], pb.DiarchyStreamProcedure)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { cancel(); cc.Close() })
	return grpcStream{s}
}

// drive runs n closed-loop callers over one stream, coalesced as the client
// does it.
func drive(b *testing.B, s benchStream, n int) {
	var mu sync.Mutex
	var pending []*pb.Proposal
	wake := make(chan struct{}, 1)
	done := make([]chan struct{}, n)
	stop := make(chan struct{})
	go func() {
		for {
			select {
			case <-wake:
			case <-stop:
				return
			}
			runtime.Gosched()
			mu.Lock()
			batch := pending
			pending = nil
			mu.Unlock()
			if len(batch) > 0 {
				if s.send(&pb.StreamRequest{Runs: []*pb.Run{{Group: "orders", Proposals: batch}}}) != nil {
					return
				}
			}
		}
	}()
	go func() {
		for {
			m, err := s.receive()
			if err != nil {
				return
			}
			for _, r := range m.Runs {
				for _, o := range r.Outcomes {
					done[o.Id] <- struct{}{}
				}
			}
		}
	}()
	data := make([]byte, 256)
	var wg sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	start := time.Now()
	for i := range n {
		done[i] = make(chan struct{}, 1)
		wg.Go(func() {
			for range b.N/n + 1 {
				mu.Lock()
				pending = append(pending, &pb.Proposal{Id: uint64(i), Data: data})
				mu.Unlock()
				select {
				case wake <- struct{}{}:
				default:
				}
				<-done[i]
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64((b.N/n+1)*n)/time.Since(start).Seconds(), "op/s")
	close(stop)
}

func BenchmarkStream(b *testing.B) {
	for _, n := range []int{1, 64, 512} {
		for _, k := range []struct {
			name string
			make func(b *testing.B) benchStream
		}{
			{"connect-connect", func(b *testing.B) benchStream { return connectClient(b, connectServer(b)) }},
			{"grpc-grpc", func(b *testing.B) benchStream { return grpcClient(b, grpcServer(b, false)) }},
			{"grpc-connect", func(b *testing.B) benchStream { return grpcClient(b, connectServer(b)) }},
			{"connect-grpc", func(b *testing.B) benchStream { return connectClient(b, grpcServer(b, false)) }},
			{"grpc-grpchttp", func(b *testing.B) benchStream { return grpcClient(b, grpcServer(b, true)) }},
		} {
			b.Run(fmt.Sprintf("%s/%d", k.name, n), func(b *testing.B) { drive(b, k.make(b), n) })
		}
	}
}
