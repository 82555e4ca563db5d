// Package bench compares two ways of having commands executed, in rounds that
// alternate, and starts groups to compare. It judges nothing: it prints medians,
// ranges and the ratio, and whoever reads them knows the machine.
package bench

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
)

// Target executes one command and returns when its result is known. Safe for
// concurrent use.
type Target interface{ Apply(data []byte) error }

// Named is a target and what a table calls it.
type Named struct {
	Name string
	Target
}

// Compare drives two targets in turn (A B B A …) with each number of clients,
// and prints a line for each. BENCH_ROUNDS (5) says how many rounds, BENCH_ROUND
// (1s) how long one is. command makes the bytes of a client's i-th command.
func Compare(b *testing.B, clients []int, x, y Named, command func(client, i int) []byte) {
	rounds, length := envInt(b, "BENCH_ROUNDS", 5), envDuration(b, "BENCH_ROUND", time.Second)
	for _, n := range clients {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			var results [2][]round
			for range b.N { // 1 with -benchtime 1x, which is meant
				for i := range rounds {
					for k := range 2 {
						k = (k + i) % 2
						results[k] = append(results[k], drive(b, []Named{x, y}[k], n, length, command))
					}
				}
			}
			ratio := pairedRatio(results)
			b.ReportMetric(summarize(results[0]).rate, x.Name+"-op/s")
			b.ReportMetric(summarize(results[1]).rate, y.Name+"-op/s")
			b.ReportMetric(ratio, "ratio")
			b.ReportMetric(0, "ns/op")
			b.Logf("%4d clients: %s %s; %s %s; median ratio of a pair of rounds %.3f",
				n, x.Name, summarize(results[0]), y.Name, summarize(results[1]), ratio)
		})
	}
}

type round struct {
	rate float64
	p50  time.Duration
}

// pairedRatio is the median over pairs of rounds that lay next to each other, so
// that a machine whose speed drifts does not decide.
func pairedRatio(results [2][]round) float64 {
	var ratios []float64
	for i := range results[0] {
		ratios = append(ratios, results[1][i].rate/results[0][i].rate)
	}
	slices.Sort(ratios)
	return ratios[len(ratios)/2]
}

type summary struct {
	round
	low, high float64
}

func (s summary) String() string {
	return fmt.Sprintf("%7.0f op/s (%.0f to %.0f), p50 %v", s.rate, s.low, s.high, s.p50.Round(time.Microsecond))
}

func summarize(rs []round) summary {
	rs = slices.Clone(rs)
	slices.SortFunc(rs, func(x, y round) int { return cmp.Compare(x.p50, y.p50) })
	p50 := rs[len(rs)/2].p50
	slices.SortFunc(rs, func(x, y round) int { return cmp.Compare(x.rate, y.rate) })
	return summary{round{rs[len(rs)/2].rate, p50}, rs[0].rate, rs[len(rs)-1].rate}
}

// drive has clients apply one command after the other for a while.
func drive(b *testing.B, t Target, clients int, length time.Duration, command func(client, i int) []byte) round {
	b.Helper()
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		took  []time.Duration
		fails error
	)
	begin := time.Now()
	for c := range clients {
		wg.Go(func() {
			var own []time.Duration
			var err error
			for i := 0; err == nil && time.Since(begin) < length; i++ {
				data := command(c, i)
				t0 := time.Now()
				err = t.Apply(data)
				own = append(own, time.Since(t0))
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, own...)
			fails = errors.Join(fails, err)
		})
	}
	wg.Wait()
	elapsed := time.Since(begin)
	if fails != nil {
		b.Fatal(fails)
	}
	slices.Sort(took)
	return round{rate: float64(len(took)) / elapsed.Seconds(), p50: took[len(took)/2]}
}

func envInt(b *testing.B, name string, otherwise int) int {
	if s := os.Getenv(name); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			b.Fatalf("%s=%q: expected a number", name, s)
		}
		return n
	}
	return otherwise
}

func envDuration(b *testing.B, name string, otherwise time.Duration) time.Duration {
	if s := os.Getenv(name); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil || d <= 0 {
			b.Fatalf("%s=%q: expected a duration", name, s)
		}
		return d
	}
	return otherwise
}
