package vsr_test

import (
	"testing"

	"github.com/diarchy/diarchy/vsrengine/vsr"
)

// The messages of this file cannot come from a correct peer over a link that
// checks its frames. They are dropped all the same: a replica neither panics nor
// moves.

// bad makes messages for replica 3 of a group of three in view 0.
type bad struct{ members vsr.Membership }

func newBad() bad {
	return bad{vsr.NewMembership(vsr.Member{ID: 1, Role: vsr.Voter}, vsr.Member{ID: 2, Role: vsr.Voter}, vsr.Member{ID: 3, Role: vsr.Voter})}
}

func (bad) entry(op vsr.Op, parent vsr.Checksum, kind vsr.EntryKind, body string) vsr.Entry {
	h := vsr.Header{BodyChecksum: vsr.BodySum([]byte(body)), Parent: parent, Op: op, First: vsr.Position(op), Kind: kind, Size: uint32(len(body))}
	if kind == vsr.KindUser {
		h.Count = 1
	}
	h.Checksum = h.Sum(1)
	return vsr.Entry{Header: h, Body: []byte(body)}
}

// log is a log of these entries, all held.
func (bad) log(entries ...vsr.Entry) *vsr.Log {
	l := &vsr.Log{First: 1, Intact: true}
	for i := range entries {
		l.Headers = append(l.Headers, entries[i].Header)
		l.Claims = append(l.Claims, vsr.Linked|vsr.Present)
		l.Head = entries[i].Op
	}
	l.Begin, l.Contiguous = l.Head, l.Head
	return l
}

func (b bad) startView(l *vsr.Log) vsr.Message {
	return vsr.Message{Kind: vsr.StartView, From: 2, View: 1, Log: l}
}

func (b bad) prepare(e vsr.Entry) vsr.Message {
	return vsr.Message{Kind: vsr.Prepare, From: 1, Op: e.Op, Entries: []vsr.Entry{e}}
}

// later is the members with an epoch that no view of these messages has.
func (b bad) later() *vsr.Membership {
	m := b.members.With(4, vsr.Voter)
	m.Epoch, m.Op = 7, 5
	return &m
}

func (b bad) snapshot(kind vsr.EntryKind, made vsr.Op) *vsr.Snapshot {
	e := b.entry(3, 9, kind, "k")
	m := b.members
	m.Op = made
	return &vsr.Snapshot{Header: e.Header, Next: e.Next(), Members: m, Size: 4, Sum: 5}
}

const seedOfRoot = 1 // the seed is the parent of op 1

