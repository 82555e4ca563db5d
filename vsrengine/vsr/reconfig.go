package vsr

import "slices"

// Reconfiguration (D10): one voter or learner at a time; an epoch ends with its
// Reconfigure and the next starts by an ordinary view change of its own quorum.

// Notification is what a primary that is no longer a voter repeats until the new epoch
// has begun.
type Notification struct {
	view    View
	members Membership
}

// proof asks a learner whether it durably holds everything (R2).
type proof struct {
	id     ID
	nonce  Nonce
	op     Op
	sum    Checksum
	since  uint64
	saidAt uint64
}

// Change proposes one change of membership: role 0 removes, Learner adds a
// learner, Voter promotes one. basedOn is the Lineage it was decided on. An error
// means that it did not happen; otherwise Status().Members shows when it has. A
// promotion first asks the learner for a fresh proof, and is forgotten if none
// comes.
func (r *Replica) Change(id ID, role Role, basedOn Checksum) error {
	m := &r.members
	if err := r.mayPropose(); err != nil {
		if err == ErrBusy && r.changing() {
			err = ErrChanging
		}
		return err
	}
	if r.applied < r.prim.suffix {
		return ErrBusy // what it took over may hold a change
	}
	switch {
	case basedOn != m.Lineage:
		return ErrBasedOn
	case r.changeOp > r.applied || r.changeOp > m.Op, r.prim.proof.id != 0:
		return ErrChanging
	case role == 0 && m.Role(id) == 0, role == 0 && m.Role(id) == Voter && r.voters == 1,
		role == Learner && (m.Role(id) != 0 || id == 0), role == Voter && (m.Role(id) != Learner || r.voters == VotersMax), role > Learner:
		return ErrChange
	}
	if next := m.With(id, 0); role == 0 && m.Role(id) == Voter && !r.wholeIn(&next) {
		return ErrBehind
	}
	if role == Voter {
		sum, _ := r.sum(r.log.head)
		r.prim.proof = proof{id: id, nonce: r.nonce(), op: r.log.head, sum: sum, since: r.now}
		r.askProof()
	} else {
		r.proposeChange(id, role)
	}
	r.check()
	return nil
}

// wholeIn reports whether a quorum of a configuration holds everything that is
// committed. A majority acknowledged each op, but those who did may have been
// removed one by one: an acknowledgement rests on commit and says nothing of what
// lies below.
func (r *Replica) wholeIn(next *Membership) bool {
	n := 0
	if next.Role(r.id) == Voter && r.advanceFirm() >= r.commit {
		n++
	}
	for i := range r.peers {
		if p := &r.peers[i]; next.Role(p.ID) == Voter && p.firm >= r.commit {
			n++
		}
	}
	return n >= quorum(next.Voters())
}

func (r *Replica) proposeChange(id ID, role Role) {
	next := r.members.With(id, role)
	kind := KindLearners
	if next.Epoch > r.members.Epoch {
		kind = KindConfig
		next.First = r.firstCounter(&next)
	}
	r.prepare(Batch{Kind: kind, Body: next.encode()})
}

// firstCounter makes the proposer the first primary if it stays, else a common
// voter, one that was heard lately if there is one (R6).
func (r *Replica) firstCounter(next *Membership) uint64 {
	best, counter := -1, uint64(0)
	for c := range uint64(next.Voters()) {
		id := next.Primary(MakeView(next.Epoch, c))
		worth := 0
		if p := r.peer(id); id == r.id {
			worth = 3
		} else if r.members.Role(id) == Voter {
			worth = 1
			if p != nil && r.now < p.contact+uint64(r.cfg.ViewChangeTicks) {
				worth = 2
			}
		}
		if worth > best {
			best, counter = worth, c
		}
	}
	return counter
}

func (r *Replica) askProof() {
	p := &r.prim.proof
	p.saidAt = r.now
	r.send(p.id, Message{Kind: GetProof, View: r.view, Op: p.op, Checksum: p.sum, Nonce: p.nonce})
}

func (r *Replica) tickProof() {
	p := &r.prim.proof
	switch {
	case p.id == 0:
	case r.now >= p.since+uint64(4*r.cfg.ViewChangeTicks):
		*p = proof{}
	case r.now >= p.saidAt+uint64(r.cfg.ResendTicks):
		r.askProof()
	}
}

// onGetProof answers only if everything up to the op is durable here, in this
// incarnation, on an intact journal.
func onGetProof(r *Replica, m *Message, _ *peer) {
	if !r.fromPrimary(m) {
		return
	}
	sum, ok := r.ownSum(m.Op)
	if r.role != Learner || r.rotten || !ok || sum != m.Checksum || r.recordTicket > r.durable || !r.durableTo(m.Op) {
		r.drop(NoteNotReady)
		return
	}
	r.promise(m.From, Message{Kind: Proof, View: r.view, Op: m.Op, Nonce: m.Nonce})
}

func (r *Replica) durableTo(op Op) bool {
	if op > r.log.head {
		return false
	}
	for o := r.snapshotOp() + 1; o <= op; o++ {
		if s := r.log.find(o); s == nil || !s.linked || !s.held() || s.ticket > r.durable {
			return false
		}
	}
	return true
}

func onProof(r *Replica, m *Message, _ *peer) {
	p := r.prim.proof
	if !r.started() || p.id == 0 || m.From != p.id || m.Nonce != p.nonce || m.Op != p.op {
		r.drop(NoteNonce)
		return
	}
	if r.mayPropose() != nil {
		return // the pipeline is full: it will be asked again
	}
	r.prim.proof = proof{}
	r.proposeChange(p.id, Voter)
}

