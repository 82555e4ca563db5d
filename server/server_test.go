package server_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	pb "github.com/diarchy/diarchy/client/clientpb"
	"github.com/diarchy/diarchy/server"
	"github.com/diarchy/diarchy/server/servertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// port is one server under test.
type port struct {
	*servertest.Cluster
	t    *testing.T
	s    *server.Server
	addr string
	http *http.Client
	base string
}

// serve starts a server in front of a cluster of one.
func serve(t *testing.T, edit func(*server.Config)) *port {
	t.Helper()
	c := servertest.New(1)
	cfg := server.Config{Service: c.Node(0), Version: "test"}
	if edit != nil {
		edit(&cfg)
	}
	s, err := server.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	p := &port{Cluster: c, t: t, s: s, addr: l.Addr().String(), base: "http://" + l.Addr().String()}
	tr := &http.Transport{DisableCompression: true}
	if cfg.TLS != nil {
		p.base = "https://" + p.addr
		tr.TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
	}
	p.http = &http.Client{Transport: tr}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Errorf("Close: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	c.Node(0).SetClientAddr(p.addr)
	return p
}

// reply is an HTTP answer, read whole.
type reply struct {
	status int
	header http.Header
	body   string
}

func (r reply) error(t *testing.T) (e struct {
	Code, Message, Happened, Leader string
	Index                           uint64
}) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.body), &e); err != nil {
		t.Fatalf("not a JSON error: %d %q", r.status, r.body)
	}
	return e
}

// do sends a request; headers are "Name: value".
func (p *port) do(method, path, body string, headers ...string) reply {
	p.t.Helper()
	req, err := http.NewRequest(method, p.base+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		if name == "Host" {
			req.Host = value
			continue
		}
		req.Header.Set(name, value)
	}
	resp, err := p.http.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, string(b)}
}

// want checks the status, and the error code when one is given.
func (p *port) want(r reply, status int, code string) reply {
	p.t.Helper()
	if r.status != status {
		p.t.Fatalf("status %d, want %d: %s", r.status, status, r.body)
	}
	if code != "" {
		if e := r.error(p.t); e.Code != code || e.Message == "" || e.Happened == "" {
			p.t.Fatalf("error %+v, want code %s with a message", e, code)
		}
	}
	return r
}

func TestStatusRoutes(t *testing.T) {
	reg := prometheus.NewRegistry()
	p := serve(t, func(c *server.Config) { c.Gatherer, c.Metrics, c.Pprof = reg, reg, true })
	p.want(p.do("PUT", "/v1/groups/orders/kv/a", "1"), 200, "")
	for path, want := range map[string]string{
		"/v1/groups":                 `"name":"orders"`,
		"/v1/groups/orders":          `"membership"`,
		"/v1/groups/orders?local":    `"role":"leader"`,
		"/v1/nodes":                  `"client_addr"`,
		"/v1/status":                 `"ready":true`,
		"/v1/groups/orders/checksum": `"sha256":"`,
		"/healthz":                   "ok",
		"/readyz":                    "ready",
		"/metrics":                   `diarchy_client_requests_total{route="/v1/groups/{group}/kv/{key...}",status="200"} 1`,
		"/debug/pprof/goroutine":     "",
		"/debug/pprof/":              "profiles",
	} {
		if r := p.want(p.do("GET", path, ""), 200, ""); !strings.Contains(r.body, want) {
			t.Errorf("%s: no %q in %s", path, want, r.body)
		}
	}
	p.want(p.do("GET", "/v1/groups/nobody", ""), 404, pb.CodeNoSuchGroup)
	p.want(p.do("GET", "/v1/groups/nobody?local", ""), 404, pb.CodeNoSuchGroup)
}

