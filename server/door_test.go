package server_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	pb "github.com/diarchy/diarchy/client/clientpb"
	"github.com/diarchy/diarchy/server"
)

func withTokens(c *server.Config) { c.AdminToken, c.ReadToken = "admin-secret", "read-secret" }

func bearer(token string) string { return "Authorization: Bearer " + token }

func TestTokensOverHTTP(t *testing.T) {
	p := serve(t, withTokens)
	for _, r := range []struct {
		method, path, body string
		read               int // status with the read-only token
	}{
		{"GET", "/v1/status", "", 200},
		{"GET", "/v1/nodes", "", 200},
		{"GET", "/v1/groups", "", 200},
		{"GET", "/v1/groups/orders", "", 200},
		{"GET", "/v1/groups/orders/kv", "", 200},
		{"GET", "/v1/groups/orders/kv/a", "", 404},
		{"GET", "/v1/groups/orders/checksum", "", 200},
		{"GET", "/v1/groups/orders/snapshot", "", 200},
		{"POST", "/v1/groups/orders/query", "\x07\x01k", 200},
		{"PUT", "/v1/groups/orders/kv/a", "x", 403},
		{"DELETE", "/v1/groups/orders/kv/a", "", 403},
		{"POST", "/v1/groups/orders/propose", "x", 403},
		{"PUT", "/v1/groups/orders/snapshot", "x", 403},
		{"PUT", "/v1/groups/orders/sessions/000102030405060708090a0b0c0d0e0f", "", 403},
		{"DELETE", "/v1/groups/orders/sessions/000102030405060708090a0b0c0d0e0f", "", 403},
	} {
		for _, h := range []string{"X: y", bearer("wrong"), bearer(""), "Authorization: Basic YWRtaW4=", "X-Diarchy-Token: nope", bearer("admin-secre")} {
			got := p.want(p.do(r.method, r.path, r.body, h, bytesType), 401, pb.CodeUnauthenticated)
			if got.header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s %s: 401 without WWW-Authenticate", r.method, r.path)
			}
		}
		if got := p.do(r.method, r.path, r.body, bearer("read-secret"), bytesType); got.status != r.read {
			t.Errorf("%s %s with the read-only token: %d, want %d", r.method, r.path, got.status, r.read)
		}
	}
	if n := p.Number(); n != 0 {
		t.Errorf("%d commands were executed without the right", n)
	}
	p.want(p.do("PUT", "/v1/groups/orders/kv/a", "x", bearer("admin-secret")), 200, "")
	p.want(p.do("PUT", "/v1/groups/orders/kv/a", "x", "X-Diarchy-Token: admin-secret"), 200, "")
	for _, path := range []string{"/healthz", "/readyz"} {
		p.want(p.do("GET", path, ""), 200, "")
	}
}

func TestTokensOverGRPC(t *testing.T) {
	p := serve(t, withTokens)
	call := func(token string) (pb.DiarchyClient, func()) {
		return p.rpcClient(connect.WithGRPC(), connect.WithInterceptors(connect.UnaryInterceptorFunc(func(next connect.UnaryFunc) connect.UnaryFunc {
			return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
				if token != "" {
					r.Header().Set("Authorization", "Bearer "+token)
				}
				return next(ctx, r)
			}
		})))
	}
	none, done := call("")
	defer done()
	_, err := none.Status(context.Background(), &pb.StatusRequest{})
	if c, d := detail(t, err); c.Code() != connect.CodeUnauthenticated || d.Code != pb.CodeUnauthenticated {
		t.Errorf("without a token: %v", err)
	}
	read, done := call("read-secret")
	defer done()
	if _, err := read.Status(context.Background(), &pb.StatusRequest{}); err != nil {
		t.Error(err)
	}
	_, err = read.CreateGroup(context.Background(), &pb.CreateGroupRequest{Spec: &pb.GroupSpec{Name: "x"}})
	if c, d := detail(t, err); c.Code() != connect.CodePermissionDenied || d.Code != pb.CodeDenied {
		t.Errorf("a change with the read-only token: %v", err)
	}
}

