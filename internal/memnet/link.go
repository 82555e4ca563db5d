package memnet

import (
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// Quality is what one direction of a link does to what it carries. The zero
// Quality is a perfect link. It takes effect for what is sent from then on.
//
//	             on packets                      on streams
//	Delay        late by it                      late by it
//	Jitter       late by up to it more, at       late by up to it more,
//	             random, so order may change     in order
//	Loss         gone                            late by a retransmission time,
//	                                             doubled at each further loss
//	Duplicate    comes twice                     nothing
//	Reorder      held back by ReorderBy, so      held back by ReorderBy with
//	             later ones overtake it          all that is behind it
type Quality struct {
	Delay, Jitter time.Duration
	// Loss, Duplicate and Reorder are probabilities, 0 to 1.
	Loss, Duplicate, Reorder float64
	// ReorderBy: zero takes 1 ms.
	ReorderBy time.Duration
}

const (
	// retransmitAfter is the first wait of a stream for a lost segment.
	retransmitAfter = 200 * time.Millisecond
	// retransmitsMax bounds how often one segment is lost.
	retransmitsMax = 6
	reorderBy      = time.Millisecond
)

// link is one direction between two hosts.
type link struct {
	state atomic.Pointer[linkState]
	// The rest is guarded by Network.mu.
	rng    *rand.Rand // draws of packets and connection attempts
	opened int        // connections so far
	own    bool       // has a quality of its own
}

type linkState struct {
	Quality
	cut bool
}

func (l *link) isCut() bool { return l.state.Load().cut }

// lateness draws by how much something sent as a stream now is late.
func (l *link) lateness(rng *rand.Rand) time.Duration {
	q := &l.state.Load().Quality
	if *q == (Quality{}) {
		return 0
	}
	d := q.inFlight(rng)
	again := retransmitAfter
	for i := 0; i < retransmitsMax && q.Loss > 0 && rng.Float64() < q.Loss; i++ {
		d += again
		again *= 2
	}
	return d
}

// inFlight draws the time from one end to the other when nothing is lost.
func (q *Quality) inFlight(rng *rand.Rand) time.Duration {
	d := q.Delay
	if q.Jitter > 0 {
		d += time.Duration(rng.Int64N(int64(q.Jitter) + 1))
	}
	if q.Reorder > 0 && rng.Float64() < q.Reorder {
		if q.ReorderBy > 0 {
			return d + q.ReorderBy
		}
		return d + reorderBy
	}
	return d
}

// link finds or makes a link. It needs n.mu.
func (n *Network) link(from, to string) *link {
	p := pair{from, to}
	l := n.links[p]
	if l == nil {
		l = &link{rng: n.newRand(p.String())}
		l.state.Store(&linkState{Quality: n.quality, cut: n.isCut(p)})
		n.links[p] = l
	}
	return l
}

// isCut needs n.mu. A host always reaches itself.
func (n *Network) isCut(p pair) bool {
	return p.from != p.to && (n.cuts[p] || n.isolated[p.from] || n.isolated[p.to])
}

// SetQuality sets one direction of one link.
func (n *Network) SetQuality(from, to string, q Quality) {
	n.change(func() {
		l := n.link(from, to)
		l.own = true
		l.state.Store(&linkState{Quality: q, cut: l.isCut()})
	})
}

// SetQualityAll sets every link, those to come too.
func (n *Network) SetQualityAll(q Quality) {
	n.change(func() {
		n.quality = q
		for _, l := range n.links {
			l.own = false
		}
	})
}

// CutOneWay lets nothing pass from one host to another. Packets vanish; streams
// stall, holding what was written, and go on from there after Heal; nobody is
// told. A connection closed meanwhile ends for its other side at the heal.
func (n *Network) CutOneWay(from, to string) {
	n.change(func() { n.cuts[pair{from, to}] = true })
}

// Cut lets nothing pass between two hosts.
func (n *Network) Cut(a, b string) {
	n.change(func() { n.cut(a, b) })
}

// cut needs n.mu.
func (n *Network) cut(a, b string) { n.cuts[pair{a, b}], n.cuts[pair{b, a}] = true, true }

// Isolate cuts a host off from all others, those to come too.
func (n *Network) Isolate(host string) {
	n.change(func() { n.isolated[host] = true })
}

// Partition cuts every host of a side off from the hosts of the other sides.
// Hosts named on no side reach all: with two sides and one host on none, that
// host is a bridge.
func (n *Network) Partition(sides ...[]string) {
	n.change(func() {
		for i, side := range sides {
			for _, other := range sides[i+1:] {
				for _, a := range side {
					for _, b := range other {
						n.cut(a, b)
					}
				}
			}
		}
	})
}

// HealBetween undoes the cuts between two hosts, not what Isolate did.
func (n *Network) HealBetween(a, b string) {
	n.change(func() {
		delete(n.cuts, pair{a, b})
		delete(n.cuts, pair{b, a})
	})
}

// Heal undoes every cut and isolation. Qualities stay.
func (n *Network) Heal() {
	n.change(func() {
		clear(n.cuts)
		clear(n.isolated)
	})
}

// change edits the links and wakes everything that waits for them.
func (n *Network) change(edit func()) {
	n.mu.Lock()
	edit()
	for p, l := range n.links {
		next := linkState{Quality: l.state.Load().Quality, cut: n.isCut(p)}
		if !l.own {
			next.Quality = n.quality
		}
		l.state.Store(&next)
	}
	close(n.changed)
	n.changed = make(chan struct{})
	streams := make([]*stream, 0, len(n.streams))
	for s := range n.streams {
		streams = append(streams, s)
	}
	n.mu.Unlock()
	for _, s := range streams {
		s.in.wake()
		s.out.wake()
	}
}
