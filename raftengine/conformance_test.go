package raftengine_test

import (
	"testing"
	"time"

	"github.com/diarchy/diarchy/framework/enginetest"
	"github.com/diarchy/diarchy/raftengine"
)

// TestConformance runs the Engine contract's suite on both log stores: in
// bubbles of virtual time over a network in memory, and over TCP in real time.
func TestConformance(t *testing.T) {
	for _, store := range []string{"wal", "boltdb"} {
		options := map[string]string{"log_store": store, "trailing_logs": "1000"}
		t.Run(store, func(t *testing.T) {
			enginetest.Run(t, enginetest.Start{Driver: raftengine.Driver(), Faulty: raftengine.Faulty, Options: options})
		})
	}
	t.Run("tcp", func(t *testing.T) {
		enginetest.Run(t, enginetest.Start{
			Driver: raftengine.Driver(), Faulty: raftengine.Faulty, Options: map[string]string{"trailing_logs": "1000"}, Real: true,
			Heartbeat: 300 * time.Millisecond, Election: 300 * time.Millisecond,
		})
	})
}
