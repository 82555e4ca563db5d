package vsr

// Snapshots: taken, sent and installed (D9).

// fetch is a snapshot on its way here. A newer one never restarts it (A64).
type fetch struct {
	snapshot *Snapshot
	from     ID
	offset   uint64
	seal     Ticket // of the write that makes it whole
	askedAt  uint64
	asks     uint // without an answer
	heardAt  uint64
}

// SnapshotAt is what a snapshot of the machine that has applied exactly op must
// say; Size and Sum are left for the caller. False if that cannot be taken now:
// op is not applied, its log or its epoch is not durable here, or the membership
// is newer.
func (r *Replica) SnapshotAt(op Op) (Snapshot, bool) {
	s := r.log.find(op)
	settled := r.recordEpoch == r.members.Epoch && r.recordTicket <= r.durable
	if r.changing() && op >= r.changeOp {
		return Snapshot{}, false // it would hide that its epoch ends there
	}
	if op > r.applied || op <= r.snapshotOp() || r.members.Op > op || s == nil || s.Checksum == 0 || !settled {
		return Snapshot{}, false
	}
	// A snapshot that was lost may have taken the log below first along: the machine
	// has applied it all the same.
	for o := max(r.snapshotOp()+1, r.log.first); o <= op; o++ {
		if s := r.log.find(o); s == nil || s.ticket > r.durable {
			return Snapshot{}, false // what is damaged was applied: the machine has it
		}
	}
	return Snapshot{Header: s.Header, Next: s.Next(), Members: r.members}, true
}

// Snapshotted says that this snapshot is durable and was read back.
func (r *Replica) Snapshotted(s Snapshot) {
	if s.Header.Op <= r.snapshotOp() || s.Header.Op > r.applied {
		return
	}
	n := len(r.snapshots)
	switch {
	case n >= 2 && r.pinned(r.snapshots[0].Header.Op): // on its way to somebody: a third for a while (A64)
		r.snapshots = []Snapshot{r.snapshots[0], r.snapshots[n-1]}
	case n >= 2:
		r.snapshots = []Snapshot{r.snapshots[n-1]}
	}
	r.snapshots = append(r.snapshots, s)
	r.trim()
	r.check()
}

// SnapshotLost says that a snapshot can no longer be read.
func (r *Replica) SnapshotLost(op Op) {
	kept := r.snapshots[:0:0]
	for _, s := range r.snapshots {
		if s.Header.Op != op {
			kept = append(kept, s)
		}
	}
	r.snapshots = kept
	if r.log.first > r.snapshotOp()+1 {
		r.rotten = true // the log below was let go for it
	}
	r.check()
}

// trim lets go of the log below the older of two snapshots, but for a pipeline's
// worth of headers and what a receiver of a snapshot still needs.
func (r *Replica) trim() {
	n := len(r.snapshots)
	if n < 2 {
		return
	}
	newest := r.snapshots[n-1].Header.Op
	first := r.snapshots[n-2].Header.Op + 1
	first = min(first, newest-min(newest, 2*Op(r.cfg.PipelineMax))+1)
	for i := range r.peers {
		if p := &r.peers[i]; r.pins(p) && p.pin+Op(r.cfg.PinOpsMax) > newest {
			first = min(first, p.pin+1)
		}
	}
	if first > r.log.first {
		r.log.trim(first)
		r.write(Write{Kind: WriteTrim, Op: first, Snapshot: &r.snapshots[0]})
	}
}

// pins reports whether a peer was sent a piece of a snapshot lately.
func (r *Replica) pins(p *peer) bool {
	return p.pin != 0 && r.now < p.pinAt+uint64(4*r.cfg.ViewChangeTicks)
}

func (r *Replica) pinned(op Op) bool {
	for i := range r.peers {
		if p := &r.peers[i]; r.pins(p) && p.pin == op {
			return true
		}
	}
	return false
}

func (r *Replica) offerSnapshot(to ID) {
	n := len(r.snapshots)
	if n == 0 {
		r.drop(NoteUnknown)
		return
	}
	s := r.snapshots[n-1]
	r.send(to, Message{Kind: SnapshotOffer, View: r.view, Op: s.Header.Op, Snapshot: &s})
}

func onGetSnapshot(r *Replica, m *Message, _ *peer) {
	if r.snapshotOp() <= m.Op {
		r.drop(NoteUnknown)
		return
	}
	r.offerSnapshot(m.From)
}

// onSnapshotOffer starts a transfer, or starts it again where the sender no
// longer has what it began with.
func onSnapshotOffer(r *Replica, m *Message, _ *peer) {
	s := m.Snapshot
	f := &r.fetch
	switch {
	case s.Members.Epoch > r.members.Epoch:
		r.drop(NoteLaterEpoch)
		if r.phase == Normal && r.now >= r.backup.viewAt+uint64(r.cfg.ResendTicks) {
			r.backup.viewAt = r.now
			r.askViewOfAll()
		}
	case !r.wantsSnapshot(s), f.snapshot != nil && (f.from != m.From || f.snapshot.Header.Op == s.Header.Op):
		r.drop(NoteUnwanted)
	case f.snapshot != nil && f.seal != 0:
		r.drop(NoteUnwanted)
	default:
		r.fetch = fetch{snapshot: s, from: m.From, heardAt: r.now}
		r.askChunk()
	}
}

// wantsSnapshot reports whether a snapshot would bring this replica on. A
// primary whose view has begun never installs one: it hands over (A33).
func (r *Replica) wantsSnapshot(s *Snapshot) bool {
	if s.Header.Op <= r.applied {
		return false
	}
	switch r.phase {
	case Normal:
		return !r.isPrimary()
	case ViewChange:
		return r.vc.installing
	case Recovering, RecoveringHead:
		return true
	case Retired:
		return r.role != 0
	}
	return false
}

