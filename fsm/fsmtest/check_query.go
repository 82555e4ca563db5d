package fsmtest

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/diarchy/diarchy/fsm"
)

var errNoQueries = notApplicable("the machine has no queries")

// history is what each query answers after each command, by a machine that is
// asked at rest.
type history struct {
	queries [][]byte
	index   uint64 // what queries are asked with
	time    int64
	answers [][]answer // [commands applied][query]
}

// record applies entries one by one and asks everything after each.
func (r *rig) record(entries []fsm.Entry) (*history, error) {
	s, err := r.start()
	if err != nil {
		return nil, err
	}
	h := &history{queries: r.queries(), time: s.time}
	for applied := 0; ; applied++ {
		row := make([]answer, len(h.queries))
		for i, q := range h.queries {
			a, supported, err := s.ask(q, h.index, h.time)
			if err != nil {
				return nil, err
			}
			if !supported {
				return nil, errNoQueries
			}
			row[i] = answer{value: bytes.Clone(a.value), err: a.err}
		}
		h.answers = append(h.answers, row)
		if applied == len(entries) {
			return h, nil
		}
		if _, err := s.apply(entries[applied : applied+1]); err != nil {
			return nil, err
		}
	}
}

// allows tells whether query i may have this answer when lo to hi commands were
// applied.
func (h *history) allows(i int, a answer, lo, hi int) error {
	for n := lo; n <= hi; n++ {
		if same(h.answers[n][i], a, false) == nil {
			return nil
		}
	}
	return fmt.Errorf("query %s answers %s %s, which it does at rest after none of the commands %d to %d (after %d: %s %s)",
		shown(h.queries[i]), shown(a.value), a.err, lo, hi, lo, shown(h.answers[lo][i].value), h.answers[lo][i].err)
}

func checkQueriesBesideApply(r *rig) error {
	entries := r.load()
	h, err := r.record(entries)
	if err != nil {
		return err
	}
	const rounds = 4
	for range rounds {
		s, err := r.start()
		if err != nil {
			return err
		}
		if err := r.queryBeside(s, h, entries); err != nil {
			return err
		}
		if err := s.close(); err != nil {
			return err
		}
	}
	return nil
}

// queryBeside applies entries in batches while queries are asked, and judges
// each answer by what had been applied before and begun after it.
func (r *rig) queryBeside(s *subject, h *history, entries []fsm.Entry) error {
	var begun, applied, asked atomic.Int64
	var stop atomic.Bool
	var wg sync.WaitGroup
	const askers = 3
	faults := make(chan error, askers)
	for first := range askers {
		wg.Go(func() {
			for i := first; !stop.Load(); i++ {
				q := i % len(h.queries)
				lo := applied.Load()
				a, _, err := s.ask(h.queries[q], h.index, h.time)
				hi := begun.Load()
				if err == nil {
					err = h.allows(q, a, int(lo), int(hi))
				}
				asked.Add(1)
				if err != nil {
					faults <- err
					return
				}
			}
		})
	}
	err := func() error {
		defer wg.Wait()
		defer stop.Store(true)
		deadline := time.Now().Add(r.o.Timeout)
		for _, b := range r.cut(entries, usualBatch) {
			// Let queries in between batches too, or a fast machine sees none.
			for seen := asked.Load(); asked.Load() < seen+askers && len(faults) == 0; runtime.Gosched() {
				if time.Now().After(deadline) {
					return errors.New("queries do not return")
				}
			}
			begun.Add(int64(len(b)))
			if _, err := s.apply(b); err != nil {
				return err
			}
			applied.Add(int64(len(b)))
		}
		return nil
	}()
	select {
	case fault := <-faults:
		return fault
	default:
		return err
	}
}

func checkQueriesChangeNothing(r *rig) error {
	two, err := r.startMany(2)
	if err != nil {
		return err
	}
	quiet, s := two[0], two[1]
	queries := r.queries()
	for i, b := range r.cut(r.load(), usualBatch) {
		if err := sameApply(b, quiet, s); err != nil {
			return fmt.Errorf("with queries asked and without: %w", err)
		}
		for j := range 4 {
			// A day ahead: who judges deadlines by it must not act on them.
			_, supported, err := s.ask(queries[(i+j)%len(queries)], s.index, s.time+24*3600*second)
			if err != nil {
				return err
			}
			if !supported {
				return errNoQueries
			}
		}
	}
	return r.sameLook(quiet, s)
}

func checkClose(r *rig) error {
	s, err := r.start()
	if err != nil {
		return err
	}
	before, _, _ := r.parts()
	if _, err := s.applyAll(r.cut(before, usualBatch)); err != nil {
		return err
	}
	snapshot, err := s.capture()
	if err != nil {
		return err
	}
	gate := newGate()
	defer gate.open()
	var wg sync.WaitGroup
	if snapshot != nil {
		// Whether it can still write all is left open.
		wg.Go(func() { _ = s.write(snapshot, gate) })
	}
	var stop atomic.Bool
	queries := r.queries()
	panics := make(chan error, 3)
	ready := make(chan struct{}, cap(panics))
	for first := range cap(panics) {
		wg.Go(func() {
			for i := first; !stop.Load(); i++ {
				if i == first {
					ready <- struct{}{}
				}
				// An answer or any error will do, so only a panic is looked for.
				_, _, err := s.ask(queries[i%len(queries)], s.index, s.time)
				if p := new(panicError); errors.As(err, &p) {
					panics <- p
					return
				}
			}
		})
	}
	for range cap(ready) {
		<-ready
	}
	stop.Store(true)
	if err := s.close(); err != nil {
		return err
	}
	gate.open()
	return allReturn(r, &wg, panics)
}

func allReturn(r *rig, wg *sync.WaitGroup, panics <-chan error) error {
	ended := make(chan struct{})
	go func() {
		wg.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(r.o.Timeout):
		return errors.New("a Query or WriteTo does not return after Close")
	}
	select {
	case err := <-panics:
		return err
	default:
		return nil
	}
}
