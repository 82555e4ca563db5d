package server_test

import (
	"context"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"connectrpc.com/connect"

	pb "github.com/diarchy/diarchy/client/clientpb"
	"github.com/diarchy/diarchy/framework"
)

// frameworkCodes reads the constants of type Code from the framework's source.
func frameworkCodes(t *testing.T) []string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "../framework/errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	ast.Inspect(f, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || len(v.Values) != 1 {
			return true
		}
		if id, ok := v.Type.(*ast.Ident); !ok || id.Name != "Code" {
			return true
		}
		if lit, ok := v.Values[0].(*ast.BasicLit); ok {
			s, err := strconv.Unquote(lit.Value)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, s)
		}
		return true
	})
	if len(out) < 20 {
		t.Fatalf("found %d codes in framework/errors.go", len(out))
	}
	return out
}

// rpcClient speaks gRPC to the port.
func (p *port) rpcClient(o ...connect.ClientOption) (pb.DiarchyClient, func()) {
	proto := new(http.Protocols)
	proto.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: proto}
	return pb.NewDiarchyClient(&http.Client{Transport: tr}, p.base, o...), tr.CloseIdleConnections
}

func detail(t *testing.T, err error) (*connect.Error, *pb.Error) {
	t.Helper()
	var c *connect.Error
	if !errors.As(err, &c) {
		t.Fatalf("not a connect error: %v", err)
	}
	for _, d := range c.Details() {
		if v, err := d.Value(); err == nil {
			if m, ok := v.(*pb.Error); ok {
				return c, m
			}
		}
	}
	t.Fatalf("no detail in %v", err)
	return nil, nil
}

// Row by row: what the framework says arrives with the status, code and detail
// of the table, over HTTP, over gRPC, and for one call of a stream.
func TestEachRowOfTheTable(t *testing.T) {
	p := serve(t, nil)
	p.want(p.do("PUT", "/v1/groups/orders/kv/warm", "x"), 200, "") // the machine's name is known from here
	rpc, done := p.rpcClient(connect.WithGRPC())
	defer done()
	stream, err := rpc.Stream(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer stream.CloseRequest()
	for _, code := range frameworkCodes(t) {
		row := pb.RowOf(code)
		raised := &framework.Error{
			Code: framework.Code(code), Happened: framework.Happened(row.Happened), Message: "planted " + code,
			Leader: "some-node", LeaderAddr: "10.1.2.3:7960", Index: 42,
		}
		check := func(via string, got *pb.Error) {
			t.Helper()
			if got.Code != code || got.Message != raised.Message || got.Happened != row.Happened || got.LeaderAddr != raised.LeaderAddr || got.Index != 42 {
				t.Errorf("%s over %s arrived as %v", code, via, got)
			}
		}

		p.FailNext(raised)
		r := p.do("PUT", "/v1/groups/orders/kv/a", "x")
		e := r.error(t)
		if r.status != row.HTTP {
			t.Errorf("%s: HTTP %d, want %d", code, r.status, row.HTTP)
		}
		if e.Code != code || e.Message != raised.Message || e.Happened != row.Happened.Word() || e.Leader != raised.LeaderAddr || e.Index != 42 {
			t.Errorf("%s over HTTP arrived as %+v", code, e)
		}

		p.FailNext(raised)
		_, err := rpc.Propose(context.Background(), &pb.ProposeRequest{Group: "orders", Data: []byte("x")})
		c, d := detail(t, err)
		if c.Code() != row.GRPC {
			t.Errorf("%s: gRPC %v, want %v", code, c.Code(), row.GRPC)
		}
		check("gRPC", d)

		p.FailNext(raised)
		err = stream.Send(&pb.StreamRequest{Runs: []*pb.Run{{Group: "orders", Proposals: []*pb.Proposal{{Id: 5, Data: []byte("x")}}}}})
		if err != nil {
			t.Fatal(err)
		}
		m, err := stream.Receive()
		if err != nil {
			t.Fatal(err)
		}
		check("a stream", m.Runs[0].Outcomes[0].Failure)
	}
	if err := stream.CloseRequest(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Receive(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ended with %v", err)
	}
}

// An error that nobody gave a code says nothing of what happened.
func TestErrorsWithoutACode(t *testing.T) {
	p := serve(t, nil)
	p.FailNext(errPlain, errPlain)
	r := p.want(p.do("GET", "/v1/groups", ""), 500, pb.CodeInternal)
	if e := r.error(t); e.Happened != "maybe" || !strings.Contains(e.Message, "plain") {
		t.Errorf("%+v", e)
	}
	rpc, done := p.rpcClient()
	defer done()
	_, err := rpc.ListGroups(context.Background(), &pb.ListGroupsRequest{})
	if c, d := detail(t, err); c.Code() != connect.CodeInternal || d.Happened != pb.Happened_HAPPENED_MAYBE {
		t.Errorf("%v, %v", c, d)
	}
}
