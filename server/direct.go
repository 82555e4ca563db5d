package server

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	pb "github.com/diarchy/diarchy/client/clientpb"
	"github.com/diarchy/diarchy/framework"
)

// The Go client's data path is the method Stream like anybody's, but served by
// grpc-go on a connection of its own, which costs half as much as net/http's
// (docs/adr/0003-client-stream.md). It still comes in by the one port: an
// HTTP/1.1 request with "Upgrade: diarchy-grpc" passes the door as all requests
// do, and then the connection changes hands.
const (
	directPath     = "/v1/stream"
	directProtocol = "diarchy-grpc"
)

// directServer is the grpc-go server and the listener it accepts from.
type directServer struct {
	grpc  *grpc.Server
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
	run   sync.WaitGroup
}

func newDirectServer(s *Server) *directServer {
	d := &directServer{conns: make(chan net.Conn), done: make(chan struct{})}
	d.grpc = grpc.NewServer(
		grpc.Creds(handedOver{}),
		grpc.MaxRecvMsgSize(s.messageBytesMax()),
		grpc.MaxSendMsgSize(1<<30),
		grpc.MaxConcurrentStreams(16),
		grpc.MaxHeaderListSize(32<<10),
		grpc.ConnectionTimeout(s.cfg.HeaderTimeout),
		grpc.InitialWindowSize(1<<20),
		grpc.InitialConnWindowSize(4<<20),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle: s.cfg.IdleTimeout, Time: s.cfg.IdleTimeout, Timeout: s.cfg.HeaderTimeout,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	)
	d.grpc.RegisterService(&grpc.ServiceDesc{
		ServiceName: pb.DiarchyName,
		HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{
			StreamName: "Stream", ServerStreams: true, ClientStreams: true,
			Handler: func(_ any, gs grpc.ServerStream) error { return s.serveDirect(gs) },
		}},
	}, nil)
	d.run.Go(func() { _ = d.grpc.Serve(d) })
	return d
}

// Accept, Close and Addr make it the listener of its own grpc server.
func (d *directServer) Accept() (net.Conn, error) {
	select {
	case c := <-d.conns:
		return c, nil
	case <-d.done:
		return nil, net.ErrClosed
	}
}

func (d *directServer) Close() error {
	d.once.Do(func() { close(d.done) })
	return nil
}

func (d *directServer) Addr() net.Addr { return &net.TCPAddr{} }

// close lets streams finish until ctx ends.
func (d *directServer) close(ctx context.Context) {
	graceful := make(chan struct{})
	go func() {
		d.grpc.GracefulStop()
		close(graceful)
	}()
	select {
	case <-graceful:
	case <-ctx.Done():
		d.grpc.Stop()
		<-graceful
	}
	d.run.Wait()
}

// getDirect hands the connection over.
func (s *Server) getDirect(w http.ResponseWriter, r *request) error {
	if !strings.EqualFold(r.Header.Get("Upgrade"), directProtocol) || r.ProtoMajor != 1 {
		return framework.ErrInvalid.Because("this path is for the Go client: HTTP/1.1 with 'Upgrade: %s'; others call the method Stream by gRPC", directProtocol)
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return framework.ErrUnsupported.Because("the connection cannot be handed over: %s", err)
	}
	if err := s.accept101(conn, buffered); err != nil {
		conn.Close()
		return nil //nolint:nilerr // the connection is gone, and it was ours to close
	}
	select {
	case s.direct.conns <- &directConn{Conn: conn, right: s.keys.rightOf(r.Header)}:
	case <-s.direct.done:
		conn.Close()
	}
	return nil
}

func (s *Server) accept101(conn net.Conn, buffered interface{ Flush() error }) error {
	if err := conn.SetDeadline(time.Now().Add(s.cfg.HeaderTimeout)); err != nil {
		return err
	}
	_, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+directProtocol+"\r\n\r\n")
	if err == nil {
		err = buffered.Flush()
	}
	if err != nil {
		return err
	}
	return conn.SetDeadline(time.Time{})
}

// directConn is a connection that has passed the door, with what it may do.
type directConn struct {
	net.Conn
	right right
}

// handedOver are credentials that ask nothing: the door has. They carry what it
// found to the handler.
type handedOver struct{}

type directInfo struct {
	credentials.CommonAuthInfo
	conn *directConn
}

func (directInfo) AuthType() string { return directProtocol }

func (handedOver) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	dc, ok := c.(*directConn)
	if !ok {
		return nil, nil, errors.New("not a connection that was handed over")
	}
	return c, directInfo{conn: dc}, nil
}

func (handedOver) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("for servers only")
}

func (handedOver) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: directProtocol}
}
func (h handedOver) Clone() credentials.TransportCredentials { return h }
func (handedOver) OverrideServerName(string) error           { return nil }

// serveDirect is Stream over grpc-go.
func (s *Server) serveDirect(gs grpc.ServerStream) error {
	p, _ := peer.FromContext(gs.Context())
	info, ok := p.AuthInfo.(directInfo)
	if !ok {
		return status.Error(codes.Internal, "not a connection that was handed over")
	}
	return toStatus(s.serveBatches(gs.Context(), info.conn.right, directPipe{gs, info.conn, s.metrics.cut.Inc}))
}

// toStatus says with grpc-go's words what toConnect says.
func toStatus(err error) error {
	if _, own := status.FromError(err); own { // nil too
		return err
	}
	e := asError(err)
	st := status.New(codes.Code(pb.RowOf(string(e.Code)).GRPC), e.Error())
	if d, err := st.WithDetails(errorPB(e)); err == nil {
		st = d
	}
	return st.Err()
}

type directPipe struct {
	grpc.ServerStream
	conn  net.Conn
	count func()
}

func (p directPipe) Receive() (*pb.StreamRequest, error) {
	m := new(pb.StreamRequest)
	return m, p.RecvMsg(m)
}

func (p directPipe) Send(m *pb.StreamResponse) error { return p.SendMsg(m) }

// cut closes the connection: grpc-go has no other way out of a SendMsg that
// waits. It is this stream's alone for our client.
func (p directPipe) cut() {
	p.count()
	p.conn.Close()
}

// interrupt: RecvMsg ends when the handler has returned.
func (directPipe) interrupt() bool { return false }
