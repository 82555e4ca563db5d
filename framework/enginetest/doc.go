// Package enginetest is the Engine contract as a suite that knows no engine.
// An engine passes it by one call in a test of its own:
//
//	func TestConformance(t *testing.T) {
//		enginetest.Run(t, enginetest.Start{Driver: myengine.Driver()})
//	}
//
// Each case makes a cluster of whole groups (engine, applier, the bundled
// key-value machine) over framework.Streams, hurts it, and judges by what
// clients and replicas saw: histories go through porcupine, whole; and every
// cluster, whatever its case is about, is held to the five classic properties
// when it ends (properties.go). Links are cut at the fault seam of Streams, so
// any engine is cut alike.
//
// By default a case runs in a testing/synctest bubble over a network in memory:
// minutes of outages take milliseconds. Real runs it over TCP in real time.
//
// Read cluster.go for the harness, then the cases_ files.
package enginetest

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/diarchy/diarchy/framework"
)

// Start says which engine to test, and how.
type Start struct {
	Driver framework.EngineDriver
	// Options are given to every replica.
	Options map[string]string
	// Real uses TCP and real time, and what a machine hangs for is shortened.
	Real bool
	// Faulty, when not nil, makes a driver whose replicas' disks can be harmed,
	// and gives the disk of the replica that runs on a node. Without it the cases
	// of disks are skipped.
	Faulty func() (framework.EngineDriver, func(framework.NodeID) Disk)
	// Heartbeat and Election are the engine's base timeouts; zero takes its
	// defaults.
	Heartbeat, Election time.Duration
}

// Disk is what an engine writes its log to, as a test may harm it.
type Disk interface {
	// Hang has every write wait until release.
	Hang() (release func())
	// Fail has every write fail from now on, until the replica is started anew.
	Fail()
}

// Run runs every case as a subtest.
func Run(t *testing.T, s Start) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if s.Real {
				t.Parallel() // they mostly wait
				c.run(t, s)
				return
			}
			synctest.Test(t, func(t *testing.T) { c.run(t, s) })
		})
	}
}

// A testCase is run with a cluster of voters that has a leader.
type testCase struct {
	name   string
	voters int
	run_   func(*cluster)
}

func (tc testCase) run(t *testing.T, s Start) {
	c := newCluster(t, s, tc.voters)
	defer c.finish()
	tc.run_(c)
}
