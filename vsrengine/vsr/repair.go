package vsr

// Log repair and state transfer by log: paper section 5.2, with D6 and D8. A
// backup asks its view's primary for what follows (GetState, NewState). Whoever
// knows an entry's checksum may ask anyone for it (GetEntries, Entries): the
// answer proves itself, whatever view its sender is in.

// missing reports whether this backup lacks something that the primary has.
func (r *Replica) missing() bool {
	return r.firstMissing() <= max(r.log.head, r.backup.head, r.commit)
}

// firstMissing is the first op above applied that is not here; one beyond the
// head if all are.
func (r *Replica) firstMissing() Op { return r.contiguous() + 1 }

// askState asks the primary for what follows the last contiguous op. The answer
// to one question leads to the next; a question without answer is repeated.
func (r *Replica) askState() {
	b := &r.backup
	if r.phase != Normal || r.isPrimary() || !r.missing() || r.fetch.snapshot != nil {
		return
	}
	if b.asks > 0 && r.now < b.askedAt+uint64(r.cfg.ResendTicks) {
		return
	}
	b.askedAt = r.now
	b.asks++
	op := r.firstMissing() - 1
	if b.asks > 2 && b.asks%2 == 1 {
		// The primary may have lost it, or it may be in snapshots only.
		if !r.askByChecksum(op + 1) {
			r.send(r.anyPeer(), Message{Kind: GetSnapshot, View: r.view, Op: r.applied})
		}
		return
	}
	r.send(r.members.Primary(r.view), Message{Kind: GetState, View: r.view, Op: op})
}

func onGetState(r *Replica, m *Message, p *peer) {
	switch {
	case m.View != r.view:
		r.drop(NoteEarlierView)
		return
	case !r.started():
		r.drop(NoteNotPrimary)
		return
	case p == nil:
		r.drop(NoteNotMember)
		return
	}
	entries := r.run(m.Op + 1)
	if len(entries) == 0 && m.Op < r.log.head && r.snapshotOp() > m.Op {
		r.offerSnapshot(m.From)
		return
	}
	if len(entries) > 0 {
		r.send(m.From, Message{Kind: NewState, View: r.view, Op: r.log.head, Commit: r.commit, Entries: entries})
	}
}

// run is the entries from an op on that are here, as many as one answer holds.
func (r *Replica) run(op Op) []Entry {
	var out []Entry
	size := 0
	for ; op <= r.log.head; op++ {
		s := r.log.find(op)
		if s == nil || !s.linked || !s.held() {
			break
		}
		if size += int(s.Size); size > r.cfg.RepairBytesMax && len(out) > 0 || len(out) == runMax {
			break
		}
		out = append(out, s.Entry)
	}
	return out
}

// runMax bounds the entries of one answer beside their bytes.
const runMax = 256

func onNewState(r *Replica, m *Message, _ *peer) {
	if !r.fromPrimary(m) {
		return
	}
	if r.isPrimary() {
		r.drop(NoteUnwanted)
		return
	}
	r.heardPrimary()
	before := r.firstMissing()
	for _, e := range m.Entries {
		if e.Op > r.log.head+Op(r.cfg.PipelineMax) || !r.accept(e) {
			break
		}
	}
	r.backup.head = max(r.backup.head, m.Op)
	if r.firstMissing() > before {
		r.backup.asks = 0
	}
	r.advance()
	r.learnCommit(m.Commit)
	r.acknowledge()
	r.askState()
}

// tickRepair asks again for what is missing, and mends what the journal lost.
func (r *Replica) tickRepair() {
	if r.isPrimary() {
		r.repairPrimary()
	} else if r.now >= r.backup.askedAt+uint64(r.cfg.ResendTicks) {
		r.askState()
	}
	if len(r.spares) > 0 && !r.missing() {
		r.spares = nil
	}
	if r.rotten && r.now%uint64(r.cfg.ResendTicks) == 0 {
		r.repairDamage()
		r.healIfWhole()
	}
}

