package vsr

import (
	"math/rand/v2"
)

// Replica is one member of a group. It has one owner; nothing of it may be used
// from two goroutines at once.
//
// Invariants, checked after every input in this order by check:
//
//  1. view >= logView; both are equal in Normal, and view is higher in ViewChange.
//  2. view is of the epoch of members.
//  3. log.first-1 <= applied <= head, and no snapshot is above applied.
//  4. applied <= commit; what is applied never changes.
//  5. A started primary has at most PipelineMax uncommitted ops, and none after a
//     Reconfigure of the present epoch.
//  6. durable <= issued.
//  7. Votes are of the present view only: outside their phase there are none.
//  8. Two linked neighbours are chained.
type Replica struct {
	cfg Config
	id  ID
	rng *rand.Rand

	out, taken Output
	notes      [NoteCount]uint64

	now      uint64 // ticks since start
	phase    Phase
	held     bool
	booting  bool // the first record is not durable yet: nothing is said or heard
	view     View
	logView  View
	begun    Op // head with which logView began, as far as is known here
	members  Membership
	role     Role
	peers    []peer // the other members, ascending by ID
	voters   int
	lastSaid uint64 // tick of the last resend of the phase's own question

	log       oplog
	root      Checksum   // parent of op 1
	applied   Op         // commit_min: given out in Apply, or in an installed snapshot
	next      Position   // of the first command after applied
	last      Header     // of applied, as far as it is known
	commit    Op         // commit_max: known committed
	ack       Op         // what I acknowledge in this view: see advanceAck
	firm      Op         // everything up to here is durable: see advanceFirm
	freed     Op         // bodies up to here are left to the journal
	changeOp  Op         // the last change of membership in the log, 0 if none is above members.Op
	rotten    bool       // the journal holds damaged records: what is missing may have been acknowledged
	unplaced  bool       // one of them may be of any op
	spares    []Entry    // other intact entries found at start, by which a hole may be filled
	snapshots []Snapshot // oldest first: two, and one more while it is being sent

	issued, durable Ticket
	recordTicket    Ticket // of the last view record
	recordEpoch     uint64 // its epoch
	backlogSince    uint64 // tick since when issued > durable without progress

	incarnation Nonce
	nonces      uint64

	backup   backup
	vc       viewChange
	prim     primary
	reads    reads
	fetch    fetch
	recovery recovery

	arena []Entry

	// With a Defect only.
	heldAck          *Message
	heldTicket       Ticket
	highestDurableOp Op
	ticketOps        []Write
}

// peer is another member, and what it said in this view.
type peer struct {
	Member
	heard    uint64 // tick when it last said anything
	contact  uint64 // tick when it last answered this view's primary
	acked    Op     // this view
	applied  Op     // as it last said
	firm     Op     // as it last said in this view
	seq      uint64 // this view: the last heartbeat it answered
	resendAt uint64
	resends  uint // without an acknowledgement of more
	target   View // the view it wants, as of targetAt
	targetAt uint64
	log      *Log // its DoViewChange for this view
	pin      Op   // it is being sent the snapshot at pin: keep what follows
	pinAt    uint64
	seen     Witness
}

// Take gives what has to be done since the last Take, and is valid until the next.
func (r *Replica) Take() *Output {
	r.out, r.taken = r.taken, r.out
	o := &r.out
	clear(o.Send)
	clear(o.Persist)
	clear(o.Promise)
	clear(o.Apply)
	*o = Output{Send: o.Send[:0], Persist: o.Persist[:0], Promise: o.Promise[:0], Apply: o.Apply[:0], Reads: o.Reads[:0]}
	return &r.taken
}

// Step takes in a message from a peer. The message and what it points to may be
// kept and must not change.
func (r *Replica) Step(m *Message) {
	switch {
	case r.held:
		r.drop(NoteHeld)
	case r.booting:
		r.drop(NoteBooting)
	case m.To != r.id || m.From == r.id || m.Kind >= kindCount:
		r.drop(NoteMisaddressed)
	case !r.wellFormed(m):
		r.drop(NoteMalformed)
	default:
		r.dispatch(m)
	}
	r.check()
}

// Tick says that a tick has passed.
func (r *Replica) Tick() {
	r.now++
	if r.held || r.booting {
		return
	}
	switch r.phase {
	case Normal:
		r.tickNormal()
	case ViewChange:
		r.tickViewChange()
	case RecoveringHead:
		r.tickRecoveringHead()
		r.tickFetch()
	case Retired:
		r.tickFetch()
	case Recovering:
		r.tickRecovering()
	}
	r.check()
}

// Persisted says that the ticket's write, and all before it, are durable.
func (r *Replica) Persisted(t Ticket) {
	if t <= r.durable {
		return
	}
	r.assert(t <= r.issued, "a ticket that was never given out is durable")
	r.durable, r.backlogSince = t, r.now
	if r.booting && r.durable >= r.recordTicket {
		r.booting = false
	}
	r.persistedDefect(t)
	if !r.held && !r.booting {
		r.actOnDurable()
	}
}

