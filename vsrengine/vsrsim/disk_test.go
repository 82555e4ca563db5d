package vsrsim

import (
	"testing"

	"github.com/diarchy/diarchy/vsrengine/vsr"
)

func write(d *disk, t vsr.Ticket, e vsr.Entry) {
	d.queue = append(d.queue, vsr.Write{Kind: vsr.WriteEntry, Ticket: t, Op: e.Op, Entry: e})
}

// A crash keeps a prefix of the flush under way and nothing behind it.
func TestACrashKeepsAPrefix(t *testing.T) {
	for keep := range 3 {
		var d disk
		for i := range 4 {
			write(&d, vsr.Ticket(i+1), batch(vsr.Op(i+1), 0, 0))
			if i == 1 {
				d.begin()
			}
		}
		d.crash(keep)
		if len(d.journal) != keep || len(d.queue) != 0 {
			t.Fatalf("%d kept: %d in the journal, %d wait", keep, len(d.journal), len(d.queue))
		}
	}
}

// A flush is a run of entries, or one write of another kind.
func TestFlushes(t *testing.T) {
	var d disk
	write(&d, 1, batch(1, 0, 0))
	write(&d, 2, batch(2, 0, 0))
	d.queue = append(d.queue, vsr.Write{Kind: vsr.WriteRecord, Ticket: 3, Record: &vsr.Record{View: 1}})
	write(&d, 4, batch(2, 1, 0))
	for _, want := range []vsr.Ticket{2, 3, 4} {
		if !d.begin() {
			t.Fatal("nothing to flush")
		}
		if got := d.end(d.flying); got != want {
			t.Fatalf("durable up to %d, want %d", got, want)
		}
	}
	if d.newest(2).entry.View != 1 || !d.holds(2, batch(2, 0, 0).Checksum) {
		t.Fatal("the superseded entry is not in the journal, or not behind")
	}
}

// Healing forgets the damage that was seen, and keeps damage that nobody has seen, or
// that was found after it was asked for, and what was superseded.
func TestHealing(t *testing.T) {
	var d disk
	for _, v := range []vsr.View{0, 1} {
		d.append(written{entry: batch(1, v, 0)})
	}
	d.append(written{entry: batch(2, 0, 0), rot: bodyless, known: 1})
	d.append(written{entry: batch(3, 0, 0), rot: bodyless})
	d.append(written{entry: batch(4, 0, 0), rot: bodyless, known: 9})
	d.heal(5)
	if len(d.journal) != 4 || d.newest(2) != nil || d.newest(1).entry.View != 1 || d.newest(3) == nil || d.newest(4) == nil || d.damaged != 2 {
		t.Fatalf("%+v", d.journal)
	}
}

// What a start finds of damage.
func TestStateOfDamage(t *testing.T) {
	d := disk{record: &vsr.Record{}}
	for op, how := range []rot{intact, bodyless, headless, unplaced} {
		d.append(written{entry: batch(vsr.Op(op+1), 0, 0), rot: how})
	}
	st := d.state(false, nil)
	if len(st.Slots) != 3 || !st.Unplaced || st.Slots[0].Damaged || !st.Slots[1].Damaged || st.Slots[1].Checksum == 0 ||
		!st.Slots[2].Damaged || st.Slots[2].Checksum != 0 || st.Slots[2].Op != 3 {
		t.Fatalf("%+v", st)
	}
	if st = d.state(true, nil); st.Record == nil || len(st.Slots) != 0 || st.Unplaced {
		t.Fatalf("memory: %+v", st)
	}
}
