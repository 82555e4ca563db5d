package vsrsim

import "github.com/diarchy/diarchy/vsrengine/vsr"

// The fault atlas keeps what is drawn within the fault model (D21): of each
// configuration that may be in force at most f voters are lost, and each datum
// that may count has a good copy at one who is not.

// lost reports whether a node's word is gone or uncertain: wiped, damaged, or, in
// memory mode, not recovered since its last start.
func (w *world) lost(n *node) bool {
	return n.gone || n.disk.bad() || w.o.Memory && !n.clean
}

// inForce are the configurations that may still decide something: the newest, the
// one before it as long as a voter of the newest has not come to it, and those
// that were asked for.
func (w *world) inForce() []vsr.Membership {
	from := len(w.configs) - 1
	m := &w.configs[from]
	for from > 0 && !w.settled(m) {
		from--
		if w.configs[from].Epoch < m.Epoch {
			break
		}
	}
	out := append([]vsr.Membership(nil), w.configs[from:]...)
	return append(out, w.pending...)
}

// settled reports whether every voter of a configuration, as far as it is there,
// is in its epoch or a later one.
func (w *world) settled(m *vsr.Membership) bool {
	for _, n := range w.nodes {
		if m.Role(n.id) == vsr.Voter && !n.gone && n.disk.record.View.Epoch() < m.Epoch {
			return false
		}
	}
	return true
}

// settle forgets what was asked for and has come about, or cannot any more.
func (w *world) settle() {
	m := w.newest()
	kept := w.pending[:0]
	for _, p := range w.pending {
		if p.Epoch > m.Epoch {
			kept = append(kept, p)
		}
	}
	w.pending = kept
}

// configCommitted learns a configuration from its entry.
func (w *world) configCommitted(e *vsr.Entry) {
	m, err := vsr.DecodeMembership(e)
	if err != nil {
		w.fail("content", "a committed configuration cannot be decoded")
		return
	}
	if e.Kind == vsr.KindLearners {
		m.First = w.newest().First
	}
	w.learn(&m)
}

// tolerates reports whether one more node may be lost.
func (w *world) tolerates(n *node, lost func(*vsr.Membership, *node) bool) bool {
	for _, m := range w.inForce() {
		if m.Role(n.id) != vsr.Voter {
			continue
		}
		count := 1
		for _, x := range w.nodes {
			if x != n && m.Role(x.id) == vsr.Voter && lost(&m, x) {
				count++
			}
		}
		if count > (m.Voters()-1)/2 {
			return false
		}
	}
	return true
}

func (w *world) mayLose(n *node) bool {
	return w.tolerates(n, func(_ *vsr.Membership, x *node) bool { return w.lost(x) })
}

// votes reports whether a node is a voter of a configuration that may be in force.
func (w *world) votes(n *node) bool {
	for _, m := range w.inForce() {
		if m.Role(n.id) == vsr.Voter {
			return true
		}
	}
	return false
}

// mayDamage reports whether a record may rot.
func (w *world) mayDamage(n *node, r *written) bool {
	if n.gone || w.o.Memory {
		return false
	}
	if !w.votes(n) {
		return true
	}
	return w.mayLose(n) && w.copyElsewhere(n, nil, r.entry.Op, r.entry.Checksum)
}

// copyElsewhere reports whether, for each configuration in force of which n is a
// voter, another voter who is not lost has an entry, or a snapshot that contains
// it. What another entry of the history has replaced does not count any more.
func (w *world) copyElsewhere(n, without *node, op vsr.Op, sum vsr.Checksum) bool {
	committed := int(op) <= len(w.check.history)
	if committed && w.check.history[op-1] != sum {
		return true
	}
	for _, m := range w.inForce() {
		if m.Role(n.id) != vsr.Voter {
			continue
		}
		found := false
		for _, x := range w.nodes {
			if x == n || x == without || m.Role(x.id) != vsr.Voter || w.lost(x) {
				continue
			}
			found = found || x.disk.copyOf(op, sum) || committed && x.snapshotFrom(op)
		}
		if !found {
			return false
		}
	}
	return true
}

// snapshotFrom reports whether a readable snapshot contains an op.
func (n *node) snapshotFrom(op vsr.Op) bool {
	for i := range n.disk.snapshots {
		if s := &n.disk.snapshots[i]; !s.rotten && s.meta.Header.Op >= op {
			return true
		}
	}
	return false
}

// mayWipe reports whether a disk may be lost for good: what is damaged elsewhere
// must not have its last good copy here.
func (w *world) mayWipe(n *node) bool {
	if n.gone || !w.mayLose(n) {
		return false
	}
	for _, x := range w.nodes {
		if x == n || !x.disk.bad() {
			continue
		}
		for i := range x.disk.journal {
			r := &x.disk.journal[i]
			if r.rot != intact && !w.copyElsewhere(x, n, r.entry.Op, r.entry.Checksum) {
				return false
			}
		}
		if x.disk.damaged == 0 { // a snapshot
			return false
		}
	}
	return true
}
