package vsr

// Heartbeats are acknowledged (D19): the primary knows whether a quorum still
// hears it, and reads ride on the same round (D12).

func (r *Replica) tickNormal() {
	switch {
	case r.isPrimary():
		r.tickPrimary()
	case r.role == Voter:
		r.tickBackup()
	default:
		r.tickLearner()
	}
	if r.phase == Normal {
		r.tickRepair()
		r.tickFetch()
	}
}

func (r *Replica) tickPrimary() {
	if !r.started() {
		r.handOverIfStuck()
		return
	}
	r.countContact()
	if r.handOverIfStuck() {
		return
	}
	if r.prim.quiet {
		r.suspect() // the others may be in a later view that lost its primary
		return
	}
	if r.now >= r.prim.beatAt+uint64(r.cfg.HeartbeatTicks) {
		r.beat()
	}
	r.resendPrepares()
	r.tickTransfer()
	r.tickProof()
	r.tickAnnounce()
}

// countContact stops a primary that a quorum no longer answers. It goes on in the
// same view if answers come after all.
func (r *Replica) countContact() {
	n := 1
	for i := range r.peers {
		p := &r.peers[i]
		if p.Role == Voter && r.now < p.contact+uint64(r.cfg.ViewChangeTicks) {
			n++
		}
	}
	quiet := n < quorum(r.voters)
	if quiet && !r.prim.quiet {
		r.failReads()
	}
	if !quiet && r.prim.quiet {
		r.backup.suspecting = false
	}
	r.prim.quiet = quiet
}

// beat says that the primary lives, what is committed and how far its log goes.
func (r *Replica) beat() {
	r.prim.beatAt = r.now
	r.prim.seq++
	for i := range r.peers {
		r.send(r.peers[i].ID, Message{Kind: Commit, View: r.view, Op: r.log.head, Commit: r.commit, Seq: r.prim.seq})
	}
}

func onCommit(r *Replica, m *Message, _ *peer) {
	if !r.fromPrimary(m) {
		return
	}
	r.heardPrimary()
	r.backup.head = max(r.backup.head, m.Op)
	r.learnCommit(m.Commit)
	if r.phase != Normal {
		return
	}
	r.send(m.From, Message{Kind: CommitOK, View: r.view, Seq: m.Seq})
	if r.ack > m.Commit {
		r.acknowledge() // the primary may have missed it
	}
	if r.missing() {
		r.askState()
	}
}

func onCommitOK(r *Replica, m *Message, p *peer) {
	if p == nil || m.View != r.view || !r.started() {
		r.drop(NoteEarlierView)
		return
	}
	p.contact = r.now
	if m.Seq > p.seq {
		p.seq = m.Seq
		r.finishRound()
	}
	r.transferIfLevel()
}

// heardPrimary resets the suspicion and adapts the silence that is tolerated.
func (r *Replica) heardPrimary() {
	b := &r.backup
	gap := min(r.now-b.heardAt, uint64(r.cfg.SuspectTicksMax))
	b.gapTicks = b.gapTicks - b.gapTicks/8 + gap
	b.heardAt = r.now
	b.suspecting = false
	r.vc.failed = 0
	b.limit = r.suspectTicks()
}

// suspectTicks is eight smoothed gaps, within the bounds, and jitter so that two
// backups seldom suspect at once.
func (r *Replica) suspectTicks() uint64 {
	limit := min(max(r.backup.gapTicks, uint64(r.cfg.SuspectTicksMin)), uint64(r.cfg.SuspectTicksMax))
	return limit + r.jitter(limit/4+1)
}

func (r *Replica) tickBackup() {
	if r.now >= r.backup.heardAt+r.backup.limit {
		r.suspect()
	}
}

// tickLearner asks around when the primary is silent: a learner does not suspect.
func (r *Replica) tickLearner() {
	if r.now < r.backup.heardAt+r.backup.limit || r.now < r.lastSaid+uint64(r.cfg.ResendTicks) {
		return
	}
	r.lastSaid = r.now
	r.askViewOfAll()
}

// resendPrepares repeats what a peer has not acknowledged. One that is further
// behind than the pipeline asks for state itself.
func (r *Replica) resendPrepares() {
	for i := range r.peers {
		p := &r.peers[i]
		if p.acked >= r.log.head || r.now >= p.heard+uint64(r.cfg.SuspectTicksMax) || r.now < p.resendAt+uint64(r.cfg.ResendTicks)<<min(p.resends, 3) {
			continue
		}
		p.resendAt = r.now
		p.resends++
		from := max(p.acked, r.commit-min(r.commit, 1)) + 1
		size := 0
		for op := from; op <= r.log.head && size <= r.cfg.RepairBytesMax; op++ {
			s := r.log.find(op)
			if s == nil || !s.linked || !s.held() {
				continue
			}
			size += int(s.Size)
			r.send(p.ID, Message{Kind: Prepare, View: r.view, Op: op, Commit: r.commit, Entries: r.entry(s.Entry)})
		}
	}
}
