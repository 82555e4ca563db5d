package raftengine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/metrics"

	"github.com/diarchy/diarchy/framework"
)

// engine is one replica of a group on hashicorp/raft.
//
// Its goroutines: watchRaft (driver.go) turns what raft does into what the engine
// says, feed (propose.go) carries proposals, serveReads (read.go) runs read
// rounds; the rest are raft's.
type engine struct {
	set    settings
	id     raft.ServerID
	host   framework.Host
	log    *slog.Logger
	dir    *dirLock // nil in memory
	store  *store
	snaps  *snapshotStore
	trans  *transport
	confs  *history
	fsm    *handover
	pend   *pending
	inbox  inbox
	reads  reads
	gauges *gauges // nil without a registerer
	wal    *metrics.AtomicCollector

	raft atomic.Pointer[raft.Raft] // replaced by restart.go

	wakeUp, feedWake, readWake chan struct{} // each holds one signal

	opened        atomic.Bool // storage's callbacks may act
	restartWanted atomic.Bool
	inHandover    atomic.Bool // raft may be refusing proposals
	afterHandover atomic.Bool // one was tried in this term
	installs      atomic.Uint64
	restarts      atomic.Uint64
	hanging       sync.Mutex
	changing      chan struct{} // holds the one change or hand-over under way
	admin         sync.WaitGroup

	lost, maybe *framework.Error // outcomes
	tune        func(*raft.Config)

	mu       sync.Mutex // guards what follows
	changed  chan struct{}
	shown    shown
	stopErr  error
	isClosed bool

	stopping chan struct{} // closed when the end begins
	done     chan struct{} // closed when nothing runs any more
	loops    sync.WaitGroup
	watcher  sync.WaitGroup
	endOnce  sync.Once
}

// seams let tests put something between the engine and its storage.
type seams struct {
	backend func(backend) backend
	tuning  func(*raft.Config)
}

// New starts a replica. It returns once the replica runs; a leader is found
// later.
func New(ctx context.Context, c framework.EngineConfig) (framework.Engine, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	e, err := start(c, seams{})
	if err != nil {
		return nil, fmt.Errorf("engine raft: %w", err)
	}
	return e, nil
}

func start(c framework.EngineConfig, s seams) (*engine, error) {
	set, err := settingsOf(&c)
	if err != nil {
		return nil, err
	}
	if err := checkMembers(c.Bootstrap, c.Self); c.Bootstrap != nil && err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	e := newEngine(&c, set)
	if err := e.open(&c, s); err != nil {
		e.abandon()
		return nil, err
	}
	e.loops.Add(2)
	e.watcher.Add(1)
	go func() { defer e.watcher.Done(); e.watchRaft() }()
	go func() { defer e.loops.Done(); e.feed() }()
	go func() { defer e.loops.Done(); e.serveReads() }()
	e.wake()
	return e, nil
}

func newEngine(c *framework.EngineConfig, set settings) *engine {
	e := &engine{
		set: set, id: raft.ServerID(c.Self), host: c.Host, log: c.Logger, confs: &history{}, pend: newPending(),
		wakeUp: make(chan struct{}, 1), feedWake: make(chan struct{}, 1), readWake: make(chan struct{}, 1),
		changing: make(chan struct{}, 1), changed: make(chan struct{}),
		stopping: make(chan struct{}), done: make(chan struct{}),
		lost:  framework.ErrNotLeader.Because("another leader's entry took the proposal's place: it did not happen"),
		maybe: framework.ErrMaybe.Because("leadership was lost while the proposal was on its way: it may have happened"),
	}
	e.fsm = &handover{e: e}
	e.inbox.refusal = framework.ErrNotLeader
	e.reads.refusal = framework.ErrNotLeader
	return e
}

// open brings up storage, transport and raft, in this order.
func (e *engine) open(c *framework.EngineConfig, s seams) (err error) {
	if c.Dir != "" {
		if e.dir, err = lockDir(c.Dir, c.Self); err != nil {
			return err
		}
	}
	if err := e.openStorage(c, s); err != nil {
		return err
	}
	if err := e.bootstrap(c.Bootstrap); err != nil {
		return err
	}
	if err := e.checkContinuity(); err != nil {
		return err
	}
	if e.trans, err = newTransport(c, func() { signal(e.readWake) }, e.log); err != nil {
		return err
	}
	e.store.onDispatch, e.store.onWipe, e.tune = e.dispatching, e.logWiped, s.tuning
	if err := e.startRaft(); err != nil {
		return err
	}
	if c.Metrics != nil {
		if e.gauges, err = registerGauges(c, e); err != nil {
			return err
		}
	}
	e.opened.Store(true)
	e.storageHangs() // it may have begun before anyone listened
	return e.store.failure()
}

