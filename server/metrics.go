package server

import (
	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the server's own. They exist without a registry too.
type metrics struct {
	requests *prometheus.CounterVec
	refused  prometheus.Counter
	calls    *prometheus.CounterVec
	streams  prometheus.Gauge
	cut      prometheus.Counter
	panics   prometheus.Counter
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "diarchy_client_requests_total", Help: "Requests at the client port by route and HTTP status.",
		}, []string{"route", "status"}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "diarchy_client_connections_refused_total", Help: "Connections closed because there were too many.",
		}),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "diarchy_client_stream_calls_total", Help: "Calls on the data path by kind.",
		}, []string{"kind"}),
		streams: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "diarchy_client_streams", Help: "Open data paths.",
		}),
		cut: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "diarchy_client_slow_total", Help: "Clients cut off because they did not read their answers.",
		}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "diarchy_client_panics_total", Help: "Requests that ended in a fault of the server's own.",
		}),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.requests, m.refused, m.calls, m.streams, m.cut, m.panics} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
