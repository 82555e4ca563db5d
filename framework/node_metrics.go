package framework

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// scopedMetrics labels everything that a replica registers with its group, and
// takes it all back when the replica has ended, so that the next one may
// register the same.
type scopedMetrics struct {
	under prometheus.Registerer
	mu    sync.Mutex
	held  []prometheus.Collector
}

func newScopedMetrics(r prometheus.Registerer, group string) *scopedMetrics {
	if r == nil {
		return &scopedMetrics{}
	}
	return &scopedMetrics{under: prometheus.WrapRegistererWith(prometheus.Labels{"group": group}, r)}
}

// registerer is nil where there are no metrics.
func (m *scopedMetrics) registerer() prometheus.Registerer {
	if m.under == nil {
		return nil
	}
	return m
}

// Register implements prometheus.Registerer.
func (m *scopedMetrics) Register(c prometheus.Collector) error {
	if err := m.under.Register(c); err != nil {
		return err
	}
	m.mu.Lock()
	m.held = append(m.held, c)
	m.mu.Unlock()
	return nil
}

// MustRegister implements prometheus.Registerer.
func (m *scopedMetrics) MustRegister(cs ...prometheus.Collector) {
	for _, c := range cs {
		if err := m.Register(c); err != nil {
			panic(err)
		}
	}
}

// Unregister implements prometheus.Registerer.
func (m *scopedMetrics) Unregister(c prometheus.Collector) bool { return m.under.Unregister(c) }

func (m *scopedMetrics) unregister() {
	if m == nil || m.under == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.held {
		m.under.Unregister(c)
	}
	m.held = nil
}
