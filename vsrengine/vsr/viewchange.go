package vsr

import "slices"

// View changes: paper section 4.2, with D5. StartViewChange is a pre-vote that
// promises nothing; a DoViewChange is what binds.

// viewChange is what a replica in ViewChange has.
type viewChange struct {
	log    *Log   // what it says in this view's DoViewChange: never changes within the view
	since  uint64 // tick when it entered, or the candidate last got on
	ticks  uint64 // it gives up after so many
	failed uint   // views in a row that did not begin

	contiguous Op // the candidate's, as last told in Progress
	need       need
	installing bool // a candidate that may install a snapshot (D9)
	forfeits   int
	handOver   Message // repeated while this view lasts
}

// need is an entry whose header the candidate must know.
type need struct {
	op  Op
	sum Checksum // 0: whoever has applied the op may say
	ask Nonce
	got *Header
}

// suspect wants the next view; it is repeated while the suspicion lasts.
func (r *Replica) suspect() {
	b := &r.backup
	switch {
	case !b.suspecting:
		b.suspecting = true
		b.targetAt = r.now
		b.target = max(r.view+1, r.highestTarget())
		if r.phase == ViewChange && r.members.Primary(b.target) == r.members.Primary(r.view) {
			b.target++ // that one has just failed
		}
		if r.phase == ViewChange {
			b.target = r.pastSilent(b.target)
		}
	case r.now >= b.targetAt+uint64(r.cfg.ViewChangeTicks):
		b.targetAt = r.now
		b.target = r.pastSilent(max(b.target+1, r.highestTarget()))
	case r.now < b.saidAt+uint64(r.cfg.ResendTicks):
		return
	}
	b.saidAt = r.now
	for i := range r.peers {
		if r.peers[i].Role == Voter {
			r.send(r.peers[i].ID, Message{Kind: StartViewChange, View: b.target})
		}
	}
	r.moveByTargets()
}

// pastSilent moves a target on past primaries that said nothing lately, while those
// who live repeat their suspicion. One who hears nobody does not: it would always
// name itself.
func (r *Replica) pastSilent(t View) View {
	lively := func(p *peer) bool { return r.now <= p.heard+uint64(r.cfg.ViewChangeTicks) }
	alone := true
	for i := range r.peers {
		alone = alone && !lively(&r.peers[i])
	}
	for u := t; !alone && u < t+View(r.voters); u++ {
		if p := r.peer(r.members.Primary(u)); p == nil || lively(p) {
			return u
		}
	}
	return t
}

func (r *Replica) highestTarget() View {
	var t View
	for i := range r.peers {
		if p := &r.peers[i]; r.targets(p) {
			t = max(t, p.target)
		}
	}
	return t
}

// targets reports whether the peer's suspicion still counts.
func (r *Replica) targets(p *peer) bool {
	return p.Role == Voter && p.target > r.view && r.now <= p.targetAt+uint64(r.cfg.ViewChangeTicks)
}

func onStartViewChange(r *Replica, m *Message, p *peer) {
	if p == nil || p.Role != Voter || r.role != Voter {
		r.drop(NoteNotMember)
		return
	}
	if m.View <= r.view {
		r.drop(NoteEarlierView)
		r.helpIntoView(m)
		return
	}
	p.target = m.View
	p.targetAt = r.now
	r.moveByTargets()
}

// moveByTargets goes to the highest view that a quorum wants: who wants a view
// wants every view up to it (D5, A54).
func (r *Replica) moveByTargets() {
	var want [VotersMax]View
	n := 0
	if r.backup.suspecting {
		want[n] = r.backup.target
		n++
	}
	for i := range r.peers {
		if p := &r.peers[i]; r.targets(p) {
			want[n] = p.target
			n++
		}
	}
	q := quorum(r.voters)
	if n < q {
		return
	}
	slices.Sort(want[:n])
	u := want[n-q]
	if r.cfg.Defect == DefectExactTargets {
		u = exactTarget(want[:n], q)
	}
	if u > r.view {
		r.enterView(u)
	}
}

// enterView leaves the present view for a higher one and says so, once its
// record is durable.
func (r *Replica) enterView(u View) {
	r.assert(u > r.view && r.role == Voter, "a view that is not higher, or no voter")
	r.leaveView()
	r.phase, r.view = ViewChange, u
	r.vc.log = r.describe()
	r.vc.since = r.now
	r.vc.ticks = uint64(r.cfg.ViewChangeTicks)<<min(r.vc.failed, 4) + r.jitter(uint64(r.cfg.ViewChangeTicks)/2+1)
	r.vc.failed++
	r.writeRecord(r.vc.log)
	if r.cfg.Defect == DefectViewVolatile || r.cfg.Defect == DefectAmnesia {
		r.unwriteRecord()
		r.persistedViewChange()
	}
}

