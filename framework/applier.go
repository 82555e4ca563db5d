package framework

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/diarchy/diarchy/fsm"
)

// applier runs a group's committed entries on its machine. It owns everything
// above the log: sessions, time, command numbers, results, the machine's
// restarts, snapshots and restores; so both engines have them alike.
//
// One goroutine (run) owns the fields below "owned by run". A machine that
// hangs holds up that goroutine and nothing else: the engine goes on storing
// and voting.
//
// Invariants:
//   - st, at and machine move together: the machine has applied exactly the
//     commands that st counts, up to position at
//   - seen never goes back, while at does when a machine was lost and its
//     commands are replayed; reads are let through only while at >= seen.at
//   - a caller waits in pending until its entry was applied here, or it was told
//     why that is not to be expected: whatever skips entries must tell
type applier struct {
	cfg     *GroupConfig
	limits  Limits
	log     *slog.Logger
	origin  uint64
	engine  Engine
	ring    *ring
	pending *pending
	tail    *tail
	staged  *staging
	ctx     context.Context
	cancel  context.CancelFunc
	done    chan struct{}
	loaded  chan struct{} // closed once a machine has been made

	// What others may look at.
	seen     published
	state    machineState
	due      atomic.Int64  // earliest deadline of a machine with ticks; 0 none
	snapping atomic.Int64  // bytes of the snapshot under way, -1 none
	writing  chan struct{} // one WriteTo at a time
	changed  func()
	making   sync.Mutex // held while the factory is called
	metrics  *groupMetrics

	// Owned by run.
	st        replicated
	at        Position
	machine   fsm.Machine
	opened    fsm.Opened
	history   UUID     // st.history as users see it; see historyOf
	hostAt    Position // a durable machine holds everything up to here by itself
	batch     batch
	sinceSnap struct{ entries, bytes int64 }
	noSnap    bool     // the machine has no snapshots
	begin     Position // the snapshot that the engine stood at when it was opened
	replayTo  Position // below it the machine is behind what was seen or committed
	reloadAt  time.Time
	backoff   time.Duration
	upSince   time.Time // when the machine began to run; zero while it does not
}

// replicated is what a group agrees on beside its machine's state.
type replicated struct {
	number   uint64
	time     int64
	history  UUID // before it is mixed with the incarnation
	sessions *sessionTable
}

func newApplier(c *GroupConfig, origin uint64, st *staging, changed func()) *applier {
	a := &applier{
		cfg: c, limits: c.Limits, log: c.Logger, origin: origin,
		ring: newRing(c.Queues.RingBytes), pending: newPending(c.Queues), tail: newTail(c.Queues.TailBytes),
		staged: st, done: make(chan struct{}), loaded: make(chan struct{}), writing: make(chan struct{}, 1),
		changed: changed, metrics: newGroupMetrics(),
	}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	a.snapping.Store(-1)
	a.state.set(phaseStarting, nil)
	a.seen.init(historyOf(c.Identity, firstHistory(c.Identity)))
	return a
}

// Announce, Install and Resolve make the applier the engine's Host.
func (a *applier) Announce(entries []Entry, through Position) { a.ring.announce(entries, through) }

func (a *applier) Install(at Position) { a.ring.announceInstall(at) }

func (a *applier) Resolve(outcomes []Outcome) {
	for i := range outcomes {
		if outcomes[i].Err == nil {
			continue // the caller hears of it when it is applied
		}
		if w, ok := a.pending.take(outcomes[i].Ref); ok {
			w.who.complete(w.i, Receipt{}, outcomes[i].Err)
		}
	}
}

// run is the applier's goroutine.
func (a *applier) run() {
	defer close(a.done)
	defer func() { runJobs(a.ring.close()) }() // they find no machine, and say so
	defer a.closeMachine()
	var spare []Entry
	for a.ctx.Err() == nil {
		t := a.ring.take(spare)
		runJobs(t.jobs)
		spare = a.advance(t)
		if !a.pause() {
			return
		}
	}
}

func runJobs(jobs []func()) {
	for _, f := range jobs {
		f()
	}
}

// pause waits for something to do; false when it is over.
func (a *applier) pause() bool {
	var retry <-chan time.Time
	var ended <-chan struct{}
	if a.machine == nil {
		retry = time.After(time.Until(a.reloadAt))
	} else {
		ended = a.opened.Lost
	}
	select {
	case <-a.ring.wake:
	case <-retry:
	case <-ended:
		a.lost(fmt.Errorf("%w: it ended while idle", fsm.ErrLost))
	case <-a.ctx.Done():
		return false
	}
	return true
}