// adoptLearners acts on a committed change that touches no voter. One that does
// not name this replica may be older than its joining: others will say if it is
// out.
func (r *Replica) adoptLearners(s *slot) {
	if s.Op <= r.members.Op {
		return
	}
	m, err := DecodeMembership(&s.Entry)
	r.assert(err == nil, "a committed change of membership cannot be decoded")
	if m.Epoch == r.members.Epoch && m.Role(r.id) != 0 {
		m.First = r.members.First
		r.adoptMembers(m)
	}
}

// adoptMembers makes a configuration the present one.
func (r *Replica) adoptMembers(m Membership) {
	old := r.peers
	r.members = m
	r.role = m.Role(r.id)
	r.voters = m.Voters()
	r.peers = make([]peer, 0, len(m.Members))
	for _, x := range m.Members {
		if x.ID == r.id {
			continue
		}
		p := peer{Member: x, contact: r.now, heard: r.now}
		if i := slices.IndexFunc(old, func(o peer) bool { return o.ID == x.ID }); i >= 0 {
			p = old[i]
			p.Member = x
		}
		r.peers = append(r.peers, p)
	}
}

// enterEpoch acts on a committed Reconfigure: whoever votes in the next epoch
// goes there by an ordinary view change, a primary that does not tells those who
// do. The rest goes on as before until the new epoch's StartView comes.
func (r *Replica) enterEpoch() {
	s := r.log.find(r.changeOp)
	if s == nil || !s.linked || !s.held() || s.Body == nil {
		return
	}
	next, err := DecodeMembership(&s.Entry)
	r.assert(err == nil, "a committed Reconfigure cannot be decoded")
	if next.Epoch != r.members.Epoch+1 {
		return
	}
	v := MakeView(next.Epoch, next.First)
	if next.Role(r.id) == Voter {
		primary := r.isPrimary()
		r.adoptMembers(next)
		if r.cfg.Defect == DefectEpochWithoutQuorum && primary && next.Primary(v) == r.id {
			r.startEpochAlone(v)
			return
		}
		r.enterView(v)
		return
	}
	if r.isPrimary() && r.prim.announce == nil {
		r.failReads()
		r.prim.announce = &Notification{v, next}
		r.sayAnnounce()
	}
}

func (r *Replica) tickAnnounce() {
	if r.prim.announce != nil && r.now >= r.lastSaid+uint64(r.cfg.ResendTicks) {
		r.sayAnnounce()
	}
}

func (r *Replica) sayAnnounce() {
	r.lastSaid = r.now
	a := r.prim.announce
	for _, x := range a.members.Members {
		r.send(x.ID, Message{Kind: Notice, View: a.view, Members: &a.members})
	}
}

// retire ends this replica's part: it is not in the group, or not yet. Only a
// primary that speaks to it as a member brings it back.
func (r *Replica) retire(m Membership) {
	r.failReads()
	r.phase = Retired
	r.members = m
	r.role = 0
	r.peers = nil
	r.voters = m.Voters()
	r.fetch = fetch{}
}

// onRetired asks one who speaks to this replica as a member.
func onRetired(r *Replica, m *Message, _ *peer) {
	r.drop(NoteLaterView)
	r.askView(m.From, m.View)
}

// onAskRetired tells what it was told when it was removed (R16).
func onAskRetired(r *Replica, m *Message, _ *peer) {
	r.drop(NoteEarlierEpoch)
	if r.role == 0 && m.View.Epoch() < r.members.Epoch {
		r.tellEpoch(m.From)
	}
}

// tellEpoch answers one who is in an epoch that has ended.
func (r *Replica) tellEpoch(to ID) {
	members := r.members
	v := r.view
	if v.Epoch() != members.Epoch {
		v = MakeView(members.Epoch, members.First)
	}
	r.send(to, Message{Kind: EpochAhead, View: v, Members: &members})
}

// onEpochAhead learns that an epoch has ended. A voter of the new one goes there as
// if by a notice; a learner asks its primary.
func onEpochAhead(r *Replica, m *Message, _ *peer) {
	switch {
	case m.Members.Epoch != m.View.Epoch():
		r.drop(NoteConflict)
	case !m.Members.newer(&r.members):
		r.drop(NoteEarlierEpoch)
	case m.Members.Role(r.id) == 0:
		r.retire(*m.Members)
	case r.phase == Recovering:
		r.recoverInto(*m.Members)
	case m.Members.Role(r.id) == Voter && r.phase != RecoveringHead && m.Members.Epoch > r.members.Epoch:
		r.adoptMembers(*m.Members)
		r.commit = max(r.commit, m.Members.Op)
		r.enterView(m.View)
	case r.backup.nonce != (Nonce{}) && r.now < r.backup.viewAt+uint64(r.cfg.ResendTicks):
		r.drop(NoteUnwanted) // asked a moment ago: every answer would be another question
	default:
		if r.backup.nonce == (Nonce{}) {
			r.backup.nonce = r.nonce()
		}
		r.backup.viewAt = r.now
		for _, x := range m.Members.Members {
			if x.Role == Voter && x.ID != r.id {
				r.send(x.ID, Message{Kind: GetView, View: r.view, Nonce: r.backup.nonce, Target: m.View})
			}
		}
	}
}
