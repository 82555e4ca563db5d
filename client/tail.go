package client

import (
	"context"
	"errors"
	"iter"
	"time"

	pb "github.com/diarchy/diarchy/client/clientpb"
)

// Entry is one committed command.
type Entry struct {
	Number uint64
	Time   time.Time
	Data   []byte
}

// Tail gives a group's committed commands in order from number from on; 0 is
// from the next one to come. It goes on where it was when a node is lost, and
// ends with ctx or an error: ErrCompacted names the oldest that is kept.
func (g *Group) Tail(ctx context.Context, from uint64) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		next := from
		if next == 0 {
			at, err := g.position(ctx)
			if err != nil {
				yield(Entry{}, err)
				return
			}
			next = at + 1
		}
		t := g.c.newTry(g, false, true)
		for {
			before := next
			e, more := g.tailOnce(ctx, t, &next, yield)
			if !more {
				return
			}
			if next > before {
				t.tries, t.maybe = 0, false
			}
			if e.Code == pb.CodeBusy && e.Index > 0 {
				next = e.Index // too slow for that node: on from there
			}
			if e = t.again(ctx, g.c, nil, e); e != nil {
				e.Happened = No
				yield(Entry{}, e)
				return
			}
		}
	}
}

// position is the number of the last command that a node has applied.
func (g *Group) position(ctx context.Context) (uint64, error) {
	res, err := unary(ctx, g.c, true, &pb.WaitIndexRequest{Group: g.name, TimeoutMs: 1}, pb.DiarchyClient.WaitIndex)
	if err != nil {
		return 0, err
	}
	return res.Number, nil
}

// tailOnce reads from one node until that ends. more is false when the caller
// has had enough.
func (g *Group) tailOnce(ctx context.Context, t *try, next *uint64, yield func(Entry, error) bool) (e *Error, more bool) {
	n, _, e := t.pick(g.c)
	if e != nil {
		return e, true
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := n.rpc.Tail(ctx, &pb.TailRequest{Group: g.name, From: *next})
	if err != nil {
		return fromConnect(err), true
	}
	defer s.Close()
	for s.Receive() {
		for _, m := range s.Msg().Entries {
			if m.Number < *next {
				continue
			}
			if !yield(Entry{Number: m.Number, Time: time.Unix(0, m.Time), Data: m.Data}, nil) {
				return nil, false
			}
			*next = m.Number + 1
		}
	}
	if err := s.Err(); err != nil {
		return fromConnect(err), true
	}
	return lost(errors.New("the node ended the stream")), true
}

// WaitIndex returns once the node asked has applied a command numbered above
// after, with the number reached. When ctx ends first it returns that error.
func (g *Group) WaitIndex(ctx context.Context, after uint64) (uint64, error) {
	for {
		req := &pb.WaitIndexRequest{Group: g.name, After: after, TimeoutMs: waitStepMs}
		if d, ok := ctx.Deadline(); ok {
			req.TimeoutMs = uint32(min(max(time.Until(d).Milliseconds(), 1), waitStepMs))
		}
		res, err := unary(ctx, g.c, true, req, pb.DiarchyClient.WaitIndex)
		if err != nil {
			e := *fromConnect(err)
			e.Happened = No
			return 0, &e
		}
		if res.Number > after {
			return res.Number, nil
		}
		if err := ctx.Err(); err != nil {
			return res.Number, &Error{Code: pb.CodeDeadline, Message: "nothing was applied meanwhile: " + err.Error(), cause: err}
		}
	}
}

// waitStepMs is how long one request of WaitIndex waits.
const waitStepMs = 30_000
