package framework

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/diarchy/diarchy/framework/peerpb"
)

// target is a group that a request is for, and this node's replica of it when
// it has one that runs.
type target struct {
	info  *GroupInfo // shared: not to be changed
	local *Group
}

// resolve finds a group by name: by the catalogue, or among the replicas here
// when the catalogue has not been seen yet. A name that nobody knows is looked
// up anew, at most once in a while: the group may be that young.
func (n *Node) resolve(ctx context.Context, name string) (target, error) {
	if t, ok := n.lookup(name); ok {
		return t, nil
	}
	n.refreshView(ctx)
	if t, ok := n.lookup(name); ok {
		return t, nil
	}
	switch {
	case n.Cluster() == (UUID{}):
		return target{}, ErrNoQuorum.Because("this node has not formed or joined a cluster yet: whether there is a group %q it cannot tell", name)
	case n.views.get().state.Cluster == (UUID{}):
		return target{}, ErrNoQuorum.Because("this node has not seen the catalogue yet: whether there is a group %q it cannot tell", name)
	}
	return target{}, ErrNoSuchGroup.Because("no such group: %q; see 'diarchy group list'", name)
}

func (n *Node) lookup(name string) (target, bool) {
	if g := n.views.get().byName[name]; g != nil {
		return n.targetOf(&g.GroupInfo), true
	}
	r := n.table.Load().byName[name]
	if r == nil || n.views.get().state.tombstone(r.id) != nil {
		return target{}, false
	}
	info := r.info()
	return n.targetOf(&info), true
}

func (n *Node) targetOf(info *GroupInfo) target {
	t := target{info: info}
	if r := n.replica(info.ID); r != nil {
		t.local = r.live.Load() // nil while it does not run: others may
	}
	return t
}

// target finds a group by id; name is for the system group, which no view may
// hold yet.
func (n *Node) target(id UUID, name string) (target, error) {
	if g := n.views.get().byID[id]; g != nil {
		return n.targetOf(&g.GroupInfo), nil
	}
	if r := n.replica(id); r != nil {
		info := r.info()
		return n.targetOf(&info), nil
	}
	if id == n.systemID() && n.Cluster() != (UUID{}) {
		return target{}, ErrNoQuorum.Because("no node of the system group has been reached yet")
	}
	return target{}, ErrNoSuchGroup.Because("no such group: %q", name)
}

// refreshGate lets one look-up in a while through; the others share it.
type refreshGate struct {
	mu   sync.Mutex
	last time.Time
	busy chan struct{} // closed when the one under way has ended
}

const refreshEvery = 200 * time.Millisecond

// refreshView renews the view unless that has just been done.
func (n *Node) refreshView(ctx context.Context) {
	g := &n.refreshes
	g.mu.Lock()
	if busy := g.busy; busy != nil {
		g.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
		}
		return
	}
	if time.Since(g.last) < refreshEvery {
		g.mu.Unlock()
		return
	}
	done := make(chan struct{})
	g.busy = done
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		g.busy, g.last = nil, time.Now()
		g.mu.Unlock()
		close(done)
	}()
	n.renewView(ctx)
}

// renewView makes the view as new as the system group's, if that can be had
// quickly.
func (n *Node) renewView(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, n.cfg.CallTimeout)
	defer cancel()
	t, err := n.target(n.systemID(), SystemGroup)
	if err != nil {
		return
	}
	a, err := n.query(ctx, t, ReadQuery{Consistency: Linearizable})
	if err != nil {
		return
	}
	if s, err := decodeCatalogue(a.Value); err == nil {
		n.views.offer(n.systemIncarnation(), s)
	}
}

// systemIncarnation is that of the replica here, or the one last heard of.
func (n *Node) systemIncarnation() uint32 {
	if r := n.replica(n.systemID()); r != nil {
		return r.info().Incarnation
	}
	return n.views.get().incarnation
}

