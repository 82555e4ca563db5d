package framework

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/diarchy/diarchy/fsm"
)

// phase is where a replica's machine stands.
type phase uint8

const (
	phaseStarting phase = iota
	phaseReplaying
	phaseRunning
	phaseDown
	phaseStopped
)

func (p phase) String() string {
	return [...]string{"starting", "replaying", "running", "down", "stopped"}[p]
}

// machineState is what others may know of the machine that the applier owns.
type machineState struct {
	mu       sync.Mutex
	now      phase
	since    time.Time
	err      error
	opened   fsm.Opened
	restarts int
	busy     time.Time // start of the call into the machine under way
	machine  fsm.Machine
}

func (s *machineState) set(p phase, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now == phaseStopped {
		return
	}
	if p == phaseDown && s.now != phaseDown {
		s.restarts++
	}
	s.now, s.since, s.err = p, time.Now(), err
}

// serve makes m the machine that queries go to; nil for none.
func (s *machineState) serve(m fsm.Machine) {
	s.mu.Lock()
	s.machine = m
	s.mu.Unlock()
}

func (s *machineState) phase() phase {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

func (s *machineState) begin(now time.Time) {
	s.mu.Lock()
	s.busy = now
	s.mu.Unlock()
}

func (s *machineState) end() {
	s.mu.Lock()
	s.busy = time.Time{}
	s.mu.Unlock()
}

// serving returns the machine to query, or why there is none.
func (s *machineState) serving() (fsm.Machine, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.now == phaseRunning && s.machine != nil:
		return s.machine, nil
	case s.now == phaseStopped:
		return nil, ErrStopped
	case s.err != nil:
		return nil, ErrMachineDown.Because("this replica's machine is down: %s; its replica goes on storing and voting", s.err)
	}
	return nil, ErrMachineDown.Because("this replica's machine is %s", s.now)
}

// healthy reports whether commands can be executed here now.
func (s *machineState) healthy(stallAfter time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now == phaseRunning && (s.busy.IsZero() || time.Since(s.busy) < stallAfter)
}

func (s *machineState) status(stallAfter time.Duration) MachineStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := MachineStatus{
		State: s.now.String(), Name: s.opened.Name, Version: s.opened.Version,
		Since: s.since, Restarts: s.restarts,
	}
	if s.now == phaseRunning && !s.busy.IsZero() && time.Since(s.busy) >= stallAfter {
		m.State = "stalled"
		m.Err = fmt.Sprintf("a call into the machine has lasted %s", time.Since(s.busy).Round(time.Millisecond))
	}
	if s.err != nil {
		m.Err = s.err.Error()
	}
	return m
}

// reload makes a machine from nothing: the newest snapshot, then the log from
// there. It is how a replica starts, how a lost machine comes back, and how an
// installed snapshot takes effect.
func (a *applier) reload() error {
	a.closeMachine()
	a.state.set(phaseStarting, nil)
	a.changed()
	m, err := a.newMachine(a.ctx)
	if err != nil {
		return fmt.Errorf("start machine: %w", err)
	}
	a.machine = m
	if a.opened, err = m.Open(a.ctx); err != nil {
		return fmt.Errorf("open machine: %w", err)
	}
	hostAt, _, hostHistory := readHostBytes(a.opened.Host)
	at, err := a.restoreNewest(hostAt, hostHistory)
	if err != nil {
		return err
	}
	a.hostAt = 0
	if a.opened.Capabilities.Durable && hostHistory == a.st.history {
		a.hostAt = hostAt
	}
	a.at, a.noSnap = at, false
	a.sinceSnap.entries, a.sinceSnap.bytes = 0, 0
	if a.opened.Capabilities.Ticks {
		a.due.Store(1) // not known: the first tick tells
	}
	a.replayTo = max(a.seen.position(), a.ring.committed())
	a.ring.fallBehind()
	a.state.opening(a.opened, m)
	a.publish()
	return nil
}

// newMachine calls the factory, one call at a time.
func (a *applier) newMachine(ctx context.Context) (fsm.Machine, error) {
	a.making.Lock()
	defer a.making.Unlock()
	return a.cfg.Machine(ctx)
}

func (s *machineState) opening(o fsm.Opened, m fsm.Machine) {
	s.set(phaseReplaying, nil)
	s.mu.Lock()
	s.opened, s.machine = o, m
	s.mu.Unlock()
}

