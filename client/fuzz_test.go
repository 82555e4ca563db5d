package client

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	pb "github.com/diarchy/diarchy/client/clientpb"
)

// cannedConn answers with bytes that are there already.
type cannedConn struct {
	net.Conn
	r io.Reader
}

func (c cannedConn) Read(p []byte) (int, error)  { return c.r.Read(p) }
func (c cannedConn) Write(p []byte) (int, error) { return len(p), nil }

// Whatever stands at the other end, the answer to an upgrade is a connection
// that loses nothing of what follows, or an error that says nothing happened.
func FuzzUpgrade(f *testing.F) {
	const ok = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: diarchy-grpc\r\n\r\n"
	for _, s := range []string{
		ok, ok + "rest", "HTTP/1.1 401 Unauthorized\r\nContent-Length: 30\r\n\r\n{\"code\":\"unauthenticated\"}     ",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n", "", "\x16\x03\x01", "HTTP/1.1 503 x\r\n\r\n{\"code\":7}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		conn, e := upgrade(cannedConn{r: bytes.NewReader(answer)}, "host:1", "token")
		if (conn == nil) == (e == nil) {
			t.Fatalf("connection %v and error %v", conn, e)
		}
		if e != nil {
			if e.Happened != No || e.Code == "" {
				t.Fatalf("error %+v", e)
			}
			return
		}
		rest, err := io.ReadAll(conn)
		if err != nil || !bytes.HasSuffix(answer, rest) {
			t.Fatalf("%q is not what followed in %q: %v", rest, answer, err)
		}
		if _, after, found := strings.Cut(string(answer), "\r\n\r\n"); found && string(answer[:len(ok)]) == ok && after != string(rest) {
			t.Fatalf("%q of %q is left", rest, after)
		}
	})
}

// Whatever a node sends, only calls that wait are answered, each once, and the
// account of what is in flight stays true.
func FuzzDeliver(f *testing.F) {
	for _, m := range []*pb.StreamResponse{
		{}, {Runs: []*pb.OutcomeRun{{History: []byte("short"), Outcomes: []*pb.Outcome{{Id: 1 << 32}, {Id: 1 << 32}, {Id: 1<<32 | 1, Failure: &pb.Error{Code: "busy"}}, {Id: 1<<32 | 99}, {Id: 2}}}}},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		m := &pb.StreamResponse{}
		if proto.Unmarshal(raw, m) != nil {
			return
		}
		s := &stream{room: make(chan struct{}, 1)}
		var waiting [3]*call
		for i := range waiting {
			waiting[i] = &call{done: make(chan struct{}, 1)}
			s.addLocked(waiting[i], 10)
		}
		s.deliver(m)
		s.deliver(m)
		left := 0
		for _, c := range waiting {
			select {
			case <-c.done:
			default:
				left++
			}
		}
		if s.inFlight != left || s.bytes != 10*left || len(s.free) != len(waiting)-left {
			t.Fatalf("%d calls wait, the account says %d and %d bytes", left, s.inFlight, s.bytes)
		}
	})
}
