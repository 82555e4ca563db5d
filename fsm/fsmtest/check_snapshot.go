package fsmtest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/diarchy/diarchy/fsm"
)

var errNoSnapshots = notApplicable("the machine has no snapshots")

// parts are the entries before a snapshot, after its capture, and while it is
// written.
func (r *rig) parts() (before, after, beside []fsm.Entry) {
	all := r.load()
	third := len(all) / 3
	return all[:third], all[third : 2*third], all[2*third:]
}

func checkSnapshotBesideApply(r *rig) error {
	two, err := r.startMany(2)
	if err != nil {
		return err
	}
	still, s := two[0], two[1]
	before, after, beside := r.parts()
	for _, x := range two {
		if _, err := x.applyAll(r.cut(before, usualBatch)); err != nil {
			return err
		}
	}
	want, err := still.look()
	if err != nil {
		return err
	}
	if want.snapshot == nil {
		return errNoSnapshots
	}
	snapshot, err := s.capture()
	if err != nil {
		return err
	}
	later, err := s.applyAll(r.cut(after, usualBatch))
	if err != nil {
		return err
	}
	written, more, err := s.writeBeside(snapshot, beside)
	if err != nil {
		return err
	}
	if !r.o.SnapshotsDiffer && !bytes.Equal(written, want.snapshot) {
		return fmt.Errorf("written beside Apply it has %d bytes, written at rest %d; they differ from byte %d on",
			len(written), len(want.snapshot), firstDifference(written, want.snapshot))
	}
	return r.restoredIs(want, still, written, s, append(after[:len(after):len(after)], beside...), append(later, more...))
}

// restoredIs restores a snapshot into a new machine, which must then be in the
// state want, that of still, and answer the commands that followed as s did.
func (r *rig) restoredIs(want state, still *subject, snapshot []byte, s *subject, entries []fsm.Entry, answers []answer) error {
	copy, err := r.start()
	if err != nil {
		return err
	}
	if err := copy.restore(snapshot, still, still.index, still.time); err != nil {
		return err
	}
	got, err := copy.look()
	if err != nil {
		return err
	}
	if err := r.sameState(want, got); err != nil {
		return fmt.Errorf("the restored copy is not the state that was captured: %w", err)
	}
	again, err := copy.applyAll(r.cut(entries, usualBatch))
	if err != nil {
		return err
	}
	if err := sameAnswers(entries, answers, again, nil); err != nil {
		return fmt.Errorf("after the restore of what was captured: %w", err)
	}
	if err := r.sameLook(s, copy); err != nil {
		return fmt.Errorf("after the restore and the commands that followed: %w", err)
	}
	return nil
}

// writeBeside holds the writer at its first Write, applies entries, and lets it
// go on.
func (s *subject) writeBeside(snapshot fsm.Snapshot, entries []fsm.Entry) ([]byte, []answer, error) {
	gate := newGate()
	defer gate.open()
	written := make(chan error, 1)
	go func() { written <- s.write(snapshot, gate) }()
	timeout := time.After(s.rig.o.Timeout)
	var err error
	select {
	case <-gate.reached:
	case err = <-written: // it has nothing to write, or failed
		written <- err
	case <-timeout:
		return nil, nil, errors.New("WriteTo neither writes nor returns")
	}

	type applied struct {
		answers []answer
		err     error
	}
	done := make(chan applied, 1)
	go func() {
		answers, err := s.applyAll(s.rig.cut(entries, usualBatch))
		done <- applied{answers, err}
	}()
	var a applied
	select {
	case a = <-done:
	case <-timeout:
		return nil, nil, errors.New("blocked: while WriteTo waits for its writer, Apply waits for WriteTo")
	}
	gate.open()
	select {
	case err = <-written:
	case <-timeout:
		return nil, nil, errors.New("WriteTo does not return")
	}
	return gate.bytes, a.answers, errors.Join(a.err, err)
}

// A gate is a writer whose first Write waits until it is opened. bytes may be
// read once its user has ended.
type gate struct {
	bytes   []byte
	reached chan struct{}
	opened  chan struct{}
	arrive  sync.Once
	unlock  sync.Once
}

func newGate() *gate {
	return &gate{bytes: []byte{}, reached: make(chan struct{}), opened: make(chan struct{})}
}

func (g *gate) open() { g.unlock.Do(func() { close(g.opened) }) }

func (g *gate) Write(p []byte) (int, error) {
	g.arrive.Do(func() { close(g.reached) })
	<-g.opened
	g.bytes = append(g.bytes, p...)
	return len(p), nil
}

