package framework

import (
	"context"
	"fmt"
	"time"
)

// Change makes one membership step on the leader: a promotion waits until the
// replica has kept up for 2 s (by ctx at the longest, then ErrNotCaughtUp);
// what would leave no live quorum is refused unless forced; removing the leader
// transfers first, then answers ErrNotLeader so that the new leader is asked.
func (g *Group) Change(ctx context.Context, c Change, basedOn uint64, force bool) error {
	s := g.engine.Status()
	if s.Role != RoleLeader {
		return notLeader(s)
	}
	if basedOn == 0 {
		basedOn = s.Membership.ID // what is checked here is what is changed
	}
	if basedOn != s.Membership.ID {
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
// the leader for keptUpFor, and its machine, where that is known, runs and has
// applied what the log held when that time began.
func (g *Group) awaitCaughtUp(ctx context.Context, id NodeID) error {
	ticker := time.NewTicker(leadEvery)
	defer ticker.Stop()
	var since time.Time
	var begun Position
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
			since, begun = time.Now(), s.Last
		case time.Since(since) >= keptUpFor:
			if why = g.unapplied(id, begun); why == "" {
				return nil
			}
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

// unapplied says in words how far a learner's machine is behind.
func (g *Group) unapplied(id NodeID, bound Position) string {
	if g.cfg.PeerState == nil {
		return ""
	}
	if r, ok := g.cfg.PeerState(id); ok && r.Applied < bound {
		return fmt.Sprintf("its machine has applied %d of %d", r.Applied, bound)
	}
	return ""
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
