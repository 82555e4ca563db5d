package vsrsim

import "github.com/diarchy/diarchy/vsrengine/vsr"

// An ambush is several faults aimed at one view change. Each is one that the swarm
// draws alone, within the same fault model; by chance they meet too seldom. There
// are three kinds:
//
//   - alone, together, apart: a primary is cut off with a minority, so that its last
//     ops are of a view that ends without them; then it and whoever leads now are
//     all that hold what comes next; then it dies and comes again at once, its
//     newest records rotten, while the other one is cut off or dies and the rest is
//     back. It may die once more in the view change. Or it is given the lead again,
//     or comes back with its old log when whoever leads now is cut off.
//   - behind, deposed, mute: a backup is cut off until the others have let go of the
//     log that it lacks; then it is left with them without the primary, and not
//     heard while another one would lead.
//   - bygone, adrift: a backup is cut off until an epoch has ended without it, and
//     the new epoch loses its primaries one after the other.
//
// Any stage may be left out, or end because it takes too long.
type plot struct {
	stage  stage
	victim *node
	other  *node  // who led when they were together
	side   uint64 // who was alone with a primary
	wait   int    // ticks that this stage lasts at most
	after  int    // ticks it lasts once it has come to what it is for
	epoch  uint32
	again  bool // the victim dies once more
	pair   bool // it was struck where it hurts most: it dies once more when its vote is on its disk
}

type stage uint8

const (
	noPlot stage = iota
	behind
	deposed
	mute
	bygone
	adrift
	given
	alone
	together
	apart
)

func (w *world) ambush() {
	d, p := w.dPlot, &w.plot
	if p.stage != noPlot {
		return
	}
	lead := w.leader(d)
	if lead == nil {
		return
	}
	w.counts.Ambushes++
	*p = plot{victim: lead}
	if d.pick(3) == 0 {
		if v := w.someVoter(d); v != nil {
			p.victim = v
		}
	}
	switch {
	case d.chance(w.o.Behind):
		if p.other = lead; !w.leaveBehind() {
			return
		}
	case d.pick(2) == 0:
		p.victim = lead
		p.side = w.company(lead, nil, d.pick((w.newest().Voters()+1)/2))
		w.isolate(p.side)
		w.enter(alone, 2*w.o.SuspectMax+2*w.o.ViewChange, d.pick(6))
		if w.o.Snapshot > 0 && d.pick(2) == 0 {
			w.plot.after += d.pick(w.o.SuspectMax) // until what replaced its last ops is in snapshots
		}
	default:
		w.bringTogether()
	}
	w.after(microticks, happening{kind: plotDue})
}

// leaveBehind cuts off a voter that does not lead.
func (w *world) leaveBehind() bool {
	p := &w.plot
	for range 8 {
		if n := w.someVoter(w.dPlot); n != nil {
			p.victim = n
		}
	}
	if p.victim == p.other {
		p.stage = noPlot
		return false
	}
	w.isolate(1 << p.victim.index)
	if w.o.Members > 0 {
		w.enter(bygone, 8*w.o.SuspectMax+8*w.o.ViewChange, 0)
	} else {
		w.enter(behind, 8*w.o.SuspectMax+4*w.o.ViewChange, w.dPlot.pick(8))
	}
	return true
}

func (w *world) enter(s stage, wait, after int) {
	w.plot.stage, w.plot.wait, w.plot.after = s, wait, after
}

func (w *world) someVoter(d *dice) *node {
	if n := w.nodes[d.pick(len(w.nodes))]; n.up && w.votes(n) {
		return n
	}
	return nil
}

// company is one or two nodes and others that are up, so many more.
func (w *world) company(a, b *node, more int) (side uint64) {
	side = 1 << a.index
	if b != nil {
		side |= 1 << b.index
	}
	from := w.dPlot.pick(len(w.nodes))
	for i := range w.nodes {
		n := w.nodes[(from+i)%len(w.nodes)]
		if more > 0 && n.up && side>>n.index&1 == 0 {
			side |= 1 << n.index
			more--
		}
	}
	return side
}

// isolate cuts between a side and the rest. An end of an earlier cut means nothing
// any more.
func (w *world) isolate(side uint64) {
	t := &w.network
	t.cut = [nodesMax]uint64{}
	t.epoch++
	w.plot.epoch = t.epoch
	t.split(side, uint64(1)<<len(w.nodes)-1, false, w.dPlot)
	w.counts.Partitions++
	w.noteCuts()
}

// plotStep looks every tick whether the time has come for the next stage.
func (w *world) plotStep() {
	p := &w.plot
	if w.healing || p.stage == noPlot {
		p.stage = noPlot
		return
	}
	if n := p.victim; p.stage == apart && p.pair && n.up && n.disk.record.Log != nil && n.disk.record.View > n.disk.record.Log.LogView {
		p.pair = false
		w.counts.StruckAgain++
		w.strikeDown(n, false)
	}
	if p.wait--; p.wait <= 0 || w.plotReady() {
		if p.after--; p.wait <= 0 || p.after < 0 {
			w.nextStage()
		}
	}
	if p.stage != noPlot {
		w.after(microticks, happening{kind: plotDue})
	}
}

