package fsmtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/diarchy/diarchy/fsm"
)

// A subject is one machine under test, driven as a host drives it.
type subject struct {
	rig    *rig
	m      fsm.Machine
	opened fsm.Opened
	index  uint64 // of the last command
	time   int64  // of the group
	closed bool

	// poison overwrites all that belongs to the host once Apply has returned.
	poison bool
}

// An answer is a copy of a result, or of what a query gave.
type answer struct {
	value []byte
	err   string
	due   int64
}

// call runs one method with a deadline, and makes an error of a panic.
func (s *subject) call(name string, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(s.rig.ctx, s.rig.o.Timeout)
	defer cancel()
	err := guarded(name, func() error { return f(ctx) })
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func (s *subject) close() error {
	if s.closed {
		return nil
	}
	s.closed = true
	return s.call("Close", func(context.Context) error { return s.m.Close() })
}

// hostBytes is what the host would have stored with the command numbered index.
func hostBytes(index uint64) []byte { return fmt.Appendf(nil, "host %d", index) }

// restoredHost is what it gives to Restore.
func restoredHost(index uint64) []byte { return fmt.Appendf(nil, "restored %d", index) }

// apply hands over one batch, and copies the results.
func (s *subject) apply(entries []fsm.Entry) ([]answer, error) {
	results, err := s.applyRaw(entries)
	if err != nil {
		return nil, err
	}
	return copied(results), nil
}

// applyAll hands over batch after batch.
func (s *subject) applyAll(batches [][]fsm.Entry) ([]answer, error) {
	var all []answer
	for _, b := range batches {
		answers, err := s.apply(b)
		if err != nil {
			return nil, err
		}
		all = append(all, answers...)
	}
	return all, nil
}

// applyRaw hands over one batch, and returns what the machine filled in.
func (s *subject) applyRaw(entries []fsm.Entry) ([]fsm.Result, error) {
	b := fsm.Batch{Entries: make([]fsm.Entry, len(entries))}
	for i, e := range entries {
		b.Entries[i] = fsm.Entry{Index: e.Index, Time: e.Time, Data: bytes.Clone(e.Data)}
	}
	last := entries[len(entries)-1]
	b.Time, b.Host = last.Time, hostBytes(last.Index)
	results := make([]fsm.Result, len(entries))
	if err := s.hand(b, results); err != nil {
		return nil, fmt.Errorf("commands %d to %d: %w", entries[0].Index, last.Index, err)
	}
	s.index, s.time = last.Index, last.Time
	return results, nil
}

// tick moves the group's time on, and returns when something is due.
func (s *subject) tick(time int64) (due int64, err error) {
	results := make([]fsm.Result, 1)
	if err := s.hand(fsm.Batch{Time: time, Host: hostBytes(s.index)}, results); err != nil {
		return 0, fmt.Errorf("tick: %w", err)
	}
	s.time = time
	return results[0].Due, nil
}

func (s *subject) hand(b fsm.Batch, results []fsm.Result) error {
	err := s.call("Apply", func(ctx context.Context) error { return s.m.Apply(ctx, b, results) })
	if err != nil || !s.poison {
		return err
	}
	before := copied(results)
	overwrite(b.Host)
	for i := range b.Entries {
		overwrite(b.Entries[i].Data)
		b.Entries[i] = fsm.Entry{Index: 1 << 60, Time: -1}
	}
	for i, was := range before {
		if err := same(was, copied(results[i : i+1])[0], false); err != nil {
			return fmt.Errorf("result %d of the batch changed with the bytes of the command: %w", i+1, err)
		}
	}
	return nil
}

func overwrite(b []byte) {
	for i := range b {
		b[i] = 0xa5
	}
}

func copied(results []fsm.Result) []answer {
	all := make([]answer, len(results))
	for i, r := range results {
		all[i] = answer{value: bytes.Clone(r.Value), err: r.Err, due: r.Due}
	}
	return all
}

// ask queries. Which words an error has is not looked at.
func (s *subject) ask(data []byte, index uint64, time int64) (a answer, supported bool, err error) {
	supported = true
	err = s.call("Query", func(ctx context.Context) error {
		value, err := s.m.Query(ctx, fsm.Query{Data: bytes.Clone(data), Index: index, Time: time})
		switch {
		case err == nil:
			a.value = value
		case errors.Is(err, fsm.ErrUnsupported):
			supported = false
		case errors.Is(err, fsm.ErrLost), ctx.Err() != nil:
			return err
		default:
			a.err = "an error"
		}
		return nil
	})
	return a, supported, err
}

// capture takes a snapshot; nil when the machine has none.
func (s *subject) capture() (snapshot fsm.Snapshot, err error) {
	err = s.call("Snapshot", func(ctx context.Context) error {
		snapshot, err = s.m.Snapshot(ctx)
		if errors.Is(err, fsm.ErrUnsupported) {
			snapshot, err = nil, nil
		} else if err == nil && snapshot == nil {
			err = errors.New("no snapshot and no error")
		}
		return err
	})
	return snapshot, err
}

// write writes a snapshot out, and releases it.
func (s *subject) write(snapshot fsm.Snapshot, w io.Writer) error {
	out := &counter{w: w}
	n, err := s.writeTo(snapshot, out)
	if err == nil && n != out.n {
		err = fmt.Errorf("WriteTo: it says that it wrote %d bytes, and wrote %d", n, out.n)
	}
	return errors.Join(err, s.release(snapshot))
}

func (s *subject) writeTo(snapshot fsm.Snapshot, w io.Writer) (n int64, err error) {
	err = s.call("WriteTo", func(context.Context) (err error) {
		n, err = snapshot.WriteTo(w)
		return err
	})
	return n, err
}

func (s *subject) release(snapshot fsm.Snapshot) error {
	return s.call("Release", func(context.Context) error {
		snapshot.Release()
		return nil
	})
}

// snapshot is the bytes of the present state; nil when there are no snapshots,
// never nil otherwise.
func (s *subject) snapshot() ([]byte, error) {
	snapshot, err := s.capture()
	if err != nil || snapshot == nil {
		return nil, err
	}
	b := bytes.NewBuffer([]byte{})
	if err := s.write(snapshot, b); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// restore makes s what from was when it wrote the snapshot at that number and
// time.
func (s *subject) restore(snapshot []byte, from *subject, index uint64, time int64) error {
	r := &reader{b: snapshot, most: 1000}
	info := fsm.SnapshotInfo{
		Index: index, Time: time, Name: from.opened.Name, Version: from.opened.Version,
		Size: int64(len(snapshot)), Host: restoredHost(index),
	}
	if len(snapshot)%2 == 0 {
		info.Size = -1
	}
	if err := s.restoreFrom(r, info); err != nil {
		return err
	}
	if !r.ended {
		return fmt.Errorf("the restore did not read to the end: %d of %d bytes are left, or io.EOF is", len(r.b), len(snapshot))
	}
	s.index, s.time = index, time
	return nil
}

func (s *subject) restoreFrom(r io.Reader, info fsm.SnapshotInfo) error {
	return s.call("Restore", func(ctx context.Context) error { return s.m.Restore(ctx, info, r) })
}

// A counter counts what is written through it.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// A reader gives b in pieces, then err, or io.EOF when that is nil.
type reader struct {
	b     []byte
	most  int
	err   error
	ended bool
}

func (r *reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(r.b) == 0 && r.err != nil {
		return 0, r.err
	}
	if len(r.b) == 0 {
		r.ended = true
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), r.most)], r.b)
	r.b = r.b[n:]
	return n, nil
}
