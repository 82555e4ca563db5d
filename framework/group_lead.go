package framework

import (
	"context"
	"time"
)

// leadEvery is how often a leader looks whether it should go on leading, beside
// at every change.
const leadEvery = 250 * time.Millisecond

// lead does what only a leader must: ticks for machines with deadlines, and
// giving leadership to a replica that can execute when this one cannot.
func (g *Group) lead(ctx context.Context) {
	timer := time.NewTimer(leadEvery)
	defer timer.Stop()
	var lastTick time.Time
	var next handOvers
	for {
		changed := g.changes.wait()
		var again <-chan time.Time
		if s := g.engine.Status(); s.Role != RoleLeader {
			g.peerClocks.Store(nil)
		} else {
			if time.Since(lastTick) >= tickEvery && g.tickDue() {
				lastTick = time.Now()
				g.proposeTick(ctx)
			}
			g.considerHandOver(ctx, s, &next)
			timer.Reset(leadEvery)
			again = timer.C
		}
		select {
		case <-changed:
		case <-again:
		case <-ctx.Done():
			return
		}
	}
}

// tickEvery bounds ticks to one a second.
const tickEvery = time.Second

// tickDue: something is due by this leader's clock, or by the time that the
// group has reached already.
func (g *Group) tickDue() bool {
	due := g.a.due.Load()
	if due == 0 || !g.a.state.healthy(tickEvery) {
		return false
	}
	_, _, groupTime, _ := g.a.seen.get()
	return due <= max(g.cfg.Now().UnixNano(), groupTime)
}

func (g *Group) proposeTick(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, tickEvery)
	defer cancel()
	if _, err := g.control(ctx, []byte{byte(controlTick)}); err != nil {
		g.cfg.Logger.Debug("tick", "err", err)
	}
}

// handOvers paces attempts to give leadership away. The first is made at once;
// each that leaves this replica unfit and leading, now or when leadership has
// come back, makes the next wait longer. So leadership goes round slowly at
// worst, and an attempt that failed is made again.
type handOvers struct {
	after time.Time
	pause time.Duration
}

const (
	handOverPauseMin = 2 * time.Second
	handOverPauseMax = 30 * time.Second
)

func (g *Group) considerHandOver(ctx context.Context, s EngineStatus, next *handOvers) {
	why, taker := g.unfit(s)
	if why == "" {
		if time.Since(next.after) > handOverPauseMax {
			next.pause = 0
		}
		return
	}
	if time.Now().Before(next.after) {
		return
	}
	to, ok := g.fitter(s, taker)
	if !ok {
		return
	}
	next.pause = min(max(2*next.pause, handOverPauseMin), handOverPauseMax)
	g.handOver(ctx, to, why)
	next.after = time.Now().Add(next.pause)
}

// unfit says why this replica should not lead, "" when it may, and who may in
// its place: nil for whoever has a machine that runs.
func (g *Group) unfit(s EngineStatus) (why string, taker func(ReplicaStatus) bool) {
	if !g.a.state.healthy(g.cfg.MachineStallAfter) {
		return "its machine is " + g.a.state.status(g.cfg.MachineStallAfter).State, nil
	}
	c := g.ownClock()
	if c.warning == "" {
		c = g.clockAmongPeers(s)
		g.peerClocks.Store(&c.warning)
	}
	if c.taker == nil {
		return "", nil
	}
	return c.warning, c.taker
}

// fitter chooses whom to give leadership to: a voter whose machine is known to
// run, of those that taker admits, the one that has applied most. Without a view
// of the others ("" and true) the engine chooses; when all are known to be worse
// it is false.
func (g *Group) fitter(s EngineStatus, taker func(ReplicaStatus) bool) (NodeID, bool) {
	if s.Membership.Voters() < 2 {
		return "", false
	}
	if g.cfg.PeerState == nil {
		return "", taker == nil
	}
	var best ReplicaStatus
	for _, m := range s.Membership.Members {
		if m.ID == g.cfg.Self || m.Suffrage != Voter {
			continue
		}
		p, ok := g.cfg.PeerState(m.ID)
		if !ok || !p.Reachable || p.Machine.State != phaseRunning.String() || p.Err != "" || taker != nil && !taker(p) {
			continue
		}
		if p.Node = m.ID; best.Node == "" || p.Applied > best.Applied {
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