func (e *engine) openStorage(c *framework.EngineConfig, s seams) error {
	e.wal = newWALCounters()
	back, err := openBackend(e.set.logStore, c.Dir, e.log, e.wal)
	if err != nil {
		return err
	}
	if s.backend != nil {
		back = s.backend(back)
	}
	w := newWatch(e.set.stallAfter, e.storageHangs)
	if e.store, err = openStore(back, w, e.confs); err != nil {
		return errors.Join(err, back.Close())
	}
	e.store.onChange, e.store.onFail = e.wake, e.storageFailed
	e.snaps, err = openSnapshots(c.Dir, e.log)
	if err != nil {
		return err
	}
	e.snaps.past = e.pastSnapshot
	return nil
}

// bootstrap writes a new group's first entry, unless there is a log already. It
// is the same on every member, so it does not matter who of them does it.
func (e *engine) bootstrap(members []framework.Member) error {
	_, last := e.store.bounds()
	if members == nil || last != 0 || e.snaps.newestIndex() != 0 || e.store.term.Load() > 1 {
		return nil
	}
	st := raftStable{e.store}
	if err := st.SetUint64(keyCurrentTerm, 1); err != nil {
		return fmt.Errorf("bootstrap: %w", err)
	}
	entry := &raft.Log{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(configurationOf(members))}
	if err := e.store.append([]*raft.Log{entry}); err != nil {
		return fmt.Errorf("bootstrap: %w", err)
	}
	return nil
}

// checkContinuity finds a log whose beginning is gone with the snapshot that
// stood for it; raft would panic on it.
func (e *engine) checkContinuity() error {
	first, last := e.store.bounds()
	all, err := e.snaps.List()
	if err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	if last == 0 || first == 1 {
		return nil
	}
	for _, m := range all {
		if m.Index+1 >= first {
			return nil
		}
	}
	return fmt.Errorf("the log begins at position %d and no readable snapshot covers what is before it: this replica's data is damaged; replace the replica (diarchy group replace)", first)
}

// abandon undoes a start that failed.
func (e *engine) abandon() {
	close(e.stopping)
	if e.trans != nil {
		e.trans.close()
	}
	if r := e.raft.Load(); r != nil {
		_ = r.Shutdown().Error() // only ever nil
	}
	if e.store != nil {
		e.store.watch.stop()
		_ = e.store.close() // the error that brought us here is told
	}
	e.dir.unlock()
}

// Changed implements framework.Engine.
func (e *engine) Changed() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.changed
}

// Features implements framework.Engine.
func (e *engine) Features() framework.Features { return framework.Features{} }

// running answers ErrStopped once the end has begun.
func (e *engine) running() error {
	select {
	case <-e.stopping:
		return e.whyStopped()
	default:
		return nil
	}
}

func (e *engine) whyStopped() *framework.Error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stopErr != nil && !e.isClosed {
		return framework.ErrStopped.Because("this replica has stopped: %v", e.stopErr)
	}
	return framework.ErrStopped
}

// storageFailed stops the replica for good.
func (e *engine) storageFailed(err error) {
	if !e.opened.Load() {
		return // open answers it
	}
	e.log.Error("storage failed; this replica stops", "err", err)
	e.beginEnd(fmt.Errorf("storage failed: %w", err))
}

// beginEnd starts the end, once, and does not wait for it.
func (e *engine) beginEnd(cause error) {
	e.endOnce.Do(func() {
		e.mu.Lock()
		e.stopErr = cause
		e.mu.Unlock()
		close(e.stopping)
		go e.end()
	})
}

// end stops everything. Nothing of raft's is waited for before the connections
// are closed: its goroutines may be waiting for answers.
func (e *engine) end() {
	defer close(e.done)
	why := e.whyStopped()
	e.refuse(why)
	e.reads.lead(0, why)
	e.trans.close()
	e.watcher.Wait()
	e.admin.Wait()
	_ = e.raft.Load().Shutdown().Error() // only ever nil; waits for raft's goroutines
	e.fsm.mute()
	e.loops.Wait()
	e.refuse(why)
	e.resolve(e.pend.sweep(0, 0, why, e.maybe, nil))
	e.store.watch.stop()
	if err := e.store.close(); err != nil {
		e.log.Error("log store did not close", "err", err)
	}
	e.gauges.unregister()
	e.dir.unlock()
	e.show()
}

// closeGrace is how much longer than its context Close waits for what ends by
// itself: everything but a storage call that hangs.
const closeGrace = 5 * time.Second

// Close implements framework.Engine. When ctx ends before a storage call that
// hangs returns, it says so; the rest of the end follows when it does.
func (e *engine) Close(ctx context.Context) error {
	e.mu.Lock()
	e.isClosed = true
	e.mu.Unlock()
	e.beginEnd(nil)
	select {
	case <-e.done:
		return nil
	case <-ctx.Done():
	}
	grace := time.NewTimer(closeGrace)
	defer grace.Stop()
	select {
	case <-e.done:
		return nil
	case <-grace.C:
	}
	e.fsm.mute()
	e.resolve(e.pend.sweep(0, 0, e.maybe, e.maybe, nil))
	return fmt.Errorf("engine raft: not closed in time: a storage call has not returned: %w", ctx.Err())
}

// signal leaves a signal unless there is one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
