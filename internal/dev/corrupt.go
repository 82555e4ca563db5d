package dev

import (
	"context"
	"slices"

	"github.com/diarchy/diarchy/fsm"
)

// Corrupt returns a machine that executes every hundredth command with its last
// byte changed: what a replica does whose memory or code is bad. It is there so
// that the check can be seen to find it.
func Corrupt(m fsm.Machine) fsm.Machine { return &corrupt{Machine: m} }

const corruptEvery = 100

type corrupt struct{ fsm.Machine }

func (c *corrupt) Apply(ctx context.Context, b fsm.Batch, results []fsm.Result) error {
	b.Entries = slices.Clone(b.Entries)
	for i, e := range b.Entries {
		if e.Index%corruptEvery == 0 && len(e.Data) > 0 {
			e.Data = slices.Clone(e.Data)
			e.Data[len(e.Data)-1] ^= 1
			b.Entries[i] = e
		}
	}
	return c.Machine.Apply(ctx, b, results)
}
