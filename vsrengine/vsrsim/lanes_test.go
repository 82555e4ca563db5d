package vsrsim

import (
	"os"
	"strconv"
	"testing"
)

// seeds is how many seeds a lane gets: VSRSIM_SEEDS, or what CI has time for.
func seeds(t *testing.T) int {
	if s := os.Getenv("VSRSIM_SEEDS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatalf("VSRSIM_SEEDS: %v", err)
		}
		return n
	}
	if raceEnabled {
		return 12
	}
	return 64
}

// Every lane runs without a failure, and what it is for really happens.
func TestLanes(t *testing.T) {
	for _, lane := range Lanes() {
		if *laneFlag != "" && *laneFlag != string(lane) {
			continue
		}
		t.Run(string(lane), func(t *testing.T) {
			t.Parallel()
			runLane(t, lane, seeds(t))
		})
	}
}

func runLane(t *testing.T, lane Lane, n int) {
	var sum Counters
	events, failed := 0, 0
	for i := range n {
		res := Run(*seedFlag+uint64(i), lane)
		sum.add(&res.Counters)
		events += res.Events
		if res.Failure != nil {
			t.Errorf("lane %s seed %d: %s\n%s", lane, res.Seed, res.Failure, res.Options)
			if failed++; failed == 8 {
				t.Fatal("enough")
			}
		}
	}
	t.Logf("%d seeds, %d events: %s", n, events, sum)
	if raceEnabled && os.Getenv("VSRSIM_SEEDS") == "" {
		return // too few seeds for the rare
	}
	for _, name := range lane.spec().needs {
		if v, ok := sum.get(name); !ok || v == 0 {
			t.Errorf("lane %s: %s never happened in %d seeds", lane, name, n)
		}
	}
	if sum.Excused*20 > uint64(n) {
		t.Errorf("lane %s: %d of %d runs were stuck with an excuse: the atlas allows too much", lane, sum.Excused, n)
	}
}
