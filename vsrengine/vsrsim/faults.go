package vsrsim

import "github.com/diarchy/diarchy/vsrengine/vsr"

// scheduleFaults puts the first of each kind on the agenda; each puts the next
// there.
func (w *world) scheduleFaults() {
	for k := cutSometimes; k <= loseSometimes; k++ {
		w.again(k)
	}
}

func (w *world) rate(k happens) (float64, *dice) {
	o := &w.o
	switch k {
	case cutSometimes:
		return o.Cuts, w.dCut
	case crashSometimes:
		return o.Crash, w.dCrash
	case pauseSometimes:
		return o.Pause, w.dPause
	case powerSometimes:
		return o.Power, w.dCrash
	case rotSometimes:
		return o.Rot + o.SnapshotRot, w.dRot
	case scrubSometimes:
		return o.Scrub, w.dRot
	case snapshotSometimes:
		return o.Snapshot, w.dSnap
	case ambushSometimes:
		return o.Ambush, w.dPlot
	case loseSometimes:
		return o.Lose, w.dCrash
	}
	return o.Members + o.Wipe + o.Transfer, w.dOps
}

func (w *world) again(k happens) {
	if rate, d := w.rate(k); rate > 0 {
		w.after(1+d.spread(uint64(microticks/rate)), happening{kind: k})
	}
}

// sometimes is a fault whose time has come. In the second phase only what belongs
// to a healthy cluster goes on.
func (w *world) sometimes(k happens) {
	if w.healing && k != snapshotSometimes && k != scrubSometimes {
		return
	}
	switch k {
	case cutSometimes:
		if w.plot.stage != noPlot {
			break // an ambush has cuts of its own
		}
		w.cutNow()
		w.after(w.ticks(1+w.dCut.below(w.o.CutTicks)), happening{kind: healDue, arg: w.network.epoch})
	case crashSometimes:
		w.crashSome()
	case pauseSometimes:
		w.pause()
	case powerSometimes:
		w.powerCut()
	case rotSometimes:
		if w.dRot.unit()*(w.o.Rot+w.o.SnapshotRot) < w.o.Rot {
			w.rot()
		} else {
			w.rotSnapshot()
		}
	case scrubSometimes:
		w.scrub()
	case snapshotSometimes:
		w.takeSnapshot(w.nodes[w.dSnap.pick(len(w.nodes))])
	case operatorSometimes:
		w.operate()
	case ambushSometimes:
		w.ambush()
	case loseSometimes:
		w.loseTooMany()
	}
	w.again(k)
}

// Why a crash is aimed at a node.
const (
	crashInFlight = iota + 1
	crashOnView
	crashBurst
	crashAgain
)

func (w *world) aimedCrash(n *node, why uint32) {
	if w.healing || !w.mayStop(n) {
		return
	}
	switch why {
	case crashInFlight:
		w.counts.CrashesInFlight++
	case crashOnView:
		w.counts.CrashesOnView++
	case crashAgain:
		w.strikeDown(n, w.dPlot.pick(2) == 0)
		return
	}
	w.crash(n)
}

// viewEntered aims a crash at a view change under way.
func (w *world) viewEntered(n *node) {
	w.struckEntered(n)
	if w.healing || !w.dCrash.chance(w.o.CrashOnView) {
		return
	}
	w.after(w.dCrash.below(w.ticks(4)), happening{kind: crashDue, node: uint8(n.index), life: n.life, arg: crashOnView})
}

func (w *world) crashSome() {
	n := w.nodes[w.dCrash.pick(len(w.nodes))]
	if w.dCrash.chance(w.o.CrashPrimary) {
		if p := w.leader(w.dCrash); p != nil {
			n = p
		}
	}
	if n.up && w.mayStop(n) {
		w.crash(n)
	}
}

// leader is a node that believes it leads.
func (w *world) leader(d *dice) *node {
	from := d.pick(len(w.nodes))
	for i := range w.nodes {
		n := w.nodes[(from+i)%len(w.nodes)]
		if n.up && !n.paused && n.r.Status().Serving {
			return n
		}
	}
	return nil
}

// kill ends a process, in the middle of its flush if there is one.
func (w *world) kill(n *node, d *dice) {
	keep := 0
	if k := n.disk.flying; k > 0 {
		keep = d.pick(k + 1)
		if keep < k {
			w.counts.Torn++
		}
	}
	w.counts.Crashes++
	w.stop(n, keep)
}

// crash ends a process; it comes again some time later. Others may follow it.
func (w *world) crash(n *node) {
	d := w.dCrash
	w.kill(n, d)
	down := w.ticks(1 + d.below(w.o.DownTicks+1))
	if d.pick(4) == 0 {
		down = 1 + d.below(microticks)
	}
	w.after(down, happening{kind: restartDue, node: uint8(n.index), life: n.life})
	if d.chance(w.o.Burst) {
		x := w.nodes[d.pick(len(w.nodes))]
		w.after(d.below(w.ticks(6)), happening{kind: crashDue, node: uint8(x.index), life: x.life, arg: crashBurst})
	}
}

// loseTooMany restarts so many voters in memory at once that no quorum is left: from
// then on nobody who is empty may take part again (A5).
func (w *world) loseTooMany() {
	m := w.newest()
	if w.hopeless || len(w.pending) > 0 || !w.settled(m) {
		return
	}
	d, empty := w.dCrash, 0
	from := d.pick(len(m.Members))
	for pass := range 2 { // who is empty already is emptied again first: it may be about to end
		for i := range m.Members {
			n := w.node(m.Members[(from+i)%len(m.Members)].ID)
			if m.Role(n.id) != vsr.Voter || n.gone || n.clean == (pass == 0) || empty > m.Voters()/2 && n.clean && d.pick(2) == 0 {
				continue
			}
			if n.up {
				w.crash(n)
			}
			if !n.disk.record.Virgin { // one that never said a word has nothing to forget
				empty++
			}
		}
	}
	if empty <= m.Voters()/2 {
		return
	}
	w.hopeless = true
	w.counts.LostTooMany++
	w.check.lost = true
}

func (w *world) powerCut() {
	w.counts.PowerCuts++
	for _, n := range w.nodes {
		if n.up {
			w.crash(n)
		}
	}
}

// pause stops a process without ending it: its timers do not run and what comes
// waits.
func (w *world) pause() {
	n := w.nodes[w.dPause.pick(len(w.nodes))]
	if !n.up || n.paused {
		return
	}
	n.paused = true
	w.counts.Pauses++
	w.note(Event{Kind: Paused, Replica: n.id})
	w.after(w.ticks(1+w.dPause.below(w.o.PauseTicks)), happening{kind: resumeDue, node: uint8(n.index), life: n.life})
}

// mayStop keeps memory mode within what it survives: of no configuration that
// may be in force are more than f voters empty at once.
func (w *world) mayStop(n *node) bool {
	return !w.o.Memory || w.tolerates(n, func(m *vsr.Membership, x *node) bool { return w.lost(x) })
}
