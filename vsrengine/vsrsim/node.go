package vsrsim

import (
	"fmt"

	"github.com/diarchy/diarchy/vsrengine/vsr"
)

// node is a process with its disk and its machine.
//
// Invariants: r is nil unless up; paused implies up; gone implies not up, for
// good; what belongs to a life is reset by stop.
type node struct {
	index int
	id    vsr.ID
	r     *vsr.Replica
	disk  disk
	life  uint32 // counts starts and stops
	up    bool
	gone  bool // wiped, or taken away by the operator
	added bool // the operator asked for it as a learner

	machine machine
	queue   []command // to be proposed
	mine    []mine    // proposed here and not yet applied, ascending by op
	reading []reading
	taking  bool // a snapshot is being written
	taken   stored

	paused  bool
	inbox   []uint32   // messages that came while it was paused
	ended   vsr.Ticket // flush that ended while it was paused
	takenIn bool       // a snapshot was done while it was paused

	where vsr.Where // when it was last looked at
	clean bool      // virgin or recovered: in memory mode, it has what it acknowledged
}

// mine is a batch that was proposed here.
type mine struct {
	op  vsr.Op
	sum vsr.Checksum // of the body
}

func (w *world) config(n *node) vsr.Config {
	o := &w.o
	return vsr.Config{
		ID: n.id, Seed: 77, Memory: o.Memory, PipelineMax: o.Pipeline, BatchBytesMax: o.BatchMax * commandBytes,
		Jitter: w.dNode.word(), HeartbeatTicks: o.Heartbeat, SuspectTicksMin: o.SuspectMin, SuspectTicksMax: o.SuspectMax,
		ResendTicks: o.Resend, ViewChangeTicks: o.ViewChange, SyncTicksMax: o.SyncTicks, StallTicksMax: o.StallTicks,
		RepairBytesMax: o.RepairBytes, ChunkBytes: o.ChunkBytes, ReadsMax: o.ReadsMax, LagOpsMax: o.LagOps, PinOpsMax: o.PinOps,
		Defect: o.Defect,
	}
}

// start begins a life of a node.
func (w *world) start(n *node) {
	st := n.disk.state(w.o.Memory, w.slots)
	w.slots = st.Slots
	st.Incarnation = vsr.Nonce{Hi: w.dNode.word(), Lo: w.dNode.word()}
	n.life++
	if n.life > 1 {
		w.counts.Restarts++
	}
	n.up, n.machine, n.where = true, machine{}, vsr.Where{Phase: 0xff}
	n.clean = st.Record == nil || st.Record.Virgin
	if k := len(n.disk.snapshots); k > 0 {
		n.machine.load(n.disk.snapshots[k-1].payload)
	}
	r, err := vsr.New(w.config(n), st)
	if err != nil {
		n.up, n.gone = false, true
		w.note(Event{Kind: Refused, Replica: n.id})
		if err != vsr.ErrRemoved {
			w.fail("start", fmt.Sprintf("replica %d does not start: %v", n.id, err))
		}
		return
	}
	n.r = r
	w.note(Event{Kind: Started, Replica: n.id})
	w.after(w.dNode.below(microticks), happening{kind: tickDue, node: uint8(n.index), life: n.life})
	w.obey(n)
	if w.o.Hello && n.life > 1 {
		w.hello(n)
		w.obey(n)
	}
}

// hello tells a replica what the peers in reach remember of it (D18).
func (w *world) hello(n *node) {
	for _, p := range w.nodes {
		if p != n && p.up && !p.paused && !w.network.isCut(p, n) && !w.network.isCut(n, p) {
			n.r.Confirm(p.r.Witnessed(n.id))
		}
	}
}

// stop ends a life: all that is not on disk is gone, and of the flush under way
// all but the first keep writes.
func (w *world) stop(n *node, keep int) {
	n.disk.crash(keep)
	w.check.record(n.index, n.id, n.disk.record)
	for _, i := range n.inbox {
		w.network.release(i)
	}
	n.life++
	n.r, n.up, n.paused, n.clean = nil, false, false, false
	n.inbox, n.queue, n.mine, n.reading = nil, nil, nil, nil
	n.taking, n.takenIn, n.ended = false, false, 0
	w.note(Event{Kind: Crashed, Replica: n.id})
}

