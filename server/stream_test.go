package server_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	pb "github.com/diarchy/diarchy/client/clientpb"
	"github.com/diarchy/diarchy/framework"
	"github.com/diarchy/diarchy/fsm/kv"
	"github.com/diarchy/diarchy/server"
	"github.com/diarchy/diarchy/server/servertest"
)

// pipeEnd is a Stream as a client holds it, over either transport.
type pipeEnd interface {
	Send(*pb.StreamRequest) error
	Receive() (*pb.StreamResponse, error)
	CloseRequest() error
}

type directEnd struct{ grpc.ClientStream }

func (d directEnd) Send(m *pb.StreamRequest) error { return d.SendMsg(m) }
func (d directEnd) CloseRequest() error            { return d.CloseSend() }
func (d directEnd) Receive() (*pb.StreamResponse, error) {
	m := new(pb.StreamResponse)
	return m, d.RecvMsg(m)
}

// upgrade asks for the connection as the Go client does.
func (p *port) upgrade(header string) (net.Conn, *http.Response) {
	p.t.Helper()
	conn, err := net.Dial("tcp", p.addr)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { conn.Close() })
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprintf(conn, "GET /v1/stream HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: diarchy-grpc\r\n%s\r\n", header)
	// One byte at a time: what follows the answer is not ours to take.
	resp, err := http.ReadResponse(bufio.NewReaderSize(oneByte{conn}, 16), nil)
	if err != nil {
		p.t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Time{})
	return conn, resp
}

type oneByte struct{ r io.Reader }

func (o oneByte) Read(p []byte) (int, error) { return o.r.Read(p[:min(1, len(p))]) }

// open makes a Stream over one of the transports.
func (p *port) open(ctx context.Context, direct bool) pipeEnd {
	p.t.Helper()
	if !direct {
		rpc, done := p.rpcClient(connect.WithGRPC())
		p.t.Cleanup(done)
		s, err := rpc.Stream(ctx)
		if err != nil {
			p.t.Fatal(err)
		}
		return s
	}
	conn, resp := p.upgrade("")
	if resp.StatusCode != http.StatusSwitchingProtocols {
		p.t.Fatalf("upgrade: %s", resp.Status)
	}
	cc, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return conn, nil }))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { cc.Close() })
	s, err := cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, pb.DiarchyStreamProcedure)
	if err != nil {
		p.t.Fatal(err)
	}
	return directEnd{s}
}

// overBoth runs a test over connect and over the Go client's connection.
func overBoth(t *testing.T, f func(t *testing.T, direct bool)) {
	t.Run("connect", func(t *testing.T) { f(t, false) })
	t.Run("direct", func(t *testing.T) { f(t, true) })
}

func proposals(ids ...uint64) *pb.StreamRequest {
	r := &pb.Run{Group: "orders"}
	for _, id := range ids {
		r.Proposals = append(r.Proposals, &pb.Proposal{Id: id, Data: kv.Put(fmt.Sprint(id), []byte("v"), 0)})
	}
	return &pb.StreamRequest{Runs: []*pb.Run{r}}
}

// collect receives n outcomes.
func collect(t *testing.T, s pipeEnd, n int) map[uint64]*pb.Outcome {
	t.Helper()
	got := map[uint64]*pb.Outcome{}
	for len(got) < n {
		m, err := s.Receive()
		if err != nil {
			t.Fatalf("after %d outcomes of %d: %v", len(got), n, err)
		}
		for _, r := range m.Runs {
			for _, o := range r.Outcomes {
				if got[o.Id] != nil {
					t.Fatalf("call %d was answered twice", o.Id)
				}
				got[o.Id] = o
			}
		}
	}
	return got
}