// repairPrimary fills the holes of a new primary backwards along the chain.
func (r *Replica) repairPrimary() {
	op := r.firstMissing()
	if op > r.log.head {
		r.prim.stalledAt = r.now
		return
	}
	if r.now < r.backup.askedAt+uint64(r.cfg.ResendTicks) {
		return
	}
	r.backup.askedAt = r.now
	for op < r.log.head && !r.askByChecksum(op) {
		op++
	}
	if op == r.log.head {
		r.askByChecksum(op)
	}
}

// askByChecksum asks one peer, another each time, for the run of missing
// entries that ends with this op. False if its checksum is not known.
func (r *Replica) askByChecksum(op Op) bool {
	s := r.log.find(op)
	if s != nil && s.linked && s.held() {
		return false
	}
	if _, ok := r.sum(op); !ok {
		return false
	}
	// The end of the run is the last op in a row that is missing and known.
	end := op
	for end < r.log.head && end < op+runMax-1 {
		next := r.log.find(end + 1)
		if _, ok := r.sum(end + 1); !ok || next != nil && next.linked && next.held() {
			break
		}
		end++
	}
	sum, _ := r.sum(end)
	m := Message{Kind: GetEntries, View: r.view, Op: end, Checksum: sum, Seq: uint64(end-op) + 1}
	if end == op && op > r.applied+1 {
		m.Seq = r.hole(op) // below it nothing is known but by the chain: ask for all of the hole
	}
	if to := r.anyPeer(); to != 0 {
		r.send(to, m)
	}
	return true
}

// hole counts the missing ops in a row that end with this one.
func (r *Replica) hole(op Op) uint64 {
	n := uint64(1)
	for ; n < runMax && op > r.applied+1; n++ {
		if s := r.log.find(op - 1); s != nil && s.linked && s.held() {
			break
		}
		op--
	}
	return n
}

// anyPeer is one of the others by chance, so that no question depends on one of
// them: taken in turn, two questions and two peers would meet in the same pairs for
// ever (A37).
func (r *Replica) anyPeer() ID {
	n := uint64(len(r.peers))
	if n == 0 {
		return 0
	}
	first := r.jitter(n)
	if r.jitter(2) == 0 {
		return r.peers[first].ID // backups do not hear one another while all is well
	}
	for i := range n { // one who was heard lately, if there is one
		if p := &r.peers[(first+i)%n]; r.now <= p.heard+uint64(r.cfg.SuspectTicksMax) {
			return p.ID
		}
	}
	return r.peers[first].ID
}

func onGetEntries(r *Replica, m *Message, _ *peer) {
	end := m.Op
	s := r.log.find(end)
	if s == nil || !s.held() || s.Checksum != m.Checksum && (m.Checksum != 0 || end > r.applied || !s.linked) {
		r.drop(NoteUnknown)
		if s == nil && end < r.log.first && r.snapshotOp() >= end {
			r.offerSnapshot(m.From)
		}
		return
	}
	n := min(m.Seq, runMax)
	low := end
	size := int(s.Size)
	for low > 1 && uint64(end-low)+1 < n {
		below := r.log.find(low - 1)
		if below == nil || !below.held() || below.Checksum != r.log.at(low).Parent {
			break
		}
		if size += int(below.Size); size > r.cfg.RepairBytesMax {
			break
		}
		low--
	}
	entries := make([]Entry, 0, end-low+1)
	for op := low; op <= end; op++ {
		entries = append(entries, r.log.at(op).Entry)
	}
	r.send(m.From, Message{Kind: Entries, View: r.view, Entries: entries, Nonce: m.Nonce})
}