// actOnDurable does what waited for the disk.
func (r *Replica) actOnDurable() {
	r.persistedFetch()
	switch r.phase {
	case Normal:
		r.persistedNormal()
	case ViewChange:
		r.persistedViewChange()
	}
	r.check()
}

// Hold makes the replica take part in nothing until it is released. For tests,
// and for an operator who wants a replica to be still.
func (r *Replica) Hold(on bool) {
	r.held = on
	if on || r.booting {
		return
	}
	r.backup.heardAt, r.vc.since, r.prim.stalledAt, r.backlogSince = r.now, r.now, r.now, r.now
	for i := range r.peers {
		r.peers[i].contact = r.now
	}
	r.actOnDurable()
}

// Status is a copy of the replica's state.
func (r *Replica) Status() Status {
	s := Status{
		ID: r.id, Phase: r.phase, Role: r.role, View: r.view, LogView: r.logView, Primary: r.members.Primary(r.view),
		Serving: r.serving(), Head: r.log.head, Commit: r.commit, Applied: r.applied, First: r.log.first,
		Damaged: r.rotten, Held: r.held, Members: r.members, Trouble: r.trouble(),
	}
	if n := len(r.snapshots); n > 0 {
		s.Snapshot = r.snapshots[n-1].Header.Op
	}
	return s
}

func (r *Replica) isPrimary() bool { return r.role == Voter && r.members.Primary(r.view) == r.id }

// started reports whether this is the primary of a view whose beginning is
// durable here.
func (r *Replica) started() bool {
	return r.phase == Normal && r.isPrimary() && (r.recordTicket <= r.durable || r.cfg.Defect == DefectPrepareEarly)
}

// serving reports whether it may take proposals and reads.
func (r *Replica) serving() bool {
	return r.started() && !r.prim.quiet && !r.ending() && r.prim.announce == nil && !r.held && !r.booting
}

func (r *Replica) peer(id ID) *peer {
	for i := range r.peers {
		if r.peers[i].ID == id {
			return &r.peers[i]
		}
	}
	return nil
}

// snapshotOp is the op of the newest snapshot.
func (r *Replica) snapshotOp() Op {
	if n := len(r.snapshots); n > 0 {
		return r.snapshots[n-1].Header.Op
	}
	return 0
}

// sum is the checksum of an op of the log of logView, if it is known.
func (r *Replica) sum(op Op) (Checksum, bool) {
	if op == 0 {
		return r.root, true
	}
	if s := r.log.find(op); s != nil && s.linked {
		return s.Checksum, true
	}
	if h := r.header(op); h != nil {
		return h.Checksum, true
	}
	if s := r.log.find(op + 1); s != nil && s.linked {
		return s.Parent, true
	}
	return 0, false
}

// header is the header of an op that is only known beside the log: the last one
// applied, or in a snapshot.
func (r *Replica) header(op Op) *Header {
	if r.last.Op == op && r.last.Checksum != 0 {
		return &r.last
	}
	for i := range r.snapshots {
		if h := &r.snapshots[i].Header; h.Op == op {
			return h
		}
	}
	return nil
}

// send gives out a message that promises nothing new about the disk.
func (r *Replica) send(to ID, m Message) {
	m.From, m.To = r.id, to
	r.out.Send = append(r.out.Send, m)
}

// promise gives out a message that states something durable. The view that it
// speaks for must stand (D2).
func (r *Replica) promise(to ID, m Message) {
	r.assert(m.View == r.view || r.cfg.Defect == DefectHeldPromise, "a promise of another view")
	m.From, m.To = r.id, to
	r.out.Promise = append(r.out.Promise, m)
}

// write puts one step into the ordered stream.
func (r *Replica) write(w Write) Ticket {
	if r.issued == r.durable {
		r.backlogSince = r.now
	}
	r.issued++
	w.Ticket = r.issued
	r.out.Persist = append(r.out.Persist, w)
	if r.cfg.Defect == DefectCompletionByOp && w.Kind == WriteEntry {
		r.ticketOps = append(r.ticketOps, Write{Ticket: w.Ticket, Op: w.Op})
	}
	return r.issued
}

// writeRecord replaces the view record. In memory mode it is a stamp (D4).
func (r *Replica) writeRecord(log *Log) {
	rec := &Record{View: r.view, Log: log, Members: r.members}
	if r.cfg.Memory {
		rec.Log = nil
	}
	r.recordEpoch = r.members.Epoch
	r.recordTicket = r.write(Write{Kind: WriteRecord, Record: rec})
}

func (r *Replica) nonce() Nonce {
	r.nonces++
	return Nonce{r.incarnation.Hi, r.incarnation.Lo + r.nonces}
}

func (r *Replica) drop(n Note) { r.notes[n]++ }

// entry puts one entry where a message may point to it.
func (r *Replica) entry(e Entry) []Entry {
	if len(r.arena) == cap(r.arena) {
		r.arena = make([]Entry, 0, 64)
	}
	n := len(r.arena)
	r.arena = append(r.arena, e)
	return r.arena[n : n+1 : n+1]
}

// jitter is a number of ticks in [0, n).
func (r *Replica) jitter(n uint64) uint64 {
	if n == 0 {
		return 0
	}
	return r.rng.Uint64N(n)
}