// leaveView ends everything that belongs to the present view and status: the one
// place where votes are reset.
func (r *Replica) leaveView() {
	r.holdPromise()
	r.failReads()
	for i := range r.peers {
		p := &r.peers[i]
		p.seq, p.log, p.firm = 0, nil, 0
		if r.cfg.Defect != DefectOldAcks {
			p.acked = 0
		}
		p.contact, p.resendAt, p.resends = r.now, r.now, 0
	}
	r.prim = primary{stalledAt: r.now}
	r.vc = viewChange{failed: r.vc.failed, forfeits: r.vc.forfeits}
	r.backup.suspecting, r.backup.target = false, 0
	r.backup.view, r.backup.nonce = 0, Nonce{}
	r.backup.head, r.backup.said, r.backup.firm, r.backup.asks = 0, 0, 0, 0
	r.lastSaid = r.now
}

// describe is what this replica says of its log: the last ops that may be
// uncommitted, and one more (D1, D8).
func (r *Replica) describe() *Log {
	l := &Log{LogView: r.logView, Head: r.log.head, Begin: r.begun, First: r.log.first, Applied: r.applied, Commit: r.commit, Snapshot: r.snapshotOp(),
		Intact: !r.rotten || r.cfg.Defect == DefectNackDamaged}
	l.Contiguous = r.contiguous()
	low := r.log.head - min(r.log.head, Op(r.cfg.PipelineMax))
	if low = max(low, 1, l.Snapshot); l.Head == 0 {
		return l
	}
	for op := low; op <= l.Head; op++ {
		h, claim := r.claim(op)
		l.Headers = append(l.Headers, h)
		l.Claims = append(l.Claims, claim)
	}
	return l
}

func (r *Replica) claim(op Op) (Header, Claim) {
	s := r.log.find(op)
	if h := r.header(op); h != nil && (s == nil || s.Checksum != h.Checksum) {
		return *h, Linked // what lies in the slot is of a dead view
	}
	if s == nil || s.Checksum == 0 {
		return Header{Op: op}, 0
	}
	var c Claim
	if s.linked {
		c |= Linked
	}
	if s.held() {
		c |= Present
	}
	return s.Header, c
}

// contiguous is the highest op up to which nothing is missing above what was
// applied.
func (r *Replica) contiguous() Op {
	op := r.applied
	for op < r.log.head {
		s := r.log.find(op + 1)
		if s == nil || !s.linked || !s.held() {
			break
		}
		op++
	}
	return op
}

func (r *Replica) persistedViewChange() {
	if r.recordTicket > r.durable && !r.volatileView() {
		return
	}
	r.sayViewChange()
	r.decide()
}

func (r *Replica) volatileView() bool {
	return r.cfg.Defect == DefectViewVolatile || r.cfg.Defect == DefectAmnesia
}

// sayViewChange sends the DoViewChange to the view's primary and a notice to
// all others, those of the epoch before too: who sent it had a quorum (D5).
func (r *Replica) sayViewChange() {
	r.lastSaid = r.now
	var members *Membership
	if r.members.Epoch > 0 {
		m := r.members
		members = &m
	}
	to := r.members.Primary(r.view)
	for i := range r.peers {
		p := &r.peers[i]
		if p.ID == to {
			r.promise(p.ID, Message{Kind: DoViewChange, View: r.view, Log: r.vc.log, Members: members})
		} else {
			r.promise(p.ID, Message{Kind: Notice, View: r.view, Members: members})
		}
	}
	for _, id := range r.members.Previous {
		if id != r.id && r.peer(id) == nil {
			r.promise(id, Message{Kind: Notice, View: r.view, Members: members})
		}
	}
}

func onNotice(r *Replica, m *Message, p *peer) {
	switch {
	case m.View > r.view:
		r.join(m, p)
	case m.View == r.view:
		r.helpIntoView(m)
	default:
		r.drop(NoteEarlierView)
		r.helpIntoView(m)
	}
}

// join follows one who has entered a higher view. Into another epoch it leads if
// the message carries the configuration and names this replica as a voter (D10).
func (r *Replica) join(m *Message, p *peer) {
	if m.View.Epoch() == r.view.Epoch() {
		if p == nil || p.Role != Voter || r.role != Voter {
			r.drop(NoteNotMember)
			return
		}
		r.enterView(m.View)
		return
	}
	if m.Members == nil || m.Members.Epoch != m.View.Epoch() || m.Members.Role(r.id) != Voter || !m.Members.named(m.From) {
		r.drop(NoteNotMember)
		return
	}
	r.adoptMembers(*m.Members)
	if r.cfg.Defect != DefectNewVoterNack {
		r.commit = max(r.commit, m.Members.Op)
	}
	r.enterView(m.View)
}

// helpIntoView sends the present StartView to one who has not heard it.
func (r *Replica) helpIntoView(m *Message) {
	if m.View.Epoch() == r.view.Epoch() && r.started() && r.prim.begun {
		r.sendStartView(m.From, Nonce{})
	}
}

func (r *Replica) tickViewChange() {
	if r.recordTicket <= r.durable && r.now >= r.lastSaid+uint64(r.cfg.ResendTicks) {
		r.sayViewChange()
		r.tickCandidate()
	}
	if r.vc.handOver.Kind == HandOver && r.now >= r.backup.askedAt+uint64(r.cfg.ResendTicks) {
		r.backup.askedAt = r.now
		r.sayHandOver()
	}
	if r.now >= r.vc.since+r.vc.ticks {
		r.suspect()
	}
	r.tickFetch()
}
