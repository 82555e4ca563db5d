package framework

import (
	"context"
	"time"
)

// leadEvery is how often a leader looks whether it should go on leading.
const leadEvery = 250 * time.Millisecond

// lead does what only a leader must: ticks for machines with deadlines, and
// giving leadership to a replica that can execute when this one cannot.
func (g *Group) lead(ctx context.Context) {
	ticker := time.NewTicker(leadEvery)
	defer ticker.Stop()
	var lastTick time.Time
	var asked Term
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		s := g.engine.Status()
		if s.Role != RoleLeader {
			continue
		}
		if time.Since(lastTick) >= tickEvery && g.tickDue() {
			lastTick = time.Now()
			g.proposeTick(ctx)
		}
		if why := g.unfit(); why != "" && asked != s.Term {
			if to, ok := g.fitter(s); ok {
				asked = s.Term // once a term: no ping-pong
				g.handOver(ctx, to, why)
			}
		}
	}
}

// tickEvery bounds ticks to one a second.
const tickEvery = time.Second

func (g *Group) tickDue() bool {
	due := g.a.due.Load()
	if due == 0 || g.a.state.phase() != phaseRunning {
		return false
	}
	_, _, groupTime, _ := g.a.seen.get()
	now := g.cfg.Now().UnixNano()
	return due <= now && (due > groupTime || due == 1)
}

func (g *Group) proposeTick(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, tickEvery)
	defer cancel()
	if _, err := g.control(ctx, []byte{byte(controlTick)}); err != nil {
		g.cfg.Logger.Debug("tick", "err", err)
	}
}

// unfit says why this replica should not lead, "" when it may.
func (g *Group) unfit() string {
	if !g.a.state.healthy(g.cfg.MachineStallAfter) {
		return "its machine is " + g.a.state.status(g.cfg.MachineStallAfter).State
	}
	_, _, groupTime, _ := g.a.seen.get()
	return g.clockWarning(groupTime)
}

// fitter chooses whom to give leadership to: a voter whose machine is known to
// run, the one that has applied most. Without a view of the others ("" and
// true) the engine chooses; when all are known to be worse it is false.
func (g *Group) fitter(s EngineStatus) (NodeID, bool) {
	if s.Membership.Voters() < 2 {
		return "", false
	}
	if g.cfg.PeerState == nil {
		return "", true
	}
	var best ReplicaStatus
	for _, m := range s.Membership.Members {
		if m.ID == g.cfg.Self || m.Suffrage != Voter {
			continue
		}
		p, ok := g.cfg.PeerState(m.ID)
		if ok && p.Reachable && p.Machine.State == phaseRunning.String() && p.Err == "" && (best.Node == "" || p.Applied > best.Applied) {
			best = p
		}
	}
	return best.Node, best.Node != ""
}

func (g *Group) handOver(ctx context.Context, to NodeID, why string) {
	g.cfg.Logger.Warn("handing leadership over", "to", to, "because", why)
	ctx, cancel := context.WithTimeout(ctx, closeDrain)
	defer cancel()
	if err := g.engine.Transfer(ctx, to); err != nil {
		g.cfg.Logger.Warn("leadership was not handed over", "err", err)
	}
}

// Transfer hands leadership over; "" lets the engine choose.
func (g *Group) Transfer(ctx context.Context, to NodeID) error {
	s := g.engine.Status()
	switch m, ok := s.Membership.Find(to); {
	case s.Role != RoleLeader:
		return notLeader(s)
	case to == g.cfg.Self:
		return nil
	case to == "":
	case !ok:
		return ErrNoSuchNode.Because("node %s is no member of this group", to)
	case m.Suffrage != Voter:
		return ErrInvalid.Because("node %s is a learner: promote it first", to)
	}
	return g.engine.Transfer(ctx, to)
}

// Change makes one membership step on the leader: a promotion waits until the
// replica has kept up for 2 s (by ctx at the longest, then ErrNotCaughtUp);
// what would leave no live quorum is refused unless forced; removing the leader
// transfers first, then answers ErrNotLeader so that the new leader is asked.
func (g *Group) Change(ctx context.Context, c Change, basedOn uint64, force bool) error {
	s := g.engine.Status()
	if s.Role != RoleLeader {
		return notLeader(s)
	}
	if basedOn != 0 && basedOn != s.Membership.ID {
		return ErrMembershipChanged
	}
	if err := checkChange(s.Membership, c); err != nil {
		return err
	}
	if !force {
		if err := g.keepsQuorum(s, c); err != nil {
			return err
		}
	}
	switch {
	case c.Op == Promote && !force:
		if err := g.awaitCaughtUp(ctx, c.Node); err != nil {
			return err
		}
	case (c.Op == Remove || c.Op == Demote) && c.Node == g.cfg.Self:
		if err := g.engine.Transfer(ctx, ""); err != nil {
			return err
		}
		return notLeader(g.engine.Status())
	}
	return g.engine.Change(ctx, c, basedOn)
}