// obey does what a replica wants, in the order of the law, until it wants nothing.
func (w *world) obey(n *node) {
	for range 1000 {
		out := n.r.Take()
		if len(out.Send)+len(out.Persist)+len(out.Promise)+len(out.Apply)+len(out.Reads) == 0 && out.Install == nil {
			w.look(n)
			return
		}
		w.obeyOne(n, out)
		if w.check.violation != nil || w.failure != nil {
			return
		}
	}
	w.fail("endless", fmt.Sprintf("replica %d has output for ever", n.id))
}

func (w *world) obeyOne(n *node, out *vsr.Output) {
	st := n.r.Where()
	for i := range out.Send {
		w.leave(n, &out.Send[i], &st)
	}
	if len(out.Persist) > 0 {
		n.disk.put(out.Persist)
		w.check.waiting(n.id, "writes", len(n.disk.queue))
		w.counts.QueueMax = max(w.counts.QueueMax, uint64(len(n.disk.queue)))
		w.flush(n)
	}
	for i := range out.Promise {
		w.leave(n, &out.Promise[i], &st)
	}
	if out.Install != nil {
		w.install(n, out.Install)
	}
	w.apply(n, out.Apply)
	w.decided(n, out.Reads)
}

// leave checks a message and puts it on its way.
func (w *world) leave(n *node, m *vsr.Message, st *vsr.Where) {
	if m.From != n.id || w.node(m.To) == nil || m.To == n.id {
		w.fail("address", fmt.Sprintf("replica %d sends %s from %d to %d", n.id, m.Kind, m.From, m.To))
		return
	}
	w.check.promise(n.index, m, n.disk.record, &n.disk, &n.where, st, w.o.Memory)
	if m.Kind == vsr.StartView {
		w.check.joined(m, &n.disk.record.Members, w.inView(m.View))
	}
	if m.Kind == vsr.StartView && len(w.check.begun) > int(w.counts.ViewsBegun) {
		w.counts.ViewsBegun = uint64(len(w.check.begun))
	}
	if !w.fill(n, m) {
		return
	}
	w.check.bounds(m)
	w.send(n, m)
}

// inView has a bit for each replica, by ID, whose disk says that it will take part
// in no earlier view than this.
func (w *world) inView(v vsr.View) (set uint64) {
	for _, n := range w.nodes {
		if n.disk.record.View >= v {
			set |= 1 << n.id
		}
	}
	return set
}

// look notices changes of view, phase and configuration.
func (w *world) look(n *node) {
	st := n.r.Where()
	old := n.where
	n.where = st
	w.check.where(n.index, n.id, n.life, &st)
	if st.View == old.View && st.Phase == old.Phase {
		return
	}
	w.note(Event{Kind: InView, Replica: n.id, Phase: st.Phase, View: st.View, Op: st.Head})
	if st.View.Epoch() > old.View.Epoch() && old.Phase != 0xff {
		w.counts.Epochs++
	}
	switch st.Phase {
	case vsr.ViewChange:
		if st.View != old.View || old.Phase != vsr.ViewChange {
			w.counts.ViewsEntered++
			w.viewEntered(n)
		}
	case vsr.Normal:
		n.clean = true
		if old.Phase == vsr.Recovering {
			w.counts.Recoveries++
			if w.newest().Role(n.id) == vsr.Voter { // a learner may have been about to
				w.check.recovered(n.id)
			}
		}
	case vsr.RecoveringHead:
		w.counts.RecoveringHead++
		w.oldView(n)
	case vsr.Retired:
		w.counts.Retired++
	}
}

// flush starts the next flush of a disk.
func (w *world) flush(n *node) {
	if n.ended != 0 || !n.disk.begin() {
		return
	}
	o, d := &w.o, w.dDisk
	t := o.FlushMin + d.spread(o.FlushMean)
	if n.disk.queue[0].Kind == vsr.WriteRecord {
		t *= 2
	}
	w.counts.Flushes++
	if !w.healing {
		if d.chance(o.SlowDisk) {
			t += w.ticks(1 + d.below(o.SlowTicks))
			w.counts.SlowFlushes++
		}
		if d.chance(o.CrashInFlight) {
			w.after(d.below(t+1), happening{kind: crashDue, node: uint8(n.index), life: n.life, arg: crashInFlight})
		}
	}
	w.after(t, happening{kind: flushDue, node: uint8(n.index), life: n.life})
}

