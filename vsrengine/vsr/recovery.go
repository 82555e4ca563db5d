package vsr

// Recovery in memory mode: paper section 4.3, mended by the stamp (D4); and the
// head that is uncertain on a disk (D6, D8).

// recovery is what a memory replica that restarted empty has.
type recovery struct {
	nonce   Nonce
	since   uint64     // tick when this nonce was drawn, or the transfer last got on
	stamp   View       // never to be below: a DoViewChange of it may have left
	chosen  bool       // the log to install is known
	answers []*Message // by peer
	others  []uint64   // by peer: tick when it said that it recovers too
}

// startRecovery begins, or begins again with a fresh nonce.
func (r *Replica) startRecovery() {
	r.phase = Recovering
	r.fetch = fetch{}
	r.changeOp, r.commit = 0, r.applied
	for op := r.log.first; op <= r.log.head; op++ {
		r.log.at(op).linked = false // what came already is taken up again if the next answer names it
	}
	others := r.recovery.others
	if len(others) != len(r.peers) {
		others = make([]uint64, len(r.peers))
	}
	r.recovery = recovery{nonce: r.nonce(), since: r.now, stamp: r.recovery.stamp, answers: make([]*Message, len(r.peers)), others: others}
	r.sayRecovery()
}

func (r *Replica) sayRecovery() {
	r.lastSaid = r.now
	r.askAll(Message{Kind: Recovery, View: r.recovery.stamp, Nonce: r.recovery.nonce})
}

func (r *Replica) tickRecovering() {
	rc := &r.recovery
	switch {
	case r.now >= rc.since+uint64(2*r.cfg.ViewChangeTicks)+r.jitter(uint64(r.cfg.ViewChangeTicks)):
		r.startRecovery()
	case r.now >= r.lastSaid+uint64(r.cfg.ResendTicks):
		if !rc.chosen {
			r.sayRecovery()
			return
		}
		r.lastSaid = r.now
		r.askRecovered()
	}
	r.tickFetch()
}

// onRecovery answers a member that restarted empty. One whose stamp is above my
// view may have voted for a view I have not seen: that view, or a later one that
// it does not lead, must come (D4).
func onRecovery(r *Replica, m *Message, p *peer) {
	switch {
	case p == nil || r.role != Voter:
		r.drop(NoteNotMember)
		r.tellEpoch(m.From)
		return
	case m.View > r.view:
		r.drop(NoteLaterView)
		r.suspectFor(m)
		return
	}
	answer := Message{Kind: RecoveryResponse, View: r.view, Nonce: m.Nonce}
	if r.isPrimary() {
		if !r.started() {
			return
		}
		answer.Log = r.beginning()
		answer.Commit = r.commit
	}
	members := r.members
	answer.Members = &members
	r.promise(m.From, answer)
}

// suspectFor targets a view that the asker may join and does not lead.
func (r *Replica) suspectFor(m *Message) {
	if m.View.Epoch() != r.view.Epoch() {
		return
	}
	t := m.View
	if r.members.Primary(t) == m.From && r.voters > 1 {
		t++
	}
	b := &r.backup
	if b.suspecting && b.target >= t {
		r.moveByTargets()
		return
	}
	b.suspecting, b.target, b.targetAt = true, t, r.now
	r.suspect()
}

// onRecoveryOfOther remembers that another recovers too: with more than f of
// them nobody ever answers, and status says so (A5).
func onRecoveryOfOther(r *Replica, m *Message, p *peer) {
	r.drop(NotePhase)
	for i := range r.peers {
		if p == &r.peers[i] && i < len(r.recovery.others) {
			r.recovery.others[i] = r.now
		}
	}
}

