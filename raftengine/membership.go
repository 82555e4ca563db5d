package raftengine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/diarchy/diarchy/framework"
)

// changeEnqueue bounds the wait for raft to take a change up. It is free to: the
// membership was found committed and no other change is under way.
const changeEnqueue = 2 * time.Second

// Change implements framework.Engine.
func (e *engine) Change(ctx context.Context, change framework.Change, basedOn uint64) error {
	release, err := e.alone()
	if err != nil {
		return err
	}
	defer release()
	// A read index tells that this replica leads, now, and that an entry of its
	// term is committed, without which raft takes no change.
	if _, err := e.ReadIndex(ctx); err != nil {
		return err
	}
	m := e.confs.membership()
	switch {
	case basedOn != 0 && basedOn != m.ID:
		return framework.ErrMembershipChanged
	case !m.Committed:
		return framework.ErrChangeInProgress
	}
	if idle, err := checkChange(m, change); err != nil || idle {
		return err
	}
	result := make(chan error, 1)
	e.admin.Go(func() { result <- issue(e.raft.Load(), change, m.ID) })
	select {
	case err := <-result:
		return e.changeError(err)
	case <-ctx.Done():
		return framework.ErrMaybe.Because("the membership change was not committed in time; it may be yet: %v", ctx.Err())
	case <-e.stopping:
		return framework.ErrMaybe.Because("the replica stopped while the membership change was on its way")
	}
}

// alone admits one change or hand-over at a time.
func (e *engine) alone() (release func(), err error) {
	if err := e.running(); err != nil {
		return nil, err
	}
	select {
	case e.changing <- struct{}{}:
		return func() { <-e.changing }, nil
	default:
		return nil, framework.ErrChangeInProgress
	}
}

// checkChange says whether there is nothing to do, or why it must not be done.
func checkChange(m framework.Membership, c framework.Change) (idle bool, err error) {
	member, in := m.Find(c.Node)
	lastVoter := in && member.Suffrage == framework.Voter && m.Voters() == 1
	switch c.Op {
	case framework.AddLearner:
		if in && member.Suffrage == framework.Voter {
			return false, framework.ErrConflict.Because("node %s is a voter already", c.Node)
		}
		return in, nil
	case framework.Promote:
		if !in {
			return false, framework.ErrNoSuchNode.Because("node %s is not a member: add it as a learner first", c.Node)
		}
		return member.Suffrage == framework.Voter, nil
	case framework.Demote:
		if !in {
			return false, framework.ErrNoSuchNode.Because("node %s is not a member", c.Node)
		}
		if lastVoter {
			return false, framework.ErrWouldLoseQuorum.Because("node %s is the only voter", c.Node)
		}
		return member.Suffrage == framework.Learner, nil
	case framework.Remove:
		if lastVoter {
			return false, framework.ErrWouldLoseQuorum.Because("node %s is the only voter", c.Node)
		}
		return !in, nil
	}
	return false, framework.ErrInvalid.Because("unknown membership step %d", c.Op)
}

// issue gives raft a change and waits for it.
func issue(r *raft.Raft, c framework.Change, basedOn uint64) error {
	id, address := raft.ServerID(c.Node), raft.ServerAddress(c.Node)
	switch c.Op {
	case framework.AddLearner:
		return r.AddNonvoter(id, address, basedOn, changeEnqueue).Error()
	case framework.Promote:
		return r.AddVoter(id, address, basedOn, changeEnqueue).Error()
	case framework.Demote:
		return r.DemoteVoter(id, basedOn, changeEnqueue).Error()
	default:
		return r.RemoveServer(id, basedOn, changeEnqueue).Error()
	}
}

// changeError says what raft's answer to a change means. Only what raft says
// before it appends the entry did not happen.
func (e *engine) changeError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrNotLeader):
		return e.notLeader("leadership was lost")
	case errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return framework.ErrChangeInProgress.Because("leadership is being handed over")
	case errors.Is(err, raft.ErrEnqueueTimeout):
		return framework.ErrBusy.Because("the leader did not take the membership change up in time")
	case strings.HasPrefix(err.Error(), "configuration changed since"):
		return framework.ErrMembershipChanged
	}
	return framework.ErrMaybe.Because("the membership change may have happened: %v", err)
}

// checkMembers checks a first or a forced membership.
func checkMembers(members []framework.Member, self framework.NodeID) error {
	seen := map[framework.NodeID]bool{}
	voters := 0
	for _, m := range members {
		if m.ID == "" || seen[m.ID] {
			return fmt.Errorf("member %q is empty or named twice", m.ID)
		}
		seen[m.ID] = true
		if m.Suffrage == framework.Voter {
			voters++
		}
	}
	if voters == 0 {
		return errors.New("the membership has no voter")
	}
	if !seen[self] {
		return fmt.Errorf("the membership does not hold this node, %s", self)
	}
	return nil
}

// Transfer implements framework.Engine.
//
// raft refuses proposals while it hands over, and its future may fail although
// the hand-over works a moment later. So proposals wait in the inbox meanwhile,
// and what happened is read from what follows: another leader, or an entry of
// ours that raft takes up again.
func (e *engine) Transfer(ctx context.Context, to framework.NodeID) error {
	release, err := e.alone()
	if err != nil {
		return err
	}
	defer release()
	s := e.Status()
	if err := e.checkTransfer(s, to); err != nil {
		return err
	}
	e.inHandover.Store(true)
	e.afterHandover.Store(true)
	e.hold(false)
	defer e.endHandover()
	limit, cancel := context.WithTimeout(ctx, 2*e.set.election+time.Second)
	defer cancel()
	select {
	case <-e.pend.dispatched():
	case <-limit.Done():
		return framework.ErrDeadline.Because("leadership stays here: storage is too slow for a hand-over now")
	case <-e.stopping:
		return e.whyStopped()
	}
	r := e.raft.Load()
	if to == "" {
		r.LeadershipTransfer()
	} else {
		r.LeadershipTransferToServer(raft.ServerID(to), raft.ServerAddress(to))
	}
	return e.awaitOther(limit, s.Term)
}

func (e *engine) checkTransfer(s framework.EngineStatus, to framework.NodeID) error {
	m, in := s.Membership.Find(to)
	switch {
	case s.Role != framework.RoleLeader:
		return e.notLeader("")
	case to == "" && s.Membership.Voters() < 2:
		return framework.ErrInvalid.Because("there is no other voter to hand leadership to")
	case to == "":
	case to == framework.NodeID(e.id):
		return framework.ErrInvalid.Because("node %s leads already", to)
	case !in || m.Suffrage != framework.Voter:
		return framework.ErrInvalid.Because("node %s is not a voter of the group", to)
	}
	return nil
}

// endHandover lets proposals go on if this replica still leads.
func (e *engine) endHandover() {
	if e.inHandover.Swap(false) {
		e.wake() // watchRaft gives raft markers until it takes one
	}
}

// awaitOther waits until another replica leads.
func (e *engine) awaitOther(ctx context.Context, term framework.Term) error {
	for {
		changed := e.Changed()
		s := e.Status()
		switch {
		case s.Role == framework.RoleStopped:
			return e.whyStopped()
		case s.Role == framework.RoleLeader && s.Term > term:
			return framework.ErrDeadline.Because("leadership came back here: the other replica did not win its election")
		case s.Role != framework.RoleLeader && s.Leader != "":
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if e.Status().Role == framework.RoleLeader {
				return framework.ErrDeadline.Because("leadership stays here: no replica took it in time")
			}
			return framework.ErrNoQuorum.Because("leadership was given up and nobody has it yet")
		}
	}
}
