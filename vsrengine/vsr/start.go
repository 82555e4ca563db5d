package vsr

import (
	"math"
	"math/rand/v2"
	"slices"
)

// Start: what a replica makes of what it finds (D3, D4, D8).

// New makes a replica from what was found at start. It may have output at once.
// An error means that it must not take part; nothing was written. The machine
// starts from the newest of State.Snapshots, or empty, without an Output.Install.
func New(cfg Config, st State) (*Replica, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if st.Record == nil {
		return nil, ErrWiped
	}
	r := &Replica{
		cfg: cfg, id: cfg.ID, rng: rand.New(rand.NewPCG(cfg.Jitter, uint64(cfg.ID))),
		root: nonzero(cfg.Seed), next: 1, incarnation: st.Incarnation, log: newLog(1),
	}
	r.adoptMembers(st.Record.Members)
	if r.role == 0 {
		return nil, ErrRemoved
	}
	r.view = st.Record.View
	r.recordEpoch = r.members.Epoch
	r.backup.heardAt, r.backup.limit = 0, r.suspectTicks()
	var err error
	switch {
	case st.Record.Virgin:
		r.startVirgin()
	case cfg.Memory:
		r.recovery.stamp = r.view
		if cfg.Defect == DefectAmnesia {
			r.recovery.stamp = 0
		}
		r.startRecovery()
	default:
		err = r.startFromDisk(&st)
	}
	if err != nil {
		return nil, err
	}
	r.check()
	return r, nil
}

// startVirgin clears the mark before anything else: from the next start on, an
// empty log means that something was lost.
func (r *Replica) startVirgin() {
	r.booting = true
	r.prim.begun = true
	r.prim.stalledAt = r.now
	if r.view > 0 {
		r.phase = Retired // it joins a group that runs: an empty log is no log of its view
	}
	r.writeRecord(&Log{First: 1, Intact: true})
}

func (r *Replica) startFromDisk(st *State) error {
	rec := st.Record.Log
	if rec == nil {
		rec = &Log{LogView: r.view, First: 1, Intact: true}
	}
	r.logView = rec.LogView
	r.commit = rec.Commit
	r.begun = rec.Begin
	r.unplaced, r.rotten = st.Unplaced, st.Unplaced
	r.snapshots = slices.DeleteFunc(slices.Clone(st.Snapshots), func(s Snapshot) bool { return !s.wellFormed() })
	if n := len(r.snapshots); n > 2 {
		r.snapshots = r.snapshots[n-2:]
	}
	if n := len(r.snapshots); n > 0 {
		s := &r.snapshots[n-1]
		r.applied, r.next, r.last, r.freed = s.Header.Op, s.Next, s.Header, s.Header.Op
		if s.Members.Epoch == r.members.Epoch && s.Members.Op > r.members.Op && s.Members.Role(r.id) != 0 {
			r.adoptMembers(s.Members)
		}
	}
	r.readSlots(rec, st.Slots)
	if st.SnapshotDamaged && lowest(st.Slots) > r.applied+1 {
		r.rotten = true // the log was let go for a snapshot that is lost
	}
	if s := r.snapshots; len(s) > 0 {
		last := s[len(s)-1]
		r.commit = max(r.commit, last.Header.Op)
		if last.Header.Op > r.log.head {
			r.log.restart(last.Header.Op + 1)
		}
		r.dropUnchained(last.Header.Op, last.Header.Checksum)
	}
	if r.voters == 1 && r.role == Voter && r.rotten && r.lost() {
		return ErrNoCopy
	}
	r.resume(rec)
	return nil
}

// lowest is the first op of which there is any record.
func lowest(found []Slot) Op {
	low := Op(math.MaxUint64)
	for i := range found {
		if found[i].Op != 0 {
			low = min(low, found[i].Op)
		}
	}
	return low
}

// lost reports whether something that counts cannot be read.
func (r *Replica) lost() bool {
	if r.unplaced {
		return true
	}
	for op := r.applied + 1; op <= r.log.head; op++ {
		if s := r.log.at(op); s.damaged || !s.present {
			return true
		}
	}
	return false
}