// plotReady reports whether a stage has come to what it is for.
func (w *world) plotReady() bool {
	p := &w.plot
	switch p.stage {
	case behind:
		return p.other.up && p.victim.up && p.other.r.Status().First > p.victim.where.Head+1
	case given:
		return p.victim.up && p.victim.r.Status().Serving
	case bygone:
		l := w.leader(w.dPlot)
		return l != nil && l.where.View.Epoch() > p.victim.where.View.Epoch()
	case deposed:
		v := p.victim
		if v.up && v.where.Phase == vsr.ViewChange {
			to := w.newest().Primary(v.where.View)
			return to != v.id && to != p.other.id
		}
	case alone:
		l := w.leader(w.dPlot)
		return l != nil && l != p.victim && l.where.View > p.victim.where.View && p.victim.where.Head > p.victim.where.Commit
	case together:
		v, o := p.victim, p.other
		if p.side != 0 && !w.o.Memory && w.doubled(v, v.where.Head) == 0 {
			return false // what it had alone is not replaced yet
		}
		return v.up && o.up && v.where.Phase == vsr.Normal && v.where.View == o.where.View && o.where.Head > o.where.Commit
	}
	return false
}

func (w *world) nextStage() {
	switch w.plot.stage {
	case behind:
		w.isolate(1 << w.plot.other.index)
		w.enter(deposed, 3*w.o.SuspectMax+4*w.o.ViewChange, 0)
	case bygone:
		w.setAdrift()
	case adrift:
		w.isolate(1 << w.plot.victim.index)
		w.enter(bygone, w.o.SuspectMax+4*w.o.ViewChange, 0)
	case deposed:
		w.muffle()
	case mute:
		w.isolate(1 << w.plot.other.index)
		w.enter(apart, 4*w.o.SuspectMax+8*w.o.ViewChange, 0)
	case alone:
		l := w.leader(w.dPlot)
		switch w.dPlot.pick(4) {
		case 0:
			w.giveBack()
		case 1:
			if l != nil && l != w.plot.victim { // it may be the next to lead, with its old log
				w.isolate(1 << l.index)
			}
			w.enter(apart, 2*w.o.SuspectMax+2*w.o.ViewChange, 0)
		default:
			w.bringTogether()
		}
	case given:
		w.enter(apart, w.o.SuspectMax, 0)
		if s := w.plot.side &^ (1 << w.plot.victim.index); s != 0 {
			w.isolate(s)
		}
	case together:
		w.strike()
	default:
		w.plot.stage = noPlot
		w.endCut(w.plot.epoch)
	}
}

func (w *world) bringTogether() {
	d, p := w.dPlot, &w.plot
	lead := w.leader(d)
	for range 3 {
		if lead != nil && lead != p.victim && lead.where.View > p.victim.where.View {
			break
		}
		lead = w.leader(d)
	}
	if lead == nil {
		p.stage = noPlot
		w.endCut(p.epoch)
		return
	}
	p.other = lead
	if p.other == p.victim {
		for _, n := range w.nodes {
			if n != p.victim && n.up && w.votes(n) && (p.other == p.victim || d.pick(2) == 0) {
				p.other = n
			}
		}
	}
	side := w.newest().Voters()/2 + 1 - d.pick(4)/3
	w.isolate(w.company(p.victim, p.other, side-2))
	w.enter(together, 3*w.o.SuspectMax, d.pick(6))
}

// muffle leaves one who is behind with those who have what it lacks in snapshots
// only, and lets nobody hear it: who is ahead cannot lead with its vote.
func (w *world) muffle() {
	p := &w.plot
	w.counts.Muffled++
	w.isolate(1 << p.other.index)
	for _, n := range w.nodes {
		w.network.link(p.victim.index, n.index)
	}
	w.enter(mute, w.dPlot.within(w.o.ViewChange, 5*w.o.ViewChange), 0)
}

// setAdrift takes the primary from a new epoch for a while, as long as its views
// have lower numbers than that of one who has not heard of it: what the others
// want has numbers that this one may mistake.
func (w *world) setAdrift() {
	p := &w.plot
	l := w.leader(w.dPlot)
	if l == nil || !p.victim.up || l.where.View.Counter() >= p.victim.where.View.Counter() {
		w.enter(apart, w.o.SuspectMax, 0)
		return
	}
	w.counts.Adrift++
	w.isolate(1 << p.victim.index)
	w.network.silence(l.index, len(w.nodes), false, w.dPlot)
	w.enter(adrift, w.o.SuspectMax+w.dPlot.within(1, 2*w.o.ViewChange), 0)
}

// strike takes the two apart.
func (w *world) strike() {
	d, p := w.dPlot, &w.plot
	w.counts.Strikes++
	if d.pick(4) == 0 {
		w.giveBack()
		return
	}
	w.enter(apart, d.within(w.o.SuspectMax, 4*w.o.SuspectMax+3*w.o.ViewChange), 0)
	switch d.pick(4) {
	case 0:
		w.network.cut = [nodesMax]uint64{}
		if p.other.up && w.mayStop(p.other) {
			w.kill(p.other, d)
			w.after(w.ticks(1+d.below(uint64(p.wait))), happening{kind: restartDue, node: uint8(p.other.index), life: p.other.life})
		}
	case 1:
		w.isolate(w.company(p.other, nil, d.pick(max(w.newest().Voters()/2, 1))))
	default:
		w.isolate(1 << p.other.index)
	}
	p.again = d.pick(2) == 0
	w.strikeDown(p.victim, d.pick(5) > 0)
}

