package vsrsim

import (
	"fmt"
	"reflect"
	"strings"
)

// Counters say how often what a run is for really happened.
type Counters struct {
	// The network.
	Sent, Delivered, Lost, Blocked, Overflowed, Duplicated, Replayed uint64
	Held, HeldLate, HeldVeryLate                                     uint64 // late: its receiver has moved on by a view, by two
	Partitions, OneWayCuts                                           uint64

	// Processes.
	Crashes, CrashesInFlight, CrashesOnView, PowerCuts, Pauses, Restarts uint64

	// Disks.
	Flushes, SlowFlushes, Torn, Rotten, Headless, Unplaced, Misdirected uint64
	ReadErrors, Scrubbed, Heals, RecoveringHead, QueueMax               uint64
	Snapshots, SnapshotsRotten, Installs, Trims, Chunks, SealsFailed    uint64
	ChunksRotten, InstallsInView                                        uint64

	// Ambushes: how many were laid, and what became of them.
	Ambushes, Strikes, StruckRecords, StruckPairs, StruckAgain, GivenBack uint64
	Muffled, Adrift, OldViews, OldVotes                                   uint64
	LostTooMany                                                           uint64

	// The protocol.
	ViewsEntered, ViewsBegun, Epochs, HandOvers, Recoveries uint64
	Changes, Promotions, Removals, SelfRemovals, Transfers  uint64
	Wiped, Replaced, Retired                                uint64
	Proposed, Committed, Executed, Repeated, Acked          uint64
	ReadsAsked, ReadsRefused, Answered                      uint64
	LeftOut, LiveTicks, Excused                             uint64
}

// add sums up over runs.
func (c *Counters) add(o *Counters) {
	a, b := reflect.ValueOf(c).Elem(), reflect.ValueOf(o).Elem()
	for i := range a.NumField() {
		a.Field(i).SetUint(a.Field(i).Uint() + b.Field(i).Uint())
	}
}

func (c *Counters) get(name string) (uint64, bool) {
	f := reflect.ValueOf(c).Elem().FieldByName(name)
	if !f.IsValid() {
		return 0, false
	}
	return f.Uint(), true
}

// String lists what is not zero.
func (c Counters) String() string {
	var out []string
	v := reflect.ValueOf(c)
	for i := range v.NumField() {
		if n := v.Field(i).Uint(); n > 0 {
			out = append(out, fmt.Sprintf("%s=%d", v.Type().Field(i).Name, n))
		}
	}
	return strings.Join(out, " ")
}
