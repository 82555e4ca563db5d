package vsr_test

import (
	"fmt"
	"slices"
	"strings"

	"github.com/diarchy/diarchy/vsrengine/vsr"
)

// disk is one replica's simulated disk: what is durable, and the writes that are
// under way and may be lost. Reads see both, as they would through a page cache.
type disk struct {
	record    *vsr.Record
	slots     []slot
	unplaced  bool
	snapshots []image
	trimmed   vsr.Op // ops below it are gone

	pending []vsr.Write
	staged  []byte // the snapshot being received; lost in a crash
}

// slot is one record of the journal.
type slot struct {
	vsr.Entry
	bodyBad, headerBad bool
}

// image is a snapshot with its payload.
type image struct {
	vsr.Snapshot
	payload []byte
	bad     bool
}

func (s *slot) intact() bool { return !s.bodyBad && !s.headerBad }

// state is what a replica finds when it starts from what is durable.
func (d *disk) state(incarnation vsr.Nonce) vsr.State {
	st := vsr.State{Incarnation: incarnation, Unplaced: d.unplaced}
	if d.record != nil {
		st.Record = cloneRecord(d.record)
	}
	for i := range d.slots {
		s := &d.slots[i]
		found := vsr.Slot{Entry: s.Entry, Damaged: !s.intact()}
		if s.headerBad {
			found.Entry = vsr.Entry{Header: vsr.Header{Op: s.Op}}
		}
		// The journal keeps bodies to itself: only a change of membership is
		// read at start.
		if !found.Damaged && s.Kind != vsr.KindConfig && s.Kind != vsr.KindLearners || s.bodyBad {
			found.Body = nil
		}
		st.Slots = append(st.Slots, found)
	}
	for i := range d.snapshots {
		if d.snapshots[i].bad {
			st.SnapshotDamaged = true
		} else {
			st.Snapshots = append(st.Snapshots, d.snapshots[i].Snapshot)
		}
	}
	return st
}

func cloneRecord(r *vsr.Record) *vsr.Record {
	c := *r
	if r.Log != nil {
		l := *r.Log
		l.Headers, l.Claims = slices.Clone(l.Headers), slices.Clone(l.Claims)
		c.Log = &l
	}
	return &c
}

// body reads an entry's body, from what is durable or on its way.
func (d *disk) body(op vsr.Op, sum vsr.Checksum) ([]byte, bool) {
	for i := len(d.pending) - 1; i >= 0; i-- {
		if w := &d.pending[i]; w.Kind == vsr.WriteEntry && w.Entry.Op == op && w.Entry.Checksum == sum {
			return w.Entry.Body, true
		}
	}
	if s := d.find(op, sum); s != nil {
		return s.Body, true
	}
	return nil, false
}

// find is the durable, intact entry with this checksum.
func (d *disk) find(op vsr.Op, sum vsr.Checksum) *slot {
	for i := range d.slots {
		if s := &d.slots[i]; s.Op == op && s.Checksum == sum && s.intact() {
			return s
		}
	}
	return nil
}

// payload is a snapshot's content.
func (d *disk) payload(s *vsr.Snapshot) ([]byte, bool) {
	for i := range d.snapshots {
		if x := &d.snapshots[i]; x.Header.Checksum == s.Header.Checksum && !x.bad {
			return x.payload, true
		}
	}
	return nil, false
}

// snapshotOp is the newest durable snapshot's op.
func (d *disk) snapshotOp() vsr.Op {
	op := vsr.Op(0)
	for i := range d.snapshots {
		op = max(op, d.snapshots[i].Header.Op)
	}
	return op
}

// complete makes the oldest pending write durable. It is false for a snapshot
// whose content does not fit its name.
func (d *disk) complete() (w vsr.Write, sealed bool) {
	w = d.pending[0]
	d.pending = d.pending[1:]
	switch w.Kind {
	case vsr.WriteEntry:
		d.slots = append(d.slots, slot{Entry: w.Entry})
	case vsr.WriteRecord:
		d.record = cloneRecord(w.Record)
	case vsr.WriteChunk:
		d.stage(&w)
	case vsr.WriteSeal:
		return w, d.seal(w.Snapshot)
	case vsr.WriteTrim:
		d.trim(&w)
	case vsr.WriteHeal:
		d.heal()
	}
	return w, true
}

func (d *disk) stage(w *vsr.Write) {
	if w.Offset == 0 {
		d.staged = nil
	}
	if w.Offset > uint64(len(d.staged)) {
		panic(fmt.Sprintf("a chunk at %d leaves a gap after %d", w.Offset, len(d.staged)))
	}
	d.staged = append(d.staged[:w.Offset:w.Offset], w.Data...)
}

func (d *disk) seal(s *vsr.Snapshot) bool {
	payload := d.staged
	d.staged = nil
	if uint64(len(payload)) != s.Size || vsr.BodySum(payload) != s.Sum {
		return false
	}
	d.snapshots = append(d.snapshots, image{Snapshot: *s, payload: payload})
	return true
}

func (d *disk) trim(w *vsr.Write) {
	d.trimmed = max(d.trimmed, w.Op)
	d.slots = slices.DeleteFunc(d.slots, func(s slot) bool { return s.Op < w.Op })
	d.snapshots = slices.DeleteFunc(d.snapshots, func(s image) bool { return w.Snapshot != nil && s.Header.Op < w.Snapshot.Header.Op })
}

// heal drops what is damaged, and of several entries of one op all but the last.
func (d *disk) heal() {
	d.unplaced = false
	d.slots = slices.DeleteFunc(d.slots, func(s slot) bool { return !s.intact() })
}

// crash loses the pending writes but for the first torn of them.
func (d *disk) crash(torn int, memory bool) {
	for ; torn > 0 && len(d.pending) > 0; torn-- {
		d.complete()
	}
	d.pending, d.staged = nil, nil
	if memory {
		d.slots, d.snapshots, d.trimmed, d.unplaced = nil, nil, 0, false
	}
}

// text prints the disk, a line each for the record, the journal, the snapshots
// and what is under way. A "~" marks a damaged body, "~~" one whose header is
// gone too.
func (d *disk) text(ns names) string {
	var b strings.Builder
	fmt.Fprintf(&b, "record %s\n", ns.record(d.record))
	var journal []string
	for i := range d.slots {
		s := &d.slots[i]
		text := ns.of(&s.Header)
		switch {
		case s.headerBad:
			text = fmt.Sprintf("%d:~~", s.Op)
		case s.bodyBad:
			text += "~"
		}
		journal = append(journal, text)
	}
	if d.unplaced {
		journal = append(journal, "~~")
	}
	fmt.Fprintf(&b, "journal [%s]", strings.Join(journal, " "))
	if d.trimmed > 0 {
		fmt.Fprintf(&b, " from %d", d.trimmed)
	}
	b.WriteByte('\n')
	for i := range d.snapshots {
		s := &d.snapshots[i]
		fmt.Fprintf(&b, "snapshot %s %q", ns.snapshot(&s.Snapshot), s.payload)
		if s.bad {
			b.WriteString(" damaged")
		}
		b.WriteByte('\n')
	}
	for i := range d.pending {
		fmt.Fprintf(&b, "pending %d: %s\n", d.pending[i].Ticket, ns.write(&d.pending[i]))
	}
	return b.String()
}
