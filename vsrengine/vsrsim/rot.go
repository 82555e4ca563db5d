package vsrsim

import "github.com/diarchy/diarchy/vsrengine/vsr"

// rot damages a record after it became durable, most often a recent one. A write
// that went astray damages two: the one that it hit and the one that it was.
func (w *world) rot() {
	d := w.dRot
	n := w.nodes[d.pick(len(w.nodes))]
	w.rotOne(n)
	if d.chance(w.o.Misdirect) && w.rotOne(n) {
		w.counts.Misdirected++
	}
}

func (w *world) rotOne(n *node) bool {
	d, k := w.dRot, len(n.disk.journal)
	if k == 0 || n.gone {
		return false
	}
	i := k - 1 - min(int(d.spread(6)), k-1)
	if d.pick(4) == 0 {
		i = d.pick(k)
	}
	r := &n.disk.journal[i]
	how := bodyless
	switch {
	case d.chance(w.o.Unplaced):
		how = unplaced
	case d.chance(w.o.Headless):
		how = headless
	}
	if r.rot != intact || n.disk.bad() && d.pick(3) > 0 || !w.mayDamage(n, r) {
		return false
	}
	w.damage(n, r, how)
	w.counts.Rotten++
	switch how {
	case unplaced:
		w.counts.Unplaced++
	case headless:
		w.counts.Headless++
	}
	return true
}

func (w *world) damage(n *node, r *written, how rot) {
	r.rot = how
	n.disk.damaged++
	w.note(Event{Kind: Damaged, Replica: n.id, Op: r.entry.Op})
}

// rotSnapshot makes a snapshot unreadable. Where it is the only one its node
// counts as damaged, and others must have what was in it.
func (w *world) rotSnapshot() {
	d := w.dRot
	n := w.nodes[d.pick(len(w.nodes))]
	k := len(n.disk.snapshots)
	if k == 0 || n.gone || n.disk.bad() {
		return
	}
	s := &n.disk.snapshots[d.pick(k)]
	if w.votes(n) {
		if !w.mayLose(n) {
			return
		}
		for _, m := range w.inForce() {
			if m.Role(n.id) == vsr.Voter && !w.anotherSnapshot(n, &m, s.meta.Header.Op) {
				return
			}
		}
	}
	s.rotten = true
	w.counts.SnapshotsRotten++
	w.note(Event{Kind: Damaged, Replica: n.id, Op: s.meta.Header.Op})
}

// anotherSnapshot reports whether a voter who is not lost has everything up to op.
func (w *world) anotherSnapshot(n *node, m *vsr.Membership, op vsr.Op) bool {
	for _, x := range w.nodes {
		if x == n || m.Role(x.id) != vsr.Voter || w.lost(x) {
			continue
		}
		if x.snapshotFrom(op) || x.disk.base <= 1 && len(x.disk.last) >= int(op) {
			return true
		}
	}
	return false
}

// scrub reads a part of a disk and reports what cannot be read.
func (w *world) scrub() {
	d := w.dRot
	n := w.nodes[d.pick(len(w.nodes))]
	if !n.up || n.paused {
		return
	}
	k := len(n.disk.journal)
	if k > 0 && n.disk.damaged > 0 {
		from := d.pick(k)
		for i := from; i < min(from+64, k) && i < len(n.disk.journal); i++ {
			r := &n.disk.journal[i]
			if r.rot == intact || r.known != 0 {
				continue
			}
			n.disk.found(r)
			w.counts.Scrubbed++
			n.r.Damaged(r.entry.Op, r.entry.Checksum)
		}
	}
	for i := range n.disk.snapshots {
		if s := &n.disk.snapshots[i]; s.rotten {
			w.counts.Scrubbed++
			w.snapshotLost(n, s.meta.Header.Op)
			break
		}
	}
	w.obey(n)
}
