package framework

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
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
	a.staged.prune(at)
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
// one state is written at a time.
func (a *applier) captureNow(ctx context.Context, f func(*payloadWriter, Position) error) error {
	select {
	case a.writing <- struct{}{}:
	case <-ctx.Done():
		return ErrDeadline.Because("another snapshot is being written: %v", ctx.Err())
	case <-a.done:
		return ErrStopped
	}
	defer func() { <-a.writing }()
	var (
		w   *payloadWriter
		at  Position
		err error
	)
	if e := a.onApplier(ctx, func() {
		if _, err = a.state.serving(); err == nil {
			w, at, err = a.capture(ctx)
		}
	}); e != nil {
		return e
	}
	if err != nil {
		return err
	}
	return f(w, at)
}

// Snapshot snapshots now and returns when it is durable.
func (g *Group) Snapshot(ctx context.Context) (rep SnapshotReport, err error) {
	err = g.a.captureNow(ctx, func(w *payloadWriter, at Position) error {
		rep, err = g.a.store(ctx, w, at)
		return err
	})
	return rep, err
}

// Checksum hashes the machine's state at the applied number.
func (g *Group) Checksum(ctx context.Context) (sum Checksum, err error) {
	err = g.a.captureNow(ctx, func(w *payloadWriter, _ Position) error {
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
