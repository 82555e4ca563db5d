package server

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/diarchy/diarchy/client/clientpb"
	"github.com/diarchy/diarchy/server/servertest"
)

// Whatever request arrives, the answer is one of ours: a known status, and for a
// failure the JSON of docs/errors.md.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		"GET /v1/groups/orders/kv/a?consistency=stale&timeout=1s HTTP/1.1\r\nHost: x\r\n\r\n",
		"PUT /v1/groups/orders/kv/a%2Fb?cas=0&ttl=30s HTTP/1.1\r\nHost: x\r\nDiarchy-Session: 000102030405060708090a0b0c0d0e0f\r\nDiarchy-Seq: 1\r\nContent-Length: 1\r\n\r\nx",
		"GET /v1/groups/orders/kv?prefix=%ff&limit=2&keys_only HTTP/1.1\r\nHost: x\r\nDiarchy-Index: 1\r\nDiarchy-History: 00000000-0000-0000-0000-000000000007\r\n\r\n",
		"POST /v1/groups/orders/propose HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
		"POST /diarchy.v1.Diarchy/Query HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 18\r\n\r\n{\"group\":\"orders\"}",
		"GET /v1/groups/orders/tail?from=1 HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nLast-Event-ID: 3\r\n\r\n",
		"PUT /v1/groups/orders/snapshot HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
		"GET /v1/stream HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: diarchy-grpc\r\n\r\n",
		"DELETE /v1/groups/%6frders/sessions/zz HTTP/1.1\r\nHost: x\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	s, err := New(Config{Service: servertest.New(1).Node(0), StallTimeout: time.Second})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = s.Close(context.Background()) })
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
		if err != nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		defer cancel()
		w := httptest.NewRecorder()
		func() {
			defer func() {
				if v := recover(); v != nil && v != http.ErrAbortHandler {
					panic(v)
				}
			}()
			s.ServeHTTP(w, r.WithContext(ctx))
		}()
		if http.StatusText(w.Code) == "" {
			t.Fatalf("status %d", w.Code)
		}
		if isRPC := strings.Contains(r.URL.Path, "."); w.Code >= 400 && !isRPC {
			var e errorBody
			if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || e.Code == "" || r.Method == http.MethodHead {
				t.Fatalf("status %d with body %q: %v", w.Code, w.Body, err)
			}
			if pb.RowOf(e.Code).HTTP != w.Code {
				t.Fatalf("status %d for %s", w.Code, e.Code)
			}
		}
	})
}

// memoryPipe gives one message and takes the answers.
type memoryPipe struct {
	in  *pb.StreamRequest
	out []*pb.StreamResponse
}

func (p *memoryPipe) Receive() (*pb.StreamRequest, error) {
	if p.in == nil {
		return nil, io.EOF
	}
	in := p.in
	p.in = nil
	return in, nil
}

func (p *memoryPipe) Send(m *pb.StreamResponse) error {
	p.out = append(p.out, m)
	return nil
}
func (*memoryPipe) cut()            {}
func (*memoryPipe) interrupt() bool { return true }

// Whatever message arrives on a stream, each call in it is answered exactly once.
func FuzzBatch(f *testing.F) {
	for _, m := range []*pb.StreamRequest{
		{}, {Runs: []*pb.Run{{}}},
		{TimeoutMs: 5, Runs: []*pb.Run{{Group: "orders", Proposals: []*pb.Proposal{{Id: 1, Data: []byte("x")}, {Id: 1}}, Reads: []*pb.Read{{Id: 2, Data: []byte("\x07\x01k")}}}}},
		{TimeoutMs: 5, Runs: []*pb.Run{{Group: "orders", Session: make([]byte, 16), Proposals: []*pb.Proposal{{Seq: 1}}, Reads: []*pb.Read{{After: &pb.Token{Number: 3}, Consistency: 7}}}}},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	s, err := New(Config{Service: servertest.New(1).Node(0)})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = s.Close(context.Background()) })
	f.Fuzz(func(t *testing.T, raw []byte) {
		m := &pb.StreamRequest{}
		if proto.Unmarshal(raw, m) != nil {
			return
		}
		m.TimeoutMs = min(max(m.TimeoutMs, 1), 5)
		want := map[uint64]int{}
		for _, r := range m.Runs {
			for _, p := range r.Proposals {
				want[p.Id]++
			}
			for _, q := range r.Reads {
				want[q.Id]++
			}
		}
		p := &memoryPipe{in: m}
		if err := s.serveBatches(context.Background(), admin, p); err != nil {
			t.Fatal(err)
		}
		for _, out := range p.out {
			for _, r := range out.Runs {
				for _, o := range r.Outcomes {
					want[o.Id]--
				}
			}
		}
		for id, n := range want {
			if n != 0 {
				t.Fatalf("call %d: %d answers are missing", id, n)
			}
		}
	})
}
