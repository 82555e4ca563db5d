package client

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	pb "github.com/diarchy/diarchy/client/clientpb"
)

// The data path goes over a connection of its own that starts as an HTTP/1.1
// request at the one client port and is then handed to grpc-go on both sides;
// docs/adr/0003-client-stream.md says why.
const (
	directPath     = "/v1/stream"
	directProtocol = "diarchy-grpc"
)

// dialDirect makes that connection. Errors: nothing was sent.
func dialDirect(ctx context.Context, cfg *Config, addr string) (net.Conn, *Error) {
	conn, err := cfg.Dial(ctx, "tcp", addr)
	if err != nil {
		return nil, unavailable(err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if cfg.TLS != nil {
		if conn, err = tlsOver(ctx, conn, cfg.TLS, addr); err != nil {
			return nil, unavailable(err)
		}
	}
	out, e := upgrade(conn, addr, cfg.Token)
	if e == nil && !stop() {
		e = unavailable(ctx.Err())
	}
	if e != nil {
		conn.Close()
		return nil, e
	}
	return out, nil
}

func tlsOver(ctx context.Context, conn net.Conn, c *tls.Config, addr string) (net.Conn, error) {
	c = c.Clone()
	c.NextProtos = []string{"http/1.1"}
	if c.ServerName == "" {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			conn.Close()
			return nil, err
		}
		c.ServerName = host
	}
	t := tls.Client(conn, c)
	if err := t.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return t, nil
}

// upgrade asks the node to hand the connection over.
func upgrade(conn net.Conn, addr, token string) (net.Conn, *Error) {
	req, err := http.NewRequest(http.MethodGet, "http://"+addr+directPath, nil)
	if err != nil {
		return nil, unavailable(err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", directProtocol)
	tokenBearer{token}.set(req.Header)
	if err := req.Write(conn); err != nil {
		return nil, unavailable(err)
	}
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, req)
	if err != nil {
		return nil, unavailable(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return nil, refusedUpgrade(resp)
	}
	return &bufferedConn{Conn: conn, r: br}, nil
}

// refusedUpgrade reads why; a body that is no error of ours comes from a proxy
// or another kind of server.
func refusedUpgrade(resp *http.Response) *Error {
	var body struct{ Code, Message, Leader string }
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 16<<10))
	if json.Unmarshal(b, &body) != nil || body.Code == "" {
		return unavailable(fmt.Errorf("it answered %s and is no Diarchy node, or something stands between", resp.Status))
	}
	return &Error{Code: body.Code, Message: body.Message, LeaderAddr: body.Leader}
}

// bufferedConn first gives what came along with the answer.
type bufferedConn struct {
	net.Conn
	r *bufio.Reader
}

func (c *bufferedConn) Read(p []byte) (int, error) {
	if c.r != nil {
		if c.r.Buffered() > 0 {
			return c.r.Read(p)
		}
		c.r = nil
	}
	return c.Conn.Read(p)
}

var streamDesc = grpc.StreamDesc{StreamName: "Stream", ServerStreams: true, ClientStreams: true}

// messageBytesMax bounds one message of answers: a thousand times what a server
// puts in one, for a group whose results are very large.
const messageBytesMax = 1 << 30

// openGRPC runs grpc-go over one connection and opens the one stream on it.
func openGRPC(ctx, life context.Context, conn net.Conn) (*grpc.ClientConn, grpc.ClientStream, error) {
	var used atomic.Bool
	cc, err := grpc.NewClient("passthrough:///node",
		grpc.WithTransportCredentials(insecure.NewCredentials()), // TLS is below
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			if used.Swap(true) {
				return nil, errors.New("the connection is lost")
			}
			return conn, nil
		}),
		grpc.WithInitialWindowSize(4<<20), grpc.WithInitialConnWindowSize(8<<20),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(messageBytesMax), grpc.MaxCallSendMsgSize(messageBytesMax)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithIdleTimeout(0), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(),
	)
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	s, err := cc.NewStream(life, &streamDesc, pb.DiarchyStreamProcedure)
	if err != nil {
		cc.Close()
		if !used.Load() {
			conn.Close()
		}
		return nil, nil, err
	}
	return cc, s, nil
}
