package vsrsim

import "testing"

// BenchmarkEvents measures simulated events a second at 5 replicas with every
// checker on.
func BenchmarkEvents(b *testing.B) {
	for _, lane := range []Lane{"quiet", "net", "crash"} {
		b.Run(string(lane), func(b *testing.B) {
			b.ReportAllocs()
			events, ticks := 0, uint64(0)
			for i := range b.N {
				o := Draw(uint64(i), lane)
				o.Voters, o.Learners, o.Events, o.Memory = 5, 0, 100_000, false
				res := RunWith(uint64(i), lane, o)
				if res.Failure != nil && res.Failure.Kind != "stuck" { // the lanes report that
					b.Fatalf("seed %d: %s", i, res.Failure)
				}
				events += res.Events
				ticks += res.Ticks
			}
			b.ReportMetric(float64(events)/b.Elapsed().Seconds(), "events/s")
			b.ReportMetric(float64(ticks)/100/b.Elapsed().Seconds(), "xrealtime")
		})
	}
}
