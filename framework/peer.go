package framework

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/stats"

	"github.com/diarchy/diarchy/framework/peerpb"
)

// The peer service: what nodes ask of each other beside replication. It is gRPC
// over Streams, so TLS, identity and injected faults are below it. This file
// holds the connections; peer_lane.go the forwarded proposals, peer_serve.go
// and peer_stream.go what this node answers, peer_errors.go how errors travel.

const (
	peerMessageBytesMax = 2*commandBytesMax + 1<<20
	peerChunkBytes      = 256 << 10
	peerDialTimeout     = 3 * time.Second
)

// peerServer accepts the other nodes' connections.
type peerServer struct {
	grpc *grpc.Server
	done chan struct{}
}

// servePeers starts to answer other nodes.
func servePeers(streams Streams, service peerpb.PeerServer, log *slog.Logger) (*peerServer, error) {
	l, err := streams.Listen(PlanePeer, GroupIdentity{})
	if err != nil {
		return nil, err
	}
	s := &peerServer{done: make(chan struct{})}
	s.grpc = grpc.NewServer(
		grpc.Creds(peerCredentials{}),
		grpc.MaxRecvMsgSize(peerMessageBytesMax),
		grpc.MaxSendMsgSize(peerMessageBytesMax),
		grpc.MaxConcurrentStreams(4096),
		grpc.ConnectionTimeout(peerDialTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	)
	peerpb.RegisterPeerServer(s.grpc, service)
	go func() {
		defer close(s.done)
		if err := s.grpc.Serve(peerNetListener{l}); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, grpc.ErrServerStopped) {
			log.Error("the peer service has stopped", "err", err)
		}
	}()
	return s, nil
}

// stop ends the service: gently while ctx lasts, then at once.
func (s *peerServer) stop(ctx context.Context) {
	cut := context.AfterFunc(ctx, s.grpc.Stop)
	s.grpc.GracefulStop()
	cut()
	<-s.done
}

// peerNetListener is a PeerListener as gRPC wants it.
type peerNetListener struct{ l PeerListener }

func (l peerNetListener) Accept() (net.Conn, error) { return l.l.Accept() }
func (l peerNetListener) Close() error              { return l.l.Close() }
func (l peerNetListener) Addr() net.Addr            { return peerAddr("peer") }

type peerAddr string

func (peerAddr) Network() string  { return "diarchy" }
func (a peerAddr) String() string { return string(a) }

// peerCredentials hands on who the other end is; Streams has settled that.
type peerCredentials struct{}

// peerIdentity is the AuthInfo of a connection from another node.
type peerIdentity struct {
	credentials.CommonAuthInfo
	from NodeID
}

func (peerIdentity) AuthType() string { return "diarchy-streams" }

func (peerCredentials) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	pc, ok := c.(PeerConn)
	if !ok {
		return nil, nil, errors.New("not a connection between nodes")
	}
	return c, peerIdentity{credentials.CommonAuthInfo{SecurityLevel: credentials.NoSecurity}, pc.From()}, nil
}

func (peerCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("server side only")
}

func (peerCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "diarchy-streams"}
}
func (c peerCredentials) Clone() credentials.TransportCredentials { return c }
func (peerCredentials) OverrideServerName(string) error           { return nil }

// peers are the connections to other nodes, made when first used. Safe for
// concurrent use.
type peers struct {
	streams Streams
	limits  laneLimits
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	mu     sync.Mutex
	byNode map[NodeID]*peer
}

func newPeers(streams Streams, limits laneLimits) *peers {
	ctx, cancel := context.WithCancel(context.Background())
	return &peers{streams: streams, limits: limits, ctx: ctx, cancel: cancel, byNode: map[NodeID]*peer{}}
}

// peer is one other node.
type peer struct {
	node NodeID
	conn *grpc.ClientConn
	peerpb.PeerClient
	// bulk has a connection of its own, so that a backup is never in the way.
	bulkConn *grpc.ClientConn
	bulk     peerpb.PeerClient
	lane     *lane
}

// get returns the peer; nothing is dialled before it is used.
func (ps *peers) get(id NodeID) (*peer, error) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if p := ps.byNode[id]; p != nil {
		return p, nil
	}
	if ps.ctx.Err() != nil {
		return nil, ErrStopped.Because("this node is shutting down")
	}
	conn, err := ps.connect(id)
	if err != nil {
		return nil, err
	}
	bulk, err := ps.connect(id)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	p := &peer{node: id, conn: conn, PeerClient: peerpb.NewPeerClient(conn), bulkConn: bulk, bulk: peerpb.NewPeerClient(bulk)}
	p.lane = newLane(ps, p)
	ps.byNode[id] = p
	return p, nil
}

func (ps *peers) connect(id NodeID) (*grpc.ClientConn, error) {
	// Short, because ClientConn.ResetConnectBackoff is not safe to call beside
	// the connection's own work (grpc v1.85.0: it walks a map without its lock).
	wait := backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 500 * time.Millisecond}
	return grpc.NewClient("passthrough:///"+string(id),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return ps.streams.Dial(ctx, id, PlanePeer, GroupIdentity{})
		}),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: wait, MinConnectTimeout: peerDialTimeout}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true}),
		grpc.WithIdleTimeout(5*time.Minute),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(peerMessageBytesMax), grpc.MaxCallSendMsgSize(peerMessageBytesMax)),
		grpc.WithStatsHandler(sentWatch{}),
		grpc.WithDisableServiceConfig(),
	)
}

// close ends every connection and waits for the lanes.
func (ps *peers) close() {
	ps.cancel()
	ps.mu.Lock()
	for _, p := range ps.byNode {
		_ = p.conn.Close()
		_ = p.bulkConn.Close()
	}
	ps.mu.Unlock()
	ps.wg.Wait()
}

// sentWatch tells a call that never left from one whose answer was lost: gRPC
// has one code for both.
type sentWatch struct{}

type sentKey struct{}

// watchSent returns a context for one call, and where it is marked once the
// request has been handed to a connection.
func watchSent(ctx context.Context) (context.Context, *atomic.Bool) {
	sent := new(atomic.Bool)
	return context.WithValue(ctx, sentKey{}, sent), sent
}

func (sentWatch) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }
func (sentWatch) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if _, ok := s.(*stats.OutHeader); !ok {
		return
	}
	if sent, ok := ctx.Value(sentKey{}).(*atomic.Bool); ok {
		sent.Store(true)
	}
}
func (sentWatch) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (sentWatch) HandleConn(context.Context, stats.ConnStats)                       {}
