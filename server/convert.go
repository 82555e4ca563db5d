package server

import (
	"time"

	pb "github.com/diarchy/diarchy/client/clientpb"
	"github.com/diarchy/diarchy/framework"
)

// each converts a list.
func each[T, U any](in []T, f func(T) U) []U {
	out := make([]U, len(in))
	for i, x := range in {
		out[i] = f(x)
	}
	return out
}

// unixNano keeps the zero time zero.
func unixNano(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// uuidText keeps the zero UUID empty.
func uuidText(u framework.UUID) string {
	if u == (framework.UUID{}) {
		return ""
	}
	return u.String()
}

func text(id framework.NodeID) string { return string(id) }

func tokenPB(t framework.Token) *pb.Token {
	return &pb.Token{History: t.History[:], Number: t.Number}
}

func tokenFromPB(t *pb.Token) (framework.Token, error) {
	if t == nil {
		return framework.Token{}, nil
	}
	out := framework.Token{Number: t.Number}
	if len(t.History) != len(out.History) && (len(t.History) != 0 || t.Number != 0) {
		return out, framework.ErrInvalid.Because("a token's history has %d bytes; expected 16, as the answer had it that it came with", len(t.History))
	}
	copy(out.History[:], t.History)
	return out, nil
}

func sessionIDFromPB(b []byte) (framework.SessionID, error) {
	var id framework.SessionID
	copy(id[:], b)
	if len(b) != len(id) || id == (framework.SessionID{}) {
		return id, framework.ErrInvalid.Because("a session id has %d bytes; expected 16 random ones", len(b))
	}
	return id, nil
}

func sessionFromPB(id []byte, seq, ackedBelow uint64) (framework.Session, error) {
	if len(id) == 0 {
		if seq != 0 {
			return framework.Session{}, framework.ErrInvalid.Because("seq %d without a session", seq)
		}
		return framework.Session{}, nil
	}
	sid, err := sessionIDFromPB(id)
	if err == nil && seq == 0 {
		err = framework.ErrInvalid.Because("a command of a session needs its seq, from 1")
	}
	return framework.Session{ID: sid, Seq: seq, AckedBelow: ackedBelow}, err
}

var levels = map[pb.Consistency]framework.Consistency{
	pb.Consistency_CONSISTENCY_LINEARIZABLE: framework.Linearizable,
	pb.Consistency_CONSISTENCY_LEADER:       framework.FromLeader,
	pb.Consistency_CONSISTENCY_STALE:        framework.Stale,
}

func readFromPB(data []byte, level pb.Consistency, after *pb.Token, noForward bool) (framework.ReadQuery, error) {
	c, ok := levels[level]
	if !ok {
		return framework.ReadQuery{}, framework.ErrInvalid.Because("unknown consistency %s", level)
	}
	t, err := tokenFromPB(after)
	return framework.ReadQuery{Data: data, Consistency: c, After: t, NoForward: noForward}, err
}

func specFromPB(m *pb.GroupSpec) (framework.GroupSpec, error) {
	if m == nil {
		return framework.GroupSpec{}, framework.ErrInvalid.Because("no group given")
	}
	spec := framework.GroupSpec{
		Name: m.Name, Engine: m.Engine, Machine: m.Machine, Replicas: int(m.Replicas),
		Durability: m.Durability, Options: m.Options,
	}
	for _, n := range m.Nodes {
		spec.Nodes = append(spec.Nodes, framework.NodeID(n))
	}
	if l := m.Limits; l != nil {
		spec.Limits = framework.Limits{
			CommandBytes: int(l.CommandBytes), ResultBytes: int(l.ResultBytes), Sessions: int(l.Sessions),
			SessionWindow: int(l.SessionWindow), SessionResultBytes: int(l.SessionResultBytes),
		}
	}
	return spec, nil
}

func groupPB(g framework.GroupInfo) *pb.GroupInfo {
	return &pb.GroupInfo{
		Spec: &pb.GroupSpec{
			Name: g.Name, Engine: g.Engine, Machine: g.Machine, Replicas: int64(g.Replicas),
			Nodes: each(g.Nodes, text), Durability: g.Durability, Options: g.Options,
			Limits: &pb.Limits{
				CommandBytes: int64(g.Limits.CommandBytes), ResultBytes: int64(g.Limits.ResultBytes), Sessions: int64(g.Limits.Sessions),
				SessionWindow: int64(g.Limits.SessionWindow), SessionResultBytes: int64(g.Limits.SessionResultBytes),
			},
		},
		Id: uuidText(g.ID), Incarnation: g.Incarnation, Placed: each(g.Placed, text), System: g.System,
	}
}

func statusPB(st framework.GroupStatus) *pb.GroupStatusResponse {
	return &pb.GroupStatusResponse{
		Info: groupPB(st.GroupInfo), Leader: string(st.Leader), Term: uint64(st.Term),
		Membership: &pb.Membership{
			Id: st.Membership.ID, Committed: st.Membership.Committed,
			Members: each(st.Membership.Members, func(m framework.Member) *pb.Member {
				return &pb.Member{Node: string(m.ID), Suffrage: m.Suffrage.String()}
			}),
		},
		Replicas: each(st.Replicas, replicaPB), Problems: st.Problems,
	}
}

func replicaPB(r framework.ReplicaStatus) *pb.ReplicaStatus {
	return &pb.ReplicaStatus{
		Node: string(r.Node), Name: r.Name, Reachable: r.Reachable, Role: r.Role, Suffrage: r.Suffrage,
		Term: uint64(r.Term), Leader: string(r.Leader), Commit: uint64(r.Commit), Last: uint64(r.Last),
		First: uint64(r.First), Snapshot: uint64(r.Snapshot), Applied: uint64(r.Applied), Number: r.Number,
		History: uuidText(r.History), Time: unixNano(r.Time), Lag: r.Lag, LagAge: int64(r.LagAge),
		Machine: &pb.MachineStatus{
			State: r.Machine.State, Name: r.Machine.Name, Version: r.Machine.Version, Since: unixNano(r.Machine.Since),
			Restarts: int64(r.Machine.Restarts), Backlog: r.Machine.Backlog, Error: r.Machine.Err,
		},
		Warning: r.Warning, Error: r.Err, SnapshotProgress: r.SnapshotProgress,
	}
}

func nodePB(n framework.NodeInfo) *pb.NodeInfo {
	return &pb.NodeInfo{
		Id: string(n.ID), Name: n.Name, Status: n.Status, PeerAddr: n.PeerAddr, ClientAddr: n.ClientAddr,
		GossipAddr: n.GossipAddr, Version: n.Version, Groups: n.Groups, Self: n.Self, Cluster: uuidText(n.Cluster),
	}
}

func reportPB(r framework.SnapshotReport) *pb.SnapshotReport {
	return &pb.SnapshotReport{
		Number: r.Number, Position: uint64(r.Position), History: uuidText(r.History),
		MachineName: r.MachineName, MachineVersion: r.MachineVersion, Bytes: r.Bytes,
	}
}