// flushDone makes a flush durable; a paused process hears of it later.
func (w *world) flushDone(n *node) {
	last := n.disk.queue[n.disk.flying-1].Kind
	n.disk.sealFailed = false
	t := n.disk.end(n.disk.flying)
	if last == vsr.WriteChunk && !w.healing && w.dSnap.chance(w.o.ChunkRot) {
		n.disk.staged[w.dSnap.pick(len(n.disk.staged))] ^= 1
		w.counts.ChunksRotten++
	}
	switch last {
	case vsr.WriteRecord:
		w.check.record(n.index, n.id, n.disk.record)
		w.learn(&n.disk.record.Members)
	case vsr.WriteHeal:
		w.counts.Heals++
	case vsr.WriteTrim:
		w.counts.Trims++
	}
	if n.paused {
		n.ended = t
		return
	}
	w.flushHeard(n, t)
}

func (w *world) flushHeard(n *node, t vsr.Ticket) {
	if n.disk.sealFailed {
		w.counts.SealsFailed++
		n.disk.sealFailed = false
		n.r.SealFailed()
	}
	n.r.Persisted(t)
	w.note(Event{Kind: Flushed, Replica: n.id, Op: vsr.Op(t)})
	w.obey(n)
	w.flush(n)
	w.pump(n)
}

// apply feeds the machine. A body that cannot be read stops it there: the core
// gives it out again once it is mended.
func (w *world) apply(n *node, entries []vsr.Entry) {
	for i := range entries {
		e := &entries[i]
		if e.Op <= n.machine.op {
			continue // given out again, and executed already
		}
		if e.Body == nil && e.Size > 0 {
			body, ok := w.read(n, e.Op, e.Checksum)
			if !ok {
				n.r.Damaged(e.Op, e.Checksum)
				n.r.Reapply(e.Op)
				break
			}
			e.Body = body
		}
		if w.check.apply(n.id, n.machine.op, e) {
			w.firstApplied(n, e)
		}
		n.machine.apply(e, nil)
		w.check.state(n.id, &n.machine)
		w.acknowledge(n, e)
	}
	w.answer(n)
}

func (w *world) firstApplied(n *node, e *vsr.Entry) {
	w.counts.Committed++
	w.note(Event{Kind: Committed, Replica: n.id, View: e.View, Op: e.Op})
	if e.Kind == vsr.KindConfig || e.Kind == vsr.KindLearners {
		w.configCommitted(e)
	}
	w.check.quorum(e, w.holders(e), w.configs)
}

// holders are the replicas that hold an entry, or must be presumed to have held it.
func (w *world) holders(e *vsr.Entry) (set uint64) {
	for _, n := range w.nodes {
		held := n.gone || n.disk.baseless || n.disk.holds(e.Op, e.Checksum)
		if k := len(n.disk.snapshots); k > 0 && n.disk.snapshots[k-1].meta.Header.Op >= e.Op {
			held = true
		}
		if w.o.Memory && !held {
			held = !n.up || !n.clean
			if !held {
				h, ok := n.r.Held(e.Op)
				held = ok && h.Checksum == e.Checksum
			}
		}
		if held {
			set |= 1 << n.id
		}
	}
	return set
}

// read is the body of an entry, from memory or the journal.
func (w *world) read(n *node, op vsr.Op, sum vsr.Checksum) ([]byte, bool) {
	if body, ok := n.disk.waiting(op, sum); ok {
		return body, true
	}
	r := n.disk.find(op, sum)
	if r == nil {
		w.fail("journal", fmt.Sprintf("replica %d: op %d is said to be in the journal and never was", n.id, op))
		return nil, false
	}
	if r.rot == intact && !w.healing && w.dRot.chance(w.o.ReadError) && w.mayDamage(n, r) {
		w.damage(n, r, bodyless)
		w.counts.ReadErrors++
	}
	if r.rot != intact {
		n.disk.found(r)
		return nil, false
	}
	return r.entry.Body, true
}
