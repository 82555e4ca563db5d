package vsr

// Witness is what a peer remembers of a replica, and gives back when that
// replica comes again (D18): the highest view it promised something in, and how
// far its log was durable in the highest view in which it acknowledged any.
type Witness struct {
	View    View
	AckView View
	Acked   Op
}

func (r *Replica) witness(p *peer, m *Message) {
	switch {
	case m.Kind == PrepareOK, m.Kind == DoViewChange, m.Kind == StartView, m.Kind == Notice && m.View.Epoch() == r.view.Epoch():
		p.seen.View = max(p.seen.View, m.View) // the others may leave before their view is durable
	}
	if firm := Op(m.Seq); m.Kind == PrepareOK && (m.View > p.seen.AckView || m.View == p.seen.AckView && firm > p.seen.Acked) {
		p.seen.AckView, p.seen.Acked = m.View, firm
	}
}

// Witnessed is what this replica remembers of a peer.
func (r *Replica) Witnessed(id ID) Witness {
	if p := r.peer(id); p != nil {
		return p.seen
	}
	return Witness{}
}

// Confirm compares what a peer remembers with what this disk holds, at start. If
// the disk is behind, it was rolled back or copied, and the replica halts for
// good: it counts as wiped (D15). A damaged journal is not mistaken for an old
// one, nor a log that an installed snapshot cut; in memory mode an empty log is what
// recovery is for.
func (r *Replica) Confirm(w Witness) {
	if r.phase >= Retired {
		return
	}
	behind := w.View > r.view && !r.cfg.Memory
	if !r.cfg.Memory && !r.rotten && w.AckView == r.logView && w.Acked > r.log.head && (r.log.head > r.snapshotOp() || r.log.head == 0) {
		behind = true
	}
	if behind {
		r.failReads()
		r.phase = Halted
		r.fetch = fetch{}
	}
	r.check()
}