// onEntries takes what proves itself: from the last entry down, each must have
// the checksum that is wanted at its op.
func onEntries(r *Replica, m *Message, _ *peer) {
	if n := &r.vc.need; r.phase == ViewChange && n.op != 0 && n.got == nil {
		for i := range m.Entries {
			if h := &m.Entries[i].Header; h.Op == n.op && (n.sum == 0 && m.Nonce == n.ask || n.sum != 0 && h.Checksum == n.sum) {
				n.got = h
				r.decide()
				return
			}
		}
	}
	if r.phase == ViewChange {
		r.drop(NoteUnwanted)
		return
	}
	took := false
	for i := len(m.Entries) - 1; i >= 0; i-- {
		e := m.Entries[i]
		sum, ok := r.sum(e.Op)
		s := r.log.find(e.Op)
		if !ok || s == nil || sum != e.Checksum {
			continue
		}
		if s.linked && s.held() {
			continue
		}
		took = r.accept(e) || took
	}
	if !took {
		r.drop(NoteUnwanted)
		return
	}
	r.prim.stalledAt = r.now
	r.backup.asks = 0
	if r.phase == Recovering {
		r.recovery.since = r.now
		r.recoveredSoFar()
		return
	}
	r.healIfWhole()
	r.advance()
	r.acknowledge()
	if r.isPrimary() {
		r.repairPrimary()
	} else {
		r.askState()
	}
}

// Damaged says that the journal could not read this entry: found while filling a
// body for Send or Apply, or by scrubbing. The replica mends it from its peers.
func (r *Replica) Damaged(op Op, sum Checksum) {
	r.rotten = true
	if s := r.log.find(op); s != nil && s.Checksum == sum {
		s.damaged, s.Body = true, nil
		r.firm = min(r.firm, op-1)
		r.ack = min(r.ack, max(op-1, min(r.commit, r.log.head)))
	}
	r.check()
}

// Reapply says that the machine could not be given what follows from this op on,
// for its body was damaged: it comes out in Apply again.
func (r *Replica) Reapply(from Op) {
	if from > r.applied || from <= r.snapshotOp() {
		return
	}
	s := r.log.find(from)
	r.assert(s != nil && s.Checksum != 0, "an op to apply again is not in the log")
	r.applied = from - 1
	r.next, r.last = s.First, Header{}
	if below := r.log.find(r.applied); below != nil {
		r.last = below.Header
	}
	r.freed = min(r.freed, r.applied)
	r.applyCommitted()
	r.check()
}

// repairDamage asks for every damaged entry whose checksum is known.
func (r *Replica) repairDamage() {
	asked := 0
	for op := r.log.first; op <= r.log.head && asked < r.cfg.PipelineMax; op++ {
		s := r.log.at(op)
		if s.damaged && s.linked && s.Checksum != 0 {
			r.send(r.anyPeer(), Message{Kind: GetEntries, View: r.view, Op: op, Checksum: s.Checksum, Seq: 1})
			asked++
		}
	}
}

// healIfWhole lets the journal forget its damaged records once every entry that
// counts is intact: from then on, what is missing was never here.
func (r *Replica) healIfWhole() {
	if !r.rotten || r.phase != Normal {
		return
	}
	for op := r.snapshotOp() + 1; op <= r.log.head; op++ {
		s := r.log.find(op)
		if s == nil || !s.linked || !s.held() {
			return // those still being written come before the heal in the stream
		}
	}
	for op := r.log.first; op <= r.log.head; op++ {
		if s := r.log.at(op); s.damaged {
			*s = slot{Entry: Entry{Header: Header{Op: op}}} // below the snapshot: no loss
		}
	}
	r.rotten, r.unplaced = false, false
	r.spares = nil
	r.write(Write{Kind: WriteHeal})
}

// takeSpare fills a slot from the other entries found at start.
func (r *Replica) takeSpare(s *slot, want Checksum) bool {
	for i := range r.spares {
		if r.spares[i].Checksum == want && want != 0 {
			*s = slot{Entry: r.spares[i], present: true}
			return true
		}
	}
	return false
}

// Scrubbing

// Held lists the ops that the journal should be able to read, for scrubbing:
// the header of the op, and whether it is held durably.
func (r *Replica) Held(op Op) (Header, bool) {
	s := r.log.find(op)
	if s == nil || !s.held() || s.ticket > r.durable {
		return Header{}, false
	}
	return s.Header, true
}
