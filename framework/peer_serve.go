package framework

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	grpcpeer "google.golang.org/grpc/peer"

	"github.com/diarchy/diarchy/framework/peerpb"
)

// peerService answers other nodes, from this node's own replicas alone: what
// was forwarded is never forwarded again.
type peerService struct {
	peerpb.UnimplementedPeerServer
	n *Node
}

// catalogueWaitMax bounds how long one call for the catalogue may wait.
const catalogueWaitMax = time.Minute

func wireUUID(b []byte) (u UUID, err error) {
	if len(b) != len(u) {
		return u, ErrInvalid.Because("a group id of %d bytes", len(b))
	}
	return UUID(b), nil
}

// group finds this node's running replica of a group.
func (s peerService) group(id []byte) (*Group, error) {
	u, err := wireUUID(id)
	if err != nil {
		return nil, err
	}
	r := s.n.replica(u)
	if r == nil {
		return nil, ErrNoSuchGroup.Because("node %q has no replica of group %s", s.n.cfg.Name, u)
	}
	return r.running()
}

// Query implements peerpb.PeerServer.
func (s peerService) Query(ctx context.Context, q *peerpb.QueryRequest) (*peerpb.QueryReply, error) {
	g, err := s.group(q.Group)
	if err != nil {
		return nil, wireStatus(err)
	}
	read := ReadQuery{Data: q.Data, Consistency: Consistency(q.Consistency), After: Token{Number: q.AfterNumber}}
	copy(read.After.History[:], q.AfterHistory)
	if q.Consistency > uint32(Stale) {
		return nil, wireStatus(ErrInvalid.Because("unknown consistency %d", q.Consistency))
	}
	a, err := g.Query(ctx, read)
	if err != nil {
		return nil, wireStatus(err)
	}
	return &peerpb.QueryReply{
		Value: a.Value, History: a.Token.History[:], Number: a.Token.Number,
		TimeNs: a.Time.UnixNano(), AgeNs: int64(a.Age),
	}, nil
}

// Session implements peerpb.PeerServer.
func (s peerService) Session(ctx context.Context, q *peerpb.SessionRequest) (*peerpb.Empty, error) {
	g, err := s.group(q.Group)
	if err != nil {
		return nil, wireStatus(err)
	}
	if len(q.Id) != len(SessionID{}) {
		return nil, wireStatus(ErrInvalid.Because("a session id of %d bytes", len(q.Id)))
	}
	if q.Close {
		err = g.CloseSession(ctx, SessionID(q.Id))
	} else {
		err = g.OpenSession(ctx, SessionID(q.Id), SessionOptions{Ordered: q.Ordered})
	}
	return &peerpb.Empty{}, wireStatus(err)
}

// WaitIndex implements peerpb.PeerServer.
func (s peerService) WaitIndex(ctx context.Context, q *peerpb.WaitRequest) (*peerpb.WaitReply, error) {
	g, err := s.group(q.Group)
	if err != nil {
		return nil, wireStatus(err)
	}
	// Answer a little before the caller stops listening: its time limit is no
	// failure, and the number reached is what it wants to know.
	if d, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, d.Add(-time.Until(d)/20))
		defer cancel()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.n.ctx, cancel)()
	number, err := g.WaitIndex(ctx, q.After)
	if err != nil {
		return nil, wireStatus(err)
	}
	return &peerpb.WaitReply{Number: number}, nil
}

// Status implements peerpb.PeerServer.
func (s peerService) Status(_ context.Context, q *peerpb.StatusRequest) (*peerpb.StatusReply, error) {
	if len(q.Groups) > groupsMax {
		return nil, wireStatus(ErrTooLarge)
	}
	self, err := json.Marshal(s.n.Self())
	if err != nil {
		return nil, wireStatus(err)
	}
	reply := &peerpb.StatusReply{Node: self}
	for _, id := range q.Groups {
		u, err := wireUUID(id)
		if err != nil {
			return nil, wireStatus(err)
		}
		r := s.n.replica(u)
		if r == nil {
			continue
		}
		b, err := json.Marshal(r.report())
		if err != nil {
			return nil, wireStatus(err)
		}
		reply.Replicas = append(reply.Replicas, &peerpb.Replica{Group: id, Json: b})
	}
	return reply, nil
}

// Catalogue implements peerpb.PeerServer.
func (s peerService) Catalogue(ctx context.Context, q *peerpb.CatalogueRequest) (*peerpb.CatalogueReply, error) {
	wait := min(max(0, time.Duration(q.WaitNs)), catalogueWaitMax)
	if d, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(d)*19/20)
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		changed := s.n.views.wait()
		v := s.n.views.get()
		if v.newerThan(q.Incarnation, q.Number) {
			b, err := json.Marshal(v.state)
			if err != nil {
				return nil, wireStatus(err)
			}
			return &peerpb.CatalogueReply{Incarnation: v.incarnation, Number: v.state.Number, State: b}, nil
		}
		select {
		case <-changed:
		case <-timer.C:
			return &peerpb.CatalogueReply{}, nil
		case <-ctx.Done():
			return nil, wireStatus(ErrDeadline)
		case <-s.n.ctx.Done():
			return nil, wireStatus(ErrStopped)
		}
	}
}

// Member implements peerpb.PeerServer.
func (s peerService) Member(ctx context.Context, q *peerpb.MemberRequest) (*peerpb.Empty, error) {
	g, err := s.group(q.Group)
	if err != nil {
		return nil, wireStatus(err)
	}
	if q.Op > uint32(Remove) {
		return nil, wireStatus(ErrInvalid.Because("unknown membership step %d", q.Op))
	}
	if q.Op == 0 {
		return &peerpb.Empty{}, wireStatus(g.Transfer(ctx, NodeID(q.Node)))
	}
	err = g.Change(ctx, Change{Op: ChangeOp(q.Op), Node: NodeID(q.Node)}, q.BasedOn, q.Force)
	return &peerpb.Empty{}, wireStatus(err)
}

// Stage implements peerpb.PeerServer: the caller has a backup to be restored.
func (s peerService) Stage(ctx context.Context, q *peerpb.StageRequest) (*peerpb.Empty, error) {
	g, err := s.group(q.Group)
	if err != nil {
		return nil, wireStatus(err)
	}
	hash, err := wireHash(q.Hash)
	if err != nil {
		return nil, wireStatus(err)
	}
	p, ok := grpcpeer.FromContext(ctx)
	if !ok {
		return nil, wireStatus(errors.New("a call without a peer"))
	}
	who, ok := p.AuthInfo.(peerIdentity)
	if !ok {
		return nil, wireStatus(errors.New("a call from nobody"))
	}
	r, err := s.n.fetchPayload(ctx, UUID(q.Group), who.from, hash)
	if err != nil {
		return nil, wireStatus(err)
	}
	defer r.Close()
	return &peerpb.Empty{}, wireStatus(g.StagePayload(ctx, hash, r))
}

func wireHash(b []byte) (h [32]byte, err error) {
	if len(b) != len(h) {
		return h, ErrInvalid.Because("a hash of %d bytes", len(b))
	}
	return [32]byte(b), nil
}
