package vsrsim

import (
	"fmt"
	"math/bits"
	"slices"

	"github.com/diarchy/diarchy/vsrengine/vsr"
)

// checker judges what can be seen from outside of the replicas. It is told what
// happened and knows nothing of the world that makes it happen, so a test can plant
// a violation and see it reported. The first violation stays.
//
// Its history is the longest sequence of entries that anybody applied: every
// replica, in all of its lives, must follow it.
type checker struct {
	violation *violation

	history  []vsr.Checksum // by op-1
	hashes   []uint64       // the machine's after it
	numbers  []uint64
	machine  machine
	issued   []uint32   // by client: the next number it has not sent yet
	executed [][]uint64 // by client: a bit for each command executed

	ackedOp  vsr.Op // the highest op of which a client was told
	readOp   vsr.Op // the highest state that a reader was shown
	acks     []mark // by view: the highest op acknowledged in it or before, ascending
	begun    []begun
	replicas [nodesMax]seen
	limits   limits
	epoch    uint64 // of whatever follows the history
	lost     bool   // more restarted empty than memory mode survives
}

type violation struct{ kind, what string }

// mark is how far acknowledgements had come in a view.
type mark struct {
	view vsr.View
	op   vsr.Op
}

// begun is who began a view.
type begun struct {
	view vsr.View
	id   vsr.ID
}

// seen is what is remembered of one replica over all its lives.
type seen struct {
	record *vsr.Record
	said   *vsr.Log // in its last DoViewChange
	saidIn vsr.View
	life   uint32
	commit vsr.Op // in this life
}

// limits bound messages and queues.
type limits struct {
	entryBytes, headers, chunkBytes int
	queue                           int
}

func (c *checker) fail(kind, format string, args ...any) {
	if c.violation == nil {
		c.violation = &violation{kind, fmt.Sprintf(format, args...)}
	}
}

// issue says that a client sends a command, for the first time or again.
func (c *checker) issue(x command) {
	for x.client() >= len(c.issued) {
		c.issued = append(c.issued, 0)
		c.executed = append(c.executed, nil)
	}
	c.issued[x.client()] = max(c.issued[x.client()], x.seq()+1)
}

// apply says that a replica, whose machine is at op before, applies an entry. It
// reports whether nobody did before.
func (c *checker) apply(id vsr.ID, before vsr.Op, e *vsr.Entry) bool {
	if e.Op != before+1 {
		c.fail("order", "replica %d applies op %d after %d", id, e.Op, before)
		return false
	}
	if vsr.BodySum(e.Body) != e.BodyChecksum {
		c.fail("content", "replica %d applies op %d with another body than its header says", id, e.Op)
	}
	if int(e.Op) <= len(c.history) {
		if c.history[e.Op-1] != e.Checksum {
			c.fail("agreement", "replica %d applies another op %d (view %s) than others did; acknowledged up to %d", id, e.Op, e.View, c.ackedOp)
		}
		return false
	}
	if int(e.Op) != len(c.history)+1 {
		c.fail("order", "replica %d applies op %d; nobody applied %d", id, e.Op, len(c.history)+1)
		return false
	}
	if n := len(c.history); n > 0 && e.Parent != c.history[n-1] {
		c.fail("chain", "op %d does not name the op before it as its parent", e.Op)
	}
	if e.View.Epoch() < c.epoch {
		c.fail("epoch", "op %d was prepared in view %s, after the end of its epoch", e.Op, e.View)
	}
	if e.Kind == vsr.KindConfig {
		c.epoch = e.View.Epoch() + 1
	}
	c.machine.apply(e, c.execute)
	c.history = append(c.history, e.Checksum)
	c.hashes = append(c.hashes, c.machine.hash)
	c.numbers = append(c.numbers, c.machine.number)
	return true
}

// execute: exactly what was proposed, and at most once a session.
func (c *checker) execute(x command) {
	if x.client() >= len(c.issued) || x.seq() >= c.issued[x.client()] {
		c.fail("invented", "command %d of client %d is executed and was never sent", x.seq(), x.client())
		return
	}
	done, word := &c.executed[x.client()], int(x.seq()/64)
	for word >= len(*done) {
		*done = append(*done, 0)
	}
	if (*done)[word]&(1<<(x.seq()%64)) != 0 {
		c.fail("twice", "command %d of client %d is executed again", x.seq(), x.client())
	}
	(*done)[word] |= 1 << (x.seq() % 64)
}

// state: a machine is in the state of the history.
func (c *checker) state(id vsr.ID, m *machine) {
	switch {
	case m.op == 0:
	case int(m.op) > len(c.history):
		c.fail("agreement", "replica %d has a state of op %d, which nobody applied", id, m.op)
	case c.hashes[m.op-1] != m.hash || c.numbers[m.op-1] != m.number:
		c.fail("state", "replica %d: the machine's state after op %d is not that of the history", id, m.op)
	}
}

// quorum: when an op is first applied, a majority of the voters of a configuration
// that may commit it has it, on disk if there are disks. holders has a bit for
// each replica by ID.
func (c *checker) quorum(e *vsr.Entry, holders uint64, configs []vsr.Membership) {
	for i := range configs {
		m := &configs[i]
		if m.Epoch < e.View.Epoch() {
			continue
		}
		n, all := 0, 0
		for _, x := range m.Members {
			if x.Role == vsr.Voter {
				all++
				n += int(holders >> x.ID & 1)
			}
		}
		if n > all/2 {
			return
		}
	}
	c.fail("quorum", "op %d (view %s) is applied with %d copies in the group", e.Op, e.View, bits.OnesCount64(holders))
}

// ack says that a client was told of a command's execution, by a replica in this
// view that applied op.
func (c *checker) ack(v vsr.View, op vsr.Op, x command) {
	word := int(x.seq() / 64)
	if x.client() >= len(c.executed) || word >= len(c.executed[x.client()]) || c.executed[x.client()][word]&(1<<(x.seq()%64)) == 0 {
		c.fail("false ack", "command %d of client %d is acknowledged at op %d and was not executed", x.seq(), x.client(), op)
	}
	c.ackedOp = max(c.ackedOp, op)
	n := len(c.acks)
	if n > 0 && c.acks[n-1].view == v {
		c.acks[n-1].op = max(c.acks[n-1].op, op)
		return
	}
	i, found := slices.BinarySearchFunc(c.acks, v, func(m mark, v vsr.View) int { return compareViews(m.view, v) })
	if !found {
		c.acks = slices.Insert(c.acks, i, mark{view: v})
		if i > 0 {
			c.acks[i].op = c.acks[i-1].op
		}
	}
	for ; i < len(c.acks); i++ {
		c.acks[i].op = max(c.acks[i].op, op)
	}
}

func compareViews(a, b vsr.View) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// ackedBefore is the highest op acknowledged in a view up to this one.
func (c *checker) ackedBefore(v vsr.View) vsr.Op {
	i, found := slices.BinarySearchFunc(c.acks, v, func(m mark, v vsr.View) int { return compareViews(m.view, v) })
	if !found {
		i--
	}
	if i < 0 {
		return 0
	}
	return c.acks[i].op
}

// floor is what a linearizable read that begins now must at least see.
func (c *checker) floor() vsr.Op { return max(c.ackedOp, c.readOp) }

// read: a reader that came when the floor was at floor is shown the state after op.
func (c *checker) read(id vsr.ID, floor, op vsr.Op) {
	if op < floor {
		c.fail("stale read", "replica %d shows the state after op %d to one who came when %d had been shown", id, op, floor)
	}
	c.readOp = max(c.readOp, op)
}
