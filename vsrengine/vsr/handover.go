package vsr

// Hand-over (D17): a primary names the view to go to. It leaves its own view in
// the same step, so there is no state in which it could speak for it again.

// transfer is a hand-over that was asked for.
type transfer struct {
	to    ID
	since uint64
}

// Transfer hands over to a voter once that has everything. Proposals are
// refused meanwhile. If the voter does not catch up in time the primary goes on.
func (r *Replica) Transfer(to ID) error {
	if !r.serving() {
		return ErrNotPrimary
	}
	if p := r.peer(to); p == nil || p.Role != Voter {
		return ErrTarget
	}
	if r.changing() || r.prim.transfer.to != 0 {
		return ErrBusy
	}
	r.prim.transfer = transfer{to, r.now}
	r.transferIfLevel()
	r.check()
	return nil
}

// transferIfLevel hands over when the target has acknowledged all there is and
// all of it is committed.
func (r *Replica) transferIfLevel() {
	t := &r.prim.transfer
	if t.to == 0 || r.phase != Normal {
		return
	}
	p := r.peer(t.to)
	near := p != nil && r.now < p.contact+uint64(r.cfg.SuspectTicksMin)
	if near && p.firm == r.log.head && r.commit == r.log.head {
		r.handOver(r.viewOf(t.to))
	}
}

func (r *Replica) tickTransfer() {
	t := &r.prim.transfer
	if t.to == 0 {
		return
	}
	r.transferIfLevel()
	if t.to != 0 && r.now >= t.since+uint64(r.cfg.ViewChangeTicks) {
		*t = transfer{}
	}
}

// viewOf is the next view that a voter leads.
func (r *Replica) viewOf(id ID) View {
	v := r.view + 1
	for range r.voters {
		if r.members.Primary(v) == id {
			break
		}
		v++
	}
	return v
}

// nextView is the next view whose primary was heard of lately.
func (r *Replica) nextView() View {
	for v := r.view + 1; v <= r.view+View(r.voters); v++ {
		id := r.members.Primary(v)
		if p := r.peer(id); p != nil && r.now < p.heard+uint64(r.cfg.SuspectTicksMax) {
			return v
		}
	}
	return r.view + 1
}

// handOver gives this view up for a higher one, and says so until that is heard
// of. The order needs no disk: a primary whose disk hangs can give it.
func (r *Replica) handOver(u View) {
	m := Message{Kind: HandOver, View: r.view, Target: u}
	r.enterView(u)
	r.vc.handOver = m
	r.sayHandOver()
}

func (r *Replica) sayHandOver() {
	r.backup.askedAt = r.now
	r.askAll(r.vc.handOver)
}

// askAll sends the same to every voter.
func (r *Replica) askAll(m Message) {
	for i := range r.peers {
		if r.peers[i].Role == Voter {
			r.send(r.peers[i].ID, m)
		}
	}
}

func onHandOver(r *Replica, m *Message, p *peer) {
	switch {
	case m.View != r.view:
		r.drop(NoteEarlierView)
	case m.From != r.members.Primary(r.view) || p == nil:
		r.drop(NoteNotPrimary)
	case m.Target <= m.View || m.Target.Epoch() != m.View.Epoch():
		r.drop(NotePurpose)
	case r.role != Voter:
		r.drop(NoteNotMember)
	default:
		r.enterView(m.Target)
	}
}

// handOverIfStuck gives the view up when the disk hangs (D13, A56), or when a
// hole cannot be filled by anybody in reach (A34).
func (r *Replica) handOverIfStuck() bool {
	if r.voters < 3 {
		return false
	}
	hung := r.issued > r.durable && r.now >= r.backlogSince+uint64(r.cfg.SyncTicksMax)
	stalled := r.started() && r.now >= r.prim.stalledAt+uint64(r.cfg.StallTicksMax)
	if !hung && !stalled {
		return false
	}
	v := r.nextView()
	if best := r.furthest(); stalled && best != 0 {
		v = r.viewOf(best)
	}
	r.handOver(v)
	return true
}

// furthest is the voter that has applied most, if that is more than was applied
// here.
func (r *Replica) furthest() ID {
	best, id := r.applied, ID(0)
	for i := range r.peers {
		p := &r.peers[i]
		if p.Role == Voter && p.applied > best && r.now < p.contact+uint64(r.cfg.ViewChangeTicks) {
			best, id = p.applied, p.ID
		}
	}
	return id
}
