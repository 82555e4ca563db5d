package raftfsm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/diarchy/diarchy/fsm"
)

func (m *machine) Snapshot(context.Context) (fsm.Snapshot, error) {
	s, err := m.fsm.Snapshot()
	if err != nil {
		return nil, err
	}
	if s == nil {
		return nil, errors.New("raftfsm: Snapshot returned no snapshot and no error")
	}
	return &snapshot{fsm: s}, nil
}

type snapshot struct {
	fsm     raft.FSMSnapshot
	release sync.Once
}

// Release passes on the first call alone: FSMs are written for exactly one.
func (s *snapshot) Release() { s.release.Do(s.fsm.Release) }

// WriteTo has the FSM persist itself straight into w.
func (s *snapshot) WriteTo(w io.Writer) (int64, error) {
	to := &sink{w: w}
	err := s.fsm.Persist(to)
	// An FSM that drops a Write's error, or cancels and returns nil, has not
	// written a snapshot either.
	if err == nil {
		err = to.err
	}
	if err == nil && to.cancelled {
		err = errors.New("raftfsm: the FSM cancelled its snapshot")
	}
	return to.n, err
}

// A sink is a raft.SnapshotSink over a writer. Closing it writes nothing more
// and keeps nothing back; like raft's own it need not be closed.
type sink struct {
	w         io.Writer
	n         int64
	err       error // the first of w's
	closed    bool
	cancelled bool
}

var (
	_ raft.SnapshotSink = (*sink)(nil)

	errSinkClosed = errors.New("raftfsm: the snapshot is closed")
)

func (s *sink) Write(p []byte) (int, error) {
	if s.closed {
		return 0, errSinkClosed
	}
	n, err := s.w.Write(p)
	s.n += int64(n)
	if s.err == nil {
		s.err = err
	}
	return n, err
}

func (s *sink) Close() error {
	s.closed = true
	return nil
}

// ID is opaque to an FSM; there is no other snapshot to tell it from.
func (s *sink) ID() string { return "diarchy" }

// Cancel after Close is harmless: FSMs defer it.
func (s *sink) Cancel() error {
	if !s.closed {
		s.closed, s.cancelled = true, true
	}
	return nil
}

func (m *machine) Restore(_ context.Context, info fsm.SnapshotInfo, r io.Reader) error {
	if info.Name != "" && m.o.Name != "" && info.Name != m.o.Name {
		return fmt.Errorf("raftfsm: the snapshot is of machine %q, this is %q", info.Name, m.o.Name)
	}
	from := &source{r: r}
	if err := m.fsm.Restore(from); err != nil {
		return err
	}
	// raft lets an FSM stop before the end. The host's reader tells of damage at
	// the latest there.
	if _, err := io.Copy(io.Discard, r); err != nil && from.err == nil {
		from.err = err
	}
	return from.err
}

// A source is the io.ReadCloser that an FSM restores from. It remembers an error
// that the FSM may overlook.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	// Compared as every io.Reader's user does: an error around io.EOF is one.
	if err != nil && err != io.EOF && s.err == nil {
		s.err = err
	}
	return n, err
}

// Close is the FSM's to call or not; the host's reader stays open.
func (s *source) Close() error { return nil }
