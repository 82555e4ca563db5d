package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/diarchy/diarchy/fsm"
	"github.com/diarchy/diarchy/plugins/fsmpb"
)

// Client is the host's side: the machine at the other end of a connection. Once
// the connection or the protocol is broken, every call answers the same error,
// which wraps fsm.ErrLost.
type Client struct {
	rpc     fsmpb.MachineClient
	explain func(cause error) error

	// life ends when the machine is lost or closed; every call ends with it.
	life context.Context
	end  context.CancelFunc

	// apply is the stream of batches: Begin sends, Finish receives.
	apply  grpc.ClientStream
	begun  uint64
	done   uint64
	out    batchOut
	in     resultsIn
	closed atomic.Bool

	breaking sync.Once
	broken   atomic.Pointer[error]
}

var errClosed = errors.New("closed")

// NewClient makes a machine of a connection made with [DialOptions], and has the
// other end watch for the host's end. ctx bounds this alone. explain, which may be nil, is asked once,
// when the machine is found lost: it makes of the cause that was seen from here
// the one that is told, and may take the time to find out.
func NewClient(ctx context.Context, conn grpc.ClientConnInterface, explain func(cause error) error) (*Client, error) {
	if explain == nil {
		explain = func(cause error) error { return cause }
	}
	c := &Client{rpc: fsmpb.NewMachineClient(conn), explain: explain}
	c.life, c.end = context.WithCancel(context.Background())
	stop := context.AfterFunc(ctx, c.end)
	defer stop()
	stream, err := c.rpc.Attend(c.life, &fsmpb.AttendRequest{})
	if err == nil {
		// Until this is there, nobody at the other end would notice our end.
		_, err = stream.Recv()
	}
	if err != nil {
		c.end()
		return nil, fmt.Errorf("attend: %w", plain(err))
	}
	return c, nil
}

// Open implements fsm.Machine.
func (c *Client) Open(ctx context.Context) (fsm.Opened, error) {
	ctx, cancel := c.within(ctx)
	defer cancel()
	r, err := c.rpc.Open(ctx, &fsmpb.OpenRequest{})
	if err != nil {
		return fsm.Opened{}, c.lost(fmt.Errorf("open: %w", plain(err)))
	}
	if err := errorOf(r.GetFailure()); err != nil {
		return fsm.Opened{}, err
	}
	if c.apply, err = c.rpc.Apply(c.life); err != nil {
		return fsm.Opened{}, c.lost(fmt.Errorf("apply: %w", plain(err)))
	}
	return fsm.Opened{
		Name: r.GetName(), Version: r.GetVersion(), Host: r.GetHost(),
		Capabilities: fsm.Capabilities{
			Digest:  r.GetCapabilities().GetDigest(),
			Durable: r.GetCapabilities().GetDurable(),
			Ticks:   r.GetCapabilities().GetTicks(),
		},
	}, nil
}

// Apply implements fsm.Machine. When ctx ends before the answer is there nobody
// can tell what was executed: the machine is lost.
func (c *Client) Apply(ctx context.Context, b fsm.Batch, results []fsm.Result) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if ctx.Done() != nil {
		stop := context.AfterFunc(ctx, func() {
			c.lost(fmt.Errorf("apply was given up: %w", context.Cause(ctx)))
		})
		defer stop()
	}
	if err := c.Begin(b); err != nil {
		return err
	}
	return c.Finish(results)
}

// Begin sends a batch, and may do so ahead of the answers to those before it.
// Begin and [Client.Finish] may each have one goroutine; if they share one,
// what is in flight must fit into the windows of flow control.
func (c *Client) Begin(b fsm.Batch) error {
	if c.apply == nil {
		return c.lost(errors.New("apply before open"))
	}
	c.begun++
	c.out.batch, c.out.bytes = c.begun, 0
	first := 0
	for i := range b.Entries {
		n := sizeItem(sizeEntry(&b.Entries[i]))
		if n > fsmpb.EntryBytesMax {
			return c.lost(fmt.Errorf("a command of %d bytes, over the %d that a plugin takes", len(b.Entries[i].Data), fsmpb.EntryBytesMax))
		}
		if i > first && c.out.bytes+n > fsmpb.ChunkBytes {
			c.out.entries = b.Entries[first:i]
			if err := c.send(); err != nil {
				return err
			}
			first, c.out.bytes = i, 0
		}
		c.out.bytes += n
	}
	c.out.entries, c.out.last, c.out.time, c.out.host = b.Entries[first:], true, b.Time, b.Host
	err := c.send()
	c.out = batchOut{}
	return err
}

