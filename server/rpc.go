package server

import (
	"context"
	"math"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpcreflect"

	pb "github.com/diarchy/diarchy/client/clientpb"
	"github.com/diarchy/diarchy/framework"
)

// procedures says what right each method needs. One that is not here does not
// exist.
var procedures = map[string]right{
	pb.DiarchyProposeProcedure: admin,
	pb.DiarchyQueryProcedure:   reader,
	// Stream takes both; each command in it needs admin, see batch.go.
	pb.DiarchyStreamProcedure:           reader,
	pb.DiarchyOpenSessionProcedure:      admin,
	pb.DiarchyCloseSessionProcedure:     admin,
	pb.DiarchyTailProcedure:             reader,
	pb.DiarchyWaitIndexProcedure:        reader,
	pb.DiarchyListGroupsProcedure:       reader,
	pb.DiarchyGroupStatusProcedure:      reader,
	pb.DiarchyCreateGroupProcedure:      admin,
	pb.DiarchyDestroyGroupProcedure:     admin,
	pb.DiarchyChangeMembershipProcedure: admin,
	pb.DiarchyReplaceProcedure:          admin,
	pb.DiarchyTransferProcedure:         admin,
	pb.DiarchyTakeSnapshotProcedure:     admin,
	pb.DiarchyChecksumProcedure:         reader,
	pb.DiarchySaveSnapshotProcedure:     reader,
	pb.DiarchyRestoreSnapshotProcedure:  admin,
	pb.DiarchyListNodesProcedure:        reader,
	pb.DiarchyMembersProcedure:          reader,
	pb.DiarchyJoinProcedure:             admin,
	pb.DiarchyLeaveProcedure:            admin,
	pb.DiarchyForceLeaveProcedure:       admin,
	pb.DiarchyListPluginsProcedure:      reader,
	pb.DiarchyPluginInfoProcedure:       reader,
	pb.DiarchyStatusProcedure:           reader,
	pb.DiarchyVersionProcedure:          reader,

	healthCheck:                             reader,
	healthWatch:                             reader,
	reflectV1 + "ServerReflectionInfo":      reader,
	reflectV1Alpha + "ServerReflectionInfo": reader,
}

const (
	reflectV1      = "/" + grpcreflect.ReflectV1ServiceName + "/"
	reflectV1Alpha = "/" + grpcreflect.ReflectV1AlphaServiceName + "/"
)

// messageBytesMax bounds one message of a Stream: some full-sized commands.
func (s *Server) messageBytesMax() int { return s.cfg.CommandBytesMax + 1<<20 }

// rpcHandlers are the services by the prefix of their paths.
func (s *Server) rpcHandlers() map[string]http.Handler {
	// Answers are not compressed: commands and values are the user's, and
	// whoever wants them small has made them so.
	limit := connect.WithHandlerOptions(connect.WithReadMaxBytes(s.messageBytesMax()), connect.WithCompressMinBytes(math.MaxInt))
	reflector := grpcreflect.NewStaticReflector(pb.DiarchyName, "grpc.health.v1.Health")
	out := map[string]http.Handler{healthPrefix: s.healthHandler(limit)}
	add := func(prefix string, h http.Handler) { out[prefix] = h }
	add(pb.NewDiarchyHandler(&rpc{s: s, svc: s.svc}, limit))
	add(grpcreflect.NewHandlerV1(reflector, limit))
	add(grpcreflect.NewHandlerV1Alpha(reflector, limit))
	return out
}

// rpc is the service. Each method turns a message into a call and back.
type rpc struct {
	s   *Server
	svc framework.Service
}

// bound gives a call without a deadline the server's own.
func (p *rpc) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return within(ctx, p.s.cfg.RequestTimeout)
}

// long is for what may take as long as a state is big or a replica far behind.
func (p *rpc) long(ctx context.Context) (context.Context, context.CancelFunc) {
	return within(ctx, waitMax)
}

func within(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, limit)
}

