package raftengine

import (
	"sync"

	"github.com/hashicorp/raft"
)

// cache keeps the newest entries of the log in memory, so that replication and
// the hand-over of committed entries need no disk. Unlike raft.LogCache it is
// bounded in bytes too, and shortening the log does not empty it.
//
// Invariants, under mu: it holds the entries lo to hi and no others (none when
// hi is 0), each at ring[index % len(ring)]; bytes is their size.
type cache struct {
	mu       sync.RWMutex
	ring     []*raft.Log
	lo, hi   uint64
	bytes    int
	bytesMax int
}

func newCache(entries, bytes int) *cache {
	return &cache{ring: make([]*raft.Log, entries), bytesMax: bytes}
}

func (c *cache) place(index uint64) **raft.Log { return &c.ring[index%uint64(len(c.ring))] }

func (c *cache) get(index uint64, into *raft.Log) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.hi == 0 || index < c.lo || index > c.hi {
		return false
	}
	*into = **c.place(index)
	return true
}

// add takes entries that have just become durable.
func (c *cache) add(logs []*raft.Log) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range logs {
		if c.hi != 0 && l.Index != c.hi+1 {
			c.empty()
		}
		if c.hi == 0 {
			c.lo = l.Index
		} else if c.hi-c.lo+1 == uint64(len(c.ring)) {
			c.dropOldest()
		}
		*c.place(l.Index) = l
		c.hi = l.Index
		c.bytes += len(l.Data)
		for c.bytes > c.bytesMax && c.lo < c.hi {
			c.dropOldest()
		}
	}
}

func (c *cache) dropOldest() {
	p := c.place(c.lo)
	c.bytes -= len((*p).Data)
	*p = nil
	c.lo++
}

func (c *cache) empty() {
	clear(c.ring)
	c.lo, c.hi, c.bytes = 0, 0, 0
}

// remove forgets the entries from low to high.
func (c *cache) remove(low, high uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.hi == 0 || high < c.lo || low > c.hi:
	case low <= c.lo && high >= c.hi:
		c.empty()
	case low <= c.lo:
		for c.lo <= high {
			c.dropOldest()
		}
	case high >= c.hi:
		for ; c.hi >= low; c.hi-- {
			p := c.place(c.hi)
			c.bytes -= len((*p).Data)
			*p = nil
		}
	default:
		c.empty()
	}
}
