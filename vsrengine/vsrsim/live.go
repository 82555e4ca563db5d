package vsrsim

import (
	"fmt"
	"math"
	"strings"

	"github.com/diarchy/diarchy/vsrengine/vsr"
)

// The second phase: a core of the cluster is healed, everything outside of it
// stays as it is for ever, and the core must get on.

// patience is how many ticks the core has: a long history takes a replica that
// restarts empty a while, for the least answers hold one entry.
func (w *world) patience() uint64 {
	if w.hopeless {
		return uint64(200 + 10*w.o.ViewChange)
	}
	return uint64(4000 + 100*w.o.ViewChange + 8*len(w.check.history))
}

// live runs the core until a command and a read that came after the healing are
// answered and all of it has the same state, and fails if that does not come.
func (w *world) live() {
	w.heal()
	begin, until := w.now, w.now+w.ticks(w.patience())
	acked, answered := w.counts.Acked, w.counts.Answered
	w.o.Reads = max(w.o.Reads, 0.1)
	var target, furthest vsr.Op
	for w.failure == nil && w.now < until {
		w.run(math.MaxInt, min(until, w.now+w.ticks(10)))
		w.now = max(w.now, min(until, w.now+1))
		if target == 0 && w.counts.Acked > acked+2 && w.counts.Answered > answered {
			target = vsr.Op(len(w.check.history))
			w.still = true
		}
		if sum := w.appliedInCore(); target != 0 && sum > furthest {
			furthest = sum // who is thousands of ops behind needs time, as long as it gets on
			until = max(until, w.now+w.ticks(w.patience()/4))
		}
		if target != 0 && w.failure == nil && w.converged() {
			w.counts.LiveTicks += (w.now - begin) / microticks
			return
		}
	}
	if w.failure != nil {
		return
	}
	if w.hopeless {
		w.toldSo()
		return
	}
	if why := w.excuse(); why != "" {
		w.counts.Excused++
		return
	}
	w.fail("stuck", fmt.Sprintf("the core does not get on: %d commands and %d reads answered since it was healed\n%s",
		w.counts.Acked-acked, w.counts.Answered-answered, w.describe()))
}

// toldSo: who restarted empty with too many others says that nothing goes on.
func (w *world) toldSo() {
	m := w.newest()
	for _, n := range w.nodes {
		if m.Role(n.id) != vsr.Voter || !n.up || n.where.Phase != vsr.Recovering || !w.core[n.index] {
			continue
		}
		if s := n.r.Status().Trouble; !strings.Contains(s, "group recover") {
			w.fail("silent", fmt.Sprintf("replica %d is one of too many that restarted empty, and says %q\n%s", n.id, s, w.describe()))
		}
	}
}

// appliedInCore adds up how far the core has come.
func (w *world) appliedInCore() (sum vsr.Op) {
	for _, n := range w.nodes {
		if w.core[n.index] {
			sum += n.machine.op
		}
	}
	return sum
}

// heal chooses the core and lets it run. What is outside is down, or cut off: both
// ways, or it hears and is not heard, or it is heard and does not hear.
func (w *world) heal() {
	d := w.dLive
	w.chooseCore()
	w.healing = true
	w.pending = nil
	t := &w.network
	t.cut = [nodesMax]uint64{}
	for _, n := range w.nodes {
		if w.core[n.index] || n.gone {
			continue
		}
		w.counts.LeftOut++
		w.note(Event{Kind: Left, Replica: n.id})
		if n.up && d.pick(2) == 0 {
			w.stop(n, 0)
		}
		t.silence(n.index, len(w.nodes), d.pick(2) == 0, d)
	}
	w.note(Event{Kind: Healed})
	for _, n := range w.nodes {
		if !w.core[n.index] {
			continue
		}
		if !n.up {
			w.start(n)
		}
		if n.up {
			w.resume(n)
		}
	}
}

// chooseCore leaves out at most as many voters as may be lost, and none while two
// configurations are in force: the word of the newer may have to be agreed again.
func (w *world) chooseCore() {
	d, m := w.dLive, w.newest()
	for _, n := range w.nodes {
		w.core[n.index] = !n.gone
	}
	if !w.settled(m) || len(w.pending) > 0 || d.pick(4) == 0 {
		return
	}
	for range len(m.Members) {
		n := w.nodes[d.pick(len(w.nodes))]
		if n.gone || !w.core[n.index] || d.pick(2) == 0 {
			continue
		}
		outside := func(_ *vsr.Membership, x *node) bool {
			return w.lost(x) || !w.core[x.index] || x.up && x.r.Status().Damaged // its word on what it lacks does not count yet
		}
		if m.Role(n.id) == vsr.Voter && (!w.tolerates(n, outside) || !w.mayWipe(n)) {
			continue
		}
		w.core[n.index] = false
	}
}

// converged reports whether every member in the core is up to date.
func (w *world) converged() bool {
	m := w.newest()
	for _, n := range w.nodes {
		if !w.core[n.index] || m.Role(n.id) == 0 {
			continue
		}
		if !n.up || int(n.machine.op) != len(w.check.history) || n.where.Phase != vsr.Normal {
			return false
		}
	}
	return true
}

// excuse is the proof that a stuck core cannot get on, or "".
func (w *world) excuse() string {
	m := w.newest()
	able, voters, blind, empty, damaged := 0, m.Voters(), 0, 0, 0
	for _, n := range w.nodes {
		if m.Role(n.id) != vsr.Voter || !w.core[n.index] || !n.up {
			continue
		}
		able++
		if n.r.Status().Damaged {
			damaged++
		}
		switch n.where.Phase {
		case vsr.RecoveringHead:
			blind++
		case vsr.Recovering:
			empty++
		}
	}
	switch {
	case able <= voters/2:
		return "the core is no quorum of the newest configuration"
	case damaged > (voters-1)/2 && able-damaged < voters-voters/2:
		return "more than f journals are damaged: what is missing can be neither fetched nor denied (D21)"
	case able-blind <= voters/2:
		return "the heads of too many are damaged"
	case w.o.Memory && able-empty <= voters/2 && empty > (voters-1)/2:
		return "too many lost their memory"
	}
	return ""
}

func (w *world) describe() string {
	var b strings.Builder
	m := w.newest()
	fmt.Fprintf(&b, "newest configuration: epoch %d, op %d, %v; history up to %d, acknowledged up to %d\n", m.Epoch, m.Op, m.Members, len(w.check.history), w.check.ackedOp)
	for _, n := range w.nodes {
		fmt.Fprintf(&b, "%3d ", n.id)
		switch {
		case n.gone:
			b.WriteString("gone\n")
			continue
		case !w.core[n.index]:
			b.WriteString("left out: ")
		}
		if !n.up {
			b.WriteString("down\n")
			continue
		}
		s := n.r.Status()
		fmt.Fprintf(&b, "%s view %s log_view %s primary %d serving %v head %d commit %d applied %d first %d snapshot %d damaged %v | machine %d, %d writes wait, %d damaged records | epoch %d op %d %v %s\n",
			s.Phase, s.View, s.LogView, s.Primary, s.Serving, s.Head, s.Commit, s.Applied, s.First, s.Snapshot, s.Damaged,
			n.machine.op, len(n.disk.queue), n.disk.damaged, s.Members.Epoch, s.Members.Op, s.Members.Members, s.Trouble)
	}
	return b.String()
}