// A stream takes reads from a reader and refuses each command.
func TestReaderOnAStream(t *testing.T) {
	p := serve(t, withTokens)
	rpc, done := p.rpcClient(connect.WithGRPC(), connect.WithInterceptors(streamToken("read-secret")))
	defer done()
	s, err := rpc.Stream(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	err = s.Send(&pb.StreamRequest{Runs: []*pb.Run{{Group: "orders",
		Proposals: []*pb.Proposal{{Id: 1, Data: []byte("x")}}, Reads: []*pb.Read{{Id: 2, Data: []byte("\x07\x01k")}}}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.CloseRequest(); err != nil {
		t.Fatal(err)
	}
	got := map[uint64]string{}
	for {
		m, err := s.Receive()
		if err != nil {
			break
		}
		for _, r := range m.Runs {
			for _, o := range r.Outcomes {
				got[o.Id] = o.Failure.GetCode()
			}
		}
	}
	if len(got) != 2 || got[1] != pb.CodeDenied || got[2] != "" {
		t.Errorf("outcomes %v", got)
	}
}

type streamToken string

func (s streamToken) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc { return next }
func (s streamToken) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		c := next(ctx, spec)
		c.RequestHeader().Set("Authorization", "Bearer "+string(s))
		return c
	}
}
func (s streamToken) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

// What a page of another site can make a browser send changes nothing.
func TestForeignPages(t *testing.T) {
	p := serve(t, func(c *server.Config) { c.Hosts = []string{"n1.example"} })
	const json = "Content-Type: application/json"
	for name, r := range map[string]reply{
		"PUT, foreign origin":    p.do("PUT", "/v1/groups/orders/kv/a", "x", "Origin: https://evil.example"),
		"DELETE, cross-site":     p.do("DELETE", "/v1/groups/orders/kv/a", "", "Sec-Fetch-Site: cross-site"),
		"POST, foreign origin":   p.do("POST", "/v1/groups/orders/propose", "x", bytesType, "Origin: null"),
		"GET for a foreign name": p.do("GET", "/v1/groups", "", "Host: evil.example"),
		"PUT for a foreign name": p.do("PUT", "/v1/groups/orders/kv/a", "x", "Host: evil.example:7960", "Origin: http://evil.example:7960"),
	} {
		if e := r.error(t); r.status != 403 || e.Code != pb.CodeCrossOrigin {
			t.Errorf("%s: %d %s", name, r.status, r.body)
		}
	}
	for _, kind := range []string{"text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""} {
		p.want(p.do("POST", "/v1/groups/orders/propose", "\x01\x01k\x00\x01v", "Content-Type: "+kind), 415, pb.CodeMediaType)
	}
	r := p.do("POST", "/diarchy.v1.Diarchy/DestroyGroup", `{"group":"orders","confirm":"orders"}`, json, "Origin: https://evil.example")
	if r.status != 403 {
		t.Errorf("a call from a foreign page: %d %s", r.status, r.body)
	}
	if n := p.Number(); n != 0 {
		t.Errorf("%d commands were executed", n)
	}
	for _, host := range []string{"localhost:1", "127.0.0.1", "[::1]:7960", "n1.example:7960", "N1.Example"} {
		p.want(p.do("GET", "/v1/groups", "", "Host: "+host), 200, "")
	}
	p.want(p.do("PUT", "/v1/groups/orders/kv/a", "x", "Origin: "+p.base), 200, "")
	p.want(p.do("POST", "/diarchy.v1.Diarchy/Version", "{}", json), 200, "")
}

func TestBodiesOverTheLimit(t *testing.T) {
	p := serve(t, func(c *server.Config) { c.CommandBytesMax = 1000 })
	p.want(p.do("PUT", "/v1/groups/orders/kv/a", strings.Repeat("x", 900)), 200, "")
	p.want(p.do("PUT", "/v1/groups/orders/kv/a", strings.Repeat("x", 1001)), 413, pb.CodeTooLarge)
	p.want(p.do("POST", "/v1/groups/orders/query", strings.Repeat("x", 1001), bytesType), 413, pb.CodeTooLarge)
	// Of unannounced length.
	req, _ := http.NewRequest("PUT", p.base+"/v1/groups/orders/kv/a", io.MultiReader(strings.NewReader(strings.Repeat("x", 3000))))
	req.ContentLength = -1
	resp, err := p.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 413 {
		t.Errorf("a chunked body over the limit: %d", resp.StatusCode)
	}
	rpc, done := p.rpcClient(connect.WithGRPC())
	defer done()
	_, err = rpc.Propose(context.Background(), &pb.ProposeRequest{Group: "orders", Data: make([]byte, 1001)})
	if _, d := detail(t, err); d.Code != pb.CodeTooLarge {
		t.Errorf("gRPC: %v", err)
	}
	// Over the limit of a message, refused before it is read.
	_, err = rpc.Propose(context.Background(), &pb.ProposeRequest{Group: "orders", Data: make([]byte, 2<<20)})
	if connect.CodeOf(err) != connect.CodeResourceExhausted {
		t.Errorf("a message over the limit: %v", err)
	}
	if n := p.Number(); n != 1 {
		t.Errorf("%d commands were executed, want 1", n)
	}
}

func TestSlowBodies(t *testing.T) {
	p := serve(t, func(c *server.Config) { c.StallTimeout = 50 * time.Millisecond })
	conn, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "PUT /v1/groups/orders/kv/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nonly a few")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != 503 || !strings.Contains(string(body), pb.CodeDeadline) {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	if n := p.Number(); n != 0 {
		t.Error("half a body was written")
	}
}

// Headers that never end, and connections that say nothing.
func TestSlowHeadersAndIdleConnections(t *testing.T) {
	p := serve(t, func(c *server.Config) { c.HeaderTimeout, c.IdleTimeout = 50*time.Millisecond, 50*time.Millisecond })
	for name, first := range map[string]string{
		"silent":    "",
		"slowloris": "GET /v1/groups HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
		"half h2":   "PRI * HTTP/2.0\r\n\r\n",
		"h2, mute":  "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
		"kept":      "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
	} {
		conn, err := net.Dial("tcp", p.addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = io.WriteString(conn, first)
		if _, err := io.Copy(io.Discard, conn); err != nil && strings.Contains(err.Error(), "timeout") {
			t.Errorf("%s: the connection was kept", name)
		}
		conn.Close()
	}
}

func TestConnectionCap(t *testing.T) {
	reg := prometheus.NewRegistry()
	p := serve(t, func(c *server.Config) { c.ConnsMax, c.Metrics = 5, reg })
	var held []net.Conn
	for range 5 {
		conn, err := net.Dial("tcp", p.addr)
		if err != nil {
			t.Fatal(err)
		}
		// An answer shows that the connection was taken on.
		fmt.Fprint(conn, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
		if _, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil {
			t.Fatal(err)
		}
		held = append(held, conn)
	}
	extra, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	_ = extra.SetDeadline(time.Now().Add(20 * time.Second))
	if n, err := extra.Read(make([]byte, 1)); n != 0 || err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("one connection too many was kept: %d, %v", n, err)
	}
	extra.Close()
	if got := counter(t, reg, "diarchy_client_connections_refused_total"); got != 1 {
		t.Errorf("counted %v refused connections, want 1", got)
	}
	for _, c := range held {
		c.Close()
	}
	waitFor(t, func() bool {
		r, err := p.http.Get(p.base + "/healthz")
		if err != nil {
			return false
		}
		r.Body.Close()
		return r.StatusCode == 200
	})
}

func counter(t *testing.T, g prometheus.Gatherer, name string) float64 {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.Metric {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// Garbage is dropped: nothing breaks, nothing stays.
func TestGarbageOnThePort(t *testing.T) {
	reg := prometheus.NewRegistry()
	p := serve(t, func(c *server.Config) {
		c.Metrics, c.HeaderTimeout, c.IdleTimeout = reg, 200*time.Millisecond, 200*time.Millisecond
	})
	before := runtime.NumGoroutine()
	rng := mrand.New(mrand.NewPCG(1, 2))
	starts := []string{"", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET / HTTP/1.1\r\n", "POST /diarchy.v1.Diarchy/Stream HTTP/1.1\r\nHost: x\r\nContent-Type: application/grpc\r\n\r\n",
		"\x16\x03\x01\x02\x00", "GET /v1/stream HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: diarchy-grpc\r\n\r\n"}
	for i := range 120 {
		conn, err := net.Dial("tcp", p.addr)
		if err != nil {
			t.Fatal(err)
		}
		junk := make([]byte, rng.IntN(4096))
		for j := range junk {
			junk[j] = byte(rng.Uint32())
		}
		_, _ = io.WriteString(conn, starts[i%len(starts)])
		_, _ = conn.Write(junk)
		conn.Close()
	}
	p.want(p.do("GET", "/healthz", ""), 200, "")
	if got := counter(t, reg, "diarchy_client_panics_total"); got != 0 {
		t.Errorf("%v requests ended in a panic", got)
	}
	waitFor(t, func() bool { return runtime.NumGoroutine() <= before+10 })
}

// A client that asks and does not read is cut off; it must not hold memory here.
func TestClientsThatDoNotRead(t *testing.T) {
	p := serve(t, func(c *server.Config) { c.StallTimeout = 100 * time.Millisecond })
	p.want(p.do("PUT", "/v1/groups/orders/kv/big", strings.Repeat("v", 1000<<10)), 200, "")
	conn, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.(*net.TCPConn).SetReadBuffer(4096)
	go func() { // ask more than the sockets between us can hold of answers
		for range 100 {
			if _, err := io.WriteString(conn, "GET /v1/groups/orders/kv/big HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
				return
			}
		}
	}()
	waitFor(t, func() bool { return conn.SetReadDeadline(time.Time{}) == nil && brokenWrite(conn) })
}

// brokenWrite tells whether the other side has closed.
func brokenWrite(c net.Conn) bool {
	_, err := io.WriteString(c, "\r\n")
	return err != nil
}

func TestTLS(t *testing.T) {
	cert := selfSigned(t)
	p := serve(t, func(c *server.Config) {
		withTokens(c)
		c.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}
	})
	p.want(p.do("PUT", "/v1/groups/orders/kv/a", "x", bearer("admin-secret")), 200, "")
	p.want(p.do("PUT", "/v1/groups/orders/kv/a", "x"), 401, pb.CodeUnauthenticated)
	proto := new(http.Protocols)
	proto.SetHTTP2(true)
	tr := &http.Transport{Protocols: proto, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer tr.CloseIdleConnections()
	rpc := pb.NewDiarchyClient(&http.Client{Transport: tr}, p.base, connect.WithGRPC())
	if _, err := rpc.Version(context.Background(), &pb.VersionRequest{}); connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("gRPC over TLS: %v", err)
	}
	resp, err := http.Get("http://" + p.addr + "/v1/groups")
	if err == nil {
		resp.Body.Close()
		if resp.StatusCode != 400 {
			t.Errorf("plain HTTP on the TLS port: %d", resp.StatusCode)
		}
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