func TestRoutesThatAreNotThere(t *testing.T) {
	p := serve(t, nil)
	for _, path := range []string{"/", "/v1", "/v1/", "/v2/groups", "/v1/groups/", "/v1/groups/orders/nothing", "/metrics", "/debug/pprof/heap", "/v1/groups//kv/a", "/healthz/", "/v1/nodes/x"} {
		p.want(p.do("GET", path, ""), 404, pb.CodeNotFound)
	}
	r := p.want(p.do("PATCH", "/v1/groups/orders/kv/a", ""), 405, pb.CodeMethodNotAllowed)
	if r.header.Get("Allow") != "GET, PUT, DELETE" {
		t.Errorf("Allow %q", r.header.Get("Allow"))
	}
	p.want(p.do("OPTIONS", "/v1/groups", ""), 405, pb.CodeMethodNotAllowed)
	p.want(p.do("GET", "/diarchy.v1.Diarchy/Version", ""), 405, pb.CodeMethodNotAllowed)
	p.want(p.do("POST", "/diarchy.v1.Diarchy/Version", "{}", "Content-Type: text/csv"), 415, pb.CodeMediaType)
	p.want(p.do("PUT", "/v1/groups/orders/kv/a?csa=3", "x"), 400, pb.CodeInvalid)
	p.want(p.do("GET", "/v1/groups/orders/kv/a?index=%zz", ""), 400, pb.CodeInvalid)
	if n := p.Number(); n != 0 {
		t.Errorf("%d commands were executed", n)
	}
}

func TestReadiness(t *testing.T) {
	extra := ""
	p := serve(t, func(c *server.Config) {
		c.Missing = func() []string {
			if extra != "" {
				return []string{extra}
			}
			return nil
		}
	})
	missing := func(want string) {
		t.Helper()
		r := p.want(p.do("GET", "/readyz", ""), 503, pb.CodeNotReady)
		var body struct{ Missing []string }
		if err := json.Unmarshal([]byte(r.body), &body); err != nil || len(body.Missing) != 1 || !strings.Contains(body.Missing[0], want) {
			t.Errorf("missing %q, want %q", body.Missing, want)
		}
	}
	p.Node(0).SetMachineState("replaying")
	missing("the machine is replaying")
	p.Node(0).SetMachineState("")
	p.Lead(-1)
	missing("no leader")
	p.Lead(0)
	extra = "the moon is not full"
	missing("the moon")
	extra = ""
	p.want(p.do("GET", "/readyz", ""), 200, "")
}

func TestTailOverHTTP(t *testing.T) {
	p := serve(t, nil)
	for i := range 3 {
		p.want(p.do("PUT", fmt.Sprint("/v1/groups/orders/kv/", i), "x"), 200, "")
	}
	read := func(accept, path string) (*http.Response, func()) {
		ctx, cancel := context.WithCancel(context.Background())
		req, _ := http.NewRequestWithContext(ctx, "GET", p.base+path, nil)
		req.Header.Set("Accept", accept)
		resp, err := p.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		return resp, func() { cancel(); resp.Body.Close() }
	}
	resp, done := read("*/*", "/v1/groups/orders/tail?from=2")
	dec := json.NewDecoder(resp.Body)
	for want := uint64(2); want <= 4; want++ {
		if want == 4 {
			p.want(p.do("PUT", "/v1/groups/orders/kv/late", "x"), 200, "")
		}
		var e struct {
			Number uint64
			Data   []byte
		}
		if err := dec.Decode(&e); err != nil || e.Number != want || len(e.Data) == 0 {
			t.Fatalf("entry %+v, want number %d: %v", e, want, err)
		}
	}
	done()

	resp, done = read("text/event-stream", "/v1/groups/orders/tail?from=4")
	buf := make([]byte, 4096)
	n, err := resp.Body.Read(buf)
	if err != nil || resp.Header.Get("Content-Type") != "text/event-stream" || !bytes.HasPrefix(buf[:n], []byte("id: 4\ndata: {\"number\":4,")) {
		t.Errorf("event %q: %v", buf[:n], err)
	}
	done()

	p.Compact(3)
	r := p.want(p.do("GET", "/v1/groups/orders/tail?from=1", ""), 410, pb.CodeCompacted)
	if e := r.error(t); e.Index != 3 {
		t.Errorf("compacted: oldest %d, want 3", e.Index)
	}
	p.want(p.do("GET", "/v1/groups/orders/tail?from=x", ""), 400, pb.CodeInvalid)
	p.want(p.do("GET", "/v1/groups/nobody/tail", ""), 404, pb.CodeNoSuchGroup)
}

