package framework

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/diarchy/diarchy/framework/peerpb"
)

const (
	changeTimeout  = time.Minute
	replaceTimeout = 10 * time.Minute
)

// within gives a context without a deadline one.
func within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, d)
}

// ChangeMembership implements Service. Every step can be asked for again: what
// an interrupted one has done already is found done.
func (n *Node) ChangeMembership(ctx context.Context, group string, r ChangeRequest) error {
	ctx, cancel := within(ctx, changeTimeout)
	defer cancel()
	n.renewView(ctx)
	t, err := n.resolve(ctx, group)
	if err != nil {
		return err
	}
	id, err := n.memberNamed(ctx, t.info, r.Node, r.Op == AddLearner)
	if err != nil {
		return n.named(err)
	}
	c := Change{Op: r.Op, Node: id}
	switch r.Op {
	case AddLearner:
		err = n.addLearner(ctx, t, c, r)
	case Remove:
		err = n.remove(ctx, t, c, r)
	case Promote, Demote:
		err = n.changeAtLeader(ctx, t, c, r.BasedOn, r.Force)
	default:
		err = ErrInvalid.Because("unknown membership step %d", r.Op)
	}
	return n.named(err)
}

// memberNamed finds the node meant by a name or id. Where a node has taken the
// name over from a member that is gone, the member is meant, unless a node is to
// be added.
func (n *Node) memberNamed(ctx context.Context, info *GroupInfo, name string, adding bool) (NodeID, error) {
	id, err := n.nodeNamed(ctx, name)
	if adding || err == nil && slices.Contains(info.Placed, id) {
		return id, err
	}
	v := n.views.get()
	for _, m := range slices.Concat(info.Placed, n.memberIDs(info.ID)) {
		if old := v.nodes[m]; old != nil && old.Former == name || string(m) == name {
			return m, nil
		}
	}
	return id, err
}

func (n *Node) memberIDs(group UUID) []NodeID {
	var ids []NodeID
	for _, m := range n.localMembership(group).Members {
		ids = append(ids, m.ID)
	}
	return ids
}

// addLearner places a replica on the node, waits until it is there, and makes
// it a member.
func (n *Node) addLearner(ctx context.Context, t target, c Change, r ChangeRequest) error {
	if err := n.awaitPlaced(ctx, t.info, c.Node); err != nil {
		return err
	}
	return n.changeAtLeader(ctx, t, c, r.BasedOn, r.Force)
}

// awaitPlaced has an empty replica started on a node.
func (n *Node) awaitPlaced(ctx context.Context, info *GroupInfo, node NodeID) error {
	if _, err := n.proposeCatalogue(ctx, catalogueCommand{Op: opPlace, ID: info.ID, Target: node}, nil); err != nil {
		return err
	}
	tick := time.NewTicker(n.cfg.Tick / 4)
	defer tick.Stop()
	for {
		rep, ok := n.askAll(ctx, info.ID, []NodeID{node})[node]
		if ok && rep.Status.Err == "" && rep.Status.Role != RoleStopped.String() && rep.Incarnation == info.Incarnation {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			why := "node " + n.views.get().nodeName(node) + " cannot be reached"
			if ok {
				why = "its replica there does not run: " + rep.Status.Err
			}
			return ErrDeadline.Because("group %q: no replica has started on the new node: %s; the step can be repeated", info.Name, why)
		}
	}
}

// remove takes a member out, then has its replica stopped.
func (n *Node) remove(ctx context.Context, t target, c Change, r ChangeRequest) error {
	err := n.changeAtLeader(ctx, t, c, r.BasedOn, r.Force)
	var e *Error
	switch {
	case err == nil:
	case errors.As(err, &e) && e.Code == CodeNoSuchNode && slices.Contains(t.info.Placed, c.Node):
		// No member, and yet placed: an earlier step was interrupted.
	default:
		return err
	}
	_, err = n.proposeCatalogue(ctx, catalogueCommand{Op: opUnplace, ID: t.info.ID, Target: c.Node}, nil)
	return err
}

// changeAtLeader makes one step at the leader, wherever that moves: removing the
// leader makes it hand over first and say so. A step that turns out to be done
// already is done.
func (n *Node) changeAtLeader(ctx context.Context, t target, c Change, basedOn uint64, force bool) error {
	uncertain := false // an earlier try may have done it
	var refused time.Time
	for {
		err := n.member(ctx, t, c, basedOn, force)
		if err == nil {
			return nil
		}
		e := AsError(err)
		uncertain = uncertain || e.Happened == Maybe
		again := e.Code == CodeNotLeader || e.Code == CodeChangeInProgress || isUnreachable(err) || e.Happened == Maybe ||
			e.Code == CodeMembershipChanged && basedOn == 0
		if e.Code == CodeWouldLoseQuorum {
			// A leader that is new, or has a new member, has not heard of all yet.
			if refused.IsZero() {
				refused = time.Now()
			}
			again = time.Since(refused) < contactBound
		}
		if (again || e.Code == CodeConflict || uncertain) && n.isDone(ctx, t, c) {
			return nil
		}
		if !again {
			return err
		}
		n.sleep(ctx, n.cfg.Tick/4)
		if ctx.Err() != nil {
			return err
		}
	}
}

// isDone reports whether the leader's membership is as a step would have it.
func (n *Node) isDone(ctx context.Context, t target, c Change) bool {
	gs := n.statusOf(ctx, t.info)
	if gs.Leader == "" || !gs.Membership.Committed {
		return false
	}
	m, member := gs.Membership.Find(c.Node)
	switch c.Op {
	case AddLearner:
		return member && m.Suffrage == Learner
	case Promote:
		return member && m.Suffrage == Voter
	case Demote:
		return member && m.Suffrage == Learner
	}
	return !member
}