// readSlots decides which of the entries found belong to the log of log_view
// (D3): those that the record names; above its range, those first prepared in
// log_view; below it, those that chain down from it. What lies below a hole is
// kept, unlinked, until a repair shows.
func (r *Replica) readSlots(rec *Log, found []Slot) {
	r.log = newLog(r.firstOp(rec, found))
	r.log.extend(max(rec.Head, r.log.first-1))
	if r.cfg.Defect == DefectSlotByView {
		found = slotsByView(found, rec)
	}
	for i := range rec.Headers {
		h := &rec.Headers[i]
		if s := r.log.find(h.Op); s != nil && h.Checksum != 0 && rec.Claims[i]&Linked != 0 {
			s.Entry, s.linked = Entry{Header: *h}, true
		}
	}
	for i := range found {
		r.readSlot(rec, &found[i])
	}
	for i := range found {
		if found[i].Checksum == 0 && found[i].Op > r.log.head {
			r.unplaced = true // nothing known lies above it: the head is uncertain
		}
	}
	for op := r.log.head; op >= r.log.first && op > r.applied; op-- {
		if s := r.log.at(op); s.linked {
			r.noteChange(&s.Header)
			r.link(op)
		}
	}
	r.linkOld()
}

// firstOp is the first op of the log: the lowest found, or what follows the
// newest snapshot.
func (r *Replica) firstOp(rec *Log, found []Slot) Op {
	first := r.applied + 1
	for i := range found {
		if op := found[i].Op; op != 0 {
			first = min(first, op)
		}
	}
	return max(first, 1)
}

func (r *Replica) readSlot(rec *Log, f *Slot) {
	if f.Damaged {
		r.rotten = true
	}
	if f.Op == 0 {
		r.unplaced = true
		return
	}
	if f.Op > rec.Head && f.Checksum != 0 {
		if f.View != rec.LogView || r.view != rec.LogView {
			return // superseded
		}
		r.log.extend(max(f.Op, r.log.head))
	}
	s := r.log.find(f.Op)
	if s == nil || f.Checksum == 0 {
		return
	}
	switch {
	case s.linked && s.Checksum == f.Checksum:
		r.fillSlot(s, f)
	case f.Op > rec.Head:
		r.fillSlot(s, f)
		s.linked = true
	case !s.linked && !f.Damaged:
		if s.Checksum != 0 && s.Checksum != f.Checksum {
			r.spares = append(r.spares, s.Entry)
		}
		*s = slot{Entry: f.Entry, present: true}
	}
}

func (r *Replica) fillSlot(s *slot, f *Slot) {
	if f.Damaged {
		if !s.held() {
			s.Entry, s.present, s.damaged = Entry{Header: f.Header}, true, true
		}
		return
	}
	s.Entry, s.present, s.damaged = f.Entry, true, false
}

// linkOld links what was applied before the newest snapshot, for serving peers.
func (r *Replica) linkOld() {
	if len(r.snapshots) == 0 {
		return
	}
	want := r.snapshots[len(r.snapshots)-1].Header.Checksum
	for op := r.applied; op >= r.log.first; op-- {
		s := r.log.find(op)
		if s == nil || s.Checksum != want {
			return
		}
		s.linked = true
		want = s.Parent
	}
}

// resume takes up the view where it was left. A primary that restarts hands its
// view over; a view change goes on with the same words (A19).
func (r *Replica) resume(rec *Log) {
	if r.view > r.logView && r.role == Learner {
		r.phase = Retired // it joined and was not spoken to yet
		return
	}
	if r.view > r.logView {
		r.phase = ViewChange
		r.vc.log = rec
		if r.cfg.Defect == DefectTwoLogs {
			r.vc.log = r.describe()
		}
		r.vc.failed = 1
		r.vc.ticks = uint64(r.cfg.ViewChangeTicks) + r.jitter(uint64(r.cfg.ViewChangeTicks))
		r.persistedViewChange()
		return
	}
	r.ack = min(r.commit, r.log.head)
	if r.unplaced && r.voters > 1 {
		r.phase = RecoveringHead
		r.askViewOfAll()
		return
	}
	if r.isPrimary() && r.cfg.Defect != DefectAbdicatedStartView {
		r.phase = Normal
		if r.voters == 1 {
			r.enterView(r.view + 1)
			return
		}
		r.handOver(r.nextView())
		return
	}
	r.phase = Normal
	r.prim.stalledAt = r.now
	r.prim.begun = true // of a primary only with a Defect
	r.applyCommitted()
	r.acknowledge()
}