func onRecoveryResponse(r *Replica, m *Message, p *peer) {
	rc := &r.recovery
	if m.Nonce != rc.nonce || rc.chosen {
		r.drop(NoteNonce)
		return
	}
	if m.Members.Epoch > r.members.Epoch {
		r.drop(NoteLaterEpoch)
		r.recoverInto(*m.Members)
		return
	}
	if p == nil || p.Role != Voter || m.View.Epoch() < r.members.Epoch {
		r.drop(NoteTooFew)
		return
	}
	for i := range r.peers {
		if p == &r.peers[i] {
			rc.answers[i] = m
		}
	}
	r.chooseRecovery()
}

// chooseRecovery takes the log of the primary of the highest view that enough
// others are in: enough to meet every view change quorum.
func (r *Replica) chooseRecovery() {
	n := 0
	var best View
	for _, a := range r.recovery.answers {
		if a != nil {
			n++
			best = max(best, a.View)
		}
	}
	lead := r.members.Primary(best)
	if r.cfg.Defect == DefectSelfRecovery && n >= meetQuorum(r.voters) && lead == r.id {
		r.recoverAlone(best)
		return
	}
	if n < meetQuorum(r.voters) || best < r.recovery.stamp && r.cfg.Defect != DefectAmnesia || lead == r.id {
		return
	}
	for _, a := range r.recovery.answers {
		if a == nil || a.View != best || a.Log == nil || a.From != lead || r.tooFar(a.Log.Head, lead) {
			continue
		}
		rc := &r.recovery
		rc.chosen, rc.since = true, r.now
		r.view, r.logView = best, best
		r.commit = max(a.Commit, a.Log.Commit)
		r.adopt(a.Log.linked(), a.Log.Head)
		r.begun = a.Log.Head
		r.recoveredSoFar()
		return
	}
}

// recoveredSoFar ends the recovery once the whole log is here. What is not here
// may have been acknowledged before the restart, so until then nothing is said.
func (r *Replica) recoveredSoFar() {
	if !r.recovery.chosen {
		return
	}
	if r.contiguous() < r.log.head {
		r.askRecovered()
		return
	}
	r.leaveView()
	r.enterNormal()
	if r.phase == Normal {
		r.advance()
		r.acknowledge()
	}
}

func (r *Replica) askRecovered() {
	if r.fetch.snapshot != nil {
		return
	}
	for op := r.firstMissing(); op <= r.log.head; op++ {
		if r.askByChecksum(op) {
			return
		}
	}
}

// recoverInto starts again in a later configuration.
func (r *Replica) recoverInto(m Membership) {
	if m.Role(r.id) == 0 {
		r.retire(m)
		return
	}
	r.adoptMembers(m)
	r.startRecovery()
}

// tickRecoveringHead asks for a StartView: the only word on where the log ends.
func (r *Replica) tickRecoveringHead() {
	if r.now >= r.lastSaid+uint64(r.cfg.ResendTicks) {
		r.lastSaid = r.now
		r.askViewOfAll()
	}
}

// trouble says in words why a replica does not get on.
func (r *Replica) trouble() string {
	switch r.phase {
	case RecoveringHead:
		return "the end of the log is damaged: waiting for a primary of this view or a later one to say where it ends; if a quorum is in this state, recover the group from the best copy"
	case Recovering:
		lost := 1
		for i, at := range r.recovery.others {
			if i < len(r.peers) && r.peers[i].Role == Voter && at != 0 && r.now < at+uint64(2*r.cfg.ViewChangeTicks) {
				lost++
			}
		}
		if r.voters == 2 {
			return "restarted empty in a group of two: if this replica led the view, only group recover goes on"
		}
		if r.voters-lost < meetQuorum(r.voters) {
			return "too many replicas in memory have restarted at once: what they held is lost; only group recover goes on"
		}
		return "restarted empty: asking the others for the log"
	case Retired:
		if r.role != 0 {
			return "not in the group yet: waiting for its primary's first word"
		}
		return "removed from the group"
	case Halted:
		return "the disk is behind what it promised: treat it as wiped"
	}
	if r.prim.quiet {
		return "the primary is out of contact with a quorum"
	}
	return ""
}
