package fsmtest

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"github.com/diarchy/diarchy/fsm"
)

func checkDigest(r *rig) error {
	s, err := r.start()
	if err != nil {
		return err
	}
	if !s.opened.Capabilities.Digest {
		return notApplicable("the machine has no digest")
	}
	was, err := s.look()
	if err != nil {
		return err
	}
	for _, b := range r.cut(r.load(), usualBatch) {
		again, err := s.digest()
		if err != nil {
			return err
		}
		if !bytes.Equal(again, was.digest) {
			return fmt.Errorf("asked twice at command %d it is %x, then %x", s.index, was.digest, again)
		}
		if _, err := s.apply(b); err != nil {
			return err
		}
		is, err := s.look()
		if err != nil {
			return err
		}
		if !r.o.SnapshotsDiffer && !bytes.Equal(is.snapshot, was.snapshot) && bytes.Equal(is.digest, was.digest) {
			return fmt.Errorf("between commands %d and %d the snapshot changes, and the digest does not", b[0].Index-1, s.index)
		}
		was = is
	}
	return nil
}

func checkTicks(r *rig) error {
	two, err := r.startMany(2)
	if err != nil {
		return err
	}
	if !two[0].opened.Capabilities.Ticks {
		return notApplicable("the machine asks for no ticks")
	}
	commands := r.commands(streamCommands, r.o.Commands)
	for len(commands) > 0 {
		n := min(len(commands), 8)
		// Numbered and dated here: ticks move the time.
		batch := r.entries(two[0], commands[:n])
		commands = commands[n:]
		answers, err := two[0].apply(batch)
		if err != nil {
			return err
		}
		again, err := two[1].apply(batch)
		if err != nil {
			return err
		}
		if err := sameAnswers(batch, answers, again, func(i int) bool { return i == n-1 }); err != nil {
			return err
		}
		due, err := tickBoth(two, answers[n-1].due)
		if err != nil {
			return err
		}
		if err := r.sameLook(two[0], two[1]); err != nil {
			return fmt.Errorf("after ticks up to command %d: %w", two[0].index, err)
		}
		// Best restored while something is still to come.
		if due != 0 && len(commands) < r.o.Commands/2 {
			break
		}
	}
	return tickRestored(r, two[0])
}

// tickBoth ticks while something is due within a second, and returns what is due
// later.
func tickBoth(two []*subject, due int64) (int64, error) {
	const most = 10000
	for range most {
		if due == 0 || due > two[0].time+second {
			return due, nil
		}
		now := max(due, two[0].time)
		dueA, err := two[0].tick(now)
		if err != nil {
			return 0, err
		}
		dueB, err := two[1].tick(now)
		if err != nil {
			return 0, err
		}
		if dueA != dueB {
			return 0, fmt.Errorf("after a tick at %d one is due at %d, the other at %d", now, dueA, dueB)
		}
		due = dueA
	}
	return 0, fmt.Errorf("after %d ticks at the time that was due, it is due at %d and the time is %d", most, due, two[0].time)
}

// tickRestored: what is due comes with a snapshot.
func tickRestored(r *rig, s *subject) error {
	snapshot, err := s.snapshot()
	if err != nil || snapshot == nil {
		return err
	}
	copy, err := r.start()
	if err != nil {
		return err
	}
	if err := copy.restore(snapshot, s, s.index, s.time); err != nil {
		return err
	}
	for _, ahead := range []int64{0, second, 1000 * second} {
		now := s.time + ahead
		want, err := s.tick(now)
		if err != nil {
			return err
		}
		got, err := copy.tick(now)
		if err != nil {
			return err
		}
		if want != got {
			return fmt.Errorf("a restored machine is due at %d, the one it is a copy of at %d", got, want)
		}
		if err := r.sameLook(s, copy); err != nil {
			return fmt.Errorf("after ticks on a restored machine: %w", err)
		}
	}
	return nil
}

func checkDurable(r *rig) (err error) {
	steady, err := r.start()
	if err != nil {
		return err
	}
	if !steady.opened.Capabilities.Durable {
		return notApplicable("the machine is not durable")
	}
	if r.o.Store == nil {
		return errors.New("the machine is durable: Options.Store is needed to open one again")
	}
	dir, err := os.MkdirTemp("", "fsmtest")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	// The machine must let go of dir before it is removed.
	defer func() { err = errors.Join(err, r.closeAll()) }()
	return r.reopen(steady, r.o.Store(dir))
}

func (r *rig) reopen(steady *subject, factory fsm.Factory) error {
	before, after, _ := r.parts()
	s, err := r.reopened(nil, factory, nil)
	if err != nil {
		return err
	}
	for i, b := range r.cut(before, usualBatch) {
		if err := sameApply(b, steady, s); err != nil {
			return err
		}
		if i%4 != 0 {
			continue
		}
		if s, err = r.reopened(s, factory, hostBytes(s.index)); err != nil {
			return err
		}
		if err := r.sameLook(steady, s); err != nil {
			return fmt.Errorf("opened again after command %d: %w", s.index, err)
		}
	}
	return r.reopenRestored(steady, s, factory, after)
}

// reopenRestored restores a snapshot and opens the machine again.
func (r *rig) reopenRestored(steady, s *subject, factory fsm.Factory, after []fsm.Entry) error {
	snapshot, err := steady.snapshot()
	if err != nil {
		return err
	}
	if snapshot != nil {
		if err := s.restore(snapshot, steady, steady.index, steady.time); err != nil {
			return err
		}
		if s, err = r.reopened(s, factory, restoredHost(steady.index)); err != nil {
			return err
		}
	}
	for _, b := range r.cut(after, usualBatch) {
		if err := sameApply(b, steady, s); err != nil {
			return err
		}
	}
	if s, err = r.reopened(s, factory, hostBytes(s.index)); err != nil {
		return err
	}
	return r.sameLook(steady, s)
}

// reopened closes s and opens what it left, which must return those Host bytes.
func (r *rig) reopened(s *subject, factory fsm.Factory, host []byte) (*subject, error) {
	if s != nil {
		if err := s.close(); err != nil {
			return nil, err
		}
	}
	again, err := r.startFrom(factory)
	if err != nil {
		return nil, err
	}
	if s != nil {
		again.index, again.time = s.index, s.time
	}
	again.poison = true
	if !bytes.Equal(again.opened.Host, host) {
		return nil, fmt.Errorf("opened again it returns the Host bytes %q, the newest are %q", again.opened.Host, host)
	}
	return again, nil
}

func checkAbsent(r *rig) error {
	two, err := r.startMany(2)
	if err != nil {
		return err
	}
	quiet, s := two[0], two[1]
	before, after, _ := r.parts()
	if err := sameApply(before, quiet, s); err != nil {
		return err
	}
	snapshot, err := s.snapshot()
	if err != nil {
		return err
	}
	if snapshot != nil {
		copy, err := r.start()
		if err != nil {
			return err
		}
		if err := copy.restore(snapshot, s, s.index, s.time); errors.Is(err, fsm.ErrUnsupported) {
			return errors.New("it writes snapshots that it cannot restore")
		} else if err != nil {
			return err
		}
	}
	if _, _, err := s.ask(nil, s.index, s.time); err != nil {
		return err
	}
	if err := sameApply(after, quiet, s); err != nil {
		return fmt.Errorf("after calls of all methods: %w", err)
	}
	return r.sameLook(quiet, s)
}
