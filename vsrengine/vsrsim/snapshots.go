package vsrsim

import (
	"fmt"

	"github.com/diarchy/diarchy/vsrengine/vsr"
)

// takeSnapshot begins to write the machine's state. Ops go on meanwhile.
func (w *world) takeSnapshot(n *node) {
	if n.taking || n.paused || !n.up {
		return
	}
	meta, ok := n.r.SnapshotAt(n.machine.op)
	if !ok {
		return
	}
	payload := n.machine.save(w.o.Defect != vsr.DefectSessionless)
	meta.Size, meta.Sum = uint64(len(payload)), vsr.BodySum(payload)
	n.taking, n.taken = true, stored{meta: meta, payload: payload}
	w.after(w.o.FlushMin+w.dSnap.spread(3*w.o.FlushMean), happening{kind: snapshotDue, node: uint8(n.index), life: n.life})
}

func (w *world) snapshotDone(n *node) {
	if n.paused {
		n.takenIn = true
		return
	}
	n.taking = false
	w.counts.Snapshots++
	n.disk.keep(n.taken)
	w.note(Event{Kind: Taken, Replica: n.id, Op: n.taken.meta.Header.Op})
	n.r.Snapshotted(n.taken.meta)
	w.obey(n)
}

// fillChunk reads a piece of a snapshot.
func (w *world) fillChunk(n *node, m *vsr.Message) bool {
	for i := range n.disk.snapshots {
		s := &n.disk.snapshots[i]
		if s.meta.Header.Op != m.Snapshot.Header.Op || s.meta.Sum != m.Snapshot.Sum || s.rotten {
			continue
		}
		if m.Seq >= s.meta.Size {
			w.fail("bounds", fmt.Sprintf("replica %d sends a chunk beyond the end of its snapshot", n.id))
			return false
		}
		m.Data = s.payload[m.Seq:min(m.Seq+uint64(w.o.ChunkBytes), s.meta.Size)]
		w.counts.Chunks++
		return true
	}
	w.snapshotLost(n, m.Snapshot.Header.Op)
	return false
}

// snapshotLost tells the core, which takes another one from the live machine.
func (w *world) snapshotLost(n *node, op vsr.Op) {
	kept := n.disk.snapshots[:0:0]
	lost := false
	for _, s := range n.disk.snapshots {
		if s.meta.Header.Op == op && s.rotten {
			lost = true
			continue
		}
		kept = append(kept, s)
	}
	n.disk.baseless = n.disk.baseless || lost && len(kept) == 0
	n.disk.snapshots = kept
	n.r.SnapshotLost(op)
}

// install replaces the machine's state by a received snapshot.
func (w *world) install(n *node, s *vsr.Snapshot) {
	for i := range n.disk.snapshots {
		x := &n.disk.snapshots[i]
		if x.meta.Header.Op != s.Header.Op || x.meta.Sum != s.Sum {
			continue
		}
		if !n.machine.load(x.payload) || n.machine.op != s.Header.Op {
			w.fail("snapshot", fmt.Sprintf("replica %d cannot load the snapshot of op %d", n.id, s.Header.Op))
		}
		w.counts.Installs++
		if n.where.Phase == vsr.ViewChange {
			w.counts.InstallsInView++
		}
		w.note(Event{Kind: Installed, Replica: n.id, Op: s.Header.Op})
		w.check.state(n.id, &n.machine)
		return
	}
	w.fail("snapshot", fmt.Sprintf("replica %d installs the snapshot of op %d, which is not on its disk", n.id, s.Header.Op))
}
