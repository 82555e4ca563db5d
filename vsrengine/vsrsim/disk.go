package vsrsim

import "github.com/diarchy/diarchy/vsrengine/vsr"

// disk is one replica's: what is durable, and the one ordered stream of writes on
// their way there. It performs one flush at a time: a run of entries, or of chunks,
// together, anything else alone (D8, D21). Everything behind the flush under way
// is lost in a crash; of the flush itself a prefix may survive.
//
// Invariants: the journal is in the order of writing; last[op-base] is one more
// than the index of the last record written of an op; damaged counts the damaged
// records; flying <= len(queue).
type disk struct {
	record    *vsr.Record
	journal   []written
	base      vsr.Op
	last      []int32
	snapshots []stored // oldest first
	staged    []byte   // the snapshot being received

	queue      []vsr.Write
	issued     vsr.Ticket // the last that was put into the queue
	flying     int        // writes at the front of the queue that are in the flush under way
	sealFailed bool

	damaged  int
	baseless bool // the last snapshot rotted, and the log below it is gone
	lazy     bool // what may go stays, as long as a segment would keep it
}

// written is one record of the journal.
type written struct {
	entry vsr.Entry
	rot   rot
	known vsr.Ticket // the journal has seen the damage: one more than the last ticket given out then
}

// rot is how much of a record cannot be read.
type rot uint8

const (
	intact   rot = iota
	bodyless     // the body
	headless     // the header too, but its op is known from where it stands
	unplaced     // nothing at all
)

// stored is a snapshot of a machine.
type stored struct {
	meta    vsr.Snapshot
	payload []byte
	rotten  bool
}

func (d *disk) put(writes []vsr.Write) {
	d.queue = append(d.queue, writes...)
	d.issued = d.queue[len(d.queue)-1].Ticket
}

func (d *disk) begin() bool {
	if d.flying > 0 || len(d.queue) == 0 {
		return false
	}
	d.flying = 1
	kind := d.queue[0].Kind
	if kind != vsr.WriteEntry && kind != vsr.WriteChunk {
		return true
	}
	for d.flying < len(d.queue) && d.queue[d.flying].Kind == kind {
		d.flying++
	}
	return true
}

// end makes the first n writes of the flush durable, drops them from the queue
// and gives the ticket of the last.
func (d *disk) end(n int) vsr.Ticket {
	var t vsr.Ticket
	for i := range n {
		d.do(&d.queue[i])
		t = d.queue[i].Ticket
	}
	rest := copy(d.queue, d.queue[n:])
	clear(d.queue[rest:])
	d.queue = d.queue[:rest]
	d.flying = 0
	return t
}

// crash keeps the first keep writes of the flush under way and nothing behind. A
// torn record after them is dropped by the journal's scan, so it is not modelled.
func (d *disk) crash(keep int) {
	if keep = min(keep, d.flying); keep > 0 {
		d.end(keep)
	}
	clear(d.queue)
	d.queue, d.issued, d.flying, d.staged = d.queue[:0], 0, 0, nil
}

func (d *disk) do(w *vsr.Write) {
	switch w.Kind {
	case vsr.WriteEntry:
		d.append(written{entry: w.Entry})
	case vsr.WriteRecord:
		d.record = w.Record
	case vsr.WriteChunk:
		if w.Offset == 0 {
			d.staged = nil
		}
		d.staged = append(d.staged[:min(w.Offset, uint64(len(d.staged)))], w.Data...)
	case vsr.WriteSeal:
		s := stored{meta: *w.Snapshot, payload: d.staged}
		d.sealFailed = uint64(len(d.staged)) != s.meta.Size || vsr.BodySum(d.staged) != s.meta.Sum
		if !d.sealFailed {
			d.keep(s)
		}
		d.staged = nil
	case vsr.WriteTrim:
		d.trim(w)
	case vsr.WriteHeal:
		d.heal(w.Ticket)
	}
}

func (d *disk) append(r written) {
	op := r.entry.Op
	d.journal = append(d.journal, r)
	if r.rot != intact {
		d.damaged++
	}
	if len(d.last) == 0 {
		d.base = op
	}
	if op < d.base {
		d.last = append(make([]int32, d.base-op, int(d.base-op)+len(d.last)+64), d.last...)
		d.base = op
	}
	for vsr.Op(len(d.last)) <= op-d.base {
		d.last = append(d.last, 0)
	}
	d.last[op-d.base] = int32(len(d.journal))
}

// newest is the last record written of an op.
func (d *disk) newest(op vsr.Op) *written {
	if op < d.base || op-d.base >= vsr.Op(len(d.last)) || d.last[op-d.base] == 0 {
		return nil
	}
	return &d.journal[d.last[op-d.base]-1]
}

// find is the record of an entry, an intact one if there is any.
func (d *disk) find(op vsr.Op, sum vsr.Checksum) *written {
	w := d.newest(op)
	if w == nil || w.entry.Checksum == sum && w.rot == intact {
		return w
	}
	var found *written
	for i := len(d.journal) - 1; i >= 0; i-- {
		w := &d.journal[i]
		if w.entry.Op != op || w.entry.Checksum != sum {
			continue
		}
		if w.rot == intact {
			return w
		}
		if found == nil {
			found = w
		}
	}
	return found
}