func (p *rpc) Propose(ctx context.Context, m *pb.ProposeRequest) (*pb.ProposeResponse, error) {
	session, err := sessionFromPB(m.Session, m.Seq, m.AckedBelow)
	if err == nil {
		err = p.s.fits(m.Data)
	}
	if err != nil {
		return nil, toConnect(err)
	}
	ctx, cancel := p.bound(ctx)
	defer cancel()
	rec, err := p.svc.Propose(ctx, m.Group, framework.Command{Data: m.Data, Session: session, NoForward: m.NoForward})
	if err != nil {
		return nil, toConnect(err)
	}
	return &pb.ProposeResponse{Token: tokenPB(rec.Token), Value: rec.Value, Error: rec.Err, Duplicate: rec.Duplicate}, nil
}

func (p *rpc) Query(ctx context.Context, m *pb.QueryRequest) (*pb.QueryResponse, error) {
	q, err := readFromPB(m.Data, m.Consistency, m.After, m.NoForward)
	if err == nil {
		err = p.s.fits(m.Data)
	}
	if err != nil {
		return nil, toConnect(err)
	}
	ctx, cancel := p.bound(ctx)
	defer cancel()
	a, err := p.svc.Query(ctx, m.Group, q)
	if err != nil {
		return nil, toConnect(err)
	}
	return &pb.QueryResponse{Value: a.Value, Token: tokenPB(a.Token), Time: unixNano(a.Time), Age: int64(a.Age)}, nil
}

// fits refuses what is over the node's own limit; the group's is the group's.
func (s *Server) fits(data []byte) error {
	if len(data) > s.cfg.CommandBytesMax {
		return framework.ErrTooLarge.Because("%d bytes are over the limit of %d", len(data), s.cfg.CommandBytesMax)
	}
	return nil
}

func (p *rpc) OpenSession(ctx context.Context, m *pb.OpenSessionRequest) (*pb.OpenSessionResponse, error) {
	id, err := sessionIDFromPB(m.Session)
	if err != nil {
		return nil, toConnect(err)
	}
	ctx, cancel := p.bound(ctx)
	defer cancel()
	if err := p.svc.OpenSession(ctx, m.Group, id, framework.SessionOptions{Ordered: m.Ordered}); err != nil {
		return nil, toConnect(err)
	}
	return &pb.OpenSessionResponse{}, nil
}

func (p *rpc) CloseSession(ctx context.Context, m *pb.CloseSessionRequest) (*pb.CloseSessionResponse, error) {
	id, err := sessionIDFromPB(m.Session)
	if err != nil {
		return nil, toConnect(err)
	}
	ctx, cancel := p.bound(ctx)
	defer cancel()
	if err := p.svc.CloseSession(ctx, m.Group, id); err != nil {
		return nil, toConnect(err)
	}
	return &pb.CloseSessionResponse{}, nil
}

func (p *rpc) Tail(ctx context.Context, m *pb.TailRequest, out *connect.ServerStream[pb.TailResponse]) error {
	return toConnect(p.s.tail(ctx, m.Group, m.From, func(entries []framework.TailEntry) error {
		batch := &pb.TailResponse{Entries: make([]*pb.TailEntry, len(entries))}
		for i, e := range entries {
			batch.Entries[i] = &pb.TailEntry{Number: e.Number, Time: unixNano(e.Time), Data: e.Data}
		}
		return out.Send(batch)
	}))
}

func (p *rpc) WaitIndex(ctx context.Context, m *pb.WaitIndexRequest) (*pb.WaitIndexResponse, error) {
	wait := 30 * time.Second
	if m.TimeoutMs != 0 {
		wait = time.Duration(m.TimeoutMs) * time.Millisecond
	}
	ctx, cancel := p.s.waiting(ctx, wait)
	defer cancel()
	n, err := p.svc.WaitIndex(ctx, m.Group, m.After)
	if err != nil {
		return nil, toConnect(err)
	}
	return &pb.WaitIndexResponse{Number: n}, nil
}

// Stream is the data path for whoever speaks gRPC; see direct.go for the Go
// client's.
func (p *rpc) Stream(ctx context.Context, bidi *connect.BidiStream[pb.StreamRequest, pb.StreamResponse]) error {
	d := doorFrom(ctx)
	return toConnect(p.s.serveBatches(ctx, d.right, connectPipe{bidi, d.out}))
}

type connectPipe struct {
	*connect.BidiStream[pb.StreamRequest, pb.StreamResponse]
	out *stallWriter
}

func (c connectPipe) cut() { c.out.cut() }

func (c connectPipe) interrupt() bool { return c.out.interrupt() }
