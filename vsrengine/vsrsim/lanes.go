package vsrsim

import "slices"

// Lane is a preset over the swarm: the axes it is for are always on, the others
// seldom.
type Lane string

// lane says what a lane is for.
type lane struct {
	name  Lane
	odds  float64 // of the axes that are not named
	on    []string
	off   []string
	shape func(*Options, *dice)
	needs []string // counters that a batch of seeds must have moved
}

// lanes are all presets.
var lanes = []lane{
	{name: "swarm", odds: 0.3, needs: []string{"Crashes", "Partitions", "Lost", "Held", "ViewsEntered", "Epochs", "Pauses", "Restarts"}},
	{name: "quiet", odds: 0, shape: quiet, needs: []string{"Acked", "Answered"}},
	{name: "net", odds: 0.05, on: []string{"loss", "duplicate", "replay", "capacity", "cuts"}, off: []string{"memory"},
		needs: []string{"Lost", "Duplicated", "Replayed", "Overflowed", "Partitions", "ViewsEntered"}},
	{name: "holds", odds: 0.05, on: []string{"hold", "hold votes", "pause", "cuts"}, off: []string{"memory"}, shape: shortTimeouts,
		needs: []string{"Held", "HeldLate", "HeldVeryLate", "Pauses", "ViewsEntered"}},
	{name: "crash", odds: 0.05, on: []string{"crash", "crash in flight", "crash on view", "burst"}, off: []string{"memory"}, shape: shortTimeouts,
		needs: []string{"Crashes", "CrashesInFlight", "CrashesOnView", "Torn", "ViewsEntered", "Restarts"}},
	{name: "disk", odds: 0.05, on: []string{"rot", "read error", "scrub", "crash", "crash in flight", "snapshot rot"}, off: []string{"memory", "members"}, shape: atLeastThree,
		needs: []string{"Rotten", "Unplaced", "Headless", "ReadErrors", "Scrubbed", "Heals", "RecoveringHead", "Torn", "SnapshotsRotten", "Misdirected"}},
	{name: "power", odds: 0.05, on: []string{"power", "crash in flight", "snapshots"}, off: []string{"memory"},
		needs: []string{"PowerCuts", "Torn", "Restarts"}},
	{name: "oneway", odds: 0.05, on: []string{"cuts", "oneway"}, off: []string{"memory"},
		needs: []string{"Partitions", "OneWayCuts", "ViewsEntered"}},
	{name: "members", odds: 0.1, on: []string{"members", "cuts", "crash"}, off: []string{"memory", "rot", "read error"},
		needs: []string{"Changes", "Epochs", "Promotions", "Removals", "SelfRemovals", "ViewsEntered"}},
	{name: "memory", odds: 0.05, on: []string{"memory", "crash", "hold", "hold votes"}, off: []string{"members", "wipe"}, shape: memoryShape,
		needs: []string{"Recoveries", "Crashes", "ViewsEntered", "HeldLate"}},
	{name: "memory-members", odds: 0.05, on: []string{"memory", "members", "crash", "cuts"}, shape: memoryShape,
		needs: []string{"Recoveries", "Epochs", "Crashes", "Promotions"}},
	{name: "snapshots", odds: 0.05, on: []string{"snapshots", "cuts", "crash", "snapshot rot"}, off: []string{"memory"}, shape: tinyLog,
		needs: []string{"Snapshots", "Installs", "Trims", "Chunks", "SnapshotsRotten"}},
	{name: "reads", odds: 0.05, on: []string{"cuts", "pause", "oneway"}, off: []string{"memory"}, shape: manyReads,
		needs: []string{"Answered", "ReadsRefused", "Pauses", "ViewsEntered"}},
	{name: "handover", odds: 0.05, on: []string{"transfer", "slow disk", "crash"}, off: []string{"memory"}, shape: atLeastThree,
		needs: []string{"Transfers", "HandOvers", "SlowFlushes", "ViewsEntered"}},
	{name: "rotview", odds: 0.05, on: []string{"ambush", "old views", "hold votes"}, off: []string{"memory", "members"}, shape: rotView,
		needs: []string{"Strikes", "StruckRecords", "StruckPairs", "StruckAgain", "OldViews", "GivenBack", "RecoveringHead", "ViewsEntered", "Heals"}},
	{name: "epochs", odds: 0.05, on: []string{"members", "cuts", "hold votes", "crash", "ambush", "old votes"}, off: []string{"memory", "rot", "read error"}, shape: fastEpochs,
		needs: []string{"Epochs", "Changes", "HeldVeryLate", "Strikes", "Promotions", "Removals"}},
	{name: "installs", odds: 0.05, on: []string{"snapshots", "cuts", "crash", "rot", "ambush", "chunk rot"}, off: []string{"memory", "members"}, shape: manyInstalls,
		needs: []string{"Installs", "InstallsInView", "ChunksRotten", "SealsFailed", "Strikes", "Trims"}},
	{name: "memory-ambush", odds: 0.05, on: []string{"memory", "ambush", "hold", "hold votes", "crash"}, off: []string{"members", "wipe"}, shape: memoryShape,
		needs: []string{"Recoveries", "Strikes", "HeldLate", "ViewsEntered"}},
	{name: "memory-lost", odds: 0.05, on: []string{"memory", "crash", "lose"}, off: []string{"members", "wipe"}, shape: memoryShape,
		needs: []string{"LostTooMany", "Recoveries"}},
	{name: "wipe", odds: 0.05, on: []string{"wipe", "members"}, off: []string{"memory"}, shape: atLeastThree,
		needs: []string{"Wiped", "Replaced", "Promotions", "Removals", "Epochs"}},
}

