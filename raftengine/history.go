package raftengine

import (
	"slices"
	"sync"

	"github.com/diarchy/diarchy/framework"
	"github.com/hashicorp/raft"
)

// history is the group's configurations in the order of the log, so that a
// snapshot at any applied position carries the one in force there. raft keeps
// two of them; that is not enough for a position in the past.
//
// Invariants, under mu: list is in rising order of index; the first is the base
// (from a snapshot, or the first of the log); those with an index up to committed
// are committed.
type history struct {
	mu        sync.Mutex
	list      []configurationAt
	committed uint64
}

type configurationAt struct {
	index uint64
	conf  raft.Configuration
}

// reset starts over from a snapshot's configuration.
func (h *history) reset(index uint64, conf raft.Configuration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.list = append(h.list[:0:0], configurationAt{index, conf.Clone()})
	h.committed = index
}

// see takes a configuration entry that is in the log now; false when it was
// known.
func (h *history) see(index uint64, conf raft.Configuration) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := len(h.list); n > 0 && h.list[n-1].index >= index {
		return false
	}
	h.list = append(h.list, configurationAt{index, conf})
	return true
}

// cut forgets the configurations from index on: their entries were removed.
func (h *history) cut(index uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := len(h.list)
	for n > 0 && h.list[n-1].index >= index && h.list[n-1].index > h.committed {
		n--
	}
	changed := n < len(h.list)
	h.list = h.list[:n]
	return changed
}

func (h *history) commit(index uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.committed = max(h.committed, index)
}

// at is the configuration in force at a position.
func (h *history) at(index uint64) (configurationAt, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range slices.Backward(h.list) {
		if c.index <= index {
			return c, true
		}
	}
	return configurationAt{}, false
}

// forgetBelow lets go what no snapshot at index or later needs.
func (h *history) forgetBelow(index uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	keep := 0
	for i, c := range h.list {
		if c.index <= index {
			keep = i
		}
	}
	h.list = slices.Delete(h.list, 0, keep)
}

// latest is the newest configuration, committed or not.
func (h *history) latest() (c configurationAt, committed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.list) == 0 {
		return configurationAt{}, false
	}
	c = h.list[len(h.list)-1]
	return c, c.index <= h.committed
}

// membership is the latest configuration in the framework's words.
func (h *history) membership() framework.Membership {
	c, committed := h.latest()
	m := framework.Membership{ID: c.index, Committed: committed}
	for _, s := range c.conf.Servers {
		member := framework.Member{ID: framework.NodeID(s.ID), Suffrage: framework.Voter}
		if s.Suffrage != raft.Voter {
			member.Suffrage = framework.Learner
		}
		m.Members = append(m.Members, member)
	}
	return m
}

// configurationOf is the other way round. A member's address is its id: where a
// node is at the moment is found at dial, and never enters the log.
func configurationOf(members []framework.Member) raft.Configuration {
	var c raft.Configuration
	for _, m := range members {
		s := raft.Server{ID: raft.ServerID(m.ID), Address: raft.ServerAddress(m.ID), Suffrage: raft.Voter}
		if m.Suffrage == framework.Learner {
			s.Suffrage = raft.Nonvoter
		}
		c.Servers = append(c.Servers, s)
	}
	return c
}
