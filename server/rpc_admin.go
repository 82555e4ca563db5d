package server

import (
	"context"
	"runtime"

	"connectrpc.com/connect"

	pb "github.com/diarchy/diarchy/client/clientpb"
	"github.com/diarchy/diarchy/framework"
)

func (p *rpc) ListGroups(ctx context.Context, _ *pb.ListGroupsRequest) (*pb.ListGroupsResponse, error) {
	ctx, cancel := p.bound(ctx)
	defer cancel()
	groups, err := p.svc.Groups(ctx)
	if err != nil {
		return nil, toConnect(err)
	}
	return &pb.ListGroupsResponse{Groups: each(groups, groupPB)}, nil
}

func (p *rpc) GroupStatus(ctx context.Context, m *pb.GroupStatusRequest) (*pb.GroupStatusResponse, error) {
	if m.Local {
		r, err := p.svc.LocalStatus(m.Group)
		if err != nil {
			return nil, toConnect(err)
		}
		return &pb.GroupStatusResponse{
			Leader: string(r.Leader), Term: uint64(r.Term), Replicas: []*pb.ReplicaStatus{replicaPB(r)},
			Info: &pb.GroupInfo{Spec: &pb.GroupSpec{Name: m.Group}},
		}, nil
	}
	ctx, cancel := p.bound(ctx)
	defer cancel()
	st, err := p.svc.GroupStatus(ctx, m.Group)
	if err != nil {
		return nil, toConnect(err)
	}
	return statusPB(st), nil
}

func (p *rpc) CreateGroup(ctx context.Context, m *pb.CreateGroupRequest) (*pb.CreateGroupResponse, error) {
	spec, err := specFromPB(m.Spec)
	if err != nil {
		return nil, toConnect(err)
	}
	ctx, cancel := p.long(ctx)
	defer cancel()
	info, err := p.svc.CreateGroup(ctx, spec)
	if err != nil {
		return nil, toConnect(err)
	}
	return &pb.CreateGroupResponse{Group: groupPB(info)}, nil
}

func (p *rpc) DestroyGroup(ctx context.Context, m *pb.DestroyGroupRequest) (*pb.DestroyGroupResponse, error) {
	ctx, cancel := p.long(ctx)
	defer cancel()
	if err := p.svc.DestroyGroup(ctx, m.Group, m.Confirm); err != nil {
		return nil, toConnect(err)
	}
	return &pb.DestroyGroupResponse{}, nil
}

var changeOps = map[pb.ChangeOp]framework.ChangeOp{
	pb.ChangeOp_CHANGE_OP_ADD_LEARNER: framework.AddLearner,
	pb.ChangeOp_CHANGE_OP_PROMOTE:     framework.Promote,
	pb.ChangeOp_CHANGE_OP_DEMOTE:      framework.Demote,
	pb.ChangeOp_CHANGE_OP_REMOVE:      framework.Remove,
}

func (p *rpc) ChangeMembership(ctx context.Context, m *pb.ChangeMembershipRequest) (*pb.ChangeMembershipResponse, error) {
	op, ok := changeOps[m.Op]
	if !ok {
		return nil, toConnect(framework.ErrInvalid.Because("membership change %s: expected add-learner, promote, demote or remove", m.Op))
	}
	ctx, cancel := p.long(ctx)
	defer cancel()
	err := p.svc.ChangeMembership(ctx, m.Group, framework.ChangeRequest{Op: op, Node: m.Node, BasedOn: m.BasedOn, Force: m.Force})
	if err != nil {
		return nil, toConnect(err)
	}
	return &pb.ChangeMembershipResponse{}, nil
}

func (p *rpc) Replace(ctx context.Context, m *pb.ReplaceRequest) (*pb.ReplaceResponse, error) {
	ctx, cancel := p.long(ctx)
	defer cancel()
	if err := p.svc.Replace(ctx, m.Group, m.OldNode, m.NewNode, m.Force); err != nil {
		return nil, toConnect(err)
	}
	return &pb.ReplaceResponse{}, nil
}

func (p *rpc) Transfer(ctx context.Context, m *pb.TransferRequest) (*pb.TransferResponse, error) {
	ctx, cancel := p.long(ctx)
	defer cancel()
	if err := p.svc.Transfer(ctx, m.Group, m.ToNode); err != nil {
		return nil, toConnect(err)
	}
	return &pb.TransferResponse{}, nil
}

func (p *rpc) TakeSnapshot(ctx context.Context, m *pb.TakeSnapshotRequest) (*pb.SnapshotReport, error) {
	ctx, cancel := p.long(ctx)
	defer cancel()
	rep, err := p.svc.TakeSnapshot(ctx, m.Group)
	if err != nil {
		return nil, toConnect(err)
	}
	return reportPB(rep), nil
}

func (p *rpc) Checksum(ctx context.Context, m *pb.ChecksumRequest) (*pb.ChecksumResponse, error) {
	ctx, cancel := p.bound(ctx)
	defer cancel()
	c, err := p.svc.Checksum(ctx, m.Group)
	if err != nil {
		return nil, toConnect(err)
	}
	return &pb.ChecksumResponse{Number: c.Number, History: uuidText(c.History), Sha256: c.SHA256}, nil
}