func TestSnapshotOverHTTP(t *testing.T) {
	p := serve(t, nil)
	big := strings.Repeat("v", 300<<10)
	p.want(p.do("PUT", "/v1/groups/orders/kv/a", big), 200, "")
	resp, err := p.http.Get(p.base + "/v1/groups/orders/snapshot")
	if err != nil {
		t.Fatal(err)
	}
	archive, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || resp.StatusCode != 200 || resp.Trailer.Get("Diarchy-Index") != "1" {
		t.Fatalf("status %d, trailer %v, %v", resp.StatusCode, resp.Trailer, err)
	}
	p.want(p.do("PUT", "/v1/groups/orders/kv/a", "changed"), 200, "")
	p.want(p.do("PUT", "/v1/groups/orders/snapshot", string(archive)), 200, "")
	if r := p.want(p.do("GET", "/v1/groups/orders/kv/a", ""), 200, ""); r.body != big {
		t.Error("the restored value is another")
	}
	p.want(p.do("PUT", "/v1/groups/orders/snapshot", string(archive[:len(archive)/2])), 400, pb.CodeInvalid)
	if r := p.want(p.do("GET", "/v1/groups/orders/kv/a", ""), 200, ""); r.body != big {
		t.Error("a cut archive changed the state")
	}
	p.want(p.do("GET", "/v1/groups/nobody/snapshot", ""), 404, pb.CodeNoSuchGroup)

	// A client that stops half way through its upload restores nothing.
	conn, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "PUT /v1/groups/orders/snapshot HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s", len(archive), archive[:1000])
	_ = conn.(*net.TCPConn).CloseWrite()
	answer, _ := io.ReadAll(conn)
	conn.Close()
	if !bytes.Contains(answer, []byte("400")) {
		t.Errorf("a cut upload was answered %q", answer)
	}
}

func TestCloseAnswersWhatIsUnderWay(t *testing.T) {
	p := serve(t, nil)
	release := p.Hang()
	got := make(chan reply, 1)
	go func() { got <- p.do("PUT", "/v1/groups/orders/kv/a", "x") }()
	// Once the request is at the service it waits there; Close must wait too.
	waitFor(t, func() bool { return p.Waiting() == 1 })
	closed := make(chan error, 1)
	go func() { closed <- p.s.Close(context.Background()) }()
	select {
	case err := <-closed:
		t.Fatalf("Close returned with a request under way: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	release()
	p.want(<-got, 200, "")
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

// Who waits for something to happen does not hold up the end.
func TestCloseEndsWaits(t *testing.T) {
	p := serve(t, nil)
	got := make(chan reply, 2)
	go func() { got <- p.do("GET", "/v1/groups/orders/kv/a?index=0&wait=5m", "") }()
	go func() {
		got <- p.do("POST", pb.DiarchyWaitIndexProcedure, `{"group":"orders","timeoutMs":300000}`, "Content-Type: application/json")
	}()
	waitFor(t, func() bool { return p.Watching() == 2 })
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := p.s.Close(ctx); err != nil || ctx.Err() != nil {
		t.Errorf("Close: %v, %v", err, ctx.Err())
	}
	for range 2 {
		if r := <-got; r.status != 404 && r.status != 200 {
			t.Errorf("%d %s", r.status, r.body)
		}
	}
}

func waitFor(t *testing.T, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not come about within 10 s")
		}
	}
}

func TestConfigThatMakesNoSense(t *testing.T) {
	c := servertest.New(1)
	for name, cfg := range map[string]server.Config{
		"no service":  {},
		"only reader": {Service: c.Node(0), ReadToken: "r"},
		"same tokens": {Service: c.Node(0), AdminToken: "x", ReadToken: "x"},
	} {
		if _, err := server.New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestCheckExposure(t *testing.T) {
	for _, c := range []struct {
		addr                 string
		tls, token, insecure bool
		ok                   bool
	}{
		{"127.0.0.1:1", false, false, false, true},
		{"[::1]:1", false, false, false, true},
		{"localhost:1", false, false, false, true},
		{"0.0.0.0:1", false, false, false, false},
		{":1", false, false, false, false},
		{"[::]:1", true, false, false, false},
		{"10.0.0.1:1", false, true, false, false},
		{"10.0.0.1:1", true, true, false, true},
		{"n1.internal:1", false, false, true, true},
		{"n1.internal:1", false, false, false, false},
		{"nonsense", true, true, true, false},
	} {
		if err := server.CheckExposure(c.addr, c.tls, c.token, c.insecure); (err == nil) != c.ok {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// Every code of the framework has its row.
func TestFrameworkCodesHaveRows(t *testing.T) {
	for _, code := range frameworkCodes(t) {
		if row := pb.RowOf(code); row.Code != code {
			t.Errorf("framework code %s has no row in clientpb.Table", code)
		}
	}
}

var errPlain = errors.New("a plain failure")
