package vsrsim

import (
	"hash/fnv"
	"math"
	"math/bits"
	"math/rand/v2"
)

// dice is one source of chance. Every concern has its own, derived from the seed
// and its name, so that a new one leaves the schedules of old seeds as they are.
type dice struct{ pcg rand.PCG }

func newDice(seed uint64, name string) *dice {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	return &dice{*rand.NewPCG(seed, h.Sum64())}
}

func (d *dice) word() uint64 { return d.pcg.Uint64() }

// below is a number in [0, n).
func (d *dice) below(n uint64) uint64 {
	hi, _ := bits.Mul64(d.pcg.Uint64(), n)
	return hi
}

// pick is an index in [0, n).
func (d *dice) pick(n int) int { return int(d.below(uint64(n))) }

// within is a number in [lo, hi].
func (d *dice) within(lo, hi int) int { return lo + d.pick(hi-lo+1) }

func (d *dice) unit() float64 { return float64(d.pcg.Uint64()>>11) / (1 << 53) }

func (d *dice) between(lo, hi float64) float64 { return lo + (hi-lo)*d.unit() }

// chance draws only if there is something to decide.
func (d *dice) chance(p float64) bool { return p > 0 && d.unit() < p }

// spread is an exponential variate of this mean, from a table of quantiles.
func (d *dice) spread(mean uint64) uint64 { return uint64(quantiles[d.below(1024)] * float64(mean)) }

var quantiles = func() (q [1024]float64) {
	for i := range q {
		q[i] = -math.Log(1 - (float64(i)+0.5)/1024)
	}
	return q
}()