// advance applies what was taken and returns the emptied slice for reuse.
func (a *applier) advance(t taken) []Entry {
	if a.machine == nil || t.install > a.at {
		if a.machine == nil && time.Now().Before(a.reloadAt) {
			return nil
		}
		if err := a.reload(); err != nil {
			a.lost(err)
			return nil
		}
		t = taken{behind: true, through: t.through}
	}
	err := a.apply(t.entries)
	if err == nil && t.behind {
		err = a.catchUp()
	} else if err == nil {
		a.moveTo(t.through)
	}
	if err != nil {
		a.lost(err)
		return nil
	}
	a.snapshotIfDue()
	clear(t.entries)
	return t.entries
}

// catchUp reads from the engine's log until nothing committed is left.
func (a *applier) catchUp() error {
	for a.ctx.Err() == nil && !a.ring.caughtUp(a.at) {
		runJobs(a.ring.takeJobs())
		if a.machine == nil {
			return nil // a job found it lost
		}
		entries, through, err := a.engine.Entries(a.at+1, catchUpBytes)
		var gone *CompactedError
		switch {
		case errors.As(err, &gone):
			if err := a.overtaken(gone); err != nil {
				return err
			}
			continue
		case err != nil:
			return fmt.Errorf("read log from %d: %w", a.at+1, err)
		case len(entries) == 0 && through <= a.at:
			return nil // not readable yet; the next announcement wakes us
		}
		if err := a.apply(entries); err != nil {
			return err
		}
		a.moveTo(through)
		a.snapshotIfDue()
	}
	return nil
}

// overtaken starts from the snapshot that stands where the log was.
func (a *applier) overtaken(gone *CompactedError) error {
	at, r, err := a.engine.OpenSnapshot()
	if err == nil {
		_ = r.Close()
	}
	if err != nil || at <= a.at {
		return fmt.Errorf("entries after %d are gone and no snapshot covers them: %w", a.at, errors.Join(gone, err))
	}
	return a.reload()
}

const catchUpBytes = 4 << 20

// apply runs entries in batches.
func (a *applier) apply(entries []Entry) error {
	for i := 0; i < len(entries); {
		n := 0
		for bytes := 0; i+n < len(entries) && n < batchMax && bytes < batchBytesMax; n++ {
			bytes += len(entries[i+n].Data)
		}
		if err := a.applySome(entries[i : i+n]); err != nil {
			return err
		}
		i += n
	}
	return nil
}

const (
	batchMax      = 4096
	batchBytesMax = 4 << 20
)

// lost puts the machine away; the loop tries again after a pause that grows
// until a machine has run for a while. It never gives up: what is wrong may be
// mended outside, and the replica's log and vote count meanwhile.
func (a *applier) lost(err error) {
	if a.ctx.Err() != nil {
		return
	}
	if !a.upSince.IsZero() && time.Since(a.upSince) >= steadyAfter {
		a.backoff = 0
	}
	a.upSince = time.Time{}
	a.backoff = min(max(2*a.backoff, backoffMin), backoffMax)
	a.reloadAt = time.Now().Add(a.backoff)
	a.log.Error("machine lost", "err", err, "number", a.st.number, "retry_in", a.backoff)
	a.closeMachine()
	a.state.set(phaseDown, err)
	a.changed()
	a.ring.fallBehind()
}

const (
	backoffMin  = 100 * time.Millisecond
	backoffMax  = 10 * time.Second
	steadyAfter = 30 * time.Second
)

// firstHistory is the history a group begins with.
func firstHistory(g GroupIdentity) UUID {
	h := sha256.Sum256(append([]byte("diarchy history\x00"), g.ID[:]...))
	return UUID(h[:16])
}

// historyOf is the history that users see: what the log agreed on, and the
// incarnation, so that a recovery after a lost quorum begins another one.
func historyOf(g GroupIdentity, agreed UUID) UUID {
	if g.Incarnation == 0 {
		return agreed
	}
	h := sha256.Sum256(binary.LittleEndian.AppendUint32(agreed[:], g.Incarnation))
	return UUID(h[:16])
}
