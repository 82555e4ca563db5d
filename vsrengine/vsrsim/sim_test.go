package vsrsim

import (
	"flag"
	"testing"
)

var (
	laneFlag = flag.String("lane", "", "TestOne, TestLanes: the lane")
	seedFlag = flag.Uint64("seed", 0, "TestOne, TestLanes: the seed, or the first one")
	tailFlag = flag.Int("tail", 400, "TestOne: how many of the last events to print; 0 for all")
)

// TestOne shows one run: go test -run TestOne -lane crash -seed 7 -v
func TestOne(t *testing.T) {
	if *laneFlag == "" {
		t.Skip("no -lane")
	}
	if !Lane(*laneFlag).Known() {
		t.Fatalf("no lane %q: there are %v", *laneFlag, Lanes())
	}
	var events []Event
	res := Run(*seedFlag, Lane(*laneFlag), func(e *Event) { events = append(events, *e) })
	if n := len(events); *tailFlag > 0 && n > *tailFlag {
		events = events[n-*tailFlag:]
	}
	for i := range events {
		t.Log(events[i].String())
	}
	t.Logf("options: %s", res.Options)
	t.Logf("counters: %s", res.Counters)
	t.Logf("%d events, %d ticks, hash %016x", res.Events, res.Ticks, res.Hash)
	if res.Failure != nil {
		t.Fatal(res.Failure)
	}
}