func checkSnapshotChangesNothing(r *rig) error {
	two, err := r.startMany(2)
	if err != nil {
		return err
	}
	quiet, s := two[0], two[1]
	for i, b := range r.cut(r.load(), usualBatch) {
		if err := sameApply(b, quiet, s); err != nil {
			return fmt.Errorf("with snapshots taken and without: %w", err)
		}
		snapshot, err := s.capture()
		if err != nil {
			return err
		}
		if snapshot == nil {
			return errNoSnapshots
		}
		if i%2 == 0 {
			err = s.release(snapshot)
		} else {
			err = s.write(snapshot, io.Discard)
		}
		if err != nil {
			return err
		}
	}
	return r.sameLook(quiet, s)
}

var errPlanted = errors.New("planted failure")

// A fullDisk takes some bytes and fails after that.
type fullDisk struct{ room int }

func (f *fullDisk) Write(p []byte) (int, error) {
	n := min(f.room, len(p))
	f.room -= n
	if n < len(p) {
		return n, errPlanted
	}
	return n, nil
}

func checkSnapshotWriteFails(r *rig) error {
	two, err := r.startMany(2)
	if err != nil {
		return err
	}
	quiet, s := two[0], two[1]
	before, after, _ := r.parts()
	for _, x := range two {
		if _, err := x.applyAll(r.cut(before, usualBatch)); err != nil {
			return err
		}
	}
	whole, err := s.snapshot()
	if err != nil {
		return err
	}
	if len(whole) == 0 {
		return notApplicable("the machine has no snapshots, or empty ones")
	}
	for _, room := range []int{0, len(whole) / 2, len(whole) - 1} {
		snapshot, err := s.capture()
		if err != nil {
			return err
		}
		_, failed := s.writeTo(snapshot, &fullDisk{room: room})
		if err := s.release(snapshot); err != nil {
			return err
		}
		if failed == nil {
			return fmt.Errorf("WriteTo says it wrote all of %d bytes to a writer that failed after %d", len(whole), room)
		}
	}
	if err := sameApply(after, quiet, s); err != nil {
		return fmt.Errorf("after snapshots that could not be written: %w", err)
	}
	return r.sameLook(quiet, s)
}

func checkRestoreReplaces(r *rig) error {
	three, err := r.startMany(3)
	if err != nil {
		return err
	}
	source, full, empty := three[0], three[1], three[2]
	nothing, err := empty.snapshot()
	if err != nil {
		return err
	}
	if nothing == nil {
		return errNoSnapshots
	}
	before, after, _ := r.parts()
	if _, err := source.applyAll(r.cut(before, usualBatch)); err != nil {
		return err
	}
	something, err := source.snapshot()
	if err != nil {
		return err
	}
	// full has another past.
	other := r.commands(streamOther, r.o.Commands/2)[len(r.o.Corpus):]
	if _, err := full.applyAll(r.cut(r.entries(full, other), usualBatch)); err != nil {
		return err
	}
	for _, old := range []string{"another state", "nothing"} {
		if err := full.restore(something, source, source.index, source.time); err != nil {
			return fmt.Errorf("over %s: %w", old, err)
		}
		if err := r.sameLook(source, full); err != nil {
			return fmt.Errorf("restored over %s: %w", old, err)
		}
		if old == "nothing" {
			break
		}
		if err := full.restore(nothing, empty, 0, firstTime); err != nil {
			return fmt.Errorf("nothing over a state: %w", err)
		}
		if err := r.sameLook(empty, full); err != nil {
			return fmt.Errorf("nothing restored over a state: %w", err)
		}
	}
	for _, b := range r.cut(after, usualBatch) {
		if err := sameApply(b, source, full); err != nil {
			return fmt.Errorf("after a restore over another state: %w", err)
		}
	}
	return r.sameLook(source, full)
}

func checkRestoreReadFails(r *rig) error {
	source, err := r.start()
	if err != nil {
		return err
	}
	before, _, _ := r.parts()
	if _, err := source.applyAll(r.cut(before, usualBatch)); err != nil {
		return err
	}
	whole, err := source.snapshot()
	if err != nil {
		return err
	}
	if whole == nil {
		return errNoSnapshots
	}
	info := fsm.SnapshotInfo{
		Index: source.index, Time: source.time, Name: source.opened.Name, Version: source.opened.Version,
		Size: -1, Host: hostBytes(source.index),
	}
	for _, n := range []int{len(whole) / 2, len(whole)} {
		s, err := r.start()
		if err != nil {
			return err
		}
		if err := s.restoreFrom(&reader{b: whole[:n], most: 1000, err: errPlanted}, info); err == nil {
			return fmt.Errorf("it says it read all from a reader that failed after %d of %d bytes", n, len(whole))
		}
	}
	return nil
}
