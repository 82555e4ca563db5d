package framework

import (
	"context"
	"errors"
	"time"

	"github.com/diarchy/diarchy/framework/peerpb"
)

// forClients finds a group for a client's command. The catalogue takes none: its
// commands are the framework's.
func (n *Node) forClients(ctx context.Context, group string) (target, error) {
	t, err := n.resolve(ctx, group)
	if err == nil && t.info.System {
		return t, ErrDenied.Because("the system group takes no commands from clients")
	}
	return t, err
}

// Propose implements Service.
func (n *Node) Propose(ctx context.Context, group string, c Command) (Receipt, error) {
	t, err := n.forClients(ctx, group)
	if err != nil {
		return Receipt{}, err
	}
	return n.propose(ctx, t, c)
}

// ProposeAsync implements Service.
func (n *Node) ProposeAsync(ctx context.Context, group string, cs []Command, done func(i int, r Receipt, err error)) {
	t, ok := n.lookup(group)
	if ok && !t.info.System {
		f := &asyncFlow{n: n, ctx: ctx, t: t, cs: cs, done: done}
		f.start()
		return
	}
	// Rare, and it may have to ask: not on the caller's time.
	go func() {
		t, err := n.forClients(ctx, group)
		if err != nil {
			for i := range cs {
				done(i, Receipt{}, err)
			}
			return
		}
		f := &asyncFlow{n: n, ctx: ctx, t: t, cs: cs, done: done}
		f.start()
	}()
}

// asyncFlow takes one ProposeAsync through at most two nodes.
type asyncFlow struct {
	n    *Node
	ctx  context.Context
	t    target
	cs   []Command
	done func(i int, r Receipt, err error)
}

func (f *asyncFlow) start() {
	if f.t.local != nil {
		s := f.t.local.EngineStatus()
		if s.Role == RoleLeader || s.Leader == "" || s.Leader == f.n.cfg.ID {
			f.t.local.ProposeAsync(f.ctx, f.cs, f.fromLocal)
			return
		}
		f.begin(s.Leader)
		return
	}
	if id := f.n.hint(f.t.info.ID); id != "" {
		f.begin(id)
		return
	}
	go func() {
		wait, cancel := context.WithTimeout(f.ctx, f.n.cfg.LeaderWait)
		defer cancel()
		id, err := f.n.leader(wait, &f.t, "", f.n.cfg.Tick)
		if err == nil && id == f.n.cfg.ID {
			f.t.local.ProposeAsync(f.ctx, f.cs, f.fromLocal)
			return
		}
		if err != nil {
			for i := range f.cs {
				f.tell(i, Receipt{}, err)
			}
			return
		}
		f.begin(id)
	}()
}

// begin forwards everything that may be forwarded to the leader.
func (f *asyncFlow) begin(leader NodeID) {
	which := make([]int, 0, len(f.cs))
	for i := range f.cs {
		if !f.cs[i].NoForward {
			which = append(which, i)
			continue
		}
		f.tell(i, Receipt{}, &Error{Code: CodeNotLeader, Message: ErrNotLeader.Message, Leader: leader})
	}
	f.forward(leader, which, func(i int, r Receipt, err error) { f.fromRemote(leader, i, r, err) })
}

func (f *asyncFlow) forward(to NodeID, which []int, done func(i int, r Receipt, err error)) {
	if len(which) == 0 {
		return
	}
	p, err := f.n.peers.get(to)
	if err != nil {
		for _, i := range which {
			done(i, Receipt{}, err)
		}
		return
	}
	p.lane.submit(f.ctx, f.t.info.ID, f.cs, which, done)
}

func (f *asyncFlow) tell(i int, r Receipt, err error) { f.done(i, r, f.n.named(err)) }

// fromLocal has an answer of this node's replica: where it has just lost its
// leadership to a known one, that one is asked.
func (f *asyncFlow) fromLocal(i int, r Receipt, err error) {
	var e *Error
	if err == nil || f.cs[i].NoForward || !errors.As(err, &e) || e.Code != CodeNotLeader || e.Happened != No {
		f.tell(i, r, err)
		return
	}
	if e.Leader == "" || e.Leader == f.n.cfg.ID {
		f.tell(i, r, err)
		return
	}
	f.forward(e.Leader, []int{i}, f.tell)
}

// fromRemote has an answer of the leader as it was known: where that was wrong
// and the right one is known now, that one is asked.
func (f *asyncFlow) fromRemote(asked NodeID, i int, r Receipt, err error) {
	if err == nil || !elsewhere(err) && !isUnreachable(err) {
		f.tell(i, r, err)
		return
	}
	f.n.learn(f.t, asked, err)
	next := f.n.hint(f.t.info.ID)
	if f.t.local != nil {
		next = f.t.local.EngineStatus().Leader
	}
	switch {
	case next == "" || next == asked || next == f.n.cfg.ID && f.t.local == nil:
		f.tell(i, r, err)
	case next == f.n.cfg.ID:
		f.t.local.ProposeAsync(f.ctx, f.cs[i:i+1], func(_ int, r Receipt, err error) { f.tell(i, r, err) })
	default:
		f.forward(next, []int{i}, f.tell)
	}
}

