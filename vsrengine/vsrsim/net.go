package vsrsim

import (
	"math/bits"

	"github.com/diarchy/diarchy/vsrengine/vsr"
)

// network is what is under way, and which links are cut.
type network struct {
	flights []flight
	free    []uint32
	ids     uint64

	cut   [nodesMax]uint64 // by sender: a bit for each receiver that is cut off from it
	epoch uint32           // of cuts: an older one's end means nothing
	last  [nodesMax][nodesMax]uint64
	load  [nodesMax][nodesMax]uint16

	old     [64]vsr.Message // some that were sent, to be played again
	oldNext int

	// By receiver: the last of a kind that were sent to it.
	views, votes [nodesMax][]vsr.Message
}

// flight is a message under way.
type flight struct {
	m     vsr.Message
	sent  uint64
	id    uint64
	view  vsr.View // the receiver's, when it was sent
	held  bool
	count bool // it takes room on its link
}

func (t *network) isCut(from, to *node) bool { return t.cut[from.index]>>to.index&1 != 0 }

func (t *network) release(i uint32) {
	t.flights[i] = flight{}
	t.free = append(t.free, i)
}

// send puts a message on its way, or loses it.
func (w *world) send(n *node, m *vsr.Message) {
	t, o, to := &w.network, &w.o, w.node(m.To)
	w.counts.Sent++
	if m.Kind == vsr.HandOver {
		w.counts.HandOvers++
	}
	t.ids++
	id := t.ids
	w.noteMessage(Sent, m, id)
	if o.OldVotes > 0 && !w.healing {
		w.oldVote(to, m)
	}
	if t.isCut(n, to) {
		w.counts.Blocked++
		w.noteMessage(Dropped, m, id)
		return
	}
	if w.healing {
		w.fly(n, to, m, id, w.delay(), false)
		return
	}
	if m.Kind == vsr.StartView && o.OldViews > 0 {
		t.remember(to, m)
	}
	if w.dNet.chance(o.Loss) {
		w.counts.Lost++
		w.noteMessage(Dropped, m, id)
		return
	}
	if o.Capacity > 0 && int(t.load[n.index][to.index]) >= o.Capacity {
		w.counts.Overflowed++
		w.noteMessage(Dropped, m, id)
		return
	}
	if d, held := w.hold(m); held {
		w.counts.Held++
		w.fly(n, to, m, id, d, true)
	} else {
		w.fly(n, to, m, id, w.delay(), false)
	}
	if w.dNet.chance(o.Duplicate) {
		w.counts.Duplicated++
		w.fly(n, to, m, id, w.delay()+w.delay(), true)
	}
	if o.Replay > 0 {
		w.replay(m)
	}
}

// noteMessage is for a message what note is for everything else. What is sent
// needs no place in the hash: what arrives has.
func (w *world) noteMessage(k EventKind, m *vsr.Message, id uint64) {
	if w.observe == nil {
		return
	}
	w.observe(&Event{At: w.now, Kind: k, Replica: m.From, Peer: m.To, Message: m.Kind, View: m.View, Op: m.Op, ID: id})
}

func (w *world) delay() uint64 { return w.o.DelayMin + w.dNet.spread(w.o.DelayMean) }

// hold decides whether a message comes much later, past several views if it is
// one that a view change is made of.
func (w *world) hold(m *vsr.Message) (uint64, bool) {
	p := w.o.Hold
	switch m.Kind {
	case vsr.StartViewChange, vsr.DoViewChange, vsr.Notice, vsr.StartView, vsr.HandOver, vsr.NewState, vsr.PrepareOK, vsr.RecoveryResponse, vsr.Recovery:
		p = max(p, w.o.HoldVotes)
	}
	if !w.dHold.chance(p) {
		return 0, false
	}
	return w.delay() + w.dHold.below(w.ticks(w.o.HoldTicks)), true
}

// replay remembers a message, and now and then sends one again that was sent
// before.
func (w *world) replay(m *vsr.Message) {
	t := &w.network
	if w.dReplay.pick(4) == 0 {
		t.old[t.oldNext] = *m
		t.oldNext = (t.oldNext + 1) % len(t.old)
	}
	if !w.dReplay.chance(w.o.Replay) {
		return
	}
	again := &t.old[w.dReplay.pick(len(t.old))]
	if again.Kind == vsr.KindInvalid {
		return
	}
	from, to := w.node(again.From), w.node(again.To)
	if t.isCut(from, to) {
		return
	}
	w.counts.Replayed++
	t.ids++
	w.fly(from, to, again, t.ids, w.delay(), true)
}

// fly puts a message on the agenda. One that is late for a reason of its own
// does not hold up its link.
func (w *world) fly(from, to *node, m *vsr.Message, id, d uint64, alone bool) {
	t := &w.network
	var i uint32
	if k := len(t.free); k > 0 {
		i = t.free[k-1]
		t.free = t.free[:k-1]
	} else {
		i = uint32(len(t.flights))
		t.flights = append(t.flights, flight{})
	}
	f := &t.flights[i]
	*f = flight{m: *m, sent: w.now, id: id, view: to.where.View, held: alone, count: !alone}
	at := w.now + d
	if !alone {
		t.load[from.index][to.index]++
		if w.o.Fifo {
			at = max(at, t.last[from.index][to.index])
			t.last[from.index][to.index] = at
		}
	}
	w.after(at-w.now, happening{kind: messageDue, arg: i})
}