// checkChange says whether a step makes sense for a membership at all.
func checkChange(m Membership, c Change) error {
	have, member := m.Find(c.Node)
	switch {
	case c.Op == AddLearner && member:
		return ErrConflict.Because("node %s is a %s of this group already", c.Node, have.Suffrage)
	case c.Op != AddLearner && !member:
		return ErrNoSuchNode.Because("node %s is no member of this group", c.Node)
	case c.Op == Promote && have.Suffrage == Voter:
		return ErrConflict.Because("node %s is a voter already", c.Node)
	case c.Op == Demote && have.Suffrage == Learner:
		return ErrConflict.Because("node %s is a learner already", c.Node)
	case (c.Op == Remove || c.Op == Demote) && have.Suffrage == Voter && m.Voters() == 1:
		return ErrWouldLoseQuorum.Because("node %s is the group's only voter", c.Node)
	case c.Op < AddLearner || c.Op > Remove:
		return ErrInvalid.Because("unknown membership step %d", c.Op)
	}
	return nil
}

// contactBound is how lately a voter must have answered to count as live.
const contactBound = 3 * time.Second

// keepsQuorum refuses a step after which fewer than a majority of the voters
// would be live.
func (g *Group) keepsQuorum(s EngineStatus, c Change) error {
	live, voters := 0, 0
	count := func(id NodeID) {
		voters++
		if id == g.cfg.Self || lately(s.Peers, id) {
			live++
		}
	}
	for _, m := range s.Membership.Members {
		if m.Suffrage == Voter && !(m.ID == c.Node && (c.Op == Remove || c.Op == Demote)) {
			count(m.ID)
		}
	}
	if c.Op == Promote {
		count(c.Node)
	}
	if live < voters/2+1 {
		return ErrWouldLoseQuorum.Because("after this step %d of %d voters would be live, fewer than a majority; --force does it all the same and may stop the group", live, voters)
	}
	return nil
}

func lately(peers []PeerProgress, id NodeID) bool {
	for _, p := range peers {
		if p.Node == id {
			return !p.Contact.IsZero() && time.Since(p.Contact) < contactBound
		}
	}
	return false
}

// keptUpFor is how long a learner must have kept up before it is promoted.
const keptUpFor = 2 * time.Second

// awaitCaughtUp waits until a learner has been within one replication round of
// the leader for keptUpFor, and its machine, where that is known, has as well.
func (g *Group) awaitCaughtUp(ctx context.Context, id NodeID) error {
	ticker := time.NewTicker(leadEvery)
	defer ticker.Stop()
	var since time.Time
	target := g.engine.Status().Last
	for {
		s := g.engine.Status()
		if s.Role != RoleLeader {
			return notLeader(s)
		}
		why := g.behind(s, id, target)
		switch {
		case why != "":
			since = time.Time{}
		case since.IsZero():
			since = time.Now()
		case time.Since(since) >= keptUpFor:
			return nil
		}
		target = s.Last // what it must have one round later
		select {
		case <-ticker.C:
		case <-ctx.Done():
			if why == "" {
				why = "it has not kept up for " + keptUpFor.String() + " yet"
			}
			return ErrNotCaughtUp.Because("node %s cannot be promoted: %s", id, why)
		}
	}
}

// behind says in words what keeps a learner from being promoted.
func (g *Group) behind(s EngineStatus, id NodeID, target Position) string {
	for _, p := range s.Peers {
		if p.Node != id {
			continue
		}
		switch {
		case p.Contact.IsZero():
			return "it has never answered"
		case time.Since(p.Contact) > contactBound:
			return "it has not answered for " + time.Since(p.Contact).Round(time.Second).String()
		case p.Match < target:
			return "its log is behind"
		}
		if g.cfg.PeerState == nil {
			return ""
		}
		switch r, ok := g.cfg.PeerState(id); {
		case !ok || !r.Reachable:
			return "its state is not known"
		case r.Machine.State != phaseRunning.String():
			return "its machine is " + r.Machine.State
		}
		return ""
	}
	return "it is not known to the leader yet"
}