// Lanes are the names of all presets.
func Lanes() []Lane {
	var out []Lane
	for i := range lanes {
		out = append(out, lanes[i].name)
	}
	return out
}

// Known reports whether there is such a lane.
func (l Lane) Known() bool { return slices.Contains(Lanes(), l) }

func (l Lane) spec() *lane {
	for i := range lanes {
		if lanes[i].name == l {
			return &lanes[i]
		}
	}
	return &lanes[0]
}

func (l *lane) override(axis string) (float64, bool) {
	switch {
	case slices.Contains(l.on, axis):
		return 1, true
	case slices.Contains(l.off, axis):
		return 0, true
	}
	return 0, false
}

// axis is one kind of fault, switched on or off as a whole for a run.
type axis struct {
	name  string
	odds  float64 // weight of the lane's odds
	apply func(*Options, *dice)
}

var axes = []axis{
	{"loss", 1, func(o *Options, d *dice) { o.Loss = d.between(0.001, 0.2) }},
	{"duplicate", 1, func(o *Options, d *dice) { o.Duplicate = d.between(0.001, 0.2) }},
	{"replay", 0.7, func(o *Options, d *dice) { o.Replay = d.between(0.001, 0.05) }},
	{"hold", 1, func(o *Options, d *dice) {
		o.Hold, o.HoldTicks = d.between(0.0005, 0.05), uint64(d.within(20, 600))
	}},
	{"hold votes", 0.7, func(o *Options, d *dice) {
		o.HoldVotes, o.HoldTicks = d.between(0.02, 0.4), uint64(d.within(40, 600))
	}},
	{"capacity", 0.5, func(o *Options, d *dice) { o.Capacity = d.within(3, 40) }},
	{"cuts", 1, func(o *Options, d *dice) { o.Cuts, o.CutTicks = d.between(0.002, 0.03), uint64(d.within(5, 200)) }},
	{"oneway", 0.7, func(o *Options, _ *dice) { o.OneWay = true }},
	{"crash", 1, func(o *Options, d *dice) { o.Crash, o.CrashPrimary = d.between(0.001, 0.03), d.unit() }},
	{"crash in flight", 0.7, func(o *Options, d *dice) { o.CrashInFlight = d.between(0.0005, 0.02) }},
	{"crash on view", 0.7, func(o *Options, d *dice) { o.CrashOnView = d.between(0.02, 0.5) }},
	{"burst", 0.7, func(o *Options, d *dice) { o.Burst = d.between(0.1, 0.8) }},
	{"power", 0.5, func(o *Options, d *dice) { o.Power = d.between(0.0005, 0.004) }},
	{"pause", 1, func(o *Options, d *dice) { o.Pause, o.PauseTicks = d.between(0.001, 0.02), uint64(d.within(2, 150)) }},
	{"slow disk", 1, func(o *Options, d *dice) { o.SlowDisk, o.SlowTicks = d.between(0.0005, 0.02), uint64(d.within(1, 400)) }},
	{"rot", 0.7, func(o *Options, d *dice) {
		o.Rot, o.Unplaced, o.Headless, o.Misdirect = d.between(0.002, 0.05), 0.5*d.unit(), 0.7*d.unit(), 0.2*d.unit()
	}},
	{"read error", 0.7, func(o *Options, d *dice) { o.ReadError = d.between(0.001, 0.05) }},
	{"scrub", 0.7, func(o *Options, d *dice) { o.Scrub = d.between(0.01, 0.2) }},
	{"snapshot rot", 0.5, func(o *Options, d *dice) { o.SnapshotRot = d.between(0.0005, 0.01) }},
	{"snapshots", 1, func(o *Options, d *dice) { o.Snapshot = d.between(0.01, 0.3) }},
	{"members", 1, func(o *Options, d *dice) { o.Members = d.between(0.005, 0.08) }},
	{"wipe", 0.4, func(o *Options, d *dice) { o.Wipe = d.between(0.001, 0.01) }},
	{"transfer", 0.7, func(o *Options, d *dice) { o.Transfer = d.between(0.002, 0.03) }},
	{"ambush", 0.5, func(o *Options, d *dice) { o.Ambush, o.Behind = d.between(0.01, 0.2), 0.3*d.unit() }},
	{"old views", 0.5, func(o *Options, d *dice) { o.OldViews = d.between(0.2, 1) }},
	{"old votes", 0.5, func(o *Options, d *dice) { o.OldVotes = d.between(0.05, 1) }},
	{"chunk rot", 0.5, func(o *Options, d *dice) { o.ChunkRot = d.between(0.01, 0.3) }},
	{"lose", 0, func(o *Options, d *dice) { o.Lose = d.between(0.002, 0.02) }},
	{"memory", 0.6, func(o *Options, _ *dice) { o.Memory = true }},
}