// member makes one step, or with Op 0 a transfer, at the leader.
func (n *Node) member(ctx context.Context, t target, c Change, basedOn uint64, force bool) error {
	_, err := route(ctx, n, t, false,
		func(g *Group) (struct{}, error) {
			if c.Op == 0 {
				return struct{}{}, g.Transfer(ctx, c.Node)
			}
			return struct{}{}, g.Change(ctx, c, basedOn, force)
		},
		func(p *peer) (struct{}, error) {
			ctx, sent := watchSent(ctx)
			_, err := p.Member(ctx, &peerpb.MemberRequest{
				Group: t.info.ID[:], Op: uint32(c.Op), Node: string(c.Node), BasedOn: basedOn, Force: force,
			})
			return struct{}{}, callError(p.node, err, true, sent.Load())
		})
	return err
}

// Transfer implements Service.
func (n *Node) Transfer(ctx context.Context, group, toNode string) error {
	ctx, cancel := within(ctx, changeTimeout)
	defer cancel()
	t, err := n.resolve(ctx, group)
	if err != nil {
		return err
	}
	var to NodeID
	if toNode != "" {
		if to, err = n.nodeNamed(ctx, toNode); err != nil {
			return n.named(err)
		}
	}
	return n.named(n.member(ctx, t, Change{Node: to}, 0, false))
}

// Replace implements Service: learner, promote, remove, each step taken from
// what the membership is at the time, so that a second call goes on where the
// first was interrupted, and OLD may be dead or wiped.
func (n *Node) Replace(ctx context.Context, group, oldNode, newNode string, force bool) error {
	ctx, cancel := within(ctx, replaceTimeout)
	defer cancel()
	n.renewView(ctx)
	t, err := n.resolve(ctx, group)
	if err != nil {
		return err
	}
	fresh, err := n.nodeNamed(ctx, newNode)
	if err != nil {
		return n.named(err)
	}
	old, err := n.replaced(ctx, t, oldNode, fresh)
	if err != nil {
		return n.named(err)
	}
	for {
		step, done, err := n.nextStep(ctx, t, old, fresh)
		switch {
		case err != nil:
			return n.named(err)
		case done:
			return n.named(n.settlePlacement(ctx, t, old, fresh))
		}
		n.log.Info("replacing a replica", "group", group, "old", old, "new", fresh, "step", step.Op, "of", step.Node)
		if step.Op == AddLearner {
			err = n.addLearner(ctx, t, step, ChangeRequest{Force: force})
		} else {
			err = n.changeAtLeader(ctx, t, step, 0, force)
		}
		if err != nil {
			return n.named(err)
		}
	}
}

// replaced finds the replica that is to go. With one name for both it is the one
// whose name the new node has taken over.
func (n *Node) replaced(ctx context.Context, t target, name string, fresh NodeID) (NodeID, error) {
	v := n.views.get()
	gs := n.statusOf(ctx, t.info)
	ids := slices.Clone(t.info.Placed)
	for _, m := range gs.Membership.Members {
		ids = append(ids, m.ID)
	}
	for _, id := range sortedIDs(ids) {
		c := v.nodes[id]
		if id != fresh && (string(id) == name || c != nil && (c.Name == name || c.Former == name)) {
			return id, nil
		}
	}
	// No member any more: perhaps an earlier call got that far.
	if id, err := n.nodeNamed(ctx, name); err == nil && id != fresh {
		return id, nil
	}
	if _, err := ParseUUID(name); err == nil && NodeID(name) != fresh {
		return NodeID(name), nil
	}
	return "", ErrNoSuchNode.Because("group %q has no replica on a node %q that could be replaced", t.info.Name, name)
}

// nextStep says what is to be done next; done when the new replica has the old
// one's place.
func (n *Node) nextStep(ctx context.Context, t target, old, fresh NodeID) (c Change, done bool, err error) {
	var gs GroupStatus
	for {
		if gs = n.statusOf(ctx, t.info); gs.Leader != "" && len(gs.Membership.Members) > 0 && gs.Membership.Committed {
			break
		}
		n.sleep(ctx, n.cfg.Tick/4)
		if ctx.Err() != nil {
			return c, false, ErrNoQuorum.Because("group %q has no leader: %s", t.info.Name, ctx.Err())
		}
	}
	was, member := gs.Membership.Find(old)
	is, added := gs.Membership.Find(fresh)
	switch {
	case !member && !added:
		return c, false, ErrNoSuchNode.Because("group %q: neither %s nor %s is a member", t.info.Name, n.views.get().nodeName(old), n.views.get().nodeName(fresh))
	case !added:
		return Change{Op: AddLearner, Node: fresh}, false, nil
	case is.Suffrage == Learner && (!member || was.Suffrage == Voter):
		return Change{Op: Promote, Node: fresh}, false, nil
	case member:
		return Change{Op: Remove, Node: old}, false, nil
	}
	return c, true, nil
}

// settlePlacement makes the catalogue say what the membership is.
func (n *Node) settlePlacement(ctx context.Context, t target, old, fresh NodeID) error {
	if _, err := n.proposeCatalogue(ctx, catalogueCommand{Op: opPlace, ID: t.info.ID, Target: fresh}, nil); err != nil {
		return err
	}
	_, err := n.proposeCatalogue(ctx, catalogueCommand{Op: opUnplace, ID: t.info.ID, Target: old}, nil)
	return err
}