// fill reads what a message needs from the disk. False: it cannot be read, and
// the message is dropped.
func (w *world) fill(n *node, m *vsr.Message) bool {
	if m.Kind == vsr.Chunk {
		return w.fillChunk(n, m)
	}
	copied := false
	for i := range m.Entries {
		e := &m.Entries[i]
		if e.Body != nil || e.Size == 0 {
			continue
		}
		body, ok := w.read(n, e.Op, e.Checksum)
		if !ok {
			n.r.Damaged(e.Op, e.Checksum)
			return false
		}
		if !copied {
			m.Entries = append([]vsr.Entry(nil), m.Entries...)
			copied = true
		}
		m.Entries[i].Body = body
	}
	return true
}

// deliver is a message's arrival.
func (w *world) deliver(i uint32) {
	f := &w.network.flights[i]
	to := w.node(f.m.To)
	if f.count {
		w.network.load[f.m.From-1][to.index]--
	}
	switch {
	case !to.up || w.healing && w.network.isCut(w.node(f.m.From), to):
		w.network.release(i)
	case to.paused && len(to.inbox) < 4096:
		to.inbox = append(to.inbox, i)
	case to.paused:
		w.network.release(i)
	default:
		w.arrive(to, i)
	}
}

// arrive gives a message to its receiver.
func (w *world) arrive(n *node, i uint32) {
	f := w.network.flights[i]
	w.network.release(i)
	w.counts.Delivered++
	if f.held {
		switch now := n.where.View; {
		case now > f.view+1:
			w.counts.HeldVeryLate++
			fallthrough
		case now > f.view:
			w.counts.HeldLate++
		}
	}
	m := &f.m
	w.mix(uint64(m.Kind)<<56 | uint64(m.From)<<48 | uint64(m.To)<<40 | f.id&0xffffffff)
	w.mix(uint64(m.View)<<24 ^ uint64(m.Op))
	if w.observe != nil {
		w.observe(&Event{At: w.now, Kind: Arrived, Replica: m.To, Peer: m.From, Message: m.Kind, View: m.View, Op: m.Op, ID: f.id, SentAt: f.sent})
	}
	n.r.Step(m)
	w.obey(n)
	w.pump(n)
}

// resume lets a paused process go on: everything that came meanwhile is there.
func (w *world) resume(n *node) {
	if !n.paused {
		return
	}
	n.paused = false
	w.note(Event{Kind: Resumed, Replica: n.id})
	if t := n.ended; t != 0 {
		n.ended = 0
		w.flushHeard(n, t)
	}
	if n.takenIn {
		n.takenIn = false
		w.snapshotDone(n)
	}
	inbox := n.inbox
	n.inbox = nil
	for _, i := range inbox {
		if w.failure != nil || w.check.violation != nil || !n.up {
			return
		}
		w.arrive(n, i)
	}
}

// cutNow draws a partition: one alone, two sides, a ring or some links only, one
// that is deaf or mute, one that leads and hears nobody.
func (w *world) cutNow() {
	t, d, k := &w.network, w.dCut, len(w.nodes)
	w.counts.Partitions++
	t.cut = [nodesMax]uint64{}
	t.epoch++
	all := uint64(1)<<k - 1
	oneway := w.o.OneWay && d.pick(2) == 0
	switch d.pick(6) {
	case 0:
		t.split(1<<d.pick(k), all, oneway, d)
	case 1:
		t.split(d.below(1<<k), all, oneway, d)
	case 2: // partial connectivity: single links
		for range 1 + d.pick(k) {
			a, b := d.pick(k), d.pick(k)
			t.link(a, b)
			if !oneway {
				t.link(b, a)
			}
		}
	case 3: // everybody through one
		hub := d.pick(k)
		for a := range k {
			if a != hub {
				t.cut[a] = all &^ (1<<hub | 1<<a)
			}
		}
	case 4: // deaf or mute
		t.silence(d.pick(k), k, w.o.OneWay, d)
	case 5:
		victim := d.pick(k)
		if p := w.leader(d); p != nil {
			victim = p.index
		}
		t.silence(victim, k, w.o.OneWay, d)
	}
	if oneway || w.o.OneWay && t.asymmetric(k) {
		w.counts.OneWayCuts++
	}
	w.noteCuts()
}

func (w *world) noteCuts() {
	for a, n := range w.nodes {
		for s := w.network.cut[a]; s != 0; s &= s - 1 {
			w.note(Event{Kind: Cut, Replica: n.id, Peer: vsr.ID(bits.TrailingZeros64(s) + 1)})
		}
	}
}

func (t *network) link(a, b int) {
	if a != b {
		t.cut[a] |= 1 << b
	}
}

// split cuts between two sides, or from one to the other only.
func (t *network) split(side, all uint64, oneway bool, d *dice) {
	flip := d.pick(2) == 0
	for a := 0; all>>a != 0; a++ {
		in := side>>a&1 != 0
		if oneway && in == flip {
			continue
		}
		if in {
			t.cut[a] |= all &^ side
		} else {
			t.cut[a] |= side
		}
	}
}

// silence cuts one off: both ways, or it is deaf, or mute.
func (t *network) silence(a, k int, oneway bool, d *dice) {
	how := 0
	if oneway {
		how = 1 + d.pick(2)
	}
	for b := range k {
		if how != 1 {
			t.link(a, b)
		}
		if how != 2 {
			t.link(b, a)
		}
	}
}

func (t *network) asymmetric(k int) bool {
	for a := range k {
		for b := range k {
			if t.cut[a]>>b&1 != t.cut[b]>>a&1 {
				return true
			}
		}
	}
	return false
}

// endCut lets every link work again, if no other cut has come meanwhile.
func (w *world) endCut(epoch uint32) {
	if epoch == w.network.epoch && !w.healing {
		w.network.cut = [nodesMax]uint64{}
		w.note(Event{Kind: Joined})
	}
}