// holds reports whether the entry is durable here, readable or not.
func (d *disk) holds(op vsr.Op, sum vsr.Checksum) bool { return d.header(op, sum) != nil }

// copyOf reports whether the entry can be read here.
func (d *disk) copyOf(op vsr.Op, sum vsr.Checksum) bool {
	w := d.find(op, sum)
	return w != nil && w.rot == intact
}

// waiting is the body of an entry that has not left memory yet.
func (d *disk) waiting(op vsr.Op, sum vsr.Checksum) ([]byte, bool) {
	for i := len(d.queue) - 1; i >= 0; i-- {
		if w := &d.queue[i]; w.Kind == vsr.WriteEntry && w.Entry.Op == op && w.Entry.Checksum == sum {
			return w.Entry.Body, true
		}
	}
	return nil, false
}

func (d *disk) keep(s stored) {
	kept := d.snapshots[:0:0]
	for _, old := range d.snapshots {
		if old.meta.Header.Op != s.meta.Header.Op {
			kept = append(kept, old)
		}
	}
	i := len(kept)
	for i > 0 && kept[i-1].meta.Header.Op > s.meta.Header.Op {
		i--
	}
	kept = append(kept, stored{})
	copy(kept[i+1:], kept[i:])
	kept[i] = s
	d.snapshots, d.baseless = kept, false
}

// segment is how many ops go at once when the disk is lazy.
const segment = 16

func (d *disk) trim(w *vsr.Write) {
	op := w.Op
	if d.lazy {
		op -= op % segment
	}
	d.rebuild(func(r *written, _ int) bool { return r.entry.Op >= op })
	kept := d.snapshots[:0:0]
	for _, s := range d.snapshots {
		if w.Snapshot == nil || s.meta.Header.Op >= w.Snapshot.Header.Op {
			kept = append(kept, s)
		}
	}
	d.snapshots = kept
}

// heal drops the damage that the journal knew of when the core asked for it.
// Damage that was found later, or that nobody has seen yet, stays: nothing took its
// place, and an empty slot would say that it was never there. Entries that others
// superseded stay until they are trimmed: a view may have taken one up again.
func (d *disk) heal(asked vsr.Ticket) {
	d.rebuild(func(r *written, _ int) bool { return r.rot == intact || r.known == 0 || r.known > asked })
}

// found is a record that was read: if it is damaged, the journal knows now.
func (d *disk) found(r *written) {
	if r.rot != intact && r.known == 0 {
		r.known = d.issued + 1
	}
}

func (d *disk) rebuild(pass func(*written, int) bool) {
	kept := make([]written, 0, len(d.journal))
	for i := range d.journal {
		if pass(&d.journal[i], i) {
			kept = append(kept, d.journal[i])
		}
	}
	d.journal, d.last, d.damaged = kept[:0], d.last[:0], 0
	for _, r := range kept {
		d.append(r)
	}
}

// bad reports whether anything here cannot be read.
func (d *disk) bad() bool {
	if d.damaged > 0 || d.baseless {
		return true
	}
	for i := range d.snapshots {
		if d.snapshots[i].rotten {
			return true
		}
	}
	return false
}

// state is what a replica finds here when it starts. In memory mode that is the
// stamp alone. It uses the caller's slots, of which nothing is kept.
func (d *disk) state(memory bool, slots []vsr.Slot) vsr.State {
	st := vsr.State{Record: d.record, Slots: slots[:0]}
	if memory {
		*d = disk{record: d.record, lazy: d.lazy}
		return st
	}
	for i := range d.journal {
		r := &d.journal[i]
		r.known = 0
		d.found(r)
		s := vsr.Slot{Entry: vsr.Entry{Header: r.entry.Header}, Damaged: r.rot != intact}
		switch r.rot {
		case intact:
			if r.entry.Kind == vsr.KindConfig || r.entry.Kind == vsr.KindLearners {
				s.Body = r.entry.Body
			}
		case headless:
			s.Header = vsr.Header{Op: r.entry.Op}
		case unplaced:
			st.Unplaced = true
			continue
		}
		st.Slots = append(st.Slots, s)
	}
	kept := d.snapshots[:0:0]
	for _, s := range d.snapshots {
		if !s.rotten {
			st.Snapshots = append(st.Snapshots, s.meta)
			kept = append(kept, s)
		} else {
			st.SnapshotDamaged = true
		}
	}
	d.baseless = d.baseless || len(kept) == 0 && len(d.snapshots) > 0
	d.snapshots = kept
	return st
}

// header is the durable header of an entry, readable or not.
func (d *disk) header(op vsr.Op, sum vsr.Checksum) *vsr.Header {
	w := d.newest(op)
	if w != nil && w.entry.Checksum != sum {
		w = d.find(op, sum)
	}
	if w == nil {
		return nil
	}
	return &w.entry.Header
}
