package discovery

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// Why something from outside was not taken. Label values of
// diarchy_gossip_refused_total.
const (
	refusedMalformed   = "malformed"   // metadata or message that cannot be read
	refusedCluster     = "cluster"     // a node or message of another cluster
	refusedName        = "name"        // a second node of the same name
	refusedID          = "id"          // a second node of the same id
	refusedKey         = "key"         // not encrypted with a key of ours, as memberlist's log tells
	refusedLabel       = "label"       // another label, as memberlist's log tells
	refusedConnections = "connections" // more open connections than are allowed
)

var refusedReasons = []string{refusedMalformed, refusedCluster, refusedName, refusedID, refusedKey, refusedLabel, refusedConnections}

// metrics are the pool's figures. memberlist's own go through go-metrics and
// are bridged where the program is put together.
type metrics struct {
	members  *prometheus.GaugeVec
	joins    prometheus.Counter
	failures prometheus.Counter
	changes  *prometheus.CounterVec
	refused  map[string]prometheus.Counter

	registerer prometheus.Registerer
	registered []prometheus.Collector
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		members: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "diarchy_gossip_members", Help: "Members of the gossip pool as this node sees them, itself included."}, []string{"status"}),
		joins: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "diarchy_gossip_joins_total", Help: "Exchanges with a join address that succeeded."}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "diarchy_gossip_join_failures_total", Help: "Join addresses and sources that failed, each time they were tried."}),
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "diarchy_gossip_member_changes_total", Help: "Members that came, failed or left."}, []string{"to"}),
		refused: map[string]prometheus.Counter{},
	}
	refused := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "diarchy_gossip_refused_total", Help: "Gossip from outside that was not taken, by reason."}, []string{"reason"})
	for _, reason := range refusedReasons {
		m.refused[reason] = refused.WithLabelValues(reason)
	}
	if r == nil {
		return m, nil
	}
	m.registerer = r
	for _, c := range []prometheus.Collector{m.members, m.joins, m.failures, m.changes, refused} {
		if err := r.Register(c); err != nil {
			m.unregister()
			return nil, fmt.Errorf("gossip metrics (several pools need a registerer each, or one wrapped with a label for each): %w", err)
		}
		m.registered = append(m.registered, c)
	}
	return m, nil
}

// unregister lets the next pool of this process use the registerer.
func (m *metrics) unregister() {
	for _, c := range m.registered {
		m.registerer.Unregister(c)
	}
}
