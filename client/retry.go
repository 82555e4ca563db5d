package client

import (
	"context"
	"time"

	pb "github.com/diarchy/diarchy/client/clientpb"
)

// try is the state of one call's attempts.
type try struct {
	g *Group // nil for what concerns no group
	// toLeader: only the leader can answer. Then the first node asked is told
	// not to forward, so that the leader is learnt and asked directly.
	toLeader bool
	// repeatable: asking again after "maybe" cannot do it twice.
	repeatable bool
	// home: the question is about one node, so no other can answer it.
	home bool

	seed    uint32
	tries   int
	hops    int // followed a leader's address, in a row
	maybe   bool
	forward bool // a node is to forward: the leader cannot be reached from here
	last    *Error
}

// hopsMax bounds how often a leader's address is followed without a pause.
const hopsMax = 3

func (c *Client) newTry(g *Group, toLeader, repeatable bool) *try {
	return &try{g: g, toLeader: toLeader, repeatable: repeatable, seed: c.begin.Load()}
}

// pick says who is asked next, and whether that node is not to forward.
func (t *try) pick(c *Client) (n *node, noForward bool, e *Error) {
	var err error
	if t.home {
		n, err = c.seed(0)
		return n, false, asError(err)
	}
	if t.toLeader && !t.forward {
		if addr := t.g.leaderAddr(); addr != "" {
			n, err = c.node(addr)
			return n, true, asError(err)
		}
		noForward = !t.g.forwarding()
	}
	n, err = c.seed(t.seed)
	return n, noForward, asError(err)
}

func asError(err error) *Error {
	if err == nil {
		return nil
	}
	return fromConnect(err)
}

// succeeded remembers who answered.
func (t *try) succeeded(c *Client, n *node, noForward bool) {
	switch {
	case t.home:
	case !t.toLeader:
		c.begin.Store(t.seed)
	case noForward:
		t.g.setLeader(n.addr)
	case t.forward:
		t.g.setForwarding()
	}
}

// again judges a failure: nil when the call may be tried again, after a pause
// that it takes; otherwise what the caller is to get.
func (t *try) again(ctx context.Context, c *Client, n *node, e *Error) *Error {
	t.tries++
	t.last = e
	rule := pb.RowOf(e.Code).Retry
	ambiguous := e.Happened == Maybe
	t.maybe = t.maybe || ambiguous && !isExpiry(e)
	switch {
	case ctx.Err() != nil || e.Code == pb.CodeClosed:
		return t.giveUp(ctx)
	case rule == pb.Return, ambiguous && !t.repeatable:
		return t.verdict(e)
	case e.Code == pb.CodeNotLeader:
		if t.follow(n, e) {
			return nil
		}
	case rule == pb.Elsewhere, rule == pb.InSession:
		t.leave(n)
	}
	if !sleep(ctx, c.ctx, pause(c.cfg.PauseMin, c.cfg.PauseMax, min(t.tries, 16))) {
		return t.giveUp(ctx)
	}
	return nil
}

// isExpiry: the session's end says nothing of this try, which it refused.
func isExpiry(e *Error) bool { return e.Code == pb.CodeSessionExpired }

// follow goes where a NotLeader points; true when at once.
func (t *try) follow(n *node, e *Error) bool {
	if !t.toLeader {
		t.leave(n)
		return false
	}
	if e.LeaderAddr != "" && e.LeaderAddr != n.addr {
		t.g.setLeader(e.LeaderAddr)
		t.hops++
		return t.hops <= hopsMax
	}
	t.leave(n)
	if e.Leader != "" && e.LeaderAddr == "" {
		// There is one, and nobody knows its address: let them forward.
		t.forward = true
		t.hops++
		return t.hops <= hopsMax
	}
	t.hops = 0
	return false
}

// leave asks somebody else next time. When it was the leader's address that did
// not work, the others are asked to forward: they may reach it.
func (t *try) leave(n *node) {
	if t.toLeader && t.g.dropLeader(n.addr) {
		t.forward = true
		return
	}
	t.forward = false
	t.seed++
}

// verdict is the last failure, with what is known of all tries together: a
// "no" after a "maybe" is a maybe.
func (t *try) verdict(e *Error) *Error {
	if t.maybe && e.Happened == No {
		e = &Error{Code: e.Code, Happened: Maybe, Message: e.Error() + " (an earlier try may have happened)",
			Leader: e.Leader, LeaderAddr: e.LeaderAddr, Index: e.Index, cause: e.cause}
	}
	return e
}

// giveUp is the failure of a call whose time is up.
func (t *try) giveUp(ctx context.Context) *Error {
	e := t.last
	cause := context.Cause(ctx)
	if ctx.Err() != nil {
		cause = ctx.Err()
	}
	out := &Error{Code: e.Code, Happened: e.Happened, Message: e.Error(), Leader: e.Leader, LeaderAddr: e.LeaderAddr, Index: e.Index, cause: cause}
	if cause != nil && e.cause == nil {
		out.Message = cause.Error() + ", last: " + e.Error()
	}
	return t.verdict(out)
}

// sleep pauses; false when the caller or the client ended first.
func sleep(ctx, life context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
	case <-life.Done():
	}
	return false
}

// ask runs one call on the data path until it has an end. The id, noForward and
// deadline of r are filled here.
func (g *Group) ask(ctx context.Context, t *try, r request) (answer, *Error) {
	r.group = g.name
	r.deadline, _ = ctx.Deadline()
	for {
		n, noForward, e := t.pick(g.c)
		if e != nil {
			return answer{}, t.verdict(e)
		}
		r.noForward = noForward
		var ans answer
		s, err := n.stream(ctx)
		if e = asError(err); e == nil {
			ans, e = s.do(ctx, r)
		}
		if e == nil {
			t.succeeded(g.c, n, noForward)
			return ans, nil
		}
		if e = t.again(ctx, g.c, n, e); e != nil {
			return answer{}, e
		}
	}
}

// unary runs one call beside the data path. Nodes forward what is a leader's.
func unary[Req, Res any](ctx context.Context, c *Client, repeatable bool, req *Req,
	call func(pb.DiarchyClient, context.Context, *Req) (*Res, error)) (*Res, error) {
	return unaryBy(ctx, c, c.newTry(nil, false, repeatable), req, call)
}

// atHome is unary for the node at Config.Addresses[0] alone.
func atHome[Req, Res any](ctx context.Context, c *Client, req *Req,
	call func(pb.DiarchyClient, context.Context, *Req) (*Res, error)) (*Res, error) {
	t := c.newTry(nil, false, true)
	t.home = true
	return unaryBy(ctx, c, t, req, call)
}

func unaryBy[Req, Res any](ctx context.Context, c *Client, t *try, req *Req,
	call func(pb.DiarchyClient, context.Context, *Req) (*Res, error)) (*Res, error) {
	for {
		n, _, e := t.pick(c)
		if e != nil {
			return nil, t.verdict(e)
		}
		res, err := call(n.rpc, ctx, req)
		if err == nil {
			t.succeeded(c, n, false)
			return res, nil
		}
		if e = t.again(ctx, c, n, fromConnect(err)); e != nil {
			return nil, e
		}
	}
}