// send leaves the reason for a stream that has ended to Finish, which is told it.
func (c *Client) send() error {
	err := c.apply.SendMsg(&c.out)
	if err == nil || err == io.EOF {
		return nil
	}
	return c.lost(fmt.Errorf("apply: %w", plain(err)))
}

// Finish takes the answer to the oldest batch begun, one result for each of its
// entries.
func (c *Client) Finish(results []fsm.Result) error {
	c.done++
	c.in = resultsIn{results: results}
	for !c.in.last {
		if err := c.apply.RecvMsg(&c.in); err != nil {
			return c.lost(fmt.Errorf("apply: %w", plain(err)))
		}
		if c.in.batch != c.done {
			return c.lost(fmt.Errorf("apply: answer to batch %d where %d was due", c.in.batch, c.done))
		}
	}
	if c.in.failure != nil {
		return c.lost(fmt.Errorf("apply: %w", errorOf(c.in.failure)))
	}
	if c.in.filled != len(results) {
		return c.lost(fmt.Errorf("apply: %d results where %d were due", c.in.filled, len(results)))
	}
	c.in = resultsIn{}
	return nil
}

// Query implements fsm.Machine.
func (c *Client) Query(ctx context.Context, q fsm.Query) ([]byte, error) {
	r, err := c.rpc.Query(ctx, &fsmpb.QueryRequest{Data: q.Data, Index: q.Index, Time: q.Time})
	if err != nil {
		return nil, c.failed(ctx, "query", err)
	}
	return r.GetValue(), errorOf(r.GetFailure())
}

// Digest implements fsm.Machine.
func (c *Client) Digest(ctx context.Context) ([]byte, error) {
	r, err := c.rpc.Digest(ctx, &fsmpb.DigestRequest{})
	if err != nil {
		return nil, c.failed(ctx, "digest", err)
	}
	return r.GetDigest(), errorOf(r.GetFailure())
}

// CloseTimeout is how long Close waits for a machine to close.
const CloseTimeout = 2 * time.Second

// Close implements fsm.Machine. Calls under way end in an error. It answers the
// machine's own error; a machine that is lost already answers none.
func (c *Client) Close() error {
	if c.closed.Swap(true) || c.broken.Load() != nil {
		c.end()
		return nil
	}
	ctx, cancel := context.WithTimeout(c.life, CloseTimeout)
	defer cancel()
	r, err := c.rpc.Close(ctx, &fsmpb.CloseRequest{})
	c.end()
	if c.broken.Load() != nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("close: %w", plain(err))
	}
	return errorOf(r.GetFailure())
}

// within ends with ctx or with the machine's life.
func (c *Client) within(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(c.life, cancel)
	return ctx, func() { stop(); cancel() }
}

// failed tells a call that failed by itself from a machine that is lost.
func (c *Client) failed(ctx context.Context, call string, err error) error {
	if c.life.Err() != nil {
		return c.lost(errClosed)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	switch status.Code(err) {
	case codes.Unimplemented:
		return fsm.ErrUnsupported
	case codes.ResourceExhausted, codes.Canceled, codes.DeadlineExceeded:
		return fmt.Errorf("%s: %w", call, plain(err))
	}
	return c.lost(fmt.Errorf("%s: %w", call, plain(err)))
}

// lost settles what is told from now on, and ends every call.
func (c *Client) lost(cause error) error {
	c.breaking.Do(func() {
		if c.closed.Load() {
			cause = errClosed
		} else {
			cause = c.explain(cause)
		}
		err := fmt.Errorf("%w: %w", fsm.ErrLost, cause)
		c.broken.Store(&err)
		c.end()
	})
	return *c.broken.Load()
}

// errorOf is a failure as the machine's own error.
func errorOf(f *fsmpb.Failure) error {
	switch {
	case f == nil:
		return nil
	case !f.GetUnsupported():
		return errors.New(f.GetMessage())
	case f.GetMessage() == fsm.ErrUnsupported.Error():
		return fsm.ErrUnsupported
	}
	return unsupported(f.GetMessage())
}

// unsupported is an ErrUnsupported in the machine's own words.
type unsupported string

func (e unsupported) Error() string { return string(e) }
func (e unsupported) Unwrap() error { return fsm.ErrUnsupported }

// plain takes gRPC's words off an error and leaves its message and, for errors.Is,
// its status.
func plain(err error) error {
	if s, ok := status.FromError(err); ok {
		return &statusError{s}
	}
	return err
}

type statusError struct{ *status.Status }

func (e *statusError) Error() string              { return e.Message() }
func (e *statusError) GRPCStatus() *status.Status { return e.Status }
