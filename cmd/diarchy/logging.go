package main

import (
	"context"
	"io"
	"log/slog"
	"time"

	gometrics "github.com/hashicorp/go-metrics"
	gometricsprom "github.com/hashicorp/go-metrics/prometheus"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/diarchy/diarchy/internal/config"
)

// newLogger writes structured lines; level may be changed while it runs.
func newLogger(w io.Writer, c config.Log, level *slog.LevelVar) *slog.Logger {
	level.Set(levelOf(c.Level))
	o := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// levelOf reads a level that config has checked.
func levelOf(s string) slog.Level {
	var l slog.Level
	_ = l.UnmarshalText([]byte(s))
	return l
}

// seriesKept is how long a series of hashicorp's components is shown after its
// last value: those of a group that is gone must go too.
const seriesKept = 10 * time.Minute

// newMetrics makes the node's registry, and leads what raft and memberlist
// report by way of go-metrics, which is global, into it until ctx ends.
func newMetrics(ctx context.Context) (*prometheus.Registry, error) {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	sink, err := gometricsprom.NewPrometheusSinkFrom(gometricsprom.PrometheusOpts{
		Expiration: seriesKept, Registerer: r, Name: "diarchy_hashicorp",
	})
	if err != nil {
		return nil, err
	}
	go sink.RunBackgroundCleanup(ctx)
	c := gometrics.DefaultConfig("")
	c.EnableHostname, c.EnableRuntimeMetrics = false, false
	_, err = gometrics.NewGlobal(c, sink)
	return r, err
}
