package framework

import (
	"context"
	"errors"
	"time"
)

const (
	// closeDrain bounds each thing that Close waits for.
	closeDrain = 5 * time.Second
	// closeGrace is what it waits when it was given no time.
	closeGrace = time.Second
)

var errLeftBehind = errors.New("a call into the machine never returned; its goroutine is left behind")

// Close hands leadership over, finishes what was accepted, closes everything.
// When ctx ends first the rest is closed at once and callers hear ErrMaybe. A
// machine that hangs cannot keep it: the goroutine in that call is left behind,
// and the error says so.
func (g *Group) Close(ctx context.Context) error {
	if g.closing.Swap(true) {
		select {
		case <-g.closed:
			return nil
		case <-ctx.Done():
			return ErrDeadline.Because("the replica is being closed: %v", ctx.Err())
		}
	}
	defer close(g.closed)
	g.stop()
	g.loops.Wait()
	g.drain(ctx)
	g.resign(ctx)
	err := g.engine.Close(ctx)
	g.a.state.set(phaseStopped, nil)
	g.a.cancel()
	g.a.ring.signal()
	err = errors.Join(err, g.endApplier(ctx))
	g.a.pending.failAll(ErrMaybe.Because("the replica was closed before the command's result was known"))
	g.a.seen.end()
	g.staged.close()
	g.unmeter()
	g.changes.raise()
	return err
}

// drain waits for what was accepted: nothing new is, any more.
func (g *Group) drain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, closeDrain)
	defer cancel()
	select {
	case <-g.a.pending.drained():
	case <-ctx.Done():
	}
}

// resign hands leadership over, to a replica that can execute where one is known.
func (g *Group) resign(ctx context.Context) {
	s := g.engine.Status()
	if s.Role != RoleLeader || s.Membership.Voters() < 2 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, closeDrain)
	defer cancel()
	to, _ := g.fitter(s, nil)
	if err := g.engine.Transfer(ctx, to); err != nil {
		g.cfg.Logger.Warn("leadership was not handed over before closing", "err", err)
	}
}

// endApplier waits for the applier and for what it has started. A machine whose
// call does not return is closed under it.
func (g *Group) endApplier(ctx context.Context) error {
	if !awaitEnd(ctx, g.a.done) {
		if h := g.a.state.takeOut(); h != nil {
			go func() { _ = h.Close() }() // it may hang like the rest
		}
		if !awaitEnd(ctx, g.a.done) {
			g.cfg.Logger.Error("close replica", "err", errLeftBehind)
			return errLeftBehind
		}
	}
	written := make(chan struct{})
	go func() {
		g.a.writing <- struct{}{}
		close(written)
	}()
	if !awaitEnd(ctx, written) {
		return errLeftBehind
	}
	return nil
}

// awaitEnd waits for closeDrain, or closeGrace once ctx has ended.
func awaitEnd(ctx context.Context, done <-chan struct{}) bool {
	t := time.NewTimer(closeDrain)
	defer t.Stop()
	over := ctx.Done()
	for {
		select {
		case <-done:
			return true
		case <-t.C:
			return false
		case <-over:
			over = nil
			t.Reset(closeGrace)
		}
	}
}
