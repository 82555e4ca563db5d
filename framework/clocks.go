package framework

import (
	"fmt"
	"slices"
	"time"
)

// clockBound is how far a leader's clock may lag the group's time, or differ
// from those of its peers.
const clockBound = 500 * time.Millisecond

// clockView is what a replica makes of its clock.
type clockView struct {
	warning string
	// taker admits those whose clock is better; nil when none is known to be.
	taker func(ReplicaStatus) bool
}

// ownClock compares this node's clock with the group's time.
func (g *Group) ownClock() clockView {
	_, _, groupTime, _ := g.a.seen.get()
	lag := time.Duration(groupTime - g.cfg.Now().UnixNano())
	if lag <= clockBound {
		return clockView{}
	}
	return clockView{
		warning: fmt.Sprintf("this node's clock is %s behind the group's time; check its time service", lag.Round(time.Millisecond)),
		taker:   func(p ReplicaStatus) bool { return p.ClockAhead != nil && lag-*p.ClockAhead <= clockBound },
	}
}

// clockAmongPeers compares a leader's clock with what is known of the other
// voters'. Which clock is right nobody knows: the one in the middle of three or
// more is taken for it, by all alike, so that leadership is not passed round.
func (g *Group) clockAmongPeers(s EngineStatus) clockView {
	if g.cfg.PeerState == nil {
		return clockView{}
	}
	ahead := []time.Duration{0} // this node's own
	for _, m := range s.Membership.Members {
		if m.ID == g.cfg.Self || m.Suffrage != Voter {
			continue
		}
		if p, ok := g.cfg.PeerState(m.ID); ok && p.ClockAhead != nil {
			ahead = append(ahead, *p.ClockAhead)
		}
	}
	slices.Sort(ahead)
	apart := ahead[len(ahead)-1] - ahead[0]
	middle := ahead[len(ahead)/2]
	switch {
	case len(ahead) == 2 && apart > clockBound:
		return clockView{warning: fmt.Sprintf("this node's clock and the other's differ by %s; check their time services", apart.Round(time.Millisecond))}
	case len(ahead) > 2 && middle.Abs() > clockBound:
		return clockView{
			warning: fmt.Sprintf("this node's clock differs from its peers' by %s; check its time service", middle.Abs().Round(time.Millisecond)),
			taker:   func(p ReplicaStatus) bool { return p.ClockAhead != nil && (*p.ClockAhead-middle).Abs() <= clockBound },
		}
	}
	return clockView{}
}
