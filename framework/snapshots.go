package framework

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/diarchy/diarchy/fsm"
)

// snapshotIfDue starts a snapshot when enough was applied since the last one.
// Called by run.
func (a *applier) snapshotIfDue() {
	p := a.cfg.Snapshots
	if a.noSnap || a.sinceSnap.entries < p.Entries && a.sinceSnap.bytes < p.Bytes || a.state.phase() != phaseRunning {
		return
	}
	select {
	case a.writing <- struct{}{}:
	default:
		return // one at a time
	}
	w, at, err := a.capture(a.ctx)
	if err != nil {
		<-a.writing
		a.noSnap = errors.Is(err, ErrUnsupported)
		if a.noSnap {
			a.log.Warn("the log of this group grows for ever", "err", err)
		}
		return
	}
	a.sinceSnap.entries, a.sinceSnap.bytes = 0, 0
	go func() {
		defer func() { <-a.writing }()
		if _, err := a.store(a.ctx, w, at); err != nil && a.ctx.Err() == nil {
			a.log.Error("snapshot failed", "position", at, "err", err)
		}
	}()
}

// capture takes the present state, between two batches. Called by run. The
// caller must call Release on the machine's part.
func (a *applier) capture(ctx context.Context) (*payloadWriter, Position, error) {
	if a.machine == nil {
		return nil, 0, ErrMachineDown
	}
	sessions := a.st.sessions.appendTo(nil, sessionResultsMax)
	if len(sessions) > infoBytesMax/2 {
		return nil, 0, ErrUnsupported.Because("the session table has %d bytes, more than a snapshot can hold: lower limits.sessions or limits.session_window", len(sessions))
	}
	a.state.begin(time.Now())
	s, err := a.machine.Snapshot(a.ctx)
	a.state.end()
	if errors.Is(err, fsm.ErrUnsupported) {
		return nil, 0, ErrUnsupported.Because("the machine %q has no snapshots", a.opened.Name)
	}
	if err != nil {
		err = fmt.Errorf("%w: snapshot: %w", fsm.ErrLost, err)
		a.lost(err)
		return nil, 0, ErrMachineDown.Because("%s", err)
	}
	return &payloadWriter{ctx: ctx, machine: s, bytesPerSec: a.cfg.Snapshots.BytesPerSec, info: payloadInfo{
		number: a.st.number, time: a.st.time, history: a.st.history,
		machineName: a.opened.Name, machineVersion: a.opened.Version, sessions: sessions,
	}}, a.at, nil
}

// sessionResultsMax bounds the kept results that a snapshot carries.
const sessionResultsMax = 256 << 20

// store hands a captured state to the engine and waits until it is durable.
func (a *applier) store(ctx context.Context, w *payloadWriter, at Position) (SnapshotReport, error) {
	defer w.machine.Release()
	defer a.snapping.Store(-1)
	a.snapping.Store(0)
	w.progress = a.snapping.Store
	if err := a.engine.Snapshot(ctx, at, w); err != nil {
		return SnapshotReport{}, err
	}
	a.metrics.snapshots.Inc()
	a.staged.prune(at, a.engine.Status().First)
	rep := a.report(&w.info, at)
	rep.Bytes = a.snapping.Load()
	return rep, nil
}

func (a *applier) report(info *payloadInfo, at Position) SnapshotReport {
	return SnapshotReport{
		Number: info.number, Position: at, History: historyOf(a.cfg.Identity, info.history),
		MachineName: info.machineName, MachineVersion: info.machineVersion,
	}
}

// captureNow captures the state at this moment for f, which has it to itself:
// one state is written at a time. f's context ends with ctx and with the replica.
func (a *applier) captureNow(ctx context.Context, f func(context.Context, *payloadWriter, Position) error) error {
	select {
	case a.writing <- struct{}{}:
	case <-ctx.Done():
		return ErrDeadline.Because("another snapshot is being written: %v", ctx.Err())
	case <-a.ctx.Done():
		return ErrStopped
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(a.ctx, cancel)()
	j := &captureJob{a: a, ctx: ctx, got: make(chan captured, 1)}
	a.ring.do(j.run)
	var c captured
	select {
	case c = <-j.got:
	case <-ctx.Done():
		if j.claimed.CompareAndSwap(false, true) {
			if a.ctx.Err() != nil {
				return ErrStopped
			}
			return ErrDeadline.Because("the machine was busy: %v", context.Cause(ctx))
		}
		c = <-j.got // it is there, or will be at once
	}
	defer func() { <-a.writing }()
	if c.err != nil {
		return c.err
	}
	return f(ctx, c.w, c.at)
}

// captureJob is one capture that somebody waits for. Whoever claims it first
// ends it: the job by giving what it has, the caller by going away. It holds
// a.writing, so that there is one at most.
type captureJob struct {
	a       *applier
	ctx     context.Context
	claimed atomic.Bool
	got     chan captured // capacity 1
}

type captured struct {
	w   *payloadWriter
	at  Position
	err error
}

// run is called by the applier between two batches.
func (j *captureJob) run() {
	var c captured
	if !j.claimed.Load() {
		if c.err = j.a.state.serving(); c.err == nil {
			c.w, c.at, c.err = j.a.capture(j.ctx)
		}
	}
	if j.claimed.CompareAndSwap(false, true) {
		j.got <- c
		return
	}
	if c.w != nil {
		c.w.machine.Release()
	}
	<-j.a.writing
}

// Snapshot snapshots now and returns when it is durable.
func (g *Group) Snapshot(ctx context.Context) (rep SnapshotReport, err error) {
	err = g.a.captureNow(ctx, func(ctx context.Context, w *payloadWriter, at Position) error {
		rep, err = g.a.store(ctx, w, at)
		return err
	})
	return rep, err
}

// Checksum hashes the machine's state at the applied number.
func (g *Group) Checksum(ctx context.Context) (sum Checksum, err error) {
	err = g.a.captureNow(ctx, func(ctx context.Context, w *payloadWriter, _ Position) error {
		defer w.machine.Release()
		h := sha256.New()
		if _, err := w.machine.WriteTo(ctxWriter{ctx, h}); err != nil {
			return err
		}
		sum = Checksum{
			Number: w.info.number, History: historyOf(g.cfg.Identity, w.info.history),
			SHA256: hex.EncodeToString(h.Sum(nil)),
		}
		return nil
	})
	return sum, err
}

// ctxWriter ends a long write with its context.
type ctxWriter struct {
	ctx context.Context
	w   io.Writer
}

func (c ctxWriter) Write(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.w.Write(b)
}