// TestMalformed: each message is dropped with its note and changes nothing.
func TestMalformed(t *testing.T) {
	b := newBad()
	x := b.entry(1, seedOfRoot, vsr.KindUser, "x")
	y := b.entry(2, x.Checksum, vsr.KindUser, "y")
	stray := b.entry(2, 99, vsr.KindUser, "y")
	k := b.entry(1, seedOfRoot, vsr.KindConfig, "k")
	aboveConfig := b.entry(2, k.Checksum, vsr.KindUser, "y")
	learners := b.entry(1, seedOfRoot, vsr.KindLearners, "k")
	bodiless := x
	bodiless.Body = nil
	short := x
	short.Size = 9
	far := b.log(x)
	far.Commit = 1 << 57
	blank := b.log(x, y)
	blank.Headers[1] = vsr.Header{Op: 2}
	claimless := b.log(x, y)
	claimless.Claims = claimless.Claims[:1]
	gap := b.log(x, b.entry(3, x.Checksum, vsr.KindUser, "z"))
	long := b.log()
	for parent, op := vsr.Checksum(seedOfRoot), vsr.Op(1); op < 40; op++ {
		e := b.entry(op, parent, vsr.KindUser, "x")
		long.Headers, long.Claims = append(long.Headers, e.Header), append(long.Claims, vsr.Linked)
		long.Head, parent = op, e.Checksum
	}
	for _, c := range []struct {
		name string
		note vsr.Note
		m    vsr.Message
	}{
		{"a StartView whose headers do not chain", vsr.NoteMalformed, b.startView(b.log(x, stray))},
		{"a StartView with members of another epoch", vsr.NoteMalformed, vsr.Message{Kind: vsr.StartView, From: 2, View: 1, Log: b.log(x), Members: b.later()}},
		{"a StartView of an epoch whose members it does not say", vsr.NoteConflict, vsr.Message{Kind: vsr.StartView, From: 2, View: vsr.MakeView(1, 1), Log: b.log(x)}},
		{"a StartView with a Reconfigure below its head", vsr.NoteMalformed, b.startView(b.log(k, aboveConfig))},
		{"a StartView without a log", vsr.NoteMalformed, b.startView(nil)},
		{"a StartView that does not know its head", vsr.NoteMalformed, b.startView(blank)},
		{"a StartView with too few claims", vsr.NoteMalformed, b.startView(claimless)},
		{"a StartView with a gap", vsr.NoteMalformed, b.startView(gap)},
		{"a StartView longer than a pipeline", vsr.NoteMalformed, b.startView(long)},
		{"a StartView with an absurd commit", vsr.NoteMalformed, b.startView(far)},
		{"a DoViewChange whose headers do not chain", vsr.NoteMalformed, vsr.Message{Kind: vsr.DoViewChange, From: 1, View: 2, Log: b.log(x, stray)}},
		{"a DoViewChange with a Reconfigure below its head", vsr.NoteMalformed, vsr.Message{Kind: vsr.DoViewChange, From: 1, View: 2, Log: b.log(k, aboveConfig)}},
		{"a DoViewChange without a log", vsr.NoteMalformed, vsr.Message{Kind: vsr.DoViewChange, From: 1, View: 2}},
		{"a Notice with members of another epoch", vsr.NoteMalformed, vsr.Message{Kind: vsr.Notice, From: 1, View: 1, Members: b.later()}},
		{"a Notice of the last view there is", vsr.NoteMalformed, vsr.Message{Kind: vsr.Notice, From: 1, View: vsr.MakeView(0, 1<<40-1)}},
		{"a suspicion of the last view there is", vsr.NoteMalformed, vsr.Message{Kind: vsr.StartViewChange, From: 1, View: vsr.MakeView(0, 1<<40-1)}},
		{"a hand-over to the last view there is", vsr.NoteMalformed, vsr.Message{Kind: vsr.HandOver, From: 1, Target: vsr.MakeView(0, 1<<40-1)}},
		{"an EpochAhead with members of another epoch", vsr.NoteMalformed, vsr.Message{Kind: vsr.EpochAhead, From: 1, View: vsr.MakeView(1, 0), Members: b.later()}},
		{"an EpochAhead without members", vsr.NoteMalformed, vsr.Message{Kind: vsr.EpochAhead, From: 1, View: vsr.MakeView(1, 0)}},
		{"an EpochAhead without voters", vsr.NoteMalformed, vsr.Message{Kind: vsr.EpochAhead, From: 1, View: vsr.MakeView(1, 0), Members: &vsr.Membership{Epoch: 1}}},
		{"a Reconfigure that cannot be decoded", vsr.NoteConflict, b.prepare(k)},
		{"a change of learners that cannot be decoded", vsr.NoteConflict, b.prepare(learners)},
		{"an entry that does not follow what was applied", vsr.NoteConflict, b.prepare(b.entry(1, 99, vsr.KindUser, "x"))},
		{"an entry without its body", vsr.NoteMalformed, b.prepare(bodiless)},
		{"an entry whose body is shorter than its size", vsr.NoteMalformed, b.prepare(short)},
		{"a Prepare of nothing", vsr.NoteMalformed, vsr.Message{Kind: vsr.Prepare, From: 1}},
		{"a Prepare of op 0", vsr.NoteMalformed, b.prepare(b.entry(0, 1, vsr.KindUser, "x"))},
		{"a Prepare of an absurd op", vsr.NoteMalformed, b.prepare(b.entry(1<<57, 1, vsr.KindUser, "x"))},
		{"a Prepare with an absurd commit", vsr.NoteMalformed, vsr.Message{Kind: vsr.Prepare, From: 1, Commit: 1 << 57, Entries: []vsr.Entry{x}}},
		{"a NewState with a gap", vsr.NoteMalformed, vsr.Message{Kind: vsr.NewState, From: 1, Entries: []vsr.Entry{x, b.entry(3, 1, vsr.KindUser, "z")}}},
		{"a heartbeat that commits more than there is", vsr.NoteMalformed, vsr.Message{Kind: vsr.Commit, From: 1, Op: 1, Commit: 2}},
		{"a heartbeat with an absurd op", vsr.NoteMalformed, vsr.Message{Kind: vsr.Commit, From: 1, Op: 1 << 57, Commit: 1}},
		{"an offer of nothing", vsr.NoteMalformed, vsr.Message{Kind: vsr.SnapshotOffer, From: 1}},
		{"an offer that ends with a Reconfigure and does not know it", vsr.NoteMalformed, vsr.Message{Kind: vsr.SnapshotOffer, From: 1, Op: 3, Snapshot: b.snapshot(vsr.KindConfig, 0)}},
		{"a chunk of no snapshot", vsr.NoteMalformed, vsr.Message{Kind: vsr.Chunk, From: 1, Data: []byte("x")}},
		{"a message of no kind", vsr.NoteMisaddressed, vsr.Message{Kind: 200, From: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := b.replica(t, false)
			b.dropped(t, r, &c.m, c.note)
		})
	}
}