func (r *Replica) askChunk() {
	f := &r.fetch
	f.askedAt = r.now
	if f.offset == f.snapshot.Size {
		f.seal = r.write(Write{Kind: WriteSeal, Snapshot: f.snapshot})
		return
	}
	r.send(f.from, Message{Kind: GetChunk, View: r.view, Op: f.snapshot.Header.Op, Seq: f.offset, Snapshot: f.snapshot})
}

func onGetChunk(r *Replica, m *Message, p *peer) {
	for i := range r.snapshots {
		s := &r.snapshots[i]
		if s.Header.Op == m.Snapshot.Header.Op && s.Sum == m.Snapshot.Sum && m.Seq < s.Size {
			if p != nil {
				p.pin, p.pinAt = s.Header.Op, r.now
			}
			r.send(m.From, Message{Kind: Chunk, View: r.view, Op: s.Header.Op, Seq: m.Seq, Snapshot: m.Snapshot})
			return
		}
	}
	r.drop(NoteUnknown)
	r.offerSnapshot(m.From)
}

func onChunk(r *Replica, m *Message, _ *peer) {
	f := &r.fetch
	if f.snapshot == nil || f.seal != 0 || f.snapshot.Header.Op != m.Snapshot.Header.Op ||
		f.snapshot.Sum != m.Snapshot.Sum || m.Seq != f.offset || len(m.Data) == 0 || f.offset+uint64(len(m.Data)) > f.snapshot.Size {
		r.drop(NoteUnwanted)
		return
	}
	f.heardAt, f.asks = r.now, 0
	r.write(Write{Kind: WriteChunk, Op: f.snapshot.Header.Op, Offset: f.offset, Data: m.Data, Snapshot: f.snapshot})
	f.offset += uint64(len(m.Data))
	r.askChunk()
}

// tickFetch repeats the question, and gives the sender up when it is silent.
func (r *Replica) tickFetch() {
	f := &r.fetch
	if f.snapshot == nil || f.seal != 0 || r.now < f.askedAt+uint64(r.cfg.ResendTicks)<<min(f.asks, 4) {
		return
	}
	patience := uint64(2 * r.cfg.ViewChangeTicks) // for the first piece: the sender may have lost it
	if f.offset > 0 {
		patience *= 4
	}
	if r.now >= f.heardAt+patience || !r.wantsSnapshot(f.snapshot) {
		r.fetch = fetch{}
		r.backup.asks = 0
		return
	}
	f.asks++
	r.askChunk()
}

// SealFailed says that a received snapshot's content does not fit its checksum. It
// comes before the WriteSeal's ticket is told durable.
func (r *Replica) SealFailed() {
	r.fetch = fetch{}
	r.check()
}

// persistedFetch installs the received snapshot once it is durable and whole.
func (r *Replica) persistedFetch() {
	f := r.fetch
	if f.snapshot == nil || f.seal == 0 || f.seal > r.durable {
		return
	}
	r.fetch = fetch{}
	if !r.wantsSnapshot(f.snapshot) || f.snapshot.Members.Epoch > r.members.Epoch {
		r.drop(NoteUnwanted)
		return
	}
	r.install(f.snapshot)
}

// install replaces the state by a snapshot that is durable here. The record is
// written anew; in ViewChange it says what the DoViewChange said, so that a
// restart says it again (A69).
func (r *Replica) install(s *Snapshot) {
	r.snapshots = []Snapshot{*s}
	r.baseOn(s)
	r.out.Install = s
	r.out.Apply = r.out.Apply[:0]
	if s.Members.Epoch == r.members.Epoch && s.Members.Op > r.members.Op && s.Members.Role(r.id) != 0 {
		r.adoptMembers(s.Members)
	}
	log := r.vc.log
	if r.phase != ViewChange || r.cfg.Defect == DefectInstallRewritesLog {
		log = r.describe()
	}
	if r.phase != Recovering {
		r.writeRecord(log)
		r.write(Write{Kind: WriteTrim, Op: r.log.first, Snapshot: s})
	}
	switch r.phase {
	case Recovering:
		r.recovery.since = r.now
		r.recoveredSoFar()
	case ViewChange:
		r.decide()
	case Normal:
		r.backup.asks = 0
		r.advance()
		r.acknowledge()
		r.askState()
	}
}

// baseOn makes the log begin with a snapshot. What chains to it stays; what
// provably does not goes; what lies above a hole stays as it was (A51, A68).
func (r *Replica) baseOn(s *Snapshot) {
	op := s.Header.Op
	r.applied, r.next, r.last = op, s.Next, s.Header
	r.commit = max(r.commit, op)
	r.freed = max(r.freed, op)
	r.firm = op
	if op > r.log.head || r.cfg.Defect == DefectInstallDropsTail {
		r.log.restart(op + 1)
	}
	r.dropUnchained(op, s.Header.Checksum)
	r.log.trim(op + 1)
	r.ack = max(min(r.ack, r.log.head), op)
}

// dropUnchained drops the run of entries above a snapshot whose first names
// another parent.
func (r *Replica) dropUnchained(op Op, sum Checksum) {
	s := r.log.find(op + 1)
	if s == nil || s.Checksum == 0 || s.Parent == sum {
		return
	}
	parent := s.Parent
	for o := op + 1; o <= r.log.head; o++ {
		s := r.log.at(o)
		if s.Checksum == 0 || s.Parent != parent {
			break
		}
		parent = s.Checksum
		*s = slot{Entry: Entry{Header: Header{Op: o}}}
	}
	for r.log.head > op && r.log.at(r.log.head).Checksum == 0 {
		r.log.cut(r.log.head - 1)
	}
}
