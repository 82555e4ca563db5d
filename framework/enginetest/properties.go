package enginetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/diarchy/diarchy/framework"
)

// The five classic properties, by name. ElectionSafety and LeaderAppendOnly are
// watched while a cluster runs, the others looked at when it ends. Every case's
// cluster is held to all of them.

func (c *cluster) violated(property, format string, args ...any) {
	c.mu.Lock()
	c.faults = append(c.faults, property+": "+fmt.Sprintf(format, args...))
	c.mu.Unlock()
}

// watch looks at one replica at each of its changes, and often between them.
func (c *cluster) watch(ctx context.Context, id framework.NodeID, g *framework.Group) {
	var led framework.Term
	var last framework.Position
	for {
		changed := g.Changed()
		s := g.EngineStatus()
		if s.Role == framework.RoleLeader {
			c.electionSafety(id, s.Term)
			c.leaderAppendOnly(id, s, &led, &last)
		}
		select {
		case <-changed:
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return
		}
	}
}

// electionSafety: at most one leader a term.
func (c *cluster) electionSafety(id framework.NodeID, term framework.Term) {
	c.mu.Lock()
	was, known := c.leaders[term]
	c.leaders[term] = id
	c.mu.Unlock()
	if known && was != id {
		c.violated("ElectionSafety", "term %d was led by %s and by %s", term, was, id)
	}
}

// leaderAppendOnly: within its term a leader's log only grows.
func (c *cluster) leaderAppendOnly(id framework.NodeID, s framework.EngineStatus, led *framework.Term, last *framework.Position) {
	if s.Term == *led && s.Last < *last {
		c.violated("LeaderAppendOnly", "%s leads term %d and its log went from %d back to %d", id, s.Term, *last, s.Last)
	}
	*led, *last = s.Term, s.Last
}

// checkProperties looks at a cluster that has come to rest.
func (c *cluster) checkProperties() {
	c.t.Helper()
	c.stateMachineSafety()
	c.logMatching()
	c.leaderCompleteness()
	c.equalStates()
}

// stateMachineSafety: no two replicas ever executed different commands under
// one number.
func (c *cluster) stateMachineSafety() {
	all := map[uint64][32]byte{}
	for _, n := range c.nodes {
		n.ledger.mu.Lock()
		for number, h := range n.ledger.seen {
			if was, ok := all[number]; ok && was != h {
				c.violated("StateMachineSafety", "command %d differs between replicas (%s)", number, n.id)
			}
			all[number] = h
		}
		for _, bad := range n.ledger.bad {
			c.violated("StateMachineSafety", "%s: %s", n.id, bad)
		}
		n.ledger.mu.Unlock()
	}
}

// committed reads everything a replica's log can still give.
func (c *cluster) committed(n *node) []framework.Entry {
	from := framework.Position(1)
	var all []framework.Entry
	for {
		entries, through, err := n.g.Entries(from, 1<<20)
		var gone *framework.CompactedError
		if errors.As(err, &gone) {
			from = gone.Oldest
			continue
		}
		if err != nil {
			c.t.Errorf("%s: read log from %d: %v", n.id, from, err)
			return all
		}
		all = append(all, entries...)
		if through < from {
			return all
		}
		from = through + 1
	}
}

// logMatching: an entry of one position and term is the same everywhere.
func (c *cluster) logMatching() {
	type place struct {
		p framework.Position
		t framework.Term
	}
	seen := map[place]framework.Entry{}
	byPosition := map[framework.Position]framework.Term{}
	for _, n := range c.live() {
		for _, e := range c.committed(n) {
			if t, ok := byPosition[e.Position]; ok && t != e.Term {
				c.violated("LogMatching", "committed position %d is of term %d and of term %d (%s)", e.Position, t, e.Term, n.id)
			}
			byPosition[e.Position] = e.Term
			k := place{e.Position, e.Term}
			if was, ok := seen[k]; ok && (was.Kind != e.Kind || !bytes.Equal(was.Data, e.Data)) {
				c.violated("LogMatching", "position %d of term %d differs between replicas (%s)", e.Position, e.Term, n.id)
			}
			seen[k] = e
		}
	}
}

// leaderCompleteness: what a client was told has happened was executed by the
// leader of now, unless its number lies in a snapshot that was installed there.
func (c *cluster) leaderCompleteness() {
	l := c.leader()
	number := l.g.Status().Number
	c.mu.Lock()
	acked := make(map[uint64]string, len(c.acked))
	for k, v := range c.acked {
		acked[k] = v
	}
	c.mu.Unlock()
	all := map[uint64][32]byte{}
	for _, n := range c.nodes {
		n.ledger.mu.Lock()
		for k, v := range n.ledger.seen {
			all[k] = v
		}
		n.ledger.mu.Unlock()
	}
	for k, data := range acked {
		if k > number {
			c.violated("LeaderCompleteness", "command %d was acknowledged and leader %s stands at %d", k, l.id, number)
		} else if all[k] != sha256.Sum256([]byte(data)) {
			c.violated("LeaderCompleteness", "command %d was acknowledged and something else executed", k)
		}
	}
}

// equalStates: replicas that stand at one number have one state.
func (c *cluster) equalStates() {
	c.t.Helper()
	sums := map[uint64]framework.Checksum{}
	for _, n := range c.members() {
		ctx, cancel := context.WithTimeout(context.Background(), within)
		s, err := n.g.Checksum(ctx)
		cancel()
		if err != nil {
			c.t.Errorf("%s: checksum: %v", n.id, err)
			continue
		}
		if was, ok := sums[s.Number]; ok && was != s {
			c.violated("StateMachineSafety", "at command %d %s has state %s, another %s", s.Number, n.id, s.SHA256, was.SHA256)
		}
		sums[s.Number] = s
	}
}
