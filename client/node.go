package client

import (
	"context"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"

	pb "github.com/diarchy/diarchy/client/clientpb"
)

// node is one node's client port: a stream for the data path, made anew when it
// breaks, and an HTTP/2 connection for everything else.
//
// Invariant: at most one stream is alive and at most one is being made.
type node struct {
	c         *Client
	addr      string
	rpc       pb.DiarchyClient
	transport *http.Transport

	mu        sync.Mutex
	cur       *stream
	making    chan struct{} // closed when the attempt under way ends
	failure   *Error        // of the last attempt
	failures  int           // in a row
	notBefore time.Time     // no attempt before
	closed    *Error        // why no more is sent
	wg        sync.WaitGroup
}

func newNode(c *Client, addr string) *node {
	n := &node{c: c, addr: addr}
	p := new(http.Protocols)
	base := "http://" + addr
	if c.cfg.TLS != nil {
		base = "https://" + addr
		p.SetHTTP2(true)
	} else {
		p.SetUnencryptedHTTP2(true)
	}
	n.transport = &http.Transport{
		Protocols:           p,
		DialContext:         c.cfg.Dial,
		TLSHandshakeTimeout: c.cfg.DialTimeout,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: c.cfg.DeadAfter, PingTimeout: c.cfg.DeadAfter},
	}
	if c.cfg.TLS != nil {
		n.transport.TLSClientConfig = c.cfg.TLS.Clone()
	}
	n.rpc = pb.NewDiarchyClient(&http.Client{Transport: n.transport}, base,
		connect.WithGRPC(), connect.WithInterceptors(tokenBearer{c.cfg.Token}))
	return n
}

// stream returns the node's stream, made if need be. Errors: nothing was sent.
func (n *node) stream(ctx context.Context) (*stream, error) {
	for {
		n.mu.Lock()
		if n.closed != nil {
			defer n.mu.Unlock()
			return nil, n.closed
		}
		if n.cur != nil && n.cur.alive() {
			defer n.mu.Unlock()
			return n.cur, nil
		}
		if n.making == nil {
			if n.failure != nil && time.Now().Before(n.notBefore) {
				defer n.mu.Unlock()
				return nil, n.failure
			}
			n.making = make(chan struct{})
			n.wg.Go(n.make)
		}
		making := n.making
		n.mu.Unlock()
		select {
		case <-making:
		case <-ctx.Done():
			return nil, unavailable(ctx.Err())
		}
	}
}

// make tries once to open a stream. After a failure the next try has to wait,
// so that a thousand callers do not knock at a node that is down.
func (n *node) make() {
	ctx, cancel := context.WithTimeout(n.c.ctx, n.c.cfg.DialTimeout)
	defer cancel()
	s, err := openStream(ctx, n)
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.making)
	n.making = nil
	if err != nil {
		n.failure = err
		n.failures++
		n.notBefore = time.Now().Add(pause(n.c.cfg.PauseMin, n.c.cfg.PauseMax, n.failures))
		return
	}
	if n.cur != nil {
		n.wg.Go(n.cur.wait)
	}
	n.cur, n.failure, n.failures = s, nil, 0
	if n.closed != nil {
		s.end(n.closed)
		return
	}
	n.c.lookAround(n)
}

func (n *node) close(why *Error) {
	n.mu.Lock()
	n.closed = why
	if n.cur != nil {
		n.cur.end(why)
	}
	n.mu.Unlock()
	n.wg.Wait()
	n.mu.Lock()
	cur := n.cur
	n.mu.Unlock()
	if cur != nil {
		cur.wait()
	}
	n.transport.CloseIdleConnections()
}

// pause is the k-th of a row: at random between half and all of a limit that
// doubles.
func pause(least, most time.Duration, k int) time.Duration {
	d := most
	if k < 20 {
		d = min(most, least<<k)
	}
	return d/2 + rand.N(d/2+1)
}

// tokenBearer sends the token with every call.
type tokenBearer struct{ token string }

func (t tokenBearer) set(h http.Header) {
	if t.token != "" {
		h.Set("Authorization", "Bearer "+t.token)
	}
}

func (t tokenBearer) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		t.set(r.Header())
		return next(ctx, r)
	}
}

func (t tokenBearer) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, spec)
		t.set(conn.RequestHeader())
		return conn
	}
}

func (tokenBearer) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}
