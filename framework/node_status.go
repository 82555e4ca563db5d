package framework

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// GroupStatus implements Service: what every replica says, gathered from all of
// them at once, and what is wrong in words.
func (n *Node) GroupStatus(ctx context.Context, group string) (GroupStatus, error) {
	t, err := n.resolve(ctx, group)
	if err != nil {
		return GroupStatus{}, err
	}
	return n.statusOf(ctx, t.info), nil
}

func (n *Node) statusOf(ctx context.Context, info *GroupInfo) GroupStatus {
	asked := slices.Clone(info.Placed)
	for _, m := range n.localMembership(info.ID).Members {
		asked = append(asked, m.ID)
	}
	reports := n.askAll(ctx, info.ID, sortedIDs(asked))
	gs := GroupStatus{GroupInfo: *info, Problems: []string{}}
	var from replicaReport // the leader's, or the best there is
	for _, rep := range reports {
		if newerReport(rep, from) {
			from = rep
		}
	}
	gs.Term, gs.Leader, gs.Membership = from.Status.Term, from.Status.Leader, from.Membership
	// A member that neither the catalogue nor this node's replica knows of.
	for _, m := range gs.Membership.Members {
		if !slices.Contains(asked, m.ID) {
			for id, rep := range n.askAll(ctx, info.ID, []NodeID{m.ID}) {
				reports[id] = rep
			}
			asked = append(asked, m.ID)
		}
	}
	for _, id := range sortedIDs(asked) {
		gs.Replicas = append(gs.Replicas, n.replicaStatus(id, reports, from))
	}
	gs.Problems = n.problems(&gs)
	return gs
}

// newerReport prefers the leader of the newest term, then whoever knows a
// leader, then the newest membership.
func newerReport(a, than replicaReport) bool {
	rank := func(r replicaReport) int {
		switch {
		case r.Status.Role == RoleLeader.String():
			return 2
		case r.Status.Leader != "":
			return 1
		}
		return 0
	}
	if rank(a) != rank(than) {
		return rank(a) > rank(than)
	}
	if a.Status.Term != than.Status.Term {
		return a.Status.Term > than.Status.Term
	}
	return a.Membership.ID > than.Membership.ID
}

func (n *Node) localMembership(id UUID) Membership {
	if r := n.replica(id); r != nil {
		if g := r.live.Load(); g != nil {
			return g.EngineStatus().Membership
		}
	}
	return Membership{}
}

// replicaStatus is what one replica says, with what its leader knows of it.
func (n *Node) replicaStatus(id NodeID, reports map[NodeID]replicaReport, leader replicaReport) ReplicaStatus {
	rep, ok := reports[id]
	s := rep.Status
	if !ok {
		s = ReplicaStatus{Lag: -1, SnapshotProgress: -1}
	}
	s.Node = id
	if s.Name == "" {
		s.Name = n.views.get().nodeName(id)
	}
	if m, member := leader.Membership.Find(id); member {
		s.Suffrage = m.Suffrage.String()
	} else if len(leader.Membership.Members) > 0 {
		s.Suffrage = "none"
	}
	if leader.Status.Role != RoleLeader.String() || id == leader.Status.Node {
		return s
	}
	for _, p := range leader.Peers {
		if p.Node == id && p.Match > 0 {
			s.Lag = max(0, int64(leader.Status.Last)-int64(p.Match))
			if !p.Contact.IsZero() {
				s.LagAge = max(0, time.Since(p.Contact))
			}
		}
	}
	return s
}

const lagNoted = 10_000