// route does an operation at the group's leader: here when this replica leads,
// else at the node that does.
func route[T any](ctx context.Context, n *Node, t target, noForward bool,
	local func(*Group) (T, error), remote func(*peer) (T, error)) (T, error) {
	if t.local != nil {
		out, err := local(t.local)
		if err == nil || noForward || !elsewhere(err) {
			return out, n.named(err)
		}
	} else if noForward {
		var none T
		return none, n.named(&Error{Code: CodeNotLeader, Message: "this node has no replica of the group", Leader: n.hint(t.info.ID)})
	}
	return forward(ctx, n, t, local, remote)
}

// forward does an operation at the node that leads, where it is not forwarded
// again. What did not happen because leadership had moved, or because the leader
// could not be reached, is tried again at whoever leads then, for LeaderWait at
// most and while ctx lasts.
func forward[T any](ctx context.Context, n *Node, t target, local func(*Group) (T, error), remote func(*peer) (T, error)) (T, error) {
	wait, cancel := context.WithTimeout(ctx, n.cfg.LeaderWait)
	defer cancel()
	var (
		out   T
		last  error
		asked NodeID
		pause = n.cfg.Tick / 16
	)
	for {
		leader, err := n.leader(wait, &t, asked, pause)
		if err != nil {
			if last != nil {
				err = last // says more
			}
			return out, n.named(err)
		}
		if leader == n.cfg.ID {
			out, err = local(t.local)
		} else {
			var p *peer
			if p, err = n.peers.get(leader); err != nil {
				return out, err
			}
			out, err = remote(p)
		}
		if err == nil || !elsewhere(err) && !isUnreachable(err) {
			return out, n.named(err)
		}
		n.learn(t, leader, err)
		last, asked, pause = err, leader, min(2*pause, n.cfg.Tick)
	}
}

// elsewhere reports whether an operation did not happen here and may at another
// replica.
func elsewhere(err error) bool {
	var e *Error
	if !errors.As(err, &e) || e.Happened != No {
		return false
	}
	return e.Code == CodeNotLeader || e.Code == CodeStopped || e.Code == CodeNoSuchGroup
}

// learn notes what a failed forward says of the leader.
func (n *Node) learn(t target, asked NodeID, err error) {
	n.hints.CompareAndDelete(t.info.ID, asked)
	var e *Error
	if errors.As(err, &e) && e.Code == CodeNotLeader && e.Leader != "" && e.Leader != asked {
		n.hints.Store(t.info.ID, e.Leader)
	}
}

func (n *Node) hint(id UUID) NodeID {
	if h, ok := n.hints.Load(id); ok {
		return h.(NodeID)
	}
	return ""
}

// leader finds out who leads a group and waits while nobody does. asked is who
// was wrong the last time, or could not be reached: unless another is named it
// is only answered again after a pause.
func (n *Node) leader(ctx context.Context, t *target, asked NodeID, pause time.Duration) (NodeID, error) {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		changed, id := n.knownLeader(ctx, t)
		if id != "" && id != asked {
			return id, nil
		}
		select {
		case <-changed:
		case <-timer.C:
			asked = ""
			timer.Reset(n.cfg.Tick / 4)
		case <-ctx.Done():
			return "", ErrNotLeader.Because("group %q has no leader now; retry", t.info.Name)
		}
	}
}

// knownLeader says who leads by what can be known now. changed is closed when
// this node's replica, if it has one, knows more.
func (n *Node) knownLeader(ctx context.Context, t *target) (changed <-chan struct{}, id NodeID) {
	if t.local == nil { // it may have started since
		changed = n.changed.wait()
		*t = n.targetOf(t.info)
	}
	if t.local != nil {
		changed = t.local.Changed()
		if id := t.local.EngineStatus().Leader; id != "" {
			return changed, id
		}
	}
	if n.knows(*t) {
		return changed, ""
	}
	if id := n.hint(t.info.ID); id != "" && id != n.cfg.ID {
		return changed, id
	}
	return changed, n.findLeader(ctx, t.info)
}

