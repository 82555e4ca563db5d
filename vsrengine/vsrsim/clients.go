package vsrsim

import (
	"encoding/binary"

	"github.com/diarchy/diarchy/vsrengine/vsr"
)

// client has a session with a window of commands under way. It sends to the node
// that it believes leads, and what is not acknowledged again, elsewhere if need be.
type client struct {
	target int
	next   uint32 // the next command to send for the first time
	acked  uint32 // all below are acknowledged
	window uint64 // bit i: command acked+i is acknowledged
	idle   int    // turns without an acknowledgement
}

// reading is a linearizable read under way.
type reading struct {
	token   uint64
	floor   vsr.Op // what it must at least see
	op      vsr.Op // the read index
	decided bool
}

// patienceTurns is how long a client waits before it tries another node.
const patienceTurns = 8

// turn lets a client do something: a command, a read, or again what got no answer.
func (w *world) turn(i int) {
	c := &w.clients[i]
	w.after(w.o.Think/2+w.dWork.below(w.o.Think+1), happening{kind: clientDue, arg: uint32(i)})
	if w.still {
		return
	}
	c.idle++
	if c.idle > patienceTurns || !w.reachable(w.nodes[c.target]) {
		c.idle = 0
		c.target = w.dWork.pick(len(w.nodes))
	}
	n := w.nodes[c.target]
	if !w.reachable(n) {
		return
	}
	if w.dWork.chance(w.o.Reads) {
		w.ask(n)
		return
	}
	if x, ok := w.choose(i, c); ok && len(n.queue) < 256 {
		w.check.issue(x)
		n.queue = append(n.queue, x)
		w.pump(n)
	}
}

func (w *world) reachable(n *node) bool {
	return n.up && !n.paused && (!w.healing || w.core[n.index])
}

// choose is a new command if the window has room, else one of those under way.
func (w *world) choose(i int, c *client) (command, bool) {
	if c.next < c.acked+uint32(w.o.Window) && c.idle <= patienceTurns/2 {
		c.next++
		return newCommand(i, c.next-1), true
	}
	if c.next == c.acked {
		return 0, false
	}
	k := uint32(w.dWork.pick(int(c.next - c.acked)))
	return newCommand(i, c.acked+k), c.window&(1<<k) == 0
}

// done is an acknowledgement.
func (c *client) done(seq uint32, at int) {
	c.target, c.idle = at, 0
	if seq < c.acked {
		return
	}
	c.window |= 1 << (seq - c.acked)
	for c.window&1 != 0 {
		c.window >>= 1
		c.acked++
	}
}

// pump is the driver's batching: it proposes what waits at a node, as much in a
// batch as there is, as long as the pipeline has a free place (D13).
func (w *world) pump(n *node) {
	for len(n.queue) > 0 && n.up && !n.paused {
		count := min(len(n.queue), w.o.BatchMax)
		body := make([]byte, 0, count*commandBytes)
		for _, x := range n.queue[:count] {
			body = binary.LittleEndian.AppendUint64(body, uint64(x))
		}
		sum := vsr.BodySum(body)
		op, err := n.r.Propose(vsr.Batch{Kind: vsr.KindUser, Count: uint32(count), Body: body, BodyChecksum: sum, Time: int64(w.now)})
		switch err {
		case nil:
			n.queue = n.queue[:copy(n.queue, n.queue[count:])]
			n.mine = append(n.mine, mine{op, sum})
			w.counts.Proposed++
			w.obey(n)
		case vsr.ErrBusy:
			return
		default: // it did not happen: the clients go elsewhere
			for _, x := range n.queue {
				w.clients[x.client()].target = w.hint(n)
			}
			n.queue = n.queue[:0]
			return
		}
	}
}

// hint is where a node sends a client that it cannot serve.
func (w *world) hint(n *node) int {
	if p := w.node(n.r.Status().Primary); p != nil && p != n && w.dWork.pick(3) > 0 {
		return p.index
	}
	return w.dWork.pick(len(w.nodes))
}

// acknowledge answers the clients whose commands were proposed here.
func (w *world) acknowledge(n *node, e *vsr.Entry) {
	k := 0
	for k < len(n.mine) && n.mine[k].op < e.Op {
		k++ // another's op took its place, or a snapshot did: the client asks again
	}
	n.mine = n.mine[k:]
	if len(n.mine) == 0 || n.mine[0].op != e.Op {
		return
	}
	ours := n.mine[0].sum == e.BodyChecksum
	n.mine = n.mine[1:]
	if !ours {
		return
	}
	view := n.r.Where().View
	commands(e.Body, func(x command) {
		w.check.ack(view, e.Op, x)
		w.clients[x.client()].done(x.seq(), n.index)
		w.counts.Acked++
	})
	w.note(Event{Kind: Acked, Replica: n.id, View: view, Op: e.Op})
}

// ask begins a read.
func (w *world) ask(n *node) {
	w.reads++
	w.counts.ReadsAsked++
	n.reading = append(n.reading, reading{token: w.reads, floor: w.check.floor()})
	if n.r.ReadIndex(w.reads) != nil {
		n.reading = n.reading[:len(n.reading)-1]
		w.counts.ReadsRefused++
		return
	}
	w.obey(n)
}

// decided takes in what became of reads.
func (w *world) decided(n *node, reads []vsr.Read) {
	if len(reads) == 0 {
		return
	}
	for _, d := range reads {
		for i := range n.reading {
			if n.reading[i].token != d.Token {
				continue
			}
			if d.Err != nil {
				n.reading = append(n.reading[:i], n.reading[i+1:]...)
				w.counts.ReadsRefused++
			} else {
				n.reading[i].op, n.reading[i].decided = d.Op, true
			}
			break
		}
	}
	w.answer(n)
}

// answer gives readers the state once the machine has come to their read index.
func (w *world) answer(n *node) {
	if len(n.reading) == 0 {
		return
	}
	kept := n.reading[:0]
	for _, r := range n.reading {
		if !r.decided || n.machine.op < r.op {
			kept = append(kept, r)
			continue
		}
		w.counts.Answered++
		w.note(Event{Kind: Answered, Replica: n.id, Op: n.machine.op})
		w.check.read(n.id, r.floor, n.machine.op)
	}
	n.reading = kept
}
