package fsmtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"

	"github.com/diarchy/diarchy/fsm"
)

// A rig is what one check works with: its machines and its commands.
type rig struct {
	ctx      context.Context
	factory  fsm.Factory
	o        Options
	subjects []*subject
}

// Streams keep the random numbers of one purpose from those of another.
const (
	streamCommands = iota + 1
	streamOther    // commands of a machine with another past
	streamTimes
	streamBatches
	streamQueries
	streamBytes
)

func (r *rig) random(stream uint64) *rand.Rand { return rand.New(rand.NewPCG(r.o.Seed, stream)) }

// start makes and opens a machine.
func (r *rig) start() (*subject, error) { return r.startFrom(r.factory) }

func (r *rig) startFrom(factory fsm.Factory) (*subject, error) {
	s := &subject{rig: r, time: firstTime}
	err := guarded("the factory", func() (err error) {
		s.m, err = factory(r.ctx)
		return err
	})
	if err == nil && s.m == nil {
		err = errors.New("the factory: no machine and no error")
	}
	if err != nil {
		return nil, err
	}
	r.subjects = append(r.subjects, s)
	err = s.call("Open", func(ctx context.Context) (err error) {
		s.opened, err = s.m.Open(ctx)
		return err
	})
	return s, err
}

// startMany makes n machines.
func (r *rig) startMany(n int) ([]*subject, error) {
	var all []*subject
	for range n {
		s, err := r.start()
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

func (r *rig) closeAll() error {
	var first error
	for _, s := range r.subjects {
		if err := s.close(); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// commands returns n of them, after the corpus.
func (r *rig) commands(stream uint64, n int) [][]byte {
	random := r.random(stream)
	all := append([][]byte(nil), r.o.Corpus...)
	for range n {
		if r.o.Command != nil {
			all = append(all, r.o.Command(random))
		} else {
			all = append(all, randomBytes(random, 64))
		}
	}
	return all
}

const (
	firstTime = int64(1_700_000_000_000_000_000)
	second    = int64(1_000_000_000)
)

// entries numbers and dates commands, from those of after on. Some follow in
// the same nanosecond.
func (r *rig) entries(after *subject, commands [][]byte) []fsm.Entry {
	random := r.random(streamTimes<<32 + after.index)
	index, time := after.index, after.time
	all := make([]fsm.Entry, len(commands))
	for i, c := range commands {
		if random.IntN(4) > 0 {
			time += random.Int64N(second)
		}
		index++
		all[i] = fsm.Entry{Index: index, Time: time, Data: c}
	}
	return all
}

// load is the usual entries for a new machine.
func (r *rig) load() []fsm.Entry {
	return r.entries(&subject{time: firstTime}, r.commands(streamCommands, r.o.Commands))
}

// cut makes batches of 1 to most entries.
func (r *rig) cut(entries []fsm.Entry, most int) [][]fsm.Entry {
	random := r.random(streamBatches)
	var batches [][]fsm.Entry
	for len(entries) > 0 {
		n := min(len(entries), 1+random.IntN(most))
		batches = append(batches, entries[:n])
		entries = entries[n:]
	}
	return batches
}

const usualBatch = 32

// queries are those asked in every look at a state.
func (r *rig) queries() [][]byte {
	random := r.random(streamQueries)
	all := append([][]byte(nil), r.o.Queries...)
	const drawn = 8
	for range drawn {
		if r.o.Query != nil {
			all = append(all, r.o.Query(random))
		} else if len(r.o.Queries) == 0 {
			all = append(all, randomBytes(random, 32))
		}
	}
	return all
}

func randomBytes(random *rand.Rand, most int) []byte {
	b := make([]byte, random.IntN(most+1))
	for i := range b {
		b[i] = byte(random.Uint32())
	}
	return b
}

// mutated is b with some of it changed, cut off or doubled.
func mutated(random *rand.Rand, b []byte) []byte {
	b = bytes.Clone(b)
	if len(b) == 0 {
		return randomBytes(random, 8)
	}
	switch random.IntN(4) {
	case 0:
		return b[:random.IntN(len(b))]
	case 1:
		return append(b, b[random.IntN(len(b)):]...)
	default:
		for range 1 + random.IntN(3) {
			b[random.IntN(len(b))] ^= byte(1 << random.IntN(8))
		}
		return b
	}
}

// guarded makes an error of a panic.
func guarded(what string, f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &panicError{what: what, value: p, stack: debug.Stack()}
		}
	}()
	return f()
}

type panicError struct {
	what  string
	value any
	stack []byte
}

func (e *panicError) Error() string {
	return fmt.Sprintf("%s panicked: %v\n%s", e.what, e.value, e.stack)
}
