package raftengine

import (
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/diarchy/diarchy/framework"
)

// Status implements framework.Engine. It reads what raft and the engine keep in
// memory.
func (e *engine) Status() framework.EngineStatus {
	r := e.raft.Load()
	first, last := e.store.bounds()
	through := e.fsm.through.Load()
	s := framework.EngineStatus{
		Role:          e.role(r),
		Term:          framework.Term(e.store.term.Load()),
		Last:          framework.Position(max(last, e.snaps.newestIndex())),
		Commit:        framework.Position(max(r.CommitIndex(), through)),
		First:         framework.Position(first),
		Snapshot:      framework.Position(e.snaps.newestIndex()),
		Membership:    e.confs.membership(),
		LeaderContact: r.LastContact(),
	}
	e.mu.Lock()
	if e.stopErr != nil {
		s.Err = framework.ErrStopped.Because("%v", e.stopErr)
	}
	e.mu.Unlock()
	s.Warning = e.warning(s.Membership)
	age, hangs := e.store.watch.hangs()
	if hangs {
		s.Warning = fmt.Sprintf("a storage call has not returned for %s", age.Round(100*time.Millisecond))
	}
	switch s.Role {
	case framework.RoleLeader:
		s.Leader = framework.NodeID(e.id)
		s.LeaderContact = time.Now()
		e.addPeers(&s)
	case framework.RoleStopped:
		s.Warning = ""
	default:
		if _, leader := r.LeaderWithID(); leader != e.id {
			s.Leader = framework.NodeID(leader)
		}
	}
	return s
}

func (e *engine) role(r *raft.Raft) framework.Role {
	select {
	case <-e.stopping:
		return framework.RoleStopped
	default:
	}
	switch _, hangs := e.store.watch.hangs(); r.State() {
	case raft.Leader:
		if !hangs {
			return framework.RoleLeader
		}
	case raft.Candidate:
		return framework.RoleCandidate
	}
	if c, _ := e.confs.latest(); !isVoter(c.conf, e.id) {
		return framework.RoleLearner
	}
	return framework.RoleFollower
}

func isVoter(c raft.Configuration, id raft.ServerID) bool {
	for _, s := range c.Servers {
		if s.ID == id {
			return s.Suffrage == raft.Voter
		}
	}
	return false
}

// warning says that this replica was removed. It keeps its data and, not being a
// voter of a committed membership, does not campaign.
func (e *engine) warning(m framework.Membership) string {
	if _, in := m.Find(framework.NodeID(e.id)); !in && m.Committed && len(m.Members) > 0 {
		return "this replica is not a member of the group: it was removed, or not added yet"
	}
	return ""
}

func (e *engine) addPeers(s *framework.EngineStatus) {
	for _, m := range s.Membership.Members {
		if m.ID != framework.NodeID(e.id) {
			s.Peers = append(s.Peers, e.trans.peers.progress(m.ID, uint64(s.Term)))
		}
	}
}

// shown is what Changed is about.
type shown struct {
	role       framework.Role
	term       framework.Term
	leader     framework.NodeID
	membership uint64
	committed  bool
	warned     bool
	failed     bool
}

// show closes Changed's channel if there is something new.
func (e *engine) show() {
	s := e.Status()
	now := shown{s.Role, s.Term, s.Leader, s.Membership.ID, s.Membership.Committed, s.Warning != "", s.Err != nil}
	e.mu.Lock()
	defer e.mu.Unlock()
	if now != e.shown {
		if before := e.shown; now.role != before.role || now.term != before.term || now.leader != before.leader {
			e.log.Info("replica is "+now.role.String(), "term", now.term, "leader", now.leader)
		}
		e.shown = now
		close(e.changed)
		e.changed = make(chan struct{})
	}
}