func TestStream(t *testing.T) {
	overBoth(t, func(t *testing.T, direct bool) {
		p := serve(t, nil)
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		s := p.open(ctx, direct)
		if err := s.Send(proposals(1, 2, 3)); err != nil {
			t.Fatal(err)
		}
		numbers := map[uint64]bool{}
		for id, o := range collect(t, s, 3) {
			if o.Failure != nil || o.Number == 0 {
				t.Errorf("call %d: %v", id, o)
			}
			numbers[o.Number] = true
		}
		if len(numbers) != 3 {
			t.Errorf("numbers %v", numbers)
		}
		mixed := proposals(4)
		mixed.Runs[0].Reads = []*pb.Read{{Id: 5, Data: kv.GetQuery("1")}, {Id: 6, Data: kv.GetQuery("1"), Consistency: 9}}
		mixed.Runs = append(mixed.Runs, &pb.Run{Group: "nobody", Proposals: []*pb.Proposal{{Id: 7}}, Reads: []*pb.Read{{Id: 8}}},
			&pb.Run{Group: "orders", Session: []byte("short"), Proposals: []*pb.Proposal{{Id: 9, Seq: 1}}}, &pb.Run{})
		if err := s.Send(mixed); err != nil {
			t.Fatal(err)
		}
		want := map[uint64]string{4: "", 5: "", 6: pb.CodeInvalid, 7: pb.CodeNoSuchGroup, 8: pb.CodeNoSuchGroup, 9: pb.CodeInvalid}
		got := collect(t, s, len(want))
		for id, code := range want {
			if c := got[id].Failure.GetCode(); c != code {
				t.Errorf("call %d: %q, want %q", id, c, code)
			}
		}
		if item, found, err := kv.DecodeItem(got[5].Value); err != nil || !found || string(item.Value) != "v" || got[5].Time == 0 {
			t.Errorf("read: %v, %v, %v", item, found, err)
		}
		// What was taken is answered after the client has said its last word.
		if err := s.Send(proposals(10)); err != nil {
			t.Fatal(err)
		}
		if err := s.CloseRequest(); err != nil {
			t.Fatal(err)
		}
		if o := collect(t, s, 1)[10]; o == nil || o.Failure != nil {
			t.Errorf("last call: %v", o)
		}
		if _, err := s.Receive(); !errors.Is(err, io.EOF) {
			t.Errorf("the stream ended with %v", err)
		}
	})
}

// Close answers what a stream has in flight, takes no more, then ends it.
func TestStreamOnClose(t *testing.T) {
	overBoth(t, func(t *testing.T, direct bool) {
		p := serve(t, nil)
		s := p.open(context.Background(), direct)
		release := p.Hang()
		if err := s.Send(proposals(1)); err != nil {
			t.Fatal(err)
		}
		waitFor(t, func() bool { return p.Waiting() == 1 })
		closed := make(chan error, 1)
		go func() { closed <- p.s.Close(context.Background()) }()
		waitFor(t, func() bool { // Close has begun
			r, err := p.http.Get(p.base + "/readyz")
			if err != nil {
				return true
			}
			r.Body.Close()
			return r.StatusCode == 503
		})
		release()
		if o := collect(t, s, 1)[1]; o.Failure != nil {
			t.Errorf("what was in flight: %v", o)
		}
		_, err := s.Receive()
		if connect.CodeOf(err) != connect.CodeUnavailable && status.Code(err) != codes.Unavailable {
			t.Errorf("the stream ended with %v", err)
		}
		if err := <-closed; err != nil {
			t.Error(err)
		}
	})
}

// A client that asks and does not read is cut off.
func TestStreamsThatAreNotRead(t *testing.T) {
	overBoth(t, func(t *testing.T, direct bool) {
		reg := prometheus.NewRegistry()
		p := serve(t, func(c *server.Config) { c.StallTimeout, c.Metrics = 100*time.Millisecond, reg })
		p.want(p.do("PUT", "/v1/groups/orders/kv/big", strings.Repeat("v", 1000<<10)), 200, "")
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		s := p.open(ctx, direct)
		m := &pb.StreamRequest{Runs: []*pb.Run{{Group: "orders"}}}
		for id := range uint64(50) {
			m.Runs[0].Reads = append(m.Runs[0].Reads, &pb.Read{Id: id, Data: kv.GetQuery("big")})
		}
		if err := s.Send(m); err != nil {
			t.Fatal(err)
		}
		waitFor(t, func() bool { return counter(t, reg, "diarchy_client_slow_total") == 1 })
		waitFor(t, func() bool { return gauge(t, reg, "diarchy_client_streams") == 0 })
	})
}