func (p *rpc) SaveSnapshot(ctx context.Context, m *pb.SaveSnapshotRequest, out *connect.ServerStream[pb.SaveSnapshotResponse]) error {
	w := &chunkWriter{out: out, held: make([]byte, 0, chunkBytes)}
	rep, err := p.svc.Backup(ctx, m.Group, w)
	if err == nil {
		err = w.flush()
	}
	if err != nil {
		return toConnect(err)
	}
	return out.Send(&pb.SaveSnapshotResponse{Report: reportPB(rep)})
}

func (p *rpc) RestoreSnapshot(ctx context.Context, in *connect.ClientStream[pb.RestoreSnapshotRequest]) (*pb.SnapshotReport, error) {
	r := &chunkReader{in: in}
	group, err := r.restoreName()
	if err != nil {
		return nil, toConnect(framework.ErrInvalid.Because("the archive did not arrive: %s; nothing was restored", err))
	}
	rep, err := p.svc.RestoreBackup(ctx, group, r)
	if err != nil {
		return nil, toConnect(err)
	}
	return reportPB(rep), nil
}

func (p *rpc) ListNodes(ctx context.Context, _ *pb.ListNodesRequest) (*pb.ListNodesResponse, error) {
	ctx, cancel := p.bound(ctx)
	defer cancel()
	nodes, err := p.svc.Nodes(ctx)
	if err != nil {
		return nil, toConnect(err)
	}
	return &pb.ListNodesResponse{Nodes: each(nodes, nodePB)}, nil
}

var (
	errNoGossip  = framework.ErrUnsupported.Because("this node runs without gossip")
	errNoPlugins = framework.ErrUnsupported.Because("this node runs without plugins")
)

func (p *rpc) Members(ctx context.Context, _ *pb.MembersRequest) (*pb.MembersResponse, error) {
	if p.s.cfg.Gossip == nil {
		return nil, toConnect(errNoGossip)
	}
	ctx, cancel := p.bound(ctx)
	defer cancel()
	members, err := p.s.cfg.Gossip.Members(ctx)
	if err != nil {
		return nil, toConnect(err)
	}
	return &pb.MembersResponse{Members: members}, nil
}

func (p *rpc) Join(ctx context.Context, m *pb.JoinRequest) (*pb.JoinResponse, error) {
	if p.s.cfg.Gossip == nil {
		return nil, toConnect(errNoGossip)
	}
	if len(m.Addresses) == 0 {
		return nil, toConnect(framework.ErrInvalid.Because("join needs at least one gossip address (host:port)"))
	}
	ctx, cancel := p.bound(ctx)
	defer cancel()
	n, err := p.s.cfg.Gossip.Join(ctx, m.Addresses)
	if err != nil {
		return nil, toConnect(err)
	}
	return &pb.JoinResponse{Joined: int64(n)}, nil
}

func (p *rpc) Leave(ctx context.Context, _ *pb.LeaveRequest) (*pb.LeaveResponse, error) {
	if p.s.cfg.Gossip == nil {
		return nil, toConnect(errNoGossip)
	}
	if err := p.s.cfg.Gossip.Leave(ctx); err != nil {
		return nil, toConnect(err)
	}
	return &pb.LeaveResponse{}, nil
}

func (p *rpc) ForceLeave(ctx context.Context, m *pb.ForceLeaveRequest) (*pb.ForceLeaveResponse, error) {
	if p.s.cfg.Gossip == nil {
		return nil, toConnect(errNoGossip)
	}
	ctx, cancel := p.bound(ctx)
	defer cancel()
	if err := p.s.cfg.Gossip.ForceLeave(ctx, m.Node); err != nil {
		return nil, toConnect(err)
	}
	return &pb.ForceLeaveResponse{}, nil
}

func (p *rpc) ListPlugins(ctx context.Context, _ *pb.ListPluginsRequest) (*pb.ListPluginsResponse, error) {
	if p.s.cfg.Plugins == nil {
		return nil, toConnect(errNoPlugins)
	}
	l, err := p.s.cfg.Plugins.List(ctx)
	if err != nil {
		return nil, toConnect(err)
	}
	return &pb.ListPluginsResponse{Plugins: l}, nil
}

func (p *rpc) PluginInfo(ctx context.Context, m *pb.PluginInfoRequest) (*pb.PluginInfoResponse, error) {
	if p.s.cfg.Plugins == nil {
		return nil, toConnect(errNoPlugins)
	}
	info, err := p.s.cfg.Plugins.Info(ctx, m.Name)
	if err != nil {
		return nil, toConnect(err)
	}
	return &pb.PluginInfoResponse{Plugin: info}, nil
}

func (p *rpc) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	groups, replicas := p.s.localReplicas()
	missing := p.s.missing()
	return &pb.StatusResponse{
		Node: nodePB(p.svc.Self()), Groups: groups, Replicas: each(replicas, replicaPB),
		Ready: len(missing) == 0, Missing: missing,
	}, nil
}

func (p *rpc) Version(context.Context, *pb.VersionRequest) (*pb.VersionResponse, error) {
	return &pb.VersionResponse{Version: p.s.cfg.Version, Go: runtime.Version(), Commit: p.s.cfg.Commit}, nil
}
