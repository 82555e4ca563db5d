// Package plugintest runs a machine through the real plugin protocol within one
// process: gRPC, its codec, its streams and its limits, and no subprocess. It is
// for the tests of people who write machines; what only a process can show (a
// crash, output before the handshake) it does not show. There is one file.
package plugintest

import (
	"context"
	"net"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/diarchy/diarchy/fsm"
	"github.com/diarchy/diarchy/plugins/internal/wire"
)

// socketBytes is what the in-memory connection holds in each direction.
const socketBytes = 256 << 10

// New returns m as a host sees it from the other end of the protocol. Close, or
// the test's end, takes the connection down.
func New(t testing.TB, m fsm.Machine) fsm.Machine {
	t.Helper()
	p, err := start(t.Context(), m)
	if err != nil {
		t.Fatalf("plugintest: %v", err)
	}
	t.Cleanup(p.stop)
	return p
}

// Factory returns a factory whose every machine is one of make's behind the
// protocol.
func Factory(t testing.TB, make fsm.Factory) fsm.Factory {
	return func(ctx context.Context) (fsm.Machine, error) {
		m, err := make(ctx)
		if err != nil {
			return nil, err
		}
		p, err := start(ctx, m)
		if err != nil {
			return nil, err
		}
		t.Cleanup(p.stop)
		return p, nil
	}
}

// pair is both ends.
type pair struct {
	*wire.Client
	conn   *grpc.ClientConn
	server *grpc.Server
	served chan struct{}
	once   sync.Once
}

func start(ctx context.Context, m fsm.Machine) (*pair, error) {
	listener := bufconn.Listen(socketBytes)
	p := &pair{server: grpc.NewServer(wire.ServerOptions()...), served: make(chan struct{})}
	wire.Register(p.server, m, wire.Events{})
	go func() {
		defer close(p.served)
		// Serve's only error here is that of being stopped.
		_ = p.server.Serve(listener)
	}()
	options := append(wire.DialOptions(0),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	var err error
	if p.conn, err = grpc.NewClient("passthrough:plugintest", options...); err == nil {
		p.Client, err = wire.NewClient(ctx, p.conn, nil)
	}
	if err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

// Close implements fsm.Machine.
func (p *pair) Close() error {
	err := p.Client.Close()
	p.stop()
	return err
}

func (p *pair) stop() {
	p.once.Do(func() {
		if p.conn != nil {
			_ = p.conn.Close()
		}
		p.server.Stop()
		<-p.served
	})
}