// Query implements Service.
func (n *Node) Query(ctx context.Context, group string, q ReadQuery) (Answer, error) {
	t, err := n.resolve(ctx, group)
	if err != nil {
		return Answer{}, err
	}
	if q.Consistency != Stale {
		return n.query(ctx, t, q)
	}
	if t.local != nil {
		a, err := t.local.Query(ctx, q)
		return a, n.named(err)
	}
	return anyReplica(ctx, n, t, q.NoForward, func(p *peer) (Answer, error) { return p.query(ctx, t.info.ID, q) })
}

// anyReplica asks the nodes of a group that is not hosted here, one after
// another, until one can answer.
func anyReplica[T any](ctx context.Context, n *Node, t target, noForward bool, ask func(*peer) (T, error)) (out T, err error) {
	if noForward {
		return out, n.named(&Error{Code: CodeNotLeader, Message: "this node has no replica of the group", Leader: n.hint(t.info.ID)})
	}
	err = ErrNoQuorum.Because("no node of group %q can be reached", t.info.Name)
	for _, id := range t.info.Placed {
		if id == n.cfg.ID {
			continue
		}
		p, perr := n.peers.get(id)
		if perr != nil {
			return out, perr
		}
		if out, err = ask(p); err == nil || ctx.Err() != nil || !elsewhere(err) && !isUnreachable(err) {
			break
		}
	}
	return out, n.named(err)
}

// OpenSession implements Service.
func (n *Node) OpenSession(ctx context.Context, group string, id SessionID, o SessionOptions) error {
	return n.session(ctx, group, &peerpb.SessionRequest{Id: id[:], Ordered: o.Ordered}, func(g *Group) error { return g.OpenSession(ctx, id, o) })
}

// CloseSession implements Service.
func (n *Node) CloseSession(ctx context.Context, group string, id SessionID) error {
	return n.session(ctx, group, &peerpb.SessionRequest{Id: id[:], Close: true}, func(g *Group) error { return g.CloseSession(ctx, id) })
}

func (n *Node) session(ctx context.Context, group string, q *peerpb.SessionRequest, local func(*Group) error) error {
	t, err := n.forClients(ctx, group)
	if err != nil {
		return err
	}
	q.Group = t.info.ID[:]
	_, err = route(ctx, n, t, false,
		func(g *Group) (struct{}, error) { return struct{}{}, local(g) },
		func(p *peer) (struct{}, error) {
			ctx, sent := watchSent(ctx)
			_, err := p.Session(ctx, q)
			return struct{}{}, callError(p.node, err, true, sent.Load())
		})
	return err
}

// Tail implements Service.
func (n *Node) Tail(ctx context.Context, group string, from uint64, each func(TailEntry) error) error {
	t, err := n.resolve(ctx, group)
	if err != nil {
		return err
	}
	if t.local != nil {
		return n.tailEnd(ctx, t.local.Tail(ctx, from, each))
	}
	var stopped error // each's own word, handed back as it is
	_, err = anyReplica(ctx, n, t, false, func(p *peer) (struct{}, error) {
		began := false
		err := p.tail(ctx, t.info.ID, from, func(e TailEntry) error {
			began, from = true, e.Number+1
			stopped = each(e)
			return stopped
		})
		if began && elsewhere(err) { // it has gone on as far as it could there
			err = ErrBusy.Because("the replica that was followed has stopped; go on from %d", from)
			err.(*Error).Index = from
		}
		return struct{}{}, err
	})
	if stopped != nil {
		return stopped
	}
	return n.tailEnd(ctx, err)
}

// tailEnd leaves the end of ctx as it is, and what each returned.
func (n *Node) tailEnd(ctx context.Context, err error) error {
	var e *Error
	if ctx.Err() != nil || !errors.As(err, &e) {
		return err
	}
	return n.named(err)
}

func (p *peer) tail(ctx context.Context, group UUID, from uint64, each func(TailEntry) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := p.Tail(ctx, &peerpb.TailRequest{Group: group[:], From: from})
	if err != nil {
		return callError(p.node, err, false, false)
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return callError(p.node, err, false, false)
		}
		for _, e := range m.Entries {
			if err := each(TailEntry{Number: e.Number, Time: time.Unix(0, e.TimeNs), Data: e.Data}); err != nil {
				return err
			}
		}
	}
}

// WaitIndex implements Service.
func (n *Node) WaitIndex(ctx context.Context, group string, after uint64) (uint64, error) {
	t, err := n.resolve(ctx, group)
	if err != nil {
		return 0, err
	}
	if t.local != nil {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(n.ctx, cancel)()
		number, err := t.local.WaitIndex(ctx, after)
		return number, n.named(err)
	}
	number, err := anyReplica(ctx, n, t, false, func(p *peer) (uint64, error) {
		reply, err := p.WaitIndex(ctx, &peerpb.WaitRequest{Group: t.info.ID[:], After: after})
		if err != nil {
			return 0, callError(p.node, err, false, false)
		}
		return reply.Number, nil
	})
	if ctx.Err() != nil {
		return number, nil // the time limit is an answer too; 0 claims nothing
	}
	return number, err
}

// LocalStatus implements Service.
func (n *Node) LocalStatus(group string) (ReplicaStatus, error) {
	r := n.table.Load().byName[group]
	if r == nil {
		return ReplicaStatus{}, ErrNoSuchGroup.Because("this node has no replica of group %q", group)
	}
	return r.report().Status, nil
}
