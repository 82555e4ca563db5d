package vsrsim

import "github.com/diarchy/diarchy/vsrengine/vsr"

// world is a whole cluster, its clients and everything that befalls them. It is
// used by one goroutine and depends on nothing but its seed and options.
type world struct {
	o       Options
	now     uint64 // microticks
	agenda  agenda
	events  int
	hash    uint64
	counts  Counters
	check   checker
	failure *Failure
	observe func(*Event)

	// One source of chance for each concern.
	dNet, dHold, dReplay, dCut, dDisk, dRot, dCrash, dPause, dWork, dOps, dNode, dSnap, dLive, dPlot *dice

	nodes   []*node
	network network
	clients []client
	reads   uint64 // tokens given out

	slots []vsr.Slot // what a replica found when it started last

	configs []vsr.Membership // every configuration that a disk was given, by epoch and op
	pending []vsr.Membership // asked for and not yet seen, nor made impossible

	plot     plot
	hopeless bool // more restarted empty than memory mode survives

	healing bool // the second phase
	core    [nodesMax]bool
	still   bool // clients send nothing more
}

// nodesMax bounds the nodes of a run, with all that ever joined.
const nodesMax = 32

func (w *world) init(seed uint64, o Options, observe func(*Event)) {
	*w = world{o: o, observe: observe, hash: 0xcbf29ce484222325}
	for _, d := range []struct {
		to   **dice
		name string
	}{{&w.dNet, "net"}, {&w.dHold, "hold"}, {&w.dReplay, "replay"}, {&w.dCut, "cut"}, {&w.dDisk, "disk"}, {&w.dRot, "rot"}, {&w.dCrash, "crash"},
		{&w.dPause, "pause"}, {&w.dWork, "work"}, {&w.dOps, "operator"}, {&w.dNode, "node"}, {&w.dSnap, "snapshot"}, {&w.dLive, "live"}, {&w.dPlot, "plot"}} {
		*d.to = newDice(seed, d.name)
	}
	w.check.limits = limits{
		entryBytes: max(o.RepairBytes, o.BatchMax*commandBytes), headers: o.Pipeline + 1, chunkBytes: o.ChunkBytes, queue: 50_000,
	}
	members := make([]vsr.Member, 0, o.Voters+o.Learners)
	for i := range o.Voters + o.Learners {
		role := vsr.Voter
		if i >= o.Voters {
			role = vsr.Learner
		}
		members = append(members, vsr.Member{ID: vsr.ID(i + 1), Role: role})
	}
	first := vsr.NewMembership(members...)
	w.configs = []vsr.Membership{first}
	for range members {
		w.addNode(&vsr.Record{Members: first, Virgin: true})
	}
	for _, n := range w.nodes {
		w.start(n)
	}
	w.clients = make([]client, o.Clients)
	for i := range w.clients {
		w.clients[i].target = w.dWork.pick(len(w.nodes))
		w.after(w.dWork.below(o.Think+1), happening{kind: clientDue, arg: uint32(i)})
	}
	w.scheduleFaults()
}

func (w *world) addNode(rec *vsr.Record) *node {
	n := &node{index: len(w.nodes), id: vsr.ID(len(w.nodes) + 1)}
	n.disk.record, n.disk.lazy = rec, w.o.LazyDisk
	w.nodes = append(w.nodes, n)
	return n
}

func (w *world) node(id vsr.ID) *node {
	if id == 0 || int(id) > len(w.nodes) {
		return nil
	}
	return w.nodes[id-1]
}

func (w *world) after(d uint64, h happening) {
	h.at = w.now + d
	w.agenda.add(h)
}

func (w *world) ticks(n uint64) uint64 { return n * microticks }

// run goes on until the budget of events or time is used, or something is wrong.
func (w *world) run(events int, until uint64) {
	for w.events < events && w.failure == nil {
		if len(w.agenda.heap) == 0 || w.agenda.heap[0].at > until {
			return
		}
		h, _ := w.agenda.next()
		w.now = h.at
		w.events++
		w.happen(&h)
		if v := w.check.violation; v != nil {
			w.fail(v.kind, v.what)
		}
	}
}

func (w *world) fail(kind, what string) {
	if w.failure == nil {
		w.failure = &Failure{Kind: kind, What: what, Event: w.events, Tick: w.now / microticks}
		w.note(Event{Kind: Failed})
	}
}

func (w *world) happen(h *happening) {
	switch h.kind {
	case messageDue:
		w.deliver(h.arg)
	case clientDue:
		w.turn(int(h.arg))
	case healDue:
		w.endCut(h.arg)
	case plotDue:
		w.plotStep()
	case tickDue, flushDue, restartDue, resumeDue, snapshotDue, crashDue:
		if n := w.nodes[h.node]; n.life == h.life {
			w.happenAt(n, h)
		}
	default:
		w.sometimes(h.kind)
	}
}

func (w *world) happenAt(n *node, h *happening) {
	if h.kind == restartDue {
		if !n.up && !n.gone && !w.healing {
			w.start(n)
		}
		return
	}
	if !n.up {
		return
	}
	switch h.kind {
	case tickDue:
		w.after(microticks, *h)
		if !n.paused {
			n.r.Tick()
			w.obey(n)
			w.pump(n)
		}
	case flushDue:
		w.flushDone(n)
	case resumeDue:
		w.resume(n)
	case snapshotDue:
		w.snapshotDone(n)
	case crashDue:
		w.aimedCrash(n, h.arg)
	}
}

// newest is the newest configuration that any disk or process knows to be
// committed.
func (w *world) newest() *vsr.Membership { return &w.configs[len(w.configs)-1] }

// learn remembers a configuration that a replica acts on.
func (w *world) learn(m *vsr.Membership) {
	for i := len(w.configs) - 1; i >= 0; i-- {
		c := &w.configs[i]
		if c.Epoch == m.Epoch && c.Op == m.Op {
			if c.Sum != m.Sum && m.Op != 0 {
				w.fail("agreement", "two configurations of one op")
			}
			return
		}
		if c.Epoch < m.Epoch || c.Epoch == m.Epoch && c.Op < m.Op {
			w.configs = append(w.configs, vsr.Membership{})
			copy(w.configs[i+2:], w.configs[i+1:])
			w.configs[i+1] = *m
			w.settle()
			return
		}
	}
}
