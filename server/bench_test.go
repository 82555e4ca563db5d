package server_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "github.com/diarchy/diarchy/client/clientpb"
)

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

func grpcServer(b *testing.B) string {
	l := listen(b)
	gs := grpc.NewServer()
	gs.RegisterService(&grpcEcho, nil)
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
// does it, until each has had its share of ops; it returns the time per op.
func drive(s benchStream, n, ops int) time.Duration {
	var mu sync.Mutex
	var pending []*pb.Proposal
	wake, stop := make(chan struct{}, 1), make(chan struct{})
	done := make([]chan struct{}, n)
	for i := range done {
		done[i] = make(chan struct{}, 1)
	}
	var loops sync.WaitGroup
	loops.Go(func() {
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
			if len(batch) > 0 && s.send(&pb.StreamRequest{Runs: []*pb.Run{{Group: "orders", Proposals: batch}}}) != nil {
				return
			}
		}
	})
	each := ops/n + 1
	loops.Go(func() {
		for left := each * n; left > 0; {
			m, err := s.receive()
			if err != nil {
				return
			}
			for _, r := range m.Runs {
				left -= len(r.Outcomes)
				for _, o := range r.Outcomes {
					done[o.Id] <- struct{}{}
				}
			}
		}
	})
	data := make([]byte, 256)
	var callers sync.WaitGroup
	begin := time.Now()
	for i := range n {
		callers.Go(func() {
			for range each {
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
	callers.Wait()
	took := time.Since(begin)
	close(stop)
	loops.Wait()
	return took / time.Duration(each*n)
}

// BenchmarkStream compares what the batch stream costs over connect and over
// grpc-go, in turns within one run, so that a busy machine weighs on both alike.
// An iteration is one round of 20,000 calls each. Figures are medians; the ratio
// is that of connect on both sides, or on the server's alone, to grpc-go on both.
func BenchmarkStream(b *testing.B) {
	for _, n := range []int{1, 64, 512} {
		b.Run(fmt.Sprint("clients=", n), func(b *testing.B) {
			streams := []benchStream{
				grpcClient(b, grpcServer(b)), connectClient(b, connectServer(b)), grpcClient(b, connectServer(b)),
			}
			times := make([][]time.Duration, len(streams))
			for _, s := range streams {
				drive(s, n, 2000) // warm
			}
			round := 0
			for b.Loop() {
				for k := range streams {
					i := k
					if round%2 == 1 {
						i = len(streams) - 1 - k
					}
					times[i] = append(times[i], drive(streams[i], n, 20_000))
				}
				round++
			}
			b.ReportMetric(0, "ns/op")
			g := median(times[0])
			b.ReportMetric(float64(g), "grpc-ns/call")
			b.ReportMetric(float64(median(times[1]))/float64(g), "connect/grpc")
			b.ReportMetric(float64(median(times[2]))/float64(g), "connect-server/grpc")
		})
	}
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}