// problems says what is wrong with a group.
func (n *Node) problems(gs *GroupStatus) []string {
	p := []string{}
	add := func(format string, args ...any) { p = append(p, fmt.Sprintf(format, args...)) }
	voters, live := gs.Membership.Voters(), 0
	for i := range gs.Replicas {
		r := &gs.Replicas[i]
		if r.Reachable && r.Err == "" && r.Suffrage == Voter.String() {
			live++
		}
		n.replicaProblems(gs, r, add)
	}
	if gs.Leader == "" {
		add("the group has no leader: it takes no commands now")
	}
	switch need := voters/2 + 1; {
	case voters == 0:
	case live < need:
		add("the quorum is lost: %d of %d voters are live, %d are needed; if the others are gone for ever see 'diarchy group recover'", live, voters, need)
	case live == need && voters > 2 && live < voters:
		add("the quorum is at risk: %d of %d voters are live; one more lost and the group stops", live, voters)
	}
	if voters > 0 && voters%2 == 0 {
		add("%d voters: an even number survives no more losses than one fewer would", voters)
	}
	return p
}

func (n *Node) replicaProblems(gs *GroupStatus, r *ReplicaStatus, add func(string, ...any)) {
	member := r.Suffrage != "none" && r.Suffrage != ""
	switch {
	case !r.Reachable && member:
		if successor := n.successor(r.Node); successor != "" {
			add("replica %s is gone: its node's name belongs to another node now, whose data directory is new and which cannot vote in its place; run 'diarchy group replace %s %s %s'",
				r.Name, gs.Name, successor, successor)
			return
		}
		add("replica %s cannot be reached", r.Name)
		return
	case !r.Reachable:
		add("node %s holds a replica by the catalogue and cannot be reached", r.Name)
		return
	case !member && len(gs.Membership.Members) > 0:
		add("node %s holds a replica that is no member: a change was interrupted; repeat it, or 'diarchy group remove %s %s'", r.Name, gs.Name, r.Name)
	}
	if r.Err != "" {
		add("replica %s has stopped: %s", r.Name, r.Err)
	}
	if r.Warning != "" {
		add("replica %s: %s", r.Name, r.Warning)
	}
	switch r.Machine.State {
	case "down", "stalled":
		add("the machine of replica %s is %s: %s", r.Name, r.Machine.State, r.Machine.Err)
	}
	if r.Lag > lagNoted {
		add("replica %s is %d entries behind", r.Name, r.Lag)
	}
}

// successor is the name of the node that has taken over a node's name, "" when
// none has.
func (n *Node) successor(id NodeID) string {
	v := n.views.get()
	old := v.nodes[id]
	if old == nil || old.Former == "" {
		return ""
	}
	return old.Former
}

// Groups implements Service.
func (n *Node) Groups(ctx context.Context) ([]GroupInfo, error) {
	n.refreshView(ctx)
	v := n.views.get()
	out := []GroupInfo{}
	for _, g := range v.state.Groups {
		out = append(out, g.GroupInfo)
	}
	// With the system group never reached: what is here.
	for id, r := range n.table.Load().byID {
		if v.byID[id] == nil && v.state.tombstone(id) == nil {
			out = append(out, r.info())
		}
	}
	slices.SortFunc(out, func(a, b GroupInfo) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// Nodes implements Service: those of the catalogue with what gossip says of
// them, and those that gossip alone knows.
func (n *Node) Nodes(context.Context) ([]NodeInfo, error) {
	v := n.views.get()
	byID := map[NodeID]NodeInfo{}
	for _, m := range n.members() {
		byID[m.ID] = m
	}
	for id, c := range v.nodes {
		m, gossiped := byID[id]
		if !gossiped {
			m = n.polled.node(id)
			m.Status = "unknown"
			if n.cfg.Members != nil {
				m.Status = "failed"
			}
		}
		m.ID, m.Name, m.Cluster = id, c.Name, v.state.Cluster
		if m.Version == "" {
			m.Version = c.Version
		}
		byID[id] = m
	}
	byID[n.cfg.ID] = n.Self()
	out := make([]NodeInfo, 0, len(byID))
	for id, m := range byID {
		if id != n.cfg.ID {
			m.Self, m.Groups = false, v.groupsOn(id)
		}
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b NodeInfo) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return strings.Compare(string(a.ID), string(b.ID))
	})
	return out, nil
}

func (v *catalogueView) groupsOn(id NodeID) []string {
	out := []string{}
	for _, g := range v.state.Groups {
		if slices.Contains(g.Placed, id) {
			out = append(out, g.Name)
		}
	}
	return out
}
