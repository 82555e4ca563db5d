//go:build unix

package plugins_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/diarchy/diarchy/fsm"
	"github.com/diarchy/diarchy/fsm/kv"
)

// batchOf is n puts of 100 bytes to some of 10,000 keys.
func batchOf(n int) fsm.Batch {
	b := fsm.Batch{Time: 1}
	for i := range n {
		b.Entries = append(b.Entries, fsm.Entry{Index: uint64(i + 1), Time: 1, Data: kv.Put(fmt.Sprintf("key%d", i*97%10000), make([]byte, 100), 0)})
	}
	return b
}

// BenchmarkApply compares the bundled machine in this process with the same in
// a plugin process, one batch at a time and with several in flight; the figure
// to read is entries/s.
func BenchmarkApply(b *testing.B) {
	for _, n := range []int{1, 64, 512} {
		batch, results := batchOf(n), make([]fsm.Result, n)
		b.Run(fmt.Sprintf("in-process/%d", n), func(b *testing.B) {
			m := kv.New()
			for b.Loop() {
				if err := m.Apply(context.Background(), batch, results); err != nil {
					b.Fatal(err)
				}
			}
			entriesPerSecond(b, n)
		})
		b.Run(fmt.Sprintf("plugin/%d", n), func(b *testing.B) {
			_, f := factoryOf(b, role(b, "kv"))
			m := open(b, f)
			b.ReportAllocs()
			for b.Loop() {
				if err := m.Apply(context.Background(), batch, results); err != nil {
					b.Fatal(err)
				}
			}
			entriesPerSecond(b, n)
		})
		b.Run(fmt.Sprintf("plugin-in-flight/%d", n), func(b *testing.B) {
			_, f := factoryOf(b, role(b, "kv"))
			m := open(b, f)
			if err := inFlight(m, batch, b.N, 8); err != nil {
				b.Fatal(err)
			}
			entriesPerSecond(b, n)
		})
	}
}

func entriesPerSecond(b *testing.B, n int) {
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
}

// A pipelined machine takes batches ahead of their answers.
type pipelined interface {
	Begin(fsm.Batch) error
	Finish([]fsm.Result) error
}

// inFlight gives m the same batch times over, depth of them ahead.
func inFlight(m fsm.Machine, batch fsm.Batch, times, depth int) error {
	p := m.(pipelined)
	ahead := make(chan struct{}, depth)
	sent := make(chan error, 1)
	go func() {
		for range times {
			ahead <- struct{}{}
			if err := p.Begin(batch); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	results := make([]fsm.Result, len(batch.Entries))
	for range times {
		if err := p.Finish(results); err != nil {
			return err
		}
		<-ahead
	}
	return <-sent
}
