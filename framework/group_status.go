package framework

import "time"

// EngineStatus is the engine's own view.
func (g *Group) EngineStatus() EngineStatus { return g.engine.Status() }

// Changed is closed at the next change of role, term, leader, membership,
// machine state or failure. Take it, then read Status: nothing is missed.
func (g *Group) Changed() <-chan struct{} { return g.changes.wait() }

// Status is this replica's own view.
func (g *Group) Status() ReplicaStatus {
	es := g.engine.Status()
	at, number, now, history := g.a.seen.get()
	s := ReplicaStatus{
		Node: g.cfg.Self, Reachable: true, Role: es.Role.String(), Term: es.Term, Leader: es.Leader,
		Commit: es.Commit, Last: es.Last, First: es.First, Snapshot: es.Snapshot,
		Applied: at, Number: number, History: history, Time: time.Unix(0, now), Clock: g.cfg.Now(),
		Machine: g.a.state.status(g.cfg.MachineStallAfter), Warning: es.Warning,
		SnapshotProgress: g.a.snapping.Load(), Lag: -1,
	}
	s.Suffrage = "none"
	if m, ok := es.Membership.Find(g.cfg.Self); ok {
		s.Suffrage = m.Suffrage.String()
	}
	s.Machine.Backlog = max(0, int64(g.a.ring.committed())-int64(at))
	if es.Role == RoleLeader {
		s.Lag = 0
	} else if !es.LeaderContact.IsZero() {
		s.LagAge = time.Since(es.LeaderContact)
		s.Lag = max(0, int64(es.Commit)-int64(at))
	}
	if es.Err != nil {
		s.Err = es.Err.Error()
	}
	if s.Warning == "" {
		s.Warning = g.ownClock().warning
	}
	if w := g.peerClocks.Load(); s.Warning == "" && w != nil {
		s.Warning = *w
	}
	return s
}
