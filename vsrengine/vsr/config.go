package vsr

import (
	"errors"
	"fmt"
)

// Config is what a replica is told at start. Times are in ticks of the owner's
// ticker; ten milliseconds a tick suits a local network.
type Config struct {
	ID   ID
	Seed uint64 // [Seed] of cluster and group

	// Group constants, equal on all replicas (D1).
	Memory        bool // durability = "memory"
	PipelineMax   int  // ops prepared and not committed
	BatchBytesMax int  // bytes of one batch's body

	// Jitter seeds the generator that spreads timeouts.
	Jitter uint64

	HeartbeatTicks  int // between a primary's heartbeats
	SuspectTicksMin int // bounds of the adaptive timeout on the primary
	SuspectTicksMax int
	ResendTicks     int // between copies of anything unanswered
	ViewChangeTicks int // for one view change; doubled with each that fails
	SyncTicksMax    int // age of the primary's oldest unsynced write before it hands over (D13)
	StallTicksMax   int // a started primary that cannot fill a hole for so long hands over (A34)

	RepairBytesMax int // of one answer to a repair request
	ChunkBytes     int // of one snapshot chunk
	ReadsMax       int // reads waiting
	LagOpsMax      int // a candidate further behind the best log forfeits (D9)
	PinOpsMax      int // ops kept for the receiver of a snapshot (D9)

	// Defect puts a published mistake back, to prove that tests find it. Always
	// zero outside of tests.
	Defect Defect
}

// DefaultConfig has every number but ID, Seed and Jitter.
func DefaultConfig() Config {
	return Config{
		PipelineMax: 8, BatchBytesMax: 1 << 20,
		HeartbeatTicks: 2, SuspectTicksMin: 10, SuspectTicksMax: 50, ResendTicks: 4, ViewChangeTicks: 20,
		SyncTicksMax: 100, StallTicksMax: 100,
		RepairBytesMax: 1 << 20, ChunkBytes: 256 << 10, ReadsMax: 1 << 16, LagOpsMax: 1 << 14, PinOpsMax: 1 << 16,
	}
}

func (c *Config) check() error {
	for _, x := range []struct {
		name string
		n    int
	}{
		{"PipelineMax", c.PipelineMax}, {"BatchBytesMax", c.BatchBytesMax}, {"HeartbeatTicks", c.HeartbeatTicks},
		{"SuspectTicksMin", c.SuspectTicksMin - c.HeartbeatTicks}, {"SuspectTicksMax", c.SuspectTicksMax - c.SuspectTicksMin + 1},
		{"ResendTicks", c.ResendTicks}, {"ViewChangeTicks", c.ViewChangeTicks}, {"SyncTicksMax", c.SyncTicksMax},
		{"StallTicksMax", c.StallTicksMax}, {"RepairBytesMax", c.RepairBytesMax}, {"ChunkBytes", c.ChunkBytes},
		{"ReadsMax", c.ReadsMax}, {"LagOpsMax", c.LagOpsMax}, {"PinOpsMax", c.PinOpsMax}, {"ID", int(c.ID)},
	} {
		if x.n <= 0 {
			return fmt.Errorf("vsr: configuration: %s is out of range", x.name)
		}
	}
	return nil
}

// Why a replica does not start. Nothing has been written.
var (
	ErrWiped   = errors.New("vsr: no format mark: this disk is new or was wiped; it cannot vote under its old id, add it as a learner under a new one")
	ErrNoCopy  = errors.New("vsr: a committed entry of a group of one is damaged and there is no other copy")
	ErrRemoved = errors.New("vsr: this replica is not a member of its group any more")
)

// Why a call was refused: in every case it did not happen.
var (
	ErrNotPrimary = errors.New("vsr: not the primary")
	ErrBusy       = errors.New("vsr: as much as may be under way is: try again")
	ErrTooLarge   = errors.New("vsr: the batch is larger than the group's limit")
	ErrChanging   = errors.New("vsr: another change of membership is under way")
	ErrBasedOn    = errors.New("vsr: the membership is not the one the change was based on")
	ErrChange     = errors.New("vsr: the change does not fit the membership")
	ErrBehind     = errors.New("vsr: too few of the voters that stay hold the whole log: what only the removed one has would be lost; try again when they have caught up")
	ErrTarget     = errors.New("vsr: not a voter, or the primary itself")
)

// Defect names a mistake to put back.
type Defect uint8