// Nor may results pile up past the bound while it is waited for.
func TestStreamsThatPileUp(t *testing.T) {
	overBoth(t, func(t *testing.T, direct bool) {
		reg := prometheus.NewRegistry()
		p := serve(t, func(c *server.Config) { c.StreamBytesMax, c.Metrics = 8<<20, reg })
		p.want(p.do("PUT", "/v1/groups/orders/kv/big", strings.Repeat("v", 1000<<10)), 200, "")
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		s := p.open(ctx, direct)
		m := &pb.StreamRequest{Runs: []*pb.Run{{Group: "orders"}}}
		for id := range uint64(200) {
			m.Runs[0].Reads = append(m.Runs[0].Reads, &pb.Read{Id: id, Data: kv.GetQuery("big")})
		}
		if err := s.Send(m); err != nil {
			t.Fatal(err)
		}
		waitFor(t, func() bool { return counter(t, reg, "diarchy_client_slow_total") == 1 })
		waitFor(t, func() bool { return gauge(t, reg, "diarchy_client_streams") == 0 })
	})
}

func gauge(t *testing.T, g prometheus.Gatherer, name string) float64 {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.Metric[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// mute takes commands and never says what became of them.
type mute struct{ *servertest.Node }

func (mute) ProposeAsync(context.Context, string, []framework.Command, func(int, framework.Receipt, error)) {
}

// A call that nothing is heard of is answered all the same, as what it is.
func TestStreamAnswersInTheEnd(t *testing.T) {
	overBoth(t, func(t *testing.T, direct bool) {
		p := serve(t, func(c *server.Config) { c.Service = mute{c.Service.(*servertest.Node)} })
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		s := p.open(ctx, direct)
		m := proposals(1, 2)
		m.TimeoutMs = 20
		if err := s.Send(m); err != nil {
			t.Fatal(err)
		}
		for id, o := range collect(t, s, 2) {
			if o.Failure.GetCode() != pb.CodeOutcomeUnknown || o.Failure.Happened != pb.Happened_HAPPENED_MAYBE {
				t.Errorf("call %d: %v", id, o)
			}
		}
	})
}

// The Go client's connection passes the same door.
func TestUpgradePassesTheDoor(t *testing.T) {
	p := serve(t, withTokens)
	for header, want := range map[string]int{
		"":                             401,
		bearer("wrong") + "\r\n":       401,
		bearer("read-secret") + "\r\n": 101,
		bearer("admin-secret") + "\r\nOrigin: https://evil.example\r\n": 101, // a GET, and no browser can ask so
		"Host: evil.example\r\n" + bearer("admin-secret") + "\r\n":      400,
	} {
		conn, resp := p.upgrade(header)
		if resp.StatusCode != want {
			t.Errorf("%q: %s, want %d", header, resp.Status, want)
		}
		conn.Close()
	}
	p.want(p.do("GET", "/v1/stream", "", bearer("admin-secret")), 400, pb.CodeInvalid)
	p.want(p.do("POST", "/v1/stream", "", bearer("admin-secret")), 405, pb.CodeMethodNotAllowed)
}

// On the handed-over connection garbage ends the connection and nothing else.
func TestGarbageAfterTheUpgrade(t *testing.T) {
	p := serve(t, func(c *server.Config) { c.HeaderTimeout = 300 * time.Millisecond })
	for _, junk := range []string{"GET / HTTP/1.1\r\n\r\n", strings.Repeat("\x00", 5000), "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + strings.Repeat("\xff", 100)} {
		conn, resp := p.upgrade("")
		if resp.StatusCode != 101 {
			t.Fatal(resp.Status)
		}
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = io.WriteString(conn, junk)
		if _, err := io.Copy(io.Discard, conn); err != nil && strings.Contains(err.Error(), "timeout") {
			t.Errorf("the connection was kept after %.20q", junk)
		}
		conn.Close()
	}
	p.want(p.do("GET", "/healthz", ""), 200, "")
}
