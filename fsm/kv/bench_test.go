package kv

import (
	"context"
	"fmt"
	"io"
	"testing"

	"github.com/diarchy/diarchy/fsm"
)

// filled has n keys of 16 bytes with values of 256.
func filled(tb testing.TB, n int) *Machine {
	m := New()
	value := make([]byte, 256)
	results := make([]fsm.Result, 1)
	for i := range n {
		b := fsm.Batch{Entries: []fsm.Entry{{Index: uint64(i + 1), Data: Put(keyOf(i), value, 0)}}}
		if err := m.Apply(context.Background(), b, results); err != nil {
			tb.Fatal(err)
		}
	}
	return m
}

func keyOf(i int) string { return fmt.Sprintf("key%013d", i) }

func batchOf(n, keys int) fsm.Batch {
	value := make([]byte, 256)
	var b fsm.Batch
	for i := range n {
		b.Entries = append(b.Entries, fsm.Entry{Index: uint64(i + 1), Data: Put(keyOf(i*7919%keys), value, 0)})
	}
	return b
}

// A put on an existing key costs its item, its bytes, and its share of the
// batch's answers.
func TestPutAllocations(t *testing.T) {
	m := filled(t, 1000)
	const n = 100
	batch := batchOf(n, 1000)
	results := make([]fsm.Result, n)
	per := testing.AllocsPerRun(10, func() {
		if err := m.Apply(context.Background(), batch, results); err != nil {
			t.Fatal(err)
		}
	}) / n
	if per > 2.1 {
		t.Errorf("a put takes %.2f allocations, want 2 and a share of one", per)
	}
}

// The capture must not grow with the state: it allocates the same.
func TestCaptureAllocations(t *testing.T) {
	capture := func(m *Machine) float64 {
		return testing.AllocsPerRun(10, func() {
			s, err := m.Snapshot(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			s.Release()
		})
	}
	if small, large := capture(filled(t, 10)), capture(filled(t, 20000)); small != large {
		t.Errorf("capture of 10 keys takes %v allocations, of 20,000 %v", small, large)
	}
}

func BenchmarkPut(b *testing.B) {
	for _, size := range []int{1, 64, 512} {
		b.Run(fmt.Sprint("batch", size), func(b *testing.B) {
			const keys = 100_000
			m := filled(b, keys)
			batch := batchOf(size, keys)
			results := make([]fsm.Result, size)
			b.ReportAllocs()
			for b.Loop() {
				if err := m.Apply(context.Background(), batch, results); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*size), "ns/put")
		})
	}
}

func BenchmarkGet(b *testing.B) {
	m := filled(b, 100_000)
	q := fsm.Query{Data: GetQuery(keyOf(777))}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.Query(context.Background(), q); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSnapshot(b *testing.B) {
	m := filled(b, 100_000)
	b.ReportAllocs()
	for b.Loop() {
		s, err := m.Snapshot(context.Background())
		if err != nil {
			b.Fatal(err)
		}
		n, err := s.WriteTo(io.Discard)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(n)
		s.Release()
	}
}