// strikeDown ends the victim, spoils its newest records and starts it again.
func (w *world) strikeDown(n *node, spoil bool) {
	d := w.dPlot
	if !n.up || !w.mayStop(n) {
		return
	}
	w.kill(n, d)
	if spoil {
		w.spoil(n)
	}
	down := 1 + d.below(microticks)
	if d.pick(2) == 0 {
		down = w.ticks(1 + d.below(8))
	}
	w.after(down, happening{kind: restartDue, node: uint8(n.index), life: n.life})
}

// struckEntered is told when a node enters a view change.
func (w *world) struckEntered(n *node) {
	p := &w.plot
	if p.stage != apart || !p.again || n != p.victim {
		return
	}
	p.again = false
	w.counts.StruckAgain++
	w.after(1+w.dPlot.below(w.ticks(4)), happening{kind: crashDue, node: uint8(n.index), life: n.life, arg: crashAgain})
}

// spoil damages some of the newest records, with a liking for two in a row of which
// the lower has a dead one beside it.
func (w *world) spoil(n *node) {
	d, head := w.dPlot, n.where.Head
	op := head - min(vsr.Op(d.pick(w.o.Pipeline+1)), head)
	how, many := rot(1+d.pick(3)), 1+d.pick(3)
	if x := w.doubled(n, head); x != 0 && d.pick(5) > 0 {
		op, how, many = x, headless, 2
		w.plot.pair, w.plot.again = true, false
		w.counts.StruckPairs++
	}
	for range many {
		if r := n.disk.newest(op); r != nil && r.rot == intact && w.mayDamage(n, r) {
			w.damage(n, r, how)
			w.counts.StruckRecords++
		}
		op++
	}
}

// doubled is an op not far below the head of which the journal holds two records,
// or 0.
func (w *world) doubled(n *node, head vsr.Op) vsr.Op {
	low := head - min(vsr.Op(w.o.Pipeline), head)
	for i := len(n.disk.journal) - 1; i >= 0; i-- {
		r := &n.disk.journal[i]
		if op := r.entry.Op; op >= low && op+1 < head && n.disk.newest(op) != r && n.disk.newest(op).entry.Checksum != r.entry.Checksum {
			return op
		}
	}
	return 0
}

// giveBack hands the lead to the victim, who had it before. Once it leads, those
// who were alone with it then hear nothing of what it does now.
func (w *world) giveBack() {
	p := &w.plot
	w.network.cut = [nodesMax]uint64{}
	w.enter(apart, w.o.SuspectMax, 0)
	l := w.leader(w.dPlot)
	if l == nil || l == p.victim || !p.victim.up {
		return
	}
	if l.r.Transfer(p.victim.id) == nil {
		w.counts.GivenBack++
		w.enter(given, 2*w.o.ViewChange, w.dPlot.pick(2))
	}
	w.obey(l)
}

// remember keeps the last StartViews that were sent to a replica.
func (t *network) remember(to *node, m *vsr.Message) {
	old := t.views[to.index]
	if len(old) == 4 {
		old = old[:copy(old, old[1:])]
	}
	t.views[to.index] = append(old, *m)
}

// votesKept is how many votes a network remembers for each receiver.
const votesKept = 16

// oldVote remembers a vote, and now and then plays those again whose receiver is in
// another epoch by now, or not yet in theirs, in a view of the same number. What a
// cut swallowed may come too: a cut is a delay of unknown length.
func (w *world) oldVote(to *node, m *vsr.Message) {
	if m.Kind != vsr.StartViewChange && m.Kind != vsr.PrepareOK {
		return
	}
	old := w.network.votes[to.index]
	if len(old) == votesKept {
		old = old[:copy(old, old[1:])]
	}
	old = append(old, *m)
	w.network.votes[to.index] = old
	if !w.dPlot.chance(w.o.OldVotes) {
		return
	}
	v := to.where.View
	for i := range old {
		if x := &old[i]; x.View.Counter() == v.Counter() && x.View.Epoch() != v.Epoch() {
			w.counts.OldVotes++
			w.network.ids++
			w.fly(w.node(x.From), to, x, w.network.ids, w.dPlot.below(microticks), true)
		}
	}
}

// oldView plays the beginning of a view again to one who does not know where its log
// ends.
func (w *world) oldView(n *node) {
	old := w.network.views[n.index]
	if w.healing || len(old) == 0 || !w.dPlot.chance(w.o.OldViews) {
		return
	}
	m := &old[w.dPlot.pick(len(old))]
	w.counts.OldViews++
	w.network.ids++
	w.fly(w.node(m.From), n, m, w.network.ids, w.dPlot.below(w.ticks(6)), true)
}
