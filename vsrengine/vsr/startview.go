package vsr

// StartView: how a view's beginning is told and taken over, and asked for.

// sendStartView sends the present log's end, with the configuration if there
// ever was another.
func (r *Replica) sendStartView(to ID, nonce Nonce) {
	m := Message{Kind: StartView, View: r.view, Nonce: nonce, Log: r.beginning(), Commit: r.commit}
	if r.members.Op > 0 {
		members := r.members
		m.Members = &members
	}
	r.promise(to, m)
}

// beginning is the present log's end without what is not certain to be of this
// view: an entry of a dead view that lies below a hole of the primary's own.
func (r *Replica) beginning() *Log {
	l := r.describe()
	for i := range l.Headers {
		if l.Claims[i]&Linked == 0 && r.cfg.Defect != DefectUncertainStartView {
			l.Headers[i], l.Claims[i] = Header{Op: l.Headers[i].Op}, 0
		}
	}
	return l
}

// adopt replaces the log by one that ends with these headers. Entries that the
// headers name stay; those below stay if they chain to them; the rest goes. What
// was applied is never touched.
func (r *Replica) adopt(headers []Header, head Op) {
	r.log.cut(head)
	for op := max(r.applied+1, r.log.first); op <= r.log.head; op++ {
		r.log.at(op).linked = false
	}
	r.log.extend(head)
	r.changeOp = min(r.changeOp, r.applied)
	r.firm = min(r.firm, r.applied)
	if len(headers) == 0 {
		return
	}
	low := head + 1 - Op(len(headers))
	for op := head; op >= low && op > r.applied; op-- {
		h, s := &headers[op-low], r.log.at(op)
		switch {
		case s.linked:
			// by the chain from above
		case h.Checksum == 0:
			continue
		case s.Checksum != h.Checksum:
			*s = slot{Entry: Entry{Header: *h}}
			r.takeSpare(s, h.Checksum)
		}
		s.linked = true
		r.noteChange(&s.Header)
		r.link(op)
	}
}

// noteChange remembers the last change of membership in the log.
func (r *Replica) noteChange(h *Header) {
	if (h.Kind == KindConfig || h.Kind == KindLearners) && h.Op > r.changeOp {
		r.changeOp = h.Op
	}
}

// onStartView takes over the log of a view that has begun. Its headers are
// durable here, in one record with the view, before anything is acknowledged.
func onStartView(r *Replica, m *Message, p *peer) {
	if !r.wantsView(m) {
		return
	}
	if r.deadView(m.Log) {
		r.drop(NoteDeadView)
		return
	}
	if r.tooFar(m.Log.Head, m.From) {
		r.drop(NoteGap)
		return
	}
	r.leaveView()
	r.vc.failed, r.vc.forfeits = 0, 0
	if m.Members != nil && (m.Members.newer(&r.members) || r.phase == Retired) {
		if m.Members.Role(r.id) == 0 {
			r.retire(*m.Members)
			return
		}
		r.adoptMembers(*m.Members)
	}
	r.view = m.View
	r.commit = max(r.commit, m.Log.Commit)
	headers := m.Log.linked()
	if r.cfg.Defect == DefectUncertainStartView {
		headers = m.Log.Headers
	}
	r.adopt(headers, m.Log.Head)
	r.begun = m.Log.Head
	r.enterNormal()
	r.backup.head = m.Log.Head
	r.advance()
	r.acknowledge()
	r.askState()
}

// wantsView reports whether this replica may follow a StartView (D6, A1b, A9, A22).
func (r *Replica) wantsView(m *Message) bool {
	later := m.View.Epoch() > r.view.Epoch()
	members := &r.members
	if later {
		members = m.Members
	}
	switch {
	case later && (members == nil || members.Epoch != m.View.Epoch()):
		r.drop(NoteConflict)
	case r.phase == Retired && (m.Members == nil || r.members.newer(m.Members) || m.Members.Role(r.id) == 0):
		r.drop(NoteNotMember)
	case m.From != members.Primary(m.View):
		r.drop(NoteNotPrimary)
	case r.phase == Normal && m.View <= r.view, m.View < r.view:
		r.drop(NoteEarlierView)
	case r.phase == RecoveringHead && m.Nonce != r.backup.nonce && r.cfg.Defect != DefectOldStartView:
		r.drop(NoteNonce)
	default:
		return true
	}
	return false
}

// deadView reports whether a StartView lacks or contradicts what is known
// committed here: it can only be of a view that was over long ago.
func (r *Replica) deadView(l *Log) bool {
	if l.Head < r.applied {
		return true
	}
	h, claim := l.at(r.applied)
	sum, ok := r.ownSum(r.applied)
	return h != nil && claim&Linked != 0 && ok && h.Checksum != sum
}

// tooFar reports whether a log ends so far beyond this one that a snapshot has to
// come first, and asks for it: the ring would have to hold all that lies between.
func (r *Replica) tooFar(head Op, from ID) bool {
	if head <= r.log.head+aheadMax {
		return false
	}
	r.vc.installing = r.phase == ViewChange
	if r.now < r.backup.farAt+uint64(r.cfg.ResendTicks) {
		return true
	}
	r.backup.farAt = r.now
	r.send(from, Message{Kind: GetSnapshot, View: r.view, Op: r.applied})
	return true
}

// askView asks for the StartView of a view that others are in.
func (r *Replica) askView(to ID, v View) {
	b := &r.backup
	if b.view >= v && r.now < b.viewAt+uint64(r.cfg.ResendTicks) {
		return
	}
	if b.view != v || b.nonce == (Nonce{}) {
		b.view, b.nonce = v, r.nonce()
	}
	b.viewAt = r.now
	r.send(to, Message{Kind: GetView, View: r.view, Nonce: b.nonce, Target: v})
}

// askViewOfAll asks every voter, where the primary is not known.
func (r *Replica) askViewOfAll() {
	if r.backup.nonce == (Nonce{}) {
		r.backup.nonce = r.nonce()
	}
	for i := range r.peers {
		if r.peers[i].Role == Voter {
			r.send(r.peers[i].ID, Message{Kind: GetView, View: r.view, Nonce: r.backup.nonce})
		}
	}
}

func onGetView(r *Replica, m *Message, p *peer) {
	earlier := m.View.Epoch() < r.view.Epoch()
	switch {
	case earlier && (p == nil || !r.started()):
		r.drop(NoteEarlierEpoch)
		r.tellEpoch(m.From)
	case !r.started() || !r.prim.begun:
		r.drop(NoteNotPrimary)
	case m.View > r.view:
		r.drop(NoteLaterView)
	case p == nil:
		r.drop(NoteNotMember)
		r.tellEpoch(m.From)
	default:
		r.sendStartView(m.From, m.Nonce)
	}
}
