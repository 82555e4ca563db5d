package vsrsim

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/diarchy/diarchy/vsrengine/vsr"
)

// Options are what one run is made of. Every run draws its own (swarm testing):
// an axis that is off in many runs lets the others reach further. Rates are per
// tick for the whole cluster; shares are of the thing named.
type Options struct {
	Voters, Learners int
	Memory           bool
	Events           int // of the phase with faults

	// The core's configuration.
	Pipeline, BatchMax                        int // BatchMax is in commands
	Heartbeat, SuspectMin, SuspectMax         int // ticks
	Resend, ViewChange, SyncTicks, StallTicks int
	ChunkBytes, RepairBytes, LagOps, PinOps   int
	ReadsMax                                  int
	Hello                                     bool // peers tell one who restarts what they remember of it (D18)

	// Clients.
	Clients, Window int
	Think           uint64  // microticks between a client's turns
	Reads           float64 // share of turns

	// The network.
	DelayMin, DelayMean uint64  // microticks
	Fifo                bool    // a link keeps its order
	Capacity            int     // messages under way on a link, more are lost; 0 is no limit
	Loss, Duplicate     float64 // shares of messages
	Replay              float64 // share of messages after which an old one comes again
	Hold                float64 // share of messages that come much later
	HoldTicks           uint64
	HoldVotes           float64 // share of the messages of a view change that are held
	Cuts                float64 // rate
	CutTicks            uint64
	OneWay              bool

	// Processes.
	Crash         float64 // rate
	CrashInFlight float64 // share of flushes
	CrashOnView   float64 // share of view changes entered
	CrashPrimary  float64 // share of crashes that are aimed at one who leads
	Burst         float64 // share of crashes that take another along
	DownTicks     uint64
	Power         float64 // rate: everybody at once
	Lose          float64 // rate: in memory mode, more at once than may be
	Pause         float64 // rate
	PauseTicks    uint64

	// Disks.
	FlushMin, FlushMean uint64
	SlowDisk            float64 // share of flushes
	SlowTicks           uint64
	LazyDisk            bool
	Rot                 float64 // rate
	Unplaced, Headless  float64 // shares of rot
	Misdirect           float64
	ReadError           float64 // share of bodies read
	Scrub               float64 // rate
	SnapshotRot         float64 // rate
	Snapshot            float64 // rate
	ChunkRot            float64 // share of flushes of a snapshot being received that are not what they seem

	// Several faults aimed at one view change: see ambush.go.
	Ambush   float64 // rate
	Behind   float64 // share of ambushes that leave a voter behind
	OldViews float64 // share of uncertain heads that are told the beginning of a view that was told before
	OldVotes float64 // share of votes at which those of another epoch are played again

	// Operators.
	Members, Wipe, Transfer float64 // rates

	Defect vsr.Defect
}

// String lists what is not zero, on one line.
func (o Options) String() string { return strings.Join(o.list(), " ") }

// Table lists what is not zero, one a line.
func (o Options) Table() string { return strings.Join(o.list(), "\n") }

func (o Options) list() []string {
	var out []string
	v := reflect.ValueOf(o)
	for i := range v.NumField() {
		f := v.Field(i)
		if f.IsZero() {
			continue
		}
		s := fmt.Sprintf("%v", f.Interface())
		if f.Kind() == reflect.Float64 {
			s = fmt.Sprintf("%.4g", f.Float())
		}
		out = append(out, v.Type().Field(i).Name+"="+s)
	}
	return out
}

// Draw is the options of a seed in a lane.
func Draw(seed uint64, lane Lane) Options {
	o := drawBase(newDice(seed, string(lane)+" base"))
	drawLength(&o, newDice(seed, string(lane)+" length"))
	l := lane.spec()
	for i := range axes {
		a := &axes[i]
		d := newDice(seed, string(lane)+" axis "+a.name)
		odds := l.odds
		if p, ok := l.override(a.name); ok {
			odds = p
		} else if a.odds >= 0 {
			odds *= a.odds
		}
		if d.unit() < odds {
			a.apply(&o, d)
		}
	}
	if l.shape != nil {
		l.shape(&o, newDice(seed, string(lane)+" shape"))
	}
	o.fit()
	return o
}

// drawBase is what every run has.
func drawBase(d *dice) Options {
	o := Options{
		Voters: d.within(1, 7), Learners: max(0, d.within(0, 4)-2),
		Pipeline: d.within(1, 8), BatchMax: d.within(1, 8),
		Heartbeat: d.within(1, 4), Resend: d.within(2, 6), ViewChange: d.within(12, 51),
		ChunkBytes: 32 << d.pick(5), RepairBytes: 64 << d.pick(7),
		LagOps: 1 << d.within(3, 10), PinOps: 1 << d.within(4, 10), ReadsMax: 1 << d.within(0, 6),
		Hello: d.pick(2) == 0, Fifo: d.pick(2) == 0, LazyDisk: d.pick(2) == 0,
		Clients: d.within(1, 6), Window: d.within(1, 8), Think: uint64(d.within(50, 4000)), Reads: d.unit() * 0.3,
		DelayMin: uint64(d.within(1, 200)), DelayMean: uint64(d.within(1, 2000)),
		FlushMin: uint64(d.within(1, 200)), FlushMean: uint64(d.within(1, 2500)),
		DownTicks: uint64(d.within(1, 150)),
	}
	if d.pick(3) > 0 {
		o.Voters = 3 + 2*d.pick(2)
	}
	o.SuspectMin = o.Heartbeat + d.within(5, 16)
	o.SuspectMax = o.SuspectMin + d.pick(30)
	o.SyncTicks = o.ViewChange * d.within(1, 4)
	o.StallTicks = o.ViewChange * d.within(2, 5)
	return o
}

// drawLength: the median run has about 5,000 events, the longest 500,000.
func drawLength(o *Options, d *dice) {
	switch n := d.pick(1000); {
	case n < 4:
		o.Events = d.within(100_000, 500_000)
	case n < 50:
		o.Events = d.within(10_000, 100_000)
	default:
		o.Events = d.within(3000, 7500)
	}
}

// fit takes away what the fault model does not allow together (D21).
func (o *Options) fit() {
	if o.Memory {
		o.Power, o.Rot, o.ReadError, o.SnapshotRot, o.Scrub, o.Misdirect, o.ChunkRot = 0, 0, 0, 0, 0, 0, 0
	} else {
		o.Lose = 0
	}
	if o.Rot > 0 || o.ReadError > 0 || o.SnapshotRot > 0 {
		o.Scrub = max(o.Scrub, 0.05)
	}
	if o.SnapshotRot > 0 || o.ChunkRot > 0 {
		o.Snapshot = max(o.Snapshot, 0.05)
	}
	if o.Wipe > 0 {
		o.Members = max(o.Members, 0.04)
	}
}
