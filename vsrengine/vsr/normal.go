package vsr

import "slices"

// Normal operation: paper section 4.1.

// primary is what only a view's primary has.
type primary struct {
	begun     bool // StartView has left
	suffix    Op   // head of StartView: reads wait until it is committed (A43)
	seq       uint64
	beatAt    uint64
	quiet     bool   // out of contact with a quorum: no heartbeat, proposal or read (D19)
	stalledAt uint64 // tick since when a hole stops commits
	announce  *Notification
	transfer  transfer
	proof     proof
}

// backup is what a replica that follows knows of the primary.
type backup struct {
	heardAt    uint64
	gapTicks   uint64 // smoothed time between signs of life, times 8
	limit      uint64 // silence after which it suspects
	head       Op     // the primary's
	said       Op     // last acknowledged in this view
	firm       Op     // last said to be firm in this view
	askedAt    uint64 // last request for state
	asks       uint64 // without an answer
	suspecting bool
	target     View
	targetAt   uint64 // when it was chosen
	saidAt     uint64
	view       View // of which a StartView was asked for, with nonce
	nonce      Nonce
	viewAt     uint64
	farAt      uint64 // last asked for a snapshot, for the log is too far away
}

// Propose gives a batch the next op. An error means that it did not happen.
// Without one it has happened when it comes out in Apply, and may have happened
// until then.
func (r *Replica) Propose(b Batch) (Op, error) {
	if b.Kind != KindUser && b.Kind != KindControl && b.Kind != KindNoop {
		return 0, ErrChange
	}
	if len(b.Body) > r.cfg.BatchBytesMax {
		return 0, ErrTooLarge
	}
	if err := r.mayPropose(); err != nil {
		return 0, err
	}
	op := r.prepare(b)
	r.check()
	return op, nil
}

func (r *Replica) mayPropose() error {
	switch {
	case r.phase != Normal || !r.isPrimary() || r.held || r.booting || r.prim.quiet || r.prim.announce != nil:
		return ErrNotPrimary
	case !r.started(), r.changing(), r.prim.transfer.to != 0, r.log.head >= r.commit+Op(r.cfg.PipelineMax):
		return ErrBusy
	}
	return nil
}

// changing reports whether the log ends with this epoch's Reconfigure, after
// which nothing more is prepared.
func (r *Replica) changing() bool {
	if r.last.Kind == KindConfig && r.last.Op > r.members.Op {
		return true
	}
	s := r.log.find(r.changeOp)
	return s != nil && s.Kind == KindConfig && r.changeOp > r.members.Op
}

// ending reports whether that Reconfigure is committed: the next epoch may have
// begun and answered (R12).
func (r *Replica) ending() bool { return r.changing() && r.commit >= r.changeOp }

// prepare appends the next op, starts its write and sends it at the same time (D13).
func (r *Replica) prepare(b Batch) Op {
	h := Header{BodyChecksum: b.BodyChecksum, View: r.view, Op: r.log.head + 1, Time: b.Time, Count: b.Count, Size: uint32(len(b.Body)), Kind: b.Kind}
	if h.BodyChecksum == 0 {
		h.BodyChecksum = BodySum(b.Body)
	}
	parent, ok := r.sum(r.log.head)
	r.assert(ok, "the primary does not know its head")
	h.Parent, h.First = parent, r.nextAfterHead()
	h.Checksum = h.Sum(r.cfg.Seed)
	e := Entry{h, b.Body}
	if h.Kind == KindConfig || h.Kind == KindLearners {
		r.changeOp = h.Op
	}
	r.log.extend(h.Op)
	r.store(r.log.at(h.Op), e)
	entries := r.entry(e)
	for i := range r.peers {
		p := &r.peers[i]
		p.resendAt = r.now
		r.send(p.ID, Message{Kind: Prepare, View: r.view, Op: h.Op, Commit: r.commit, Entries: entries})
	}
	r.advance()
	return h.Op
}

func (r *Replica) nextAfterHead() Position {
	if r.log.head == r.applied {
		return r.next
	}
	s := r.log.find(r.log.head)
	r.assert(s != nil && s.linked, "the primary has no header of its head")
	return s.Next()
}

// store puts an entry of this log_view into its slot and starts its write.
func (r *Replica) store(s *slot, e Entry) {
	*s = slot{Entry: e, linked: true, present: true}
	if !r.cfg.Memory {
		s.ticket = r.write(Write{Kind: WriteEntry, Op: e.Op, Entry: e})
	}
}

func onPrepare(r *Replica, m *Message, _ *peer) {
	if !r.fromPrimary(m) {
		return
	}
	r.heardPrimary()
	again := m.Entries[0].Op <= r.ack
	if r.accept(m.Entries[0]) {
		r.advance()
	}
	r.learnCommit(m.Commit)
	if again || r.ack > r.backup.said {
		r.acknowledge()
	}
}

