package framework

import (
	"context"
	"errors"
	"time"

	"github.com/diarchy/diarchy/fsm"
)

// Query reads at the level asked for. Linearizable and FromLeader answer
// ErrNotLeader on a replica that does not lead. All errors: nothing happened.
func (g *Group) Query(ctx context.Context, q ReadQuery) (Answer, error) {
	if g.closing.Load() {
		return Answer{}, ErrStopped
	}
	if err := g.awaitLevel(ctx, q.Consistency); err != nil {
		return Answer{}, err
	}
	if err := g.awaitToken(ctx, q.After); err != nil {
		return Answer{}, err
	}
	m, err := g.a.state.serving()
	if err != nil {
		return Answer{}, err
	}
	age := g.leaderAge()
	_, number, now, history := g.a.seen.get()
	value, err := m.Query(ctx, fsm.Query{Data: q.Data, Index: number, Time: now})
	if err != nil {
		return Answer{}, g.queryError(ctx, err)
	}
	if len(value) > g.cfg.Limits.ResultBytes {
		return Answer{}, ErrTooLarge.Because("the answer has %d bytes; this group gives up to %d (limits.result_bytes)", len(value), g.cfg.Limits.ResultBytes)
	}
	return Answer{Value: value, Token: Token{History: history, Number: number}, Time: time.Unix(0, now), Age: age}, nil
}

func (g *Group) queryError(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, fsm.ErrUnsupported):
		return ErrUnsupported.Because("this group's machine answers no queries")
	case errors.Is(err, fsm.ErrLost):
		return ErrMachineDown.Because("the machine was lost during the query: %v", err)
	case ctx.Err() != nil:
		return ErrDeadline.Because("the query did not end in time: %v", ctx.Err())
	}
	return ErrInvalid.Because("query: %v", err)
}

// awaitLevel holds a read until this replica may answer it.
func (g *Group) awaitLevel(ctx context.Context, level Consistency) error {
	switch level {
	case Linearizable:
		return g.awaitReadIndex(ctx)
	case FromLeader:
		if s := g.engine.Status(); s.Role != RoleLeader {
			return notLeader(s)
		}
	}
	return nil
}

func (g *Group) awaitReadIndex(ctx context.Context) error {
	at, err := g.engine.ReadIndex(ctx)
	if err != nil {
		return err
	}
	return g.awaitApplied(ctx, func() error { return g.a.seen.waitAt(ctx, at) })
}

// awaitToken holds a read until the client's own writes are applied here.
func (g *Group) awaitToken(ctx context.Context, t Token) error {
	if t == (Token{}) {
		return nil
	}
	if _, _, _, h := g.a.seen.get(); t.History != (UUID{}) && t.History != h {
		// A history that this replica has not reached yet looks the same from
		// here as one that is over; the leader knows.
		if s := g.engine.Status(); s.Role == RoleLeader || g.a.state.phase() == phaseRunning {
			return ErrOtherHistory
		}
	}
	return g.awaitApplied(ctx, func() error { return g.a.seen.waitNumber(ctx, t.Number) })
}

func (g *Group) awaitApplied(ctx context.Context, wait func() error) error {
	if err := wait(); err != nil {
		if _, down := g.a.state.serving(); down != nil {
			return down
		}
		return ErrDeadline.Because("this replica has not applied that far in time: %v", err)
	}
	return nil
}

// WaitIndex: see Service.
func (g *Group) WaitIndex(ctx context.Context, after uint64) (uint64, error) {
	_ = g.a.seen.waitNumber(ctx, after+1) // reaching the time limit is an answer too
	if g.closing.Load() {
		return 0, ErrStopped
	}
	_, number, _, _ := g.a.seen.get()
	return number, nil
}

// leaderAge is how old what this replica knows may be.
func (g *Group) leaderAge() time.Duration {
	s := g.engine.Status()
	switch {
	case s.Role == RoleLeader:
		return 0
	case s.LeaderContact.IsZero():
		return -1
	}
	return time.Since(s.LeaderContact)
}

func notLeader(s EngineStatus) error {
	e := *ErrNotLeader
	e.Leader = s.Leader
	return &e
}
