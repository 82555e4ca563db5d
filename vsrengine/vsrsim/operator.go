package vsrsim

import "github.com/diarchy/diarchy/vsrengine/vsr"

// operate is what an operator does: hand-overs, changes of membership, and the
// replacement of nodes whose disk was lost (D15).
func (w *world) operate() {
	o, d := &w.o, w.dOps
	switch x := d.unit() * (o.Members + o.Wipe + o.Transfer); {
	case x < o.Wipe:
		w.wipe()
	case x < o.Wipe+o.Transfer:
		w.transfer()
	default:
		w.change()
	}
}

func (w *world) transfer() {
	p := w.leader(w.dOps)
	if p == nil {
		return
	}
	to := vsr.ID(1 + w.dOps.pick(len(w.nodes)))
	if p.r.Transfer(to) == nil {
		w.counts.Transfers++
		w.note(Event{Kind: Handed, Replica: p.id, Peer: to})
	}
	w.obey(p)
}

// wipe loses a voter's disk for good. Its node never comes back under this id.
func (w *world) wipe() {
	n := w.nodes[w.dOps.pick(len(w.nodes))]
	if !w.votes(n) || len(w.nodes) >= nodesMax-2 || !w.mayWipe(n) {
		return
	}
	w.counts.Wiped++
	w.note(Event{Kind: Wiped, Replica: n.id})
	w.takeAway(n)
}

func (w *world) takeAway(n *node) {
	if n.up {
		w.stop(n, 0)
	}
	n.gone = true
	n.disk = disk{record: n.disk.record}
}

// change asks one who leads for a step: towards replacing what is gone if there
// is such, else anything.
func (w *world) change() {
	w.tidy()
	p := w.leader(w.dOps)
	if p == nil {
		return
	}
	st := p.r.Status()
	m := &st.Members
	id, role := w.step(m, p)
	if id == 0 || !w.mayChange(m, id, role) {
		return
	}
	next := m.With(id, role)
	if p.r.Change(id, role, m.Lineage) == nil {
		w.counts.Changes++
		w.note(Event{Kind: Changed, Replica: p.id, Peer: id, Op: vsr.Op(role)})
		w.pending = append(w.pending, next)
		switch {
		case role == vsr.Voter:
			w.counts.Promotions++
		case role == 0 && m.Role(id) == vsr.Voter:
			w.counts.Removals++
			if id == p.id {
				w.counts.SelfRemovals++
			}
			if w.node(id).gone {
				w.counts.Replaced++
			}
		}
	}
	w.obey(p)
}

// mayChange keeps the tolerance: what is lost already must not be too much for
// the configuration that follows, and nobody with a damaged disk is promoted.
func (w *world) mayChange(m *vsr.Membership, id vsr.ID, role vsr.Role) bool {
	n := w.node(id)
	if role == vsr.Learner {
		return true
	}
	if role == vsr.Voter && w.lost(n) && !w.o.Memory {
		return false
	}
	if m.Role(id) == vsr.Learner && role == 0 {
		return true
	}
	next := m.With(id, role)
	lost, damaged := 0, false
	for _, x := range w.nodes {
		if next.Role(x.id) == vsr.Voter && w.lost(x) {
			lost++
			damaged = damaged || x.disk.bad()
		}
	}
	return lost <= (next.Voters()-1)/2 && !damaged
}

// step is one change that makes sense, or none.
func (w *world) step(m *vsr.Membership, p *node) (vsr.ID, vsr.Role) {
	d := w.dOps
	var learner, gone vsr.ID
	for _, x := range m.Members {
		if w.node(x.ID).gone {
			gone = x.ID
		} else if x.Role == vsr.Learner {
			learner = x.ID
		}
	}
	voters := m.Voters()
	if gone != 0 {
		switch {
		case m.Role(gone) == vsr.Learner || voters > w.o.Voters || voters == vsr.VotersMax:
			return gone, 0
		case learner != 0:
			return learner, vsr.Voter
		}
		return w.newcomer(m), vsr.Learner
	}
	switch d.pick(4) {
	case 0:
		if len(m.Members) < 9 {
			return w.newcomer(m), vsr.Learner
		}
	case 1:
		if voters < vsr.VotersMax {
			return learner, vsr.Voter
		}
	case 2:
		if voters > 2 && d.pick(2) == 0 {
			return p.id, 0
		}
	}
	out := m.Members[d.pick(len(m.Members))]
	if out.Role == vsr.Voter && voters <= max(1, min(3, w.o.Voters-1)) {
		return learner, vsr.Voter
	}
	return out.ID, 0
}

// newcomer is a node with an empty disk, formatted for the configuration that it
// will be a learner of. One that was never taken in is asked for again.
func (w *world) newcomer(m *vsr.Membership) vsr.ID {
	for _, n := range w.nodes {
		if n.added && !n.gone && n.up && m.Role(n.id) == 0 && n.where.Phase != vsr.Retired && n.disk.record.Members.Epoch == m.Epoch {
			return n.id
		}
	}
	if len(w.nodes) >= nodesMax {
		return 0
	}
	id := vsr.ID(len(w.nodes) + 1)
	n := w.addNode(&vsr.Record{View: vsr.MakeView(m.Epoch, 0), Members: m.With(id, vsr.Learner), Virgin: true})
	n.added = true
	w.start(n)
	return n.id
}

// tidy takes away nodes that know that they were removed. Sometimes the operator
// forgets, and they linger.
func (w *world) tidy() {
	m := w.newest()
	for _, n := range w.nodes {
		if n.gone || m.Role(n.id) != 0 || !n.up || n.where.Phase != vsr.Retired || w.dOps.pick(3) > 0 {
			continue
		}
		w.takeAway(n)
	}
}