// fromPrimary reports whether a backup may act on the message as the word of its
// view's primary. Nothing is adopted from a later view on such a message alone:
// its StartView is asked for (D6).
func (r *Replica) fromPrimary(m *Message) bool {
	switch {
	case m.View < r.view:
		r.drop(NoteEarlierView)
	case m.View > r.view:
		onLaterView(r, m, nil)
	case m.From != r.members.Primary(r.view):
		r.drop(NoteNotPrimary)
	default:
		return true
	}
	return false
}

func onLaterView(r *Replica, m *Message, _ *peer) {
	if m.View > r.view || m.View == r.view && r.phase == ViewChange {
		r.drop(NoteLaterView)
		if r.cfg.Defect == DefectTruncateOnPrepare && r.phase == Normal && m.View > r.view {
			r.truncateAsPublished(m)
			return
		}
		r.askView(m.From, m.View)
		return
	}
	r.drop(NoteEarlierView)
}

// accept takes an entry that the view's primary says is in its log. It reports
// whether the entry is here now.
func (r *Replica) accept(e Entry) bool {
	if e.Op <= r.applied {
		return r.refill(e)
	}
	if e.Op > r.log.head+Op(r.cfg.PipelineMax) {
		r.drop(NoteGap)
		r.backup.head = max(r.backup.head, e.Op)
		r.askState()
		return false
	}
	if s := r.log.find(e.Op); s != nil && s.linked && s.Checksum != e.Checksum || !r.chains(&e) || !r.decodes(&e) {
		r.drop(NoteConflict)
		return false
	}
	r.log.extend(max(e.Op, r.log.head))
	s := r.log.at(e.Op)
	if s.Checksum == e.Checksum && s.held() {
		s.linked = true
	} else {
		r.store(s, e)
	}
	r.noteChange(&e.Header)
	r.link(e.Op)
	return true
}

// chains reports whether an entry fits its linked neighbours.
func (r *Replica) chains(e *Entry) bool {
	if up := r.log.find(e.Op + 1); up != nil && up.linked && up.Parent != e.Checksum {
		return false
	}
	if e.Op == r.applied+1 {
		sum, ok := r.sum(r.applied)
		return !ok || sum == e.Parent
	}
	down := r.log.find(e.Op - 1)
	return down == nil || !down.linked || down.Checksum == e.Parent
}

// decodes reports whether an entry that changes the membership says how.
func (r *Replica) decodes(e *Entry) bool {
	if e.Kind != KindConfig && e.Kind != KindLearners {
		return true
	}
	m, err := DecodeMembership(e)
	return err == nil && (e.Kind == KindConfig) == (m.Epoch == e.View.Epoch()+1)
}

// refill mends an applied entry that the journal has lost.
func (r *Replica) refill(e Entry) bool {
	s := r.log.find(e.Op)
	if s == nil || s.Checksum != e.Checksum || s.held() {
		return s != nil && s.Checksum == e.Checksum
	}
	r.store(s, e)
	return true
}

// link walks down the chain from a linked op: what is chained to it belongs to
// this log, what contradicts it is superseded (A63).
func (r *Replica) link(op Op) {
	for ; op > r.applied+1; op-- {
		s, below := r.log.at(op), r.log.find(op-1)
		if below == nil || below.linked {
			return
		}
		if below.Checksum != s.Parent {
			*below = slot{Entry: Entry{Header: Header{Op: op - 1}}}
			if !r.takeSpare(below, s.Parent) {
				return
			}
		}
		below.linked = true
		r.noteChange(&below.Header)
	}
}

// advance moves what follows from the log alone: the own acknowledgement, and on
// the primary the commit.
func (r *Replica) advance() {
	r.advanceAck()
	if r.started() {
		r.countAcks()
	} else {
		r.applyCommitted()
	}
}

// advanceAck finds the highest op so that this replica durably holds every op
// of this view's log up to it, or knows it committed. Nothing is remembered about
// single writes: a slot is durable when the stream has passed its ticket, so the
// completion of a write that was superseded means nothing (D2, A48).
func (r *Replica) advanceAck() {
	r.ack = max(r.ack, min(r.commit, r.log.head))
	for r.ack < r.log.head {
		s := r.log.find(r.ack + 1)
		if s == nil || !s.linked || !s.held() || !r.isDurable(s) {
			return
		}
		r.ack++
	}
}

// advanceFirm finds the highest op up to which everything above the newest
// snapshot is durable here: unlike ack it never rests on what is only known
// committed.
func (r *Replica) advanceFirm() Op {
	r.firm = max(r.firm, r.snapshotOp())
	for r.firm < r.log.head {
		s := r.log.find(r.firm + 1)
		if s == nil || !s.linked || !s.held() || s.ticket > r.durable {
			break
		}
		r.firm++
	}
	return r.firm
}

