package framework

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/diarchy/diarchy/framework/peerpb"
)

// polled is what this node last heard of other nodes and their replicas. It is
// bounded by the cluster: nodes that are not asked any more are dropped.
type polled struct {
	mu       sync.Mutex
	nodes    map[NodeID]NodeInfo
	replicas map[polledKey]polledReplica
}

type polledKey struct {
	group UUID
	node  NodeID
}

type polledReplica struct {
	status ReplicaStatus
	at     time.Time
}

func newPolled() *polled {
	return &polled{nodes: map[NodeID]NodeInfo{}, replicas: map[polledKey]polledReplica{}}
}

// polledFor is how long what was heard of a replica counts.
const polledFor = 5 * time.Second

// get is GroupConfig.PeerState.
func (p *polled) get(group UUID, node NodeID) (ReplicaStatus, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r, ok := p.replicas[polledKey{group, node}]
	if !ok || time.Since(r.at) > polledFor {
		return ReplicaStatus{}, false
	}
	return r.status, true
}

func (p *polled) node(id NodeID) NodeInfo {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.nodes[id]
}

func (p *polled) put(info NodeInfo, reports map[UUID]replicaReport) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.nodes[info.ID] = info
	for group, rep := range reports {
		p.replicas[polledKey{group, info.ID}] = polledReplica{rep.Status, now}
	}
}

// sweep forgets what is too old to count, and nodes that are not of the cluster.
func (p *polled) sweep(keep func(NodeID) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k, r := range p.replicas {
		if time.Since(r.at) > polledFor {
			delete(p.replicas, k)
		}
	}
	for id := range p.nodes {
		if !keep(id) {
			delete(p.nodes, id)
		}
	}
}

// pollPeers keeps leaders informed of their followers: one call to each node for
// all groups that are led from here.
func (n *Node) pollPeers(ctx context.Context) {
	tick := time.NewTicker(n.cfg.Tick)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		ask := map[NodeID][]UUID{}
		for id, r := range n.table.Load().byID {
			g := r.live.Load()
			if g == nil {
				continue
			}
			s := g.EngineStatus()
			if s.Role != RoleLeader {
				continue
			}
			for _, m := range s.Membership.Members {
				if m.ID != n.cfg.ID {
					ask[m.ID] = append(ask[m.ID], id)
				}
			}
		}
		var wg sync.WaitGroup
		for node, groups := range ask {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(ctx, n.cfg.CallTimeout)
				defer cancel()
				_, _ = n.askStatus(ctx, node, groups) // silence is what polledFor is for
			})
		}
		wg.Wait()
		v := n.views.get()
		n.polled.sweep(func(id NodeID) bool { return v.nodes[id] != nil })
		n.hints.Range(func(id, _ any) bool {
			if v.byID[id.(UUID)] == nil {
				n.hints.Delete(id)
			}
			return true
		})
	}
}

// askStatus asks one node for what its replicas say, and remembers it.
func (n *Node) askStatus(ctx context.Context, node NodeID, groups []UUID) (map[UUID]replicaReport, error) {
	p, err := n.peers.get(node)
	if err != nil {
		return nil, err
	}
	q := &peerpb.StatusRequest{}
	for _, g := range groups {
		q.Groups = append(q.Groups, g[:])
	}
	asked := n.cfg.Now()
	reply, err := p.Status(ctx, q)
	answered := n.cfg.Now()
	if err != nil {
		return nil, callError(node, err, false, false)
	}
	var info NodeInfo
	if err := json.Unmarshal(reply.Node, &info); err != nil || info.ID != node {
		return nil, ErrInternal.Because("node %s answered with a status that is not its own", node)
	}
	out := map[UUID]replicaReport{}
	for _, r := range reply.Replicas {
		id, err := wireUUID(r.Group)
		if err != nil {
			return nil, err
		}
		var rep replicaReport
		if err := json.Unmarshal(r.Json, &rep); err != nil {
			return nil, ErrInternal.Because("node %s answered with a status that cannot be read: %s", node, err)
		}
		rep.Status.Node, rep.Status.Reachable = node, true
		rep.Status.ClockAhead = clockAhead(rep.Status.Clock, asked, answered)
		out[id] = rep
	}
	info.Self = false
	n.polled.put(info, out)
	return out, nil
}

// clockAhead tells how far another's clock is ahead of this node's, if the answer
// came soon enough to tell.
func clockAhead(theirs, asked, answered time.Time) *time.Duration {
	took := answered.Sub(asked)
	if theirs.IsZero() || took < 0 || took > clockBound/2 {
		return nil
	}
	ahead := theirs.Sub(asked.Add(took / 2))
	return &ahead
}

// askAll asks nodes for their replicas of one group, in parallel, this one
// included when it is among them. Those that do not answer in time are missing.
func (n *Node) askAll(ctx context.Context, group UUID, nodes []NodeID) map[NodeID]replicaReport {
	ctx, cancel := context.WithTimeout(ctx, n.cfg.CallTimeout)
	defer cancel()
	var (
		mu  sync.Mutex
		out = map[NodeID]replicaReport{}
		wg  sync.WaitGroup
	)
	for _, id := range nodes {
		if id == n.cfg.ID {
			if r := n.replica(group); r != nil {
				rep := r.report()
				mu.Lock()
				out[id] = rep
				mu.Unlock()
			}
			continue
		}
		wg.Go(func() {
			reports, err := n.askStatus(ctx, id, []UUID{group})
			if rep, ok := reports[group]; err == nil && ok {
				mu.Lock()
				out[id] = rep
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return out
}
