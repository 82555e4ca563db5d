package fsmtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/diarchy/diarchy/fsm"
)

// A state is all that can be seen of a machine from outside at one moment.
// What the machine does not have is nil.
type state struct {
	digest   []byte
	snapshot []byte
	queries  [][]byte
	answers  []answer
}

// look takes the state of s.
func (s *subject) look() (state, error) {
	var st state
	var err error
	if s.opened.Capabilities.Digest {
		if st.digest, err = s.digest(); err != nil {
			return st, err
		}
	}
	if st.snapshot, err = s.snapshot(); err != nil {
		return st, err
	}
	for _, q := range s.rig.queries() {
		a, supported, err := s.ask(q, s.index, s.time)
		if err != nil {
			return st, err
		}
		if !supported {
			continue
		}
		a.value = bytes.Clone(a.value)
		st.queries = append(st.queries, q)
		st.answers = append(st.answers, a)
	}
	return st, nil
}

func (s *subject) digest() (digest []byte, err error) {
	err = s.call("Digest", func(ctx context.Context) error {
		d, err := s.m.Digest(ctx)
		if err == nil && len(d) == 0 {
			err = errors.New("it is empty")
		}
		digest = bytes.Clone(d)
		return err
	})
	return digest, err
}

// sameState says how two states differ that should not.
func (r *rig) sameState(a, b state) error {
	if len(a.answers) != len(b.answers) {
		return fmt.Errorf("one machine answers %d queries, the other %d", len(a.answers), len(b.answers))
	}
	for i := range a.answers {
		if err := same(a.answers[i], b.answers[i], false); err != nil {
			return fmt.Errorf("query %s: %w", shown(a.queries[i]), err)
		}
	}
	if (a.snapshot == nil) != (b.snapshot == nil) {
		return errors.New("one machine has a snapshot, the other has none")
	}
	if !r.o.SnapshotsDiffer && !bytes.Equal(a.snapshot, b.snapshot) {
		return fmt.Errorf("the snapshots differ, of %d and %d bytes, from byte %d on",
			len(a.snapshot), len(b.snapshot), firstDifference(a.snapshot, b.snapshot))
	}
	if !bytes.Equal(a.digest, b.digest) {
		return fmt.Errorf("the digests differ: %x and %x", a.digest, b.digest)
	}
	return nil
}

// sameLook looks at two machines that should be in the same state.
func (r *rig) sameLook(a, b *subject) error {
	stateA, err := a.look()
	if err != nil {
		return err
	}
	stateB, err := b.look()
	if err != nil {
		return err
	}
	return r.sameState(stateA, stateB)
}

// sameAnswers compares the results of the same commands. Due counts where both
// sides ended a batch.
func sameAnswers(entries []fsm.Entry, a, b []answer, due func(i int) bool) error {
	for i := range entries {
		if err := same(a[i], b[i], due != nil && due(i)); err != nil {
			return fmt.Errorf("command %d, %s: %w", entries[i].Index, shown(entries[i].Data), err)
		}
	}
	return nil
}

func same(a, b answer, due bool) error {
	switch {
	case a.err != b.err:
		return fmt.Errorf("one says error %q, the other %q", a.err, b.err)
	case !bytes.Equal(a.value, b.value):
		return fmt.Errorf("one answers %s, the other %s", shown(a.value), shown(b.value))
	case due && a.due != b.due:
		return fmt.Errorf("one is due at %d, the other at %d", a.due, b.due)
	}
	return nil
}

func firstDifference(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// shown quotes bytes for an error, shortened.
func shown(b []byte) string {
	const most = 120
	if len(b) > most {
		return fmt.Sprintf("%q… (%d bytes)", b[:most], len(b))
	}
	return fmt.Sprintf("%q", b)
}
