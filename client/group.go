package client

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	pb "github.com/diarchy/diarchy/client/clientpb"
)

// Token names a state of a group: a command's number within a history. Given
// with a read, it makes any replica wait until it has that much.
type Token struct {
	History [16]byte
	Number  uint64
}

func (t Token) pb() *pb.Token {
	if t == (Token{}) {
		return nil
	}
	return &pb.Token{History: append([]byte(nil), t.History[:]...), Number: t.Number}
}

// Result is the answer to a command that was executed.
type Result struct {
	// Token names the state after it; Token.Number is the command's number.
	Token Token
	Value []byte
	// Duplicate: an earlier try of it had been executed.
	Duplicate bool
}

// Consistency is a read level.
type Consistency uint8

// Read levels.
const (
	// Linearizable: as of some moment within the call.
	Linearizable Consistency = iota
	// FromLeader: what the leader has applied, not confirmed with a quorum.
	FromLeader
	// Stale: what the node asked has applied, with its number and age.
	Stale
)

var levelPB = [...]pb.Consistency{
	pb.Consistency_CONSISTENCY_LINEARIZABLE, pb.Consistency_CONSISTENCY_LEADER, pb.Consistency_CONSISTENCY_STALE,
}

func (c Consistency) String() string { return [...]string{"linearizable", "leader", "stale"}[c] }

// ReadOptions say how to read. The zero value is a linearizable read.
type ReadOptions struct {
	Consistency Consistency
	// After waits until this much is applied: read your writes at any level.
	After Token
}

// Answer is what a read gave.
type Answer struct {
	Value []byte
	// Token names the state the answer is from, at least.
	Token Token
	// Time is the group's time.
	Time time.Time
	// Age is how long ago the replica last heard from its leader; -1 when it
	// never has.
	Age time.Duration
}

// Group is a handle on one group. Safe for concurrent use.
type Group struct {
	c    *Client
	name string

	leader atomic.Pointer[string] // the leader's address as last heard
	// forwardUntil: until then (Unix ns) nodes are asked to forward at once,
	// since the leader could not be reached from here.
	forwardUntil atomic.Int64

	mu       sync.Mutex
	sessions []*Session // opened by Propose
	next     int
}

func newGroup(c *Client, name string) *Group { return &Group{c: c, name: name} }

// Name is the group's name.
func (g *Group) Name() string { return g.name }

func (g *Group) leaderAddr() string {
	if p := g.leader.Load(); p != nil {
		return *p
	}
	return ""
}

func (g *Group) setLeader(addr string) {
	if g.leaderAddr() != addr {
		g.leader.Store(&addr)
	}
}

// dropLeader forgets the leader if that is addr.
func (g *Group) dropLeader(addr string) bool {
	p := g.leader.Load()
	return p != nil && *p == addr && g.leader.CompareAndSwap(p, nil)
}

// forwardFor is how long the leader is not looked for again when it could be
// reached through another node only.
const forwardFor = 5 * time.Second

func (g *Group) forwarding() bool { return time.Now().UnixNano() < g.forwardUntil.Load() }
func (g *Group) setForwarding()   { g.forwardUntil.Store(time.Now().Add(forwardFor).UnixNano()) }

// Propose has a command executed exactly once, however often it has to be sent:
// in a session that the client keeps by itself. It goes on until ctx ends.
//
// The command was executed when err is nil, and when the machine said no:
// then errors.Is(err, ErrRefused), the machine's words are the message, and
// Result holds its value. Of every other error [HappenedOf] tells what is known;
// Maybe comes when ctx ends too early, or the session expires meanwhile.
func (g *Group) Propose(ctx context.Context, command []byte) (Result, error) {
	for range 3 {
		s, err := g.ownSession(ctx)
		if err != nil {
			return Result{}, err
		}
		res, e := s.propose(ctx, command)
		if e == nil {
			return res, nil
		}
		if !isExpiry(e.err) || e.maybe {
			return res, e.err
		}
		// The session was evicted, and this command was in no try but the one
		// that said so: it did not happen. A new session may take it.
		g.dropSession(s)
	}
	return Result{}, &Error{Code: pb.CodeSessionExpired, Message: "sessions are evicted as soon as they are opened: the group has too many clients for its table; it did not happen"}
}

// ProposeWithoutSession has a command executed, and sends it again only while
// that cannot do it twice. Who gets a Maybe and asks again may do it twice:
// at-least-once.
func (g *Group) ProposeWithoutSession(ctx context.Context, command []byte) (Result, error) {
	t := g.c.newTry(g, true, false)
	ans, e := g.ask(ctx, t, request{data: command})
	return resultOf(ans, e)
}

func resultOf(ans answer, e *Error) (Result, error) {
	if e != nil {
		return Result{}, e
	}
	res := Result{Token: ans.token, Value: ans.value, Duplicate: ans.duplicate}
	if ans.refusal != "" {
		return res, &Error{Code: pb.CodeRefused, Happened: Yes, Message: ans.refusal, Index: ans.token.Number}
	}
	return res, nil
}

// Query reads. It goes on until ctx ends.
func (g *Group) Query(ctx context.Context, query []byte, o ReadOptions) (Answer, error) {
	if int(o.Consistency) >= len(levelPB) {
		return Answer{}, &Error{Code: pb.CodeInvalid, Message: "unknown consistency"}
	}
	t := g.c.newTry(g, o.Consistency != Stale, true)
	ans, e := g.ask(ctx, t, request{read: true, data: query, level: o.Consistency, after: o.After})
	if e != nil {
		// A read changes nothing, whatever became of it.
		r := *e
		r.Happened = No
		return Answer{}, &r
	}
	return Answer{Value: ans.value, Token: ans.token, Time: time.Unix(0, ans.time), Age: time.Duration(ans.age)}, nil
}

// ownSession finds a session with room, opening another when all are full.
func (g *Group) ownSession(ctx context.Context) (*Session, error) {
	g.mu.Lock()
	for i := range g.sessions {
		s := g.sessions[(g.next+i)%len(g.sessions)]
		if s.hasRoom() {
			g.mu.Unlock()
			return s, nil
		}
	}
	if len(g.sessions) < g.c.cfg.SessionsMax {
		s, err := newSession(g, SessionOptions{})
		if err == nil {
			g.sessions = append(g.sessions, s)
		}
		g.mu.Unlock()
		return s, err
	}
	g.next = (g.next + 1) % len(g.sessions)
	s := g.sessions[g.next]
	g.mu.Unlock()
	return s, nil
}

func (g *Group) dropSession(s *Session) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, x := range g.sessions {
		if x == s {
			g.sessions = append(g.sessions[:i:i], g.sessions[i+1:]...)
			return
		}
	}
}

// closeSessions says goodbye; a session that is not told goes when its place in
// the group's table is needed.
func (g *Group) closeSessions(ctx context.Context) {
	g.mu.Lock()
	sessions := g.sessions
	g.sessions = nil
	g.mu.Unlock()
	var wg sync.WaitGroup
	for _, s := range sessions {
		wg.Go(func() { _ = s.Close(ctx) })
	}
	wg.Wait()
}