// knows reports whether this node's replica, if it has one, will hear of a
// leader: a member that runs does.
func (n *Node) knows(t target) bool {
	if t.local == nil {
		return false
	}
	s := t.local.EngineStatus()
	_, member := s.Membership.Find(n.cfg.ID)
	return member && s.Err == nil
}

// findLeader asks the nodes of a group; all that look for one group's leader at
// a time share one look.
func (n *Node) findLeader(ctx context.Context, info *GroupInfo) NodeID {
	found := n.searches.DoChan(string(info.ID[:]), func() (any, error) {
		ctx, cancel := context.WithTimeout(n.ctx, n.cfg.CallTimeout)
		defer cancel()
		var best ReplicaStatus
		for _, rep := range n.askAll(ctx, info.ID, info.Placed) {
			if s := rep.Status; s.Leader != "" && (best.Leader == "" || s.Term > best.Term) {
				best = s
			}
		}
		if best.Leader != "" && best.Leader != n.cfg.ID {
			n.hints.Store(info.ID, best.Leader)
			return best.Leader, nil
		}
		return NodeID(""), nil
	})
	select {
	case r := <-found:
		return r.Val.(NodeID)
	case <-ctx.Done():
		return ""
	}
}

// named fills in where the leader serves clients, and makes every error an
// *Error.
func (n *Node) named(err error) error {
	if err == nil {
		return nil
	}
	e := AsError(err)
	if e.Code != CodeNotLeader || e.Leader == "" || e.LeaderAddr != "" {
		return e
	}
	c := *e
	c.LeaderAddr = n.clientAddr(e.Leader)
	return &c
}

// clientAddr is where a node serves its clients, "" when unknown.
func (n *Node) clientAddr(id NodeID) string {
	if id == n.cfg.ID {
		return n.cfg.ClientAddr
	}
	for _, m := range n.members() {
		if m.ID == id && m.ClientAddr != "" {
			return m.ClientAddr
		}
	}
	return n.polled.node(id).ClientAddr
}

// propose has a command executed by a group's leader. The way that stays on this
// node makes no closures.
func (n *Node) propose(ctx context.Context, t target, c Command) (Receipt, error) {
	if t.local != nil {
		r, err := t.local.Propose(ctx, c)
		if err == nil || c.NoForward || !elsewhere(err) {
			return r, n.named(err)
		}
	}
	return n.proposeAway(ctx, t, c)
}

func (n *Node) proposeAway(ctx context.Context, t target, c Command) (Receipt, error) {
	if c.NoForward {
		return Receipt{}, n.named(&Error{Code: CodeNotLeader, Message: "this node has no replica of the group", Leader: n.hint(t.info.ID)})
	}
	return forward(ctx, n, t,
		func(g *Group) (Receipt, error) { return g.Propose(ctx, c) },
		func(p *peer) (Receipt, error) { return p.lane.do(ctx, t.info.ID, c) })
}

// query reads from a group's leader.
func (n *Node) query(ctx context.Context, t target, q ReadQuery) (Answer, error) {
	return route(ctx, n, t, q.NoForward,
		func(g *Group) (Answer, error) { return g.Query(ctx, q) },
		func(p *peer) (Answer, error) { return p.query(ctx, t.info.ID, q) })
}

// query forwards a read. Whatever goes wrong, nothing happened.
func (p *peer) query(ctx context.Context, group UUID, q ReadQuery) (Answer, error) {
	reply, err := p.Query(ctx, &peerpb.QueryRequest{
		Group: group[:], Data: q.Data, Consistency: uint32(q.Consistency),
		AfterHistory: q.After.History[:], AfterNumber: q.After.Number,
	})
	if err != nil {
		return Answer{}, callError(p.node, err, false, false)
	}
	a := Answer{
		Value: reply.Value, Time: time.Unix(0, reply.TimeNs), Age: time.Duration(reply.AgeNs),
		Token: Token{Number: reply.Number},
	}
	copy(a.Token.History[:], reply.History)
	return a, nil
}
