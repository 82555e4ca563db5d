package client

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"

	pb "github.com/diarchy/diarchy/client/clientpb"
)

// SessionID is 128 random bits.
type SessionID [16]byte

// SessionOptions are fixed when a session is opened.
type SessionOptions struct {
	// Ordered: commands are executed in the order in which Propose was called.
	Ordered bool
}

// Session executes each command exactly once, many in flight. It is registered
// with the group when it is first used. Safe for concurrent use.
//
// Invariants, under mu: commands low to next-1 are in flight or wait to be
// counted off; done holds which of those have ended, by number modulo the
// window; next-low is at most the window.
type Session struct {
	g       *Group
	id      SessionID
	ordered bool

	reg sync.Mutex // held while registering

	mu         sync.Mutex
	registered bool
	low, next  uint64
	done       []bool
	broken     *Error // no more commands
	room       chan struct{}
}

// OpenSession makes a session. Group.Propose keeps some by itself; one of your
// own is for commands in order, or to retry one of them later.
func (g *Group) OpenSession(o SessionOptions) (*Session, error) { return newSession(g, o) }

func newSession(g *Group, o SessionOptions) (*Session, error) {
	s := &Session{g: g, ordered: o.Ordered, low: 1, next: 1, done: make([]bool, g.c.cfg.SessionWindow), room: make(chan struct{}, 1)}
	if _, err := rand.Read(s.id[:]); err != nil {
		return nil, fmt.Errorf("client: no random session id: %w", err)
	}
	return s, nil
}

// ID is the session's id, as Diarchy-Session carries it.
func (s *Session) ID() SessionID { return s.id }

// Propose has a command executed exactly once; see Group.Propose for errors.
// When the session expires it is told: it is for the caller to say what a new
// one is to repeat.
func (s *Session) Propose(ctx context.Context, command []byte) (Result, error) {
	res, e := s.propose(ctx, command)
	if e != nil {
		return res, e.err
	}
	return res, nil
}

// proposeError is a failure, and whether any try but the last is in doubt.
type proposeError struct {
	err   *Error
	maybe bool
}

func (s *Session) propose(ctx context.Context, command []byte) (Result, *proposeError) {
	if err := s.register(ctx); err != nil {
		return Result{}, &proposeError{err: err}
	}
	seq, acked, err := s.enter(ctx)
	if err != nil {
		return Result{}, &proposeError{err: err}
	}
	t := s.g.c.newTry(s.g, true, true)
	ans, e := s.g.ask(ctx, t, request{data: command, session: s.id, seq: seq, acked: acked})
	s.leave(seq, e)
	res, rerr := resultOf(ans, e)
	if rerr == nil {
		return res, nil
	}
	return res, &proposeError{err: fromConnect(rerr), maybe: t.maybe}
}

// register opens the session in the group, once. It did not happen to any
// command when it fails.
func (s *Session) register(ctx context.Context) *Error {
	s.mu.Lock()
	ok := s.registered
	s.mu.Unlock()
	if ok {
		return nil
	}
	s.reg.Lock()
	defer s.reg.Unlock()
	s.mu.Lock()
	ok = s.registered
	s.mu.Unlock()
	if ok {
		return nil
	}
	_, err := unary(ctx, s.g.c, true, &pb.OpenSessionRequest{Group: s.g.name, Session: s.id[:], Ordered: s.ordered}, pb.DiarchyClient.OpenSession)
	if err != nil {
		e := *fromConnect(err)
		e.Happened = No
		return &e
	}
	s.mu.Lock()
	s.registered = true
	s.mu.Unlock()
	return nil
}

func (s *Session) hasRoom() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.broken == nil && s.next-s.low < uint64(len(s.done))
}

// enter takes a number, waiting for the window if need be.
func (s *Session) enter(ctx context.Context) (seq, ackedBelow uint64, e *Error) {
	for {
		s.mu.Lock()
		if s.broken != nil {
			defer s.mu.Unlock()
			return 0, 0, s.broken
		}
		if s.next-s.low < uint64(len(s.done)) {
			seq, ackedBelow = s.next, s.low
			s.done[seq%uint64(len(s.done))] = false
			s.next++
			more := s.next-s.low < uint64(len(s.done))
			s.mu.Unlock()
			if more {
				nudge(s.room)
			}
			return seq, ackedBelow, nil
		}
		s.mu.Unlock()
		select {
		case <-s.room:
		case <-ctx.Done():
			return 0, 0, &Error{Code: pb.CodeDeadline, cause: ctx.Err(),
				Message: "the session's window is full, and the caller gave up: " + ctx.Err().Error()}
		case <-s.g.c.ctx.Done():
			return 0, 0, errClosed
		}
	}
}

// leave counts a command off. A number that was given up leaves a hole that an
// ordered session cannot get over.
func (s *Session) leave(seq uint64, e *Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	window := uint64(len(s.done))
	s.done[seq%window] = true
	for s.low < s.next && s.done[s.low%window] {
		s.low++
	}
	if s.ordered && e != nil && e.Happened != Yes && s.broken == nil {
		s.broken = &Error{Code: pb.CodeSessionExpired,
			Message: fmt.Sprintf("command %d of this ordered session was given up (%s), so none can follow it; open another session. It did not happen", seq, e.Code)}
	}
	nudge(s.room)
}

// Close forgets the session in the group. Commands sent in it later fail.
func (s *Session) Close(ctx context.Context) error {
	s.mu.Lock()
	known := s.registered
	s.broken = &Error{Code: pb.CodeSessionExpired, Message: "the session has been closed; it did not happen"}
	s.mu.Unlock()
	nudge(s.room)
	if !known {
		return nil
	}
	_, err := unary(ctx, s.g.c, true, &pb.CloseSessionRequest{Group: s.g.name, Session: s.id[:]}, pb.DiarchyClient.CloseSession)
	return err
}