// TestMalformedRecovery: an answer to a replica in memory that says the view of
// one epoch and the members of another.
func TestMalformedRecovery(t *testing.T) {
	b := newBad()
	r := b.replica(t, true)
	nonce := r.Take().Send[0].Nonce
	for from := range vsr.ID(2) {
		v := vsr.MakeView(3, uint64(from))
		m := vsr.Message{Kind: vsr.RecoveryResponse, From: from + 1, View: v, Nonce: nonce, Members: &b.members, Log: &vsr.Log{LogView: v}}
		b.dropped(t, r, &m, vsr.NoteMalformed)
	}
	m := vsr.Message{Kind: vsr.RecoveryResponse, From: 1, Nonce: nonce}
	b.dropped(t, r, &m, vsr.NoteMalformed)
}

// TestBeginningThatChainsToNothing: the headers of a StartView may chain to one
// another and not to what was applied; then their entries are not taken.
func TestBeginningThatChainsToNothing(t *testing.T) {
	b := newBad()
	r := b.replica(t, false)
	x := b.entry(1, 99, vsr.KindUser, "x")
	m := b.startView(b.log(x))
	m.To = 3
	r.Step(&m)
	b.settle(r)
	b.dropped(t, r, &vsr.Message{Kind: vsr.Entries, From: 2, View: 1, Entries: []vsr.Entry{x}}, vsr.NoteConflict)
	r.Step(&vsr.Message{Kind: vsr.Commit, From: 2, To: 3, View: 1, Op: 1, Commit: 1, Seq: 1})
	if applied := r.Where().Applied; applied != 0 {
		t.Errorf("it has applied %d", applied)
	}
}

// TestSnapshotAtReconfigure: one that ends with a Reconfigure and does not know
// it is not used at start either.
func TestSnapshotAtReconfigure(t *testing.T) {
	b := newBad()
	for _, c := range []struct {
		name string
		s    *vsr.Snapshot
		want vsr.Op
	}{
		{"of a user's op", b.snapshot(vsr.KindUser, 0), 3},
		{"of a Reconfigure, in the next epoch", b.snapshot(vsr.KindConfig, 3), 3},
		{"of a Reconfigure, in its own epoch", b.snapshot(vsr.KindConfig, 0), 0},
	} {
		r := b.replica(t, false, *c.s)
		if got := r.Status().Snapshot; got != c.want {
			t.Errorf("a snapshot %s: it starts with snapshot %d", c.name, got)
		}
	}
}

// replica is number 3, which has run before.
func (b bad) replica(t *testing.T, memory bool, snapshots ...vsr.Snapshot) *vsr.Replica {
	t.Helper()
	cfg := vsr.DefaultConfig()
	cfg.ID, cfg.Seed, cfg.Memory = 3, seedOfRoot, memory
	rec := &vsr.Record{Members: b.members}
	if !memory {
		rec.Log = &vsr.Log{First: 1, Intact: true}
	}
	r, err := vsr.New(cfg, vsr.State{Record: rec, Snapshots: snapshots, Incarnation: vsr.Nonce{Hi: 3}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// dropped hands a message over and looks that it is dropped with its note, and
// that the replica is where it was and goes on.
func (b bad) dropped(t *testing.T, r *vsr.Replica, m *vsr.Message, note vsr.Note) {
	t.Helper()
	was, noted := r.Where(), r.Notes()[note]
	m.To = 3
	r.Step(m)
	if got := r.Notes()[note]; got != noted+1 {
		t.Errorf("it is not dropped as %s: %v", note, *r.Notes())
	}
	if is := r.Where(); is != was {
		t.Errorf("it moved from %+v to %+v", was, is)
	}
	for range 8 {
		b.settle(r)
		r.Tick()
	}
}

// settle makes durable what is written.
func (bad) settle(r *vsr.Replica) {
	for out := r.Take(); len(out.Persist) > 0; out = r.Take() {
		r.Persisted(out.Persist[len(out.Persist)-1].Ticket)
	}
}
