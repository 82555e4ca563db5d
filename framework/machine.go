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
	held     *heldMachine
}

// heldMachine is a machine that is still to be closed, by whoever takes it out
// of machineState. What is below it is guarded by machineState.mu.
type heldMachine struct {
	fsm.Machine
	serving bool // queries are let through to it
	queries int
	idle    chan struct{} // closed when queries falls to 0; nil unless somebody waits
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

// hold takes charge of a new machine; queries do not reach it yet.
func (s *machineState) hold(m fsm.Machine) {
	s.mu.Lock()
	s.held = &heldMachine{Machine: m}
	s.mu.Unlock()
}

// serve lets queries through to the machine held.
func (s *machineState) serve(o fsm.Opened) {
	s.mu.Lock()
	s.opened = o
	if s.held != nil {
		s.held.serving = true
	}
	s.mu.Unlock()
}

// takeOut gives the machine held to be closed, nil when another has taken it.
func (s *machineState) takeOut() *heldMachine {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.held
	s.held = nil
	return h
}

// quiesce waits a while for the queries under way on a machine taken out: after
// Close none may begin, and one that was let through may not have begun yet.
func (s *machineState) quiesce(h *heldMachine) {
	s.mu.Lock()
	if h.queries == 0 {
		s.mu.Unlock()
		return
	}
	idle := make(chan struct{})
	h.idle = idle
	s.mu.Unlock()
	t := time.NewTimer(queryGrace)
	defer t.Stop()
	select {
	case <-idle:
	case <-t.C: // one that hangs; it has begun long ago
	}
}

const queryGrace = time.Second

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

// acquire returns the machine to query, to be given back with release, or why
// there is none.
func (s *machineState) acquire() (*heldMachine, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.refusal(); err != nil {
		return nil, err
	}
	s.held.queries++
	return s.held, nil
}

func (s *machineState) release(h *heldMachine) {
	s.mu.Lock()
	h.queries--
	if h.queries == 0 && h.idle != nil {
		close(h.idle)
		h.idle = nil
	}
	s.mu.Unlock()
}

// serving says why the machine cannot be asked now, nil when it can.
func (s *machineState) serving() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refusal()
}