func (p *published) position() Position {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at
}

// restoreNewest sets the replicated state from the newest snapshot, and the
// machine's unless it stands beyond it by itself.
func (a *applier) restoreNewest(hostAt Position, hostHistory UUID) (Position, error) {
	a.st = replicated{history: firstHistory(a.cfg.Identity), sessions: newSessionTable(a.limits)}
	at, r, err := a.engine.OpenSnapshot()
	if errors.Is(err, ErrNoSnapshot) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("open snapshot: %w", err)
	}
	defer r.Close()
	p, err := openPayload(r)
	if err != nil {
		return 0, fmt.Errorf("snapshot at %d: %w", at, err)
	}
	defer p.Close()
	if err := a.adopt(&p.info); err != nil {
		return 0, err
	}
	own := a.opened.Capabilities.Durable && hostAt >= at && hostHistory == a.st.history
	if own {
		return at, nil
	}
	if err := a.restoreMachine(a.machine, p, at); err != nil {
		return 0, err
	}
	return at, nil
}

// adopt takes over a payload's share of the replicated state.
func (a *applier) adopt(info *payloadInfo) error {
	if err := a.sameMachine(info); err != nil {
		return err
	}
	a.st.number, a.st.time, a.st.history = info.number, info.time, info.history
	rest, err := a.st.sessions.readFrom(info.sessions)
	if err == nil && len(rest) > 0 {
		err = errBadSessions
	}
	return err
}

func (a *applier) sameMachine(info *payloadInfo) error {
	if info.machineName != a.opened.Name {
		return ErrInvalid.Because("the snapshot is of machine %q, the group's machine is %q", info.machineName, a.opened.Name)
	}
	return nil
}

func (a *applier) restoreMachine(m fsm.Machine, p *payloadReader, at Position) error {
	info := fsm.SnapshotInfo{
		Index: p.info.number, Time: p.info.time, Name: p.info.machineName, Version: p.info.machineVersion, Size: -1,
	}
	if a.opened.Capabilities.Durable {
		info.Host = a.hostBytes(at)
	}
	if err := m.Restore(a.ctx, info, p); err != nil {
		return fmt.Errorf("%w: restore snapshot of command %d: %w", fsm.ErrLost, p.info.number, err)
	}
	// A machine that stops reading early has not seen whether the end is whole.
	if n, err := io.Copy(io.Discard, p); err != nil {
		return fmt.Errorf("restore snapshot: %w", err)
	} else if n > 0 {
		return fmt.Errorf("%w: the machine left %d bytes of its snapshot unread", fsm.ErrLost, n)
	}
	return nil
}

// capture takes the present state, between two batches. The caller must call
// Release on the machine's part.
func (a *applier) capture(ctx context.Context) (*payloadWriter, Position, error) {
	if a.machine == nil {
		return nil, 0, ErrMachineDown
	}
	s, err := a.machine.Snapshot(a.ctx)
	if err != nil {
		if errors.Is(err, fsm.ErrUnsupported) {
			return nil, 0, ErrUnsupported.Because("the machine %q has no snapshots", a.opened.Name)
		}
		err = fmt.Errorf("%w: snapshot: %w", fsm.ErrLost, err)
		a.lost(err)
		return nil, 0, err
	}
	return &payloadWriter{ctx: ctx, machine: s, bytesPerSec: a.cfg.Snapshots.BytesPerSec, info: payloadInfo{
		number: a.st.number, time: a.st.time, history: a.st.history,
		machineName: a.opened.Name, machineVersion: a.opened.Version, sessions: a.st.sessions.appendTo(nil),
	}}, a.at, nil
}

// onApplier runs f on the applier's goroutine, between two batches, and waits.
func (a *applier) onApplier(ctx context.Context, f func()) error {
	ran := make(chan struct{})
	claimed := make(chan struct{}, 1)
	a.ring.do(func() {
		select {
		case claimed <- struct{}{}:
			f()
		default: // the caller has gone
		}
		close(ran)
	})
	select {
	case <-ran:
		return nil
	case <-a.done:
		return ErrStopped
	case <-ctx.Done():
	}
	select {
	case claimed <- struct{}{}:
		return ErrDeadline.Because("the machine was busy: %v", ctx.Err())
	case <-a.done:
		return ErrStopped
	default:
		<-ran
		return nil
	}
}
