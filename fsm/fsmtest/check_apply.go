package fsmtest

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/diarchy/diarchy/fsm"
)

func checkOpen(r *rig) error {
	two, err := r.startMany(2)
	if err != nil {
		return err
	}
	a, b := two[0].opened, two[1].opened
	if a.Host != nil || b.Host != nil {
		return errors.New("a new machine returns Host bytes: the factory must make empty ones")
	}
	if a.Name != b.Name || a.Version != b.Version || a.Capabilities != b.Capabilities {
		return fmt.Errorf("one says %+v, the other %+v", a, b)
	}
	return nil
}

func checkDeterministic(r *rig) error {
	two, err := r.startMany(2)
	if err != nil {
		return err
	}
	batches := r.cut(r.load(), usualBatch)
	for i, b := range batches {
		if err := sameApply(b, two[0], two[1]); err != nil {
			return err
		}
		const looks = 4
		if i%(len(batches)/looks+1) != 0 && i != len(batches)-1 {
			continue
		}
		if err := r.sameLook(two[0], two[1]); err != nil {
			return fmt.Errorf("after command %d: %w", two[0].index, err)
		}
	}
	return nil
}

// sameApply applies one batch to both and compares what they answer.
func sameApply(batch []fsm.Entry, a, b *subject) error {
	fromA, err := a.apply(batch)
	if err != nil {
		return err
	}
	fromB, err := b.apply(batch)
	if err != nil {
		return err
	}
	atEnd := func(i int) bool { return a.opened.Capabilities.Ticks && i == len(batch)-1 }
	return sameAnswers(batch, fromA, fromB, atEnd)
}

func checkBatches(r *rig) error {
	three, err := r.startMany(3)
	if err != nil {
		return err
	}
	entries := r.load()
	single, err := three[0].applyAll(r.cut(entries, 1))
	if err != nil {
		return err
	}
	for i, cut := range [][][]fsm.Entry{r.cut(entries, usualBatch), {entries}} {
		s := three[i+1]
		ends := map[int]bool{}
		n := 0
		for _, b := range cut {
			n += len(b)
			ends[n-1] = s.opened.Capabilities.Ticks
		}
		batched, err := s.applyAll(cut)
		if err != nil {
			return err
		}
		if err := sameAnswers(entries, single, batched, func(i int) bool { return ends[i] }); err != nil {
			return fmt.Errorf("alone and in a batch: %w", err)
		}
		if err := r.sameLook(three[0], s); err != nil {
			return fmt.Errorf("after the same commands alone and in batches: %w", err)
		}
	}
	return nil
}

func checkKeepsNoData(r *rig) error {
	two, err := r.startMany(2)
	if err != nil {
		return err
	}
	two[1].poison = true
	for _, b := range r.cut(r.load(), usualBatch) {
		if err := sameApply(b, two[0], two[1]); err != nil {
			return fmt.Errorf("after the bytes of earlier commands were overwritten: %w", err)
		}
	}
	if err := r.sameLook(two[0], two[1]); err != nil {
		return fmt.Errorf("after the bytes of all commands were overwritten: %w", err)
	}
	return nil
}

// standing holds what a machine gave, as it is and as it was.
type standing struct {
	what    string
	is, was []byte
}

func checkResultsStand(r *rig) error {
	s, err := r.start()
	if err != nil {
		return err
	}
	var results, answers []standing
	queries := r.queries()
	for i, b := range r.cut(r.load(), usualBatch) {
		filled, err := s.applyRaw(b)
		if err != nil {
			return err
		}
		if err := stand(results); err != nil {
			return fmt.Errorf("once the next Apply had returned: %w", err)
		}
		results = results[:0]
		for i, f := range filled {
			results = append(results, standing{fmt.Sprintf("the result of command %d", b[i].Index), f.Value, bytes.Clone(f.Value)})
		}
		a, _, err := s.ask(queries[i%len(queries)], s.index, s.time)
		if err != nil {
			return err
		}
		answers = append(answers, standing{fmt.Sprintf("a query's answer at command %d", s.index), a.value, bytes.Clone(a.value)})
		if _, err := s.snapshot(); err != nil {
			return err
		}
		if err := stand(results); err != nil {
			return fmt.Errorf("after a query and a snapshot: %w", err)
		}
	}
	return stand(answers)
}

func stand(all []standing) error {
	for _, x := range all {
		if !bytes.Equal(x.is, x.was) {
			return fmt.Errorf("%s was %s and has become %s", x.what, shown(x.was), shown(x.is))
		}
	}
	return nil
}

func checkSizes(r *rig) error {
	two, err := r.startMany(2)
	if err != nil {
		return err
	}
	usual := r.commands(streamCommands, 4)
	large := make([]byte, r.o.LargeBytes)
	sizes := [][]byte{nil, {0}, large, bytes.Repeat([]byte{0xff}, r.o.LargeBytes), bytes.Repeat([]byte("a "), r.o.LargeBytes/2)}
	for _, u := range usual {
		sizes = append(sizes, u, append(bytes.Clone(u), large...), nil)
	}
	for _, b := range r.cut(r.entries(two[0], sizes), 3) {
		fromA, err := two[0].apply(b)
		if err != nil {
			return err
		}
		fromB, err := two[1].apply(withEmpty(b))
		if err != nil {
			return err
		}
		if err := sameAnswers(b, fromA, fromB, nil); err != nil {
			return fmt.Errorf("nil and empty are the same command: %w", err)
		}
	}
	return r.sameLook(two[0], two[1])
}

// withEmpty is b with empty Data where it is nil: which of the two a host has
// is chance, and differs between replicas.
func withEmpty(b []fsm.Entry) []fsm.Entry {
	b = append([]fsm.Entry(nil), b...)
	for i := range b {
		if b[i].Data == nil {
			b[i].Data = []byte{}
		}
	}
	return b
}

func checkRandomBytes(r *rig) error {
	two, err := r.startMany(2)
	if err != nil {
		return err
	}
	random := r.random(streamBytes)
	var commands [][]byte
	for _, c := range r.commands(streamCommands, r.o.Commands/2) {
		commands = append(commands, c, mutated(random, c), randomBytes(random, 200))
	}
	for _, b := range r.cut(r.entries(two[0], commands), usualBatch) {
		if err := sameApply(b, two[0], two[1]); err != nil {
			return err
		}
	}
	for _, q := range r.queries() {
		for _, q := range [][]byte{nil, mutated(random, q), randomBytes(random, 200)} {
			if _, _, err := two[0].ask(q, two[0].index, two[0].time); err != nil {
				return fmt.Errorf("query %s: %w", shown(q), err)
			}
		}
	}
	return r.sameLook(two[0], two[1])
}