func (r *Replica) isDurable(s *slot) bool {
	switch r.cfg.Defect {
	case DefectSkipFsync:
		return true
	case DefectCompletionByOp:
		return s.ticket <= r.durable || s.Op <= r.highestDurableOp
	}
	return s.ticket <= r.durable
}

// acknowledge tells the primary how far this backup has come. Nothing is said
// before the record of this view is durable (D3 b).
func (r *Replica) acknowledge() {
	if r.phase != Normal || r.isPrimary() {
		return
	}
	if r.recordTicket > r.durable && r.cfg.Defect != DefectSkipFsync {
		return
	}
	r.advanceAck()
	sum, ok := r.ownSum(r.ack)
	if !ok {
		return
	}
	r.backup.said, r.backup.firm = r.ack, r.advanceFirm()
	r.promise(r.members.Primary(r.view), Message{Kind: PrepareOK, View: r.view, Op: r.ack, Checksum: sum, Commit: r.applied, Seq: uint64(r.firm)})
}

// ownSum is the checksum of an op by its own header.
func (r *Replica) ownSum(op Op) (Checksum, bool) {
	if s := r.log.find(op); s != nil && !s.linked {
		return 0, false
	}
	return r.sum(op)
}

func onPrepareOK(r *Replica, m *Message, p *peer) {
	old := r.cfg.Defect == DefectOldEpochVote && m.View.Counter() == r.view.Counter()
	switch {
	case m.View < r.view && !old:
		r.drop(NoteEarlierView)
		return
	case m.View > r.view && !old, !r.started():
		r.drop(NoteNotPrimary)
		return
	case p == nil:
		r.drop(NoteNotMember)
		return
	}
	if sum, ok := r.ownSum(m.Op); m.Op > r.log.head || ok && sum != m.Checksum || !ok && m.Op > r.commit {
		r.drop(NoteUnknown)
		return
	}
	p.contact, p.applied, p.firm = r.now, m.Commit, max(p.firm, Op(m.Seq))
	if m.Op > p.acked {
		p.acked, p.resendAt, p.resends = m.Op, r.now, 0
		r.countAcks()
	}
	r.transferIfLevel()
}

// countAcks commits what a majority of the voters holds in this view.
func (r *Replica) countAcks() {
	if r.recordTicket > r.durable && r.cfg.Defect != DefectPrepareEarly {
		return
	}
	var acks [VotersMax]Op
	n := 0
	if r.role == Voter {
		acks[n] = r.ack
		n++
	}
	for i := range r.peers {
		if r.peers[i].Role == Voter {
			acks[n] = r.peers[i].acked
			n++
		}
	}
	slices.Sort(acks[:n])
	need := quorum(n)
	if r.cfg.Defect == DefectAckBeforeQuorum && need > 1 {
		need--
	}
	if op := acks[n-need]; op > r.commit {
		r.commit = op
		r.startRound()
	}
	r.applyCommitted()
}

// learnCommit takes the primary's word for what is committed. It is kept even
// beyond the head.
func (r *Replica) learnCommit(op Op) {
	r.commit = max(r.commit, op)
	r.applyCommitted()
}

// applyCommitted gives out what is committed and certain to be of this view's
// log, and acts on a committed Reconfigure.
func (r *Replica) applyCommitted() {
	if r.phase != Normal {
		return
	}
	for r.applied < r.commit {
		s := r.log.find(r.applied + 1)
		if s == nil || !s.held() || !s.linked && r.cfg.Defect != DefectDeadExecute {
			break
		}
		sum, ok := r.sum(r.applied)
		r.assert(!ok || sum == s.Parent || r.cfg.Defect != 0, "the entry to apply does not chain to what was applied")
		r.applied++
		r.next, r.last = s.Next(), s.Header
		r.out.Apply = append(r.out.Apply, s.Entry)
		if s.Kind == KindLearners {
			r.adoptLearners(s)
		}
	}
	r.ack = max(r.ack, min(r.commit, r.log.head))
	r.freeBodies()
	if r.ending() {
		r.failReads() // the next epoch may have begun
		r.enterEpoch()
	}
}

// freeBodies leaves the bodies of old ops to the journal.
func (r *Replica) freeBodies() {
	const kept = 64
	if r.cfg.Memory {
		return
	}
	for r.freed+kept < r.applied {
		s := r.log.find(r.freed + 1)
		if s != nil && s.present && s.ticket > r.durable {
			return
		}
		r.freed++
		if s != nil && s.Kind != KindConfig && s.Kind != KindLearners {
			s.Body = nil
		}
	}
}

func (r *Replica) persistedNormal() {
	if r.started() && !r.prim.begun {
		r.begin()
	}
	r.advance()
	if r.ack > r.backup.said || r.advanceFirm() > r.backup.firm {
		r.acknowledge()
	}
}