// quiet is a healthy network: nothing but commands should happen.
func quiet(o *Options, d *dice) {
	o.DelayMean, o.FlushMean = uint64(d.within(1, 300)), uint64(d.within(1, 300))
	o.SuspectMin, o.Memory = o.Heartbeat+12, d.pick(4) == 0
	o.SuspectMax = o.SuspectMin + 20
}

func shortTimeouts(o *Options, d *dice) {
	if d.pick(2) == 0 {
		o.SuspectMin = o.Heartbeat + d.within(3, 6)
		o.SuspectMax = o.SuspectMin + d.within(0, 4)
		o.ViewChange = d.within(8, 16)
	}
	atLeastThree(o, d)
}

func atLeastThree(o *Options, d *dice) {
	if o.Voters < 3 {
		o.Voters = d.within(3, 5)
	}
}

func memoryShape(o *Options, d *dice) {
	shortTimeouts(o, d)
	o.DownTicks = uint64(d.within(1, 30))
}

func tinyLog(o *Options, d *dice) {
	atLeastThree(o, d)
	o.Snapshot = max(o.Snapshot, 0.1)
	o.Think = uint64(d.within(20, 600))
	o.CutTicks = uint64(d.within(50, 300))
}

func manyReads(o *Options, d *dice) {
	atLeastThree(o, d)
	o.Reads = d.between(0.3, 0.8)
}

// rotView is a small group at a slow pace, so that few records are what counts.
func rotView(o *Options, d *dice) {
	shortTimeouts(o, d)
	o.Voters = [...]int{3, 3, 3, 3, 4, 5, 5, 5}[d.pick(8)]
	o.Pipeline, o.BatchMax = d.within(2, 8), d.within(1, 3)
	o.Clients, o.Think = d.within(1, 4), uint64(d.within(200, 6000))
	o.Events = max(o.Events, d.within(5000, 12000))
	o.LazyDisk = d.pick(4) > 0
	if d.pick(2) == 0 {
		o.Loss = d.between(0.01, 0.2)
	}
}

// fastEpochs is an operator who never waits.
func fastEpochs(o *Options, d *dice) {
	shortTimeouts(o, d)
	o.Voters, o.Members = d.within(3, 5), d.between(0.03, 0.3)
	o.Behind, o.Events = d.between(0.2, 0.8), max(o.Events, d.within(5000, 12000))
}

// manyInstalls is a log that is gone almost at once.
func manyInstalls(o *Options, d *dice) {
	tinyLog(o, d)
	o.Voters = 3 + 2*(d.pick(4)/3)
	o.Snapshot = d.between(0.2, 1)
	o.Pipeline, o.Learners = d.within(1, 8), max(o.Learners, d.pick(2))
	o.Behind, o.Events = d.between(0.2, 0.8), max(o.Events, d.within(5000, 12000))
	o.LagOps, o.PinOps = 1<<d.within(1, 4), 1<<d.within(1, 5)
	o.CutTicks = uint64(d.within(20, 200))
}
