package framework

import (
	"context"
	"errors"
	"math"
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
	age := g.leaderAge()
	m, number, now, history, err := g.acquire()
	if err != nil {
		return Answer{}, err
	}
	defer g.a.state.release(m)
	if t := q.After.History; t != (UUID{}) && t != history {
		return Answer{}, ErrOtherHistory
	}
	value, err := m.Query(ctx, fsm.Query{Data: q.Data, Index: number, Time: now})
	if err != nil {
		return Answer{}, g.queryError(ctx, err)
	}
	if len(value) > g.cfg.Limits.ResultBytes {
		return Answer{}, ErrTooLarge.Because("the answer has %d bytes; this group gives up to %d (limits.result_bytes)", len(value), g.cfg.Limits.ResultBytes)
	}
	return Answer{Value: value, Token: Token{History: history, Number: number}, Time: time.Unix(0, now), Age: age}, nil
}

// acquire gives the machine to query and what it has applied at least: taken
// before the machine, and of the history that the machine is of.
func (g *Group) acquire() (m *heldMachine, number uint64, now int64, history UUID, err error) {
	for {
		_, number, now, history = g.a.seen.get()
		if m, err = g.a.state.acquire(); err != nil {
			return nil, 0, 0, UUID{}, err
		}
		if _, _, _, h := g.a.seen.get(); h == history {
			return m, number, now, history, nil
		}
		g.a.state.release(m)
	}
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
	if err := g.awaitHistory(ctx, t.History); err != nil {
		return err
	}
	if err := g.awaitApplied(ctx, func() error { return g.a.seen.waitNumber(ctx, t.Number) }); err != nil {
		return err
	}
	// A restore that came meanwhile has moved the number on as well.
	return g.sameHistory(t.History)
}

// awaitHistory tells a history that is over from one that this replica has not
// reached yet: what is known to be committed may bring it.
func (g *Group) awaitHistory(ctx context.Context, h UUID) error {
	if g.sameHistory(h) == nil {
		return nil
	}
	committed := max(g.engine.Status().Commit, g.a.ring.committed())
	if err := g.awaitApplied(ctx, func() error { return g.a.seen.waitAt(ctx, committed) }); err != nil {
		return err
	}
	return g.sameHistory(h)
}

func (g *Group) sameHistory(h UUID) error {
	if _, _, _, now := g.a.seen.get(); h != (UUID{}) && h != now {
		return ErrOtherHistory
	}
	return nil
}

func (g *Group) awaitApplied(ctx context.Context, wait func() error) error {
	err := wait()
	if err == nil || errors.Is(err, ErrStopped) {
		return err
	}
	if down := g.a.state.serving(); down != nil {
		return down
	}
	return ErrDeadline.Because("this replica has not applied that far in time: %v", err)
}

// WaitIndex: see Service.
func (g *Group) WaitIndex(ctx context.Context, after uint64) (uint64, error) {
	if after < math.MaxUint64 {
		_ = g.a.seen.waitNumber(ctx, after+1) // reaching the time limit is an answer too
	} else {
		<-ctx.Done()
	}
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