// refusal is called with mu held.
func (s *machineState) refusal() error {
	switch {
	case s.now == phaseRunning && s.held != nil && s.held.serving:
		return nil
	case s.now == phaseRunning:
		return ErrMachineDown.Because("this replica's machine is being given another state")
	case s.now == phaseStopped:
		return ErrStopped
	case s.err != nil:
		return ErrMachineDown.Because("this replica's machine is down: %s; its replica goes on storing and voting", s.err)
	}
	return ErrMachineDown.Because("this replica's machine is %s", s.now)
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

// openedAs is what the newest machine said of itself.
func (s *machineState) openedAs() fsm.Opened {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opened
}

// reload makes a machine from nothing: the newest snapshot, then the log from
// there. It is how a replica starts, how a lost machine comes back, and how an
// installed snapshot takes effect.
func (a *applier) reload() error {
	a.closeMachine()
	a.state.set(phaseStarting, nil)
	a.changed()
	if err := a.open(); err != nil {
		return err
	}
	at, err := a.restoreNewest()
	if err != nil {
		return err
	}
	if at > max(a.seen.position(), a.begin) {
		// The snapshot came from another replica and covers entries that were
		// not applied here: whoever waits for one of them would wait for ever.
		a.pending.failAll(ErrMaybe.Because("a snapshot from another replica took the command's place here: it may have happened"))
	}
	a.at, a.noSnap = at, false
	a.sinceSnap.entries, a.sinceSnap.bytes = 0, 0
	a.replayTo = max(a.seen.position(), a.ring.committed(), a.hostAt)
	a.ring.fallBehind()
	a.state.set(phaseReplaying, nil)
	a.state.serve(a.opened)
	a.publish()
	select {
	case <-a.loaded:
	default:
		close(a.loaded)
	}
	return nil
}

// open has a machine made and opened.
func (a *applier) open() error {
	m, err := a.newMachine(a.ctx)
	if err != nil {
		return fmt.Errorf("start machine: %w", err)
	}
	a.machine = m
	a.state.hold(m)
	if a.opened, err = m.Open(a.ctx); err != nil {
		return fmt.Errorf("open machine: %w", err)
	}
	if a.opened.Capabilities.Ticks {
		a.due.Store(1) // not known: the first tick tells
	}
	return nil
}

// newMachine calls the factory, one call at a time.
func (a *applier) newMachine(ctx context.Context) (fsm.Machine, error) {
	a.making.Lock()
	defer a.making.Unlock()
	return a.cfg.Machine(ctx)
}

func (a *applier) closeMachine() {
	a.machine = nil
	h := a.state.takeOut()
	if h == nil {
		return
	}
	a.state.quiesce(h)
	if err := h.Close(); err != nil {
		a.log.Warn("close machine", "err", err)
	}
}

// restoreNewest sets the replicated state from the newest snapshot, and the
// machine's unless it stands beyond it by itself.
func (a *applier) restoreNewest() (Position, error) {
	a.st = replicated{sessions: newSessionTable(a.limits)}
	a.setHistory(firstHistory(a.cfg.Identity))
	var err error
	if a.hostAt, err = a.standsAt(); err != nil {
		a.log.Warn("the machine's own data is not used", "err", err)
	}
	at, r, e := a.engine.OpenSnapshot()
	if errors.Is(e, ErrNoSnapshot) {
		return 0, err
	}
	if e != nil {
		return 0, fmt.Errorf("open snapshot: %w", e)
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
	if a.hostAt >= at {
		return at, nil
	}
	a.hostAt = 0
	return at, a.restoreMachine(p, at)
}

// standsAt is the position up to which a durable machine holds everything by
// itself. Its data being of another group is an error: there must be a snapshot
// to replace it by.
func (a *applier) standsAt() (Position, error) {
	if !a.opened.Capabilities.Durable || len(a.opened.Host) == 0 {
		return 0, nil
	}
	at, group, ok := readHostBytes(a.opened.Host)
	if !ok || group != a.cfg.Identity.ID {
		return 0, ErrInvalid.Because("the machine %q holds data of another group: give it an empty directory of its own", a.opened.Name)
	}
	return at, nil
}

// adopt takes over a payload's share of the replicated state.
func (a *applier) adopt(info *payloadInfo) error {
	if err := a.sameMachine(info); err != nil {
		return err
	}
	a.st.number, a.st.time = info.number, info.time
	a.setHistory(info.history)
	rest, err := a.st.sessions.readFrom(info.sessions)
	if err == nil && len(rest) > 0 {
		err = errBadSessions
	}
	return err
}

func (a *applier) setHistory(agreed UUID) {
	a.st.history, a.history = agreed, historyOf(a.cfg.Identity, agreed)
}

func (a *applier) sameMachine(info *payloadInfo) error {
	if info.machineName != a.opened.Name {
		return ErrInvalid.Because("the snapshot is of machine %q, the group's machine is %q", info.machineName, a.opened.Name)
	}
	return nil
}

func (a *applier) restoreMachine(p *payloadReader, at Position) error {
	var host []byte
	if a.opened.Capabilities.Durable {
		host = a.hostBytes(at)
	}
	return restoreFrom(a.ctx, a.machine, p, host)
}

// restoreFrom gives a machine the state that a payload holds.
func restoreFrom(ctx context.Context, m fsm.Machine, p *payloadReader, host []byte) error {
	info := fsm.SnapshotInfo{
		Index: p.info.number, Time: p.info.time, Name: p.info.machineName, Version: p.info.machineVersion,
		Size: -1, Host: host,
	}
	if err := m.Restore(ctx, info, p); err != nil {
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
