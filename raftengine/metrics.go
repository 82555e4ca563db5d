package raftengine

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metrics"

	"github.com/diarchy/diarchy/framework"
)

// gauges are the engine's numbers, read when they are asked for.
type gauges struct {
	e   *engine
	reg prometheus.Registerer

	term, last, commit, first, snapshot, leads    *prometheus.Desc
	match, contact, installs, restarts, stalls, w *prometheus.Desc
}

// newWALCounters collects raft-wal's numbers, which otherwise go to a
// process-wide sink.
func newWALCounters() *metrics.AtomicCollector {
	return metrics.NewAtomicCollector(wal.MetricDefinitions)
}

func registerGauges(c *framework.EngineConfig, e *engine) (*gauges, error) {
	// The node labels everything of a group with its name.
	labels := prometheus.Labels{"group_id": c.Group.ID.String()}
	desc := func(name, help string, variable ...string) *prometheus.Desc {
		return prometheus.NewDesc("diarchy_raft_"+name, help, variable, labels)
	}
	g := &gauges{
		e: e, reg: c.Metrics,
		term:     desc("term", "The newest term this replica knows."),
		last:     desc("last_position", "The newest entry stored here."),
		commit:   desc("commit_position", "The newest entry known committed."),
		first:    desc("first_position", "The oldest entry kept."),
		snapshot: desc("snapshot_position", "The newest durable snapshot."),
		leads:    desc("leads", "1 on the leader."),
		match:    desc("peer_match_position", "On the leader: the highest position known to be stored at a peer.", "peer"),
		contact:  desc("peer_contact_seconds", "On the leader: when a peer last answered, in Unix seconds.", "peer"),
		installs: desc("snapshots_installed_total", "Snapshots of other replicas installed here."),
		restarts: desc("restarts_total", "Times raft was started anew after a snapshot replaced entries it held on to."),
		stalls:   desc("storage_stalls_total", "Storage calls that did not return in time."),
		w:        desc("wal", "raft-wal's counters, by their names there.", "counter"),
	}
	if err := c.Metrics.Register(g); err != nil {
		return nil, fmt.Errorf("register metrics of group %s: %w", c.Group.Name, err)
	}
	return g, nil
}

// unregister of nil gauges does nothing.
func (g *gauges) unregister() {
	if g != nil {
		g.reg.Unregister(g)
	}
}

// Describe implements prometheus.Collector.
func (g *gauges) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		g.term, g.last, g.commit, g.first, g.snapshot, g.leads, g.match, g.contact, g.installs, g.restarts, g.stalls, g.w,
	} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (g *gauges) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	s := g.e.Status()
	gauge(g.term, float64(s.Term))
	gauge(g.last, float64(s.Last))
	gauge(g.commit, float64(s.Commit))
	gauge(g.first, float64(s.First))
	gauge(g.snapshot, float64(s.Snapshot))
	leads := 0.0
	if s.Role == framework.RoleLeader {
		leads = 1
	}
	gauge(g.leads, leads)
	for _, p := range s.Peers {
		gauge(g.match, float64(p.Match), string(p.Node))
		if !p.Contact.IsZero() {
			gauge(g.contact, float64(p.Contact.UnixNano())/1e9, string(p.Node))
		}
	}
	count(g.installs, g.e.installs.Load())
	count(g.restarts, g.e.restarts.Load())
	count(g.stalls, g.e.store.watch.count())
	for name, v := range g.e.wal.Summary().Counters {
		count(g.w, v, name)
	}
}
