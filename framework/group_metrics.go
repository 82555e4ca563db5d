package framework

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// groupMetrics are one replica's figures. What the replica knows anyway is read
// when somebody asks; only latency and outcomes are counted as they happen.
type groupMetrics struct {
	latency   prometheus.Histogram
	outcomes  map[Happened]prometheus.Counter
	done      prometheus.Counter
	snapshots prometheus.Counter
	all       []prometheus.Collector
}

func newGroupMetrics() *groupMetrics {
	count := func(name, help string, labels prometheus.Labels) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "diarchy", Name: name, Help: help, ConstLabels: labels})
	}
	proposals := func(outcome string) prometheus.Counter {
		return count("proposals_total", "Commands proposed here, by what became of them.", prometheus.Labels{"outcome": outcome})
	}
	m := &groupMetrics{
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "diarchy", Name: "commit_latency_seconds",
			Help:    "From a command's proposal on this replica to its result.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 18),
		}),
		done:      proposals("done"),
		outcomes:  map[Happened]prometheus.Counter{No: proposals("did_not_happen"), Maybe: proposals("may_have_happened"), Yes: proposals("result_gone")},
		snapshots: count("snapshots_total", "Snapshots this replica has taken.", nil),
	}
	m.all = []prometheus.Collector{m.latency, m.done, m.snapshots, m.outcomes[No], m.outcomes[Maybe], m.outcomes[Yes]}
	return m
}

func (m *groupMetrics) observe(start time.Time, err error) {
	if err != nil {
		m.outcomes[HappenedOf(err)].Inc()
		return
	}
	m.done.Inc()
	m.latency.Observe(time.Since(start).Seconds())
}

// registerMetrics offers the figures; the function returned takes them away again.
func (g *Group) registerMetrics() (func(), error) {
	if g.cfg.Metrics == nil {
		return func() {}, nil
	}
	gauge := func(name, help string, f func(ReplicaStatus) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "diarchy", Name: name, Help: help},
			func() float64 { return f(g.Status()) })
	}
	g.a.metrics.all = append(g.a.metrics.all,
		gauge("applied_number", "Number of the newest command executed here.", func(s ReplicaStatus) float64 { return float64(s.Number) }),
		gauge("apply_backlog_entries", "Committed positions not executed yet.", func(s ReplicaStatus) float64 { return float64(s.Machine.Backlog) }),
		gauge("is_leader", "1 on the leader.", func(s ReplicaStatus) float64 { return float64(boolByte(s.Role == RoleLeader.String())) }),
		gauge("machine_running", "1 while the machine executes commands.", func(s ReplicaStatus) float64 {
			return float64(boolByte(s.Machine.State == phaseRunning.String()))
		}),
		gauge("machine_restarts", "Machines lost since this replica started.", func(s ReplicaStatus) float64 { return float64(s.Machine.Restarts) }),
	)
	r := g.cfg.Metrics
	var errs []error
	for _, c := range g.a.metrics.all {
		errs = append(errs, r.Register(c))
	}
	undo := func() {
		for _, c := range g.a.metrics.all {
			r.Unregister(c)
		}
	}
	if err := errors.Join(errs...); err != nil {
		undo()
		return nil, fmt.Errorf("metrics: %w", err)
	}
	return undo, nil
}
