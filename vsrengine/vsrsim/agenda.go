package vsrsim

// happening is something that will happen. Times are in microticks.
type happening struct {
	at   uint64
	seq  uint64 // order among equals
	kind happens
	node uint8
	life uint32 // of the node: what was meant for an earlier life is lost
	arg  uint32
}

// microticks are the parts of a tick of the replicas' clocks.
const microticks = 1000

type happens uint8

const (
	tickDue happens = iota
	messageDue
	flushDue
	clientDue
	restartDue
	resumeDue
	snapshotDue
	crashDue // aimed at a node
	healDue  // the end of a cut
	plotDue  // a step of an ambush

	// What follows comes again and again at random times.
	cutSometimes
	crashSometimes
	pauseSometimes
	powerSometimes
	rotSometimes
	scrubSometimes
	snapshotSometimes
	operatorSometimes
	ambushSometimes
	loseSometimes
)

// agenda is a heap of values with four children a node.
type agenda struct {
	heap []happening
	seq  uint64
}

func (h *happening) before(o *happening) bool { return h.at < o.at || h.at == o.at && h.seq < o.seq }

func (a *agenda) add(h happening) {
	a.seq++
	h.seq = a.seq
	a.heap = append(a.heap, h)
	i := len(a.heap) - 1
	for i > 0 {
		up := (i - 1) / 4
		if !h.before(&a.heap[up]) {
			break
		}
		a.heap[i] = a.heap[up]
		i = up
	}
	a.heap[i] = h
}

func (a *agenda) next() (happening, bool) {
	n := len(a.heap) - 1
	if n < 0 {
		return happening{}, false
	}
	first, last := a.heap[0], a.heap[n]
	a.heap = a.heap[:n]
	if n == 0 {
		return first, true
	}
	i := 0
	for {
		child := 4*i + 1
		if child >= n {
			break
		}
		least := child
		for c := child + 1; c < min(child+4, n); c++ {
			if a.heap[c].before(&a.heap[least]) {
				least = c
			}
		}
		if !a.heap[least].before(&last) {
			break
		}
		a.heap[i] = a.heap[least]
		i = least
	}
	a.heap[i] = last
	return first, true
}
