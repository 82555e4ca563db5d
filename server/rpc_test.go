package server_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"connectrpc.com/grpcreflect"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"

	pb "github.com/diarchy/diarchy/client/clientpb"
	"github.com/diarchy/diarchy/framework"
	"github.com/diarchy/diarchy/fsm/kv"
	"github.com/diarchy/diarchy/server"
)

// The same calls over each protocol.
func TestProtocols(t *testing.T) {
	for name, o := range map[string][]connect.ClientOption{
		"gRPC": {connect.WithGRPC()}, "gRPC-Web": {connect.WithGRPCWeb()}, "JSON": {connect.WithProtoJSON()}, "connect": nil,
	} {
		t.Run(name, func(t *testing.T) {
			p := serve(t, nil)
			rpc, done := p.rpcClient(o...)
			defer done()
			ctx := context.Background()
			id := bytes.Repeat([]byte{1}, 16)
			if _, err := rpc.OpenSession(ctx, &pb.OpenSessionRequest{Group: "orders", Session: id}); err != nil {
				t.Fatal(err)
			}
			req := &pb.ProposeRequest{Group: "orders", Data: kv.Put("k", []byte("v"), 0), Session: id, Seq: 1}
			w, err := rpc.Propose(ctx, req)
			if err != nil || w.Token.Number != 1 || w.Duplicate {
				t.Fatalf("propose: %v, %v", w, err)
			}
			if w, err = rpc.Propose(ctx, req); err != nil || w.Token.Number != 1 || !w.Duplicate {
				t.Errorf("propose again: %v, %v", w, err)
			}
			a, err := rpc.Query(ctx, &pb.QueryRequest{Group: "orders", Data: kv.GetQuery("k"), After: w.Token})
			if err != nil {
				t.Fatal(err)
			}
			if item, found, err := kv.DecodeItem(a.Value); err != nil || !found || string(item.Value) != "v" || a.Token.Number != 1 || a.Time == 0 {
				t.Errorf("query: %v, %v, %v", item, found, err)
			}
			if _, err := rpc.CloseSession(ctx, &pb.CloseSessionRequest{Group: "orders", Session: id}); err != nil {
				t.Error(err)
			}
			if n, err := rpc.WaitIndex(ctx, &pb.WaitIndexRequest{Group: "orders", TimeoutMs: 1}); err != nil || n.Number != 1 {
				t.Errorf("wait: %v, %v", n, err)
			}
			tail, err := rpc.Tail(ctx, &pb.TailRequest{Group: "orders", From: 1})
			if err != nil || !tail.Receive() {
				t.Fatalf("tail: %v, %v", err, tail.Err())
			}
			if e := tail.Msg().Entries[0]; e.Number != 1 || !bytes.Equal(e.Data, req.Data) {
				t.Errorf("tail gave %v", e)
			}
			tail.Close()
		})
	}
}

func TestAdministration(t *testing.T) {
	p := serve(t, nil)
	rpc, done := p.rpcClient(connect.WithGRPC())
	defer done()
	ctx := context.Background()
	groups, err := rpc.ListGroups(ctx, &pb.ListGroupsRequest{})
	if err != nil || len(groups.Groups) != 1 || groups.Groups[0].Spec.Engine != "raft" {
		t.Fatalf("%v, %v", groups, err)
	}
	st, err := rpc.GroupStatus(ctx, &pb.GroupStatusRequest{Group: "orders"})
	if err != nil || st.Leader == "" || len(st.Membership.Members) != 1 || st.Replicas[0].Machine.State != "running" {
		t.Errorf("%v, %v", st, err)
	}
	if st, err = rpc.GroupStatus(ctx, &pb.GroupStatusRequest{Group: "orders", Local: true}); err != nil || len(st.Replicas) != 1 || st.Replicas[0].Role != "leader" {
		t.Errorf("%v, %v", st, err)
	}
	made, err := rpc.CreateGroup(ctx, &pb.CreateGroupRequest{Spec: &pb.GroupSpec{Name: "new", Engine: "raft", Replicas: 3, Nodes: []string{"a"}, Limits: &pb.Limits{Sessions: 7}}})
	if err != nil || made.Group.Spec.Limits.Sessions != 7 || made.Group.Spec.Nodes[0] != "a" {
		t.Errorf("%v, %v", made, err)
	}
	failsWith := func(code string, err error) {
		t.Helper()
		if _, d := detail(t, err); d.Code != code {
			t.Errorf("got %s (%s), want %s", d.Code, d.Message, code)
		}
	}
	_, err = rpc.CreateGroup(ctx, &pb.CreateGroupRequest{Spec: &pb.GroupSpec{Name: "orders"}})
	failsWith(pb.CodeGroupExists, err)
	_, err = rpc.CreateGroup(ctx, &pb.CreateGroupRequest{})
	failsWith(pb.CodeInvalid, err)
	_, err = rpc.DestroyGroup(ctx, &pb.DestroyGroupRequest{Group: "orders", Confirm: "order"})
	failsWith(pb.CodeInvalid, err)
	if _, err = rpc.DestroyGroup(ctx, &pb.DestroyGroupRequest{Group: "orders", Confirm: "orders"}); err != nil {
		t.Error(err)
	}
	if _, err = rpc.ChangeMembership(ctx, &pb.ChangeMembershipRequest{Group: "orders", Op: pb.ChangeOp_CHANGE_OP_PROMOTE, Node: "n1"}); err != nil {
		t.Error(err)
	}
	_, err = rpc.ChangeMembership(ctx, &pb.ChangeMembershipRequest{Group: "orders", Op: pb.ChangeOp_CHANGE_OP_REMOVE, Node: "n9"})
	failsWith(pb.CodeNoSuchNode, err)
	for _, op := range []pb.ChangeOp{0, 99} {
		_, err = rpc.ChangeMembership(ctx, &pb.ChangeMembershipRequest{Group: "orders", Op: op, Node: "n1"})
		failsWith(pb.CodeInvalid, err)
	}
	_, err = rpc.Replace(ctx, &pb.ReplaceRequest{Group: "orders", OldNode: "n1", NewNode: "n9"})
	failsWith(pb.CodeNoSuchNode, err)
	if _, err = rpc.Transfer(ctx, &pb.TransferRequest{Group: "orders", ToNode: "n1"}); err != nil {
		t.Error(err)
	}
	if _, err = rpc.TakeSnapshot(ctx, &pb.TakeSnapshotRequest{Group: "orders"}); err != nil {
		t.Error(err)
	}
	if sum, err := rpc.Checksum(ctx, &pb.ChecksumRequest{Group: "orders"}); err != nil || len(sum.Sha256) != 64 {
		t.Errorf("%v, %v", sum, err)
	}
	if nodes, err := rpc.ListNodes(ctx, &pb.ListNodesRequest{}); err != nil || len(nodes.Nodes) != 1 || nodes.Nodes[0].ClientAddr != p.addr {
		t.Errorf("%v, %v", nodes, err)
	}
	if s, err := rpc.Status(ctx, &pb.StatusRequest{}); err != nil || !s.Ready || s.Groups[0] != "orders" || s.Node.Name != "n1" {
		t.Errorf("%v, %v", s, err)
	}
	if v, err := rpc.Version(ctx, &pb.VersionRequest{}); err != nil || v.Version != "test" || v.Go == "" {
		t.Errorf("%v, %v", v, err)
	}
}

// Without gossip and plugins they are not supported, and say so.
func TestWithoutGossipAndPlugins(t *testing.T) {
	p := serve(t, nil)
	rpc, done := p.rpcClient(connect.WithGRPC())
	defer done()
	ctx := context.Background()
	unsupported := func(err error) {
		t.Helper()
		if _, d := detail(t, err); d.Code != pb.CodeUnsupported {
			t.Errorf("got %s (%s)", d.Code, d.Message)
		}
	}
	_, err := rpc.Members(ctx, &pb.MembersRequest{})
	unsupported(err)
	_, err = rpc.Join(ctx, &pb.JoinRequest{Addresses: []string{"x"}})
	unsupported(err)
	_, err = rpc.Leave(ctx, &pb.LeaveRequest{})
	unsupported(err)
	_, err = rpc.ForceLeave(ctx, &pb.ForceLeaveRequest{Node: "x"})
	unsupported(err)
	_, err = rpc.ListPlugins(ctx, &pb.ListPluginsRequest{})
	unsupported(err)
	_, err = rpc.PluginInfo(ctx, &pb.PluginInfoRequest{Name: "x"})
	unsupported(err)
}

type fakeGossip struct{ asked []string }

func (f *fakeGossip) Members(context.Context) ([]*pb.PoolMember, error) {
	return []*pb.PoolMember{{Name: "n1", Status: "alive"}}, nil
}
func (f *fakeGossip) Join(_ context.Context, addrs []string) (int, error) {
	f.asked = append(f.asked, addrs...)
	return len(addrs), nil
}
func (f *fakeGossip) Leave(context.Context) error { f.asked = append(f.asked, "leave"); return nil }
func (f *fakeGossip) ForceLeave(_ context.Context, node string) error {
	return framework.ErrNoSuchNode.Because("no member %s", node)
}

type fakePlugins struct{}

func (fakePlugins) List(context.Context) ([]*pb.Plugin, error) {
	return []*pb.Plugin{{Name: "kv", Sha256: "00"}}, nil
}
func (fakePlugins) Info(_ context.Context, name string) (*pb.Plugin, error) {
	if name != "kv" {
		return nil, framework.ErrInvalid.Because("no plugin %q is configured", name)
	}
	return &pb.Plugin{Name: name}, nil
}

func TestGossipAndPlugins(t *testing.T) {
	g := &fakeGossip{}
	p := serve(t, func(c *server.Config) { c.Gossip, c.Plugins = g, fakePlugins{} })
	rpc, done := p.rpcClient(connect.WithGRPC())
	defer done()
	ctx := context.Background()
	if m, err := rpc.Members(ctx, &pb.MembersRequest{}); err != nil || m.Members[0].Name != "n1" {
		t.Errorf("%v, %v", m, err)
	}
	if j, err := rpc.Join(ctx, &pb.JoinRequest{Addresses: []string{"a:1", "b:2"}}); err != nil || j.Joined != 2 {
		t.Errorf("%v, %v", j, err)
	}
	_, err := rpc.Join(ctx, &pb.JoinRequest{})
	if _, d := detail(t, err); d.Code != pb.CodeInvalid {
		t.Errorf("join without addresses: %v", d)
	}
	if _, err := rpc.Leave(ctx, &pb.LeaveRequest{}); err != nil {
		t.Error(err)
	}
	_, err = rpc.ForceLeave(ctx, &pb.ForceLeaveRequest{Node: "n9"})
	if _, d := detail(t, err); d.Code != pb.CodeNoSuchNode {
		t.Errorf("force-leave: %v", d)
	}
	if strings.Join(g.asked, " ") != "a:1 b:2 leave" {
		t.Errorf("gossip was asked %q", g.asked)
	}
	if l, err := rpc.ListPlugins(ctx, &pb.ListPluginsRequest{}); err != nil || l.Plugins[0].Name != "kv" {
		t.Errorf("%v, %v", l, err)
	}
	if i, err := rpc.PluginInfo(ctx, &pb.PluginInfoRequest{Name: "kv"}); err != nil || i.Plugin.Name != "kv" {
		t.Errorf("%v, %v", i, err)
	}
	_, err = rpc.PluginInfo(ctx, &pb.PluginInfoRequest{Name: "zz"})
	if _, d := detail(t, err); d.Code != pb.CodeInvalid {
		t.Errorf("unknown plugin: %v", d)
	}
}

func TestSnapshotStreams(t *testing.T) {
	p := serve(t, nil)
	rpc, done := p.rpcClient(connect.WithGRPC())
	defer done()
	ctx := context.Background()
	big := strings.Repeat("v", 700<<10) // more than two chunks
	p.want(p.do("PUT", "/v1/groups/orders/kv/a", big), 200, "")
	save, err := rpc.SaveSnapshot(ctx, &pb.SaveSnapshotRequest{Group: "orders"})
	if err != nil {
		t.Fatal(err)
	}
	var archive []byte
	var rep *pb.SnapshotReport
	chunks := 0
	for save.Receive() {
		archive = append(archive, save.Msg().Chunk...)
		chunks++
		rep = save.Msg().Report
	}
	if save.Err() != nil || rep.GetNumber() != 1 || int64(len(archive)) != rep.Bytes || chunks < 3 {
		t.Fatalf("%d chunks, report %v, %v", chunks, rep, save.Err())
	}
	p.want(p.do("PUT", "/v1/groups/orders/kv/a", "changed"), 200, "")
	restore := func(group string, b []byte, complete bool) (*pb.SnapshotReport, error) {
		s, err := rpc.RestoreSnapshot(ctx)
		if err != nil {
			t.Fatal(err)
		}
		_ = s.Send(&pb.RestoreSnapshotRequest{Group: group, Chunk: b[:len(b)/2]})
		_ = s.Send(&pb.RestoreSnapshotRequest{Chunk: b[len(b)/2:], Complete: complete})
		return s.CloseAndReceive()
	}
	_, err = restore("orders", archive, false)
	if _, d := detail(t, err); d.Code != pb.CodeInvalid {
		t.Errorf("an archive that was cut off: %v", err)
	}
	_, err = restore("nobody", archive, true)
	if _, d := detail(t, err); d.Code != pb.CodeNoSuchGroup {
		t.Errorf("no such group: %v", err)
	}
	if r := p.do("GET", "/v1/groups/orders/kv/a", ""); r.body != "changed" {
		t.Error("a refused restore changed the state")
	}
	if _, err = restore("orders", archive, true); err != nil {
		t.Fatal(err)
	}
	if r := p.do("GET", "/v1/groups/orders/kv/a", ""); r.body != big {
		t.Error("the restored value is another")
	}
}

// gRPC-Web in raw frames over HTTP/1.1, as a browser sends it.
func TestGRPCWebByHand(t *testing.T) {
	p := serve(t, nil)
	msg, err := proto.Marshal(&pb.QueryRequest{Group: "nobody", Data: kv.GetQuery("k")})
	if err != nil {
		t.Fatal(err)
	}
	frame := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(msg))), msg...)
	r := p.do("POST", pb.DiarchyQueryProcedure, string(frame), "Content-Type: application/grpc-web+proto")
	if r.status != 200 || r.header.Get("Grpc-Status")+trailerFrame(r.body)["grpc-status"] != "5" {
		t.Errorf("no such group over gRPC-Web: %d %v %q", r.status, r.header, r.body)
	}
	msg, _ = proto.Marshal(&pb.QueryRequest{Group: "orders", Data: kv.GetQuery("k")})
	frame = append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(msg))), msg...)
	r = p.do("POST", pb.DiarchyQueryProcedure, string(frame), "Content-Type: application/grpc-web+proto")
	n := binary.BigEndian.Uint32([]byte(r.body[1:5]))
	var a pb.QueryResponse
	if err := proto.Unmarshal([]byte(r.body[5:5+n]), &a); err != nil {
		t.Fatal(err)
	}
	if _, found, err := kv.DecodeItem(a.Value); found || err != nil {
		t.Errorf("answer %v, %v", &a, err)
	}
	if st := trailerFrame(r.body[5+n:])["grpc-status"]; st != "0" {
		t.Errorf("status %q in %q", st, r.body[5+n:])
	}
}

// trailerFrame reads gRPC-Web's last frame.
func trailerFrame(body string) map[string]string {
	out := map[string]string{}
	if len(body) < 5 || body[0] != 0x80 {
		return out
	}
	for _, line := range strings.Split(body[5:], "\r\n") {
		k, v, _ := strings.Cut(line, ":")
		out[strings.ToLower(k)] = strings.TrimSpace(v)
	}
	return out
}

func TestJSONCallsByHand(t *testing.T) {
	p := serve(t, nil)
	const kind = "Content-Type: application/json"
	data := base64.StdEncoding.EncodeToString(kv.Put("k", []byte("v"), 0))
	r := p.want(p.do("POST", pb.DiarchyProposeProcedure, fmt.Sprintf(`{"group":"orders","data":%q}`, data), kind), 200, "")
	if !strings.Contains(r.body, `"number":"1"`) {
		t.Errorf("body %s", r.body)
	}
	r = p.do("POST", pb.DiarchyProposeProcedure, `{"group":"nobody"}`, kind)
	var e struct {
		Code    string
		Details []struct{ Type, Value string }
	}
	if err := json.Unmarshal([]byte(r.body), &e); err != nil || r.status != 404 || e.Code != "not_found" || len(e.Details) != 1 || e.Details[0].Type != "diarchy.v1.Error" {
		t.Errorf("%d %s: %v", r.status, r.body, err)
	}
	if r = p.do("POST", pb.DiarchyProposeProcedure, `{"group":`, kind); r.status != 400 {
		t.Errorf("broken JSON: %d %s", r.status, r.body)
	}
	if r = p.do("POST", "/diarchy.v1.Diarchy/Nothing", `{}`, kind); r.status != 501 {
		t.Errorf("unknown method: %d %s", r.status, r.body)
	}
}

func TestBadCallsOverGRPC(t *testing.T) {
	p := serve(t, nil)
	rpc, done := p.rpcClient(connect.WithGRPC())
	defer done()
	ctx := context.Background()
	for name, call := range map[string]func() error{
		"short session": func() error {
			_, err := rpc.Propose(ctx, &pb.ProposeRequest{Group: "orders", Session: []byte{1}, Seq: 1})
			return err
		},
		"zero session": func() error {
			_, err := rpc.OpenSession(ctx, &pb.OpenSessionRequest{Group: "orders", Session: make([]byte, 16)})
			return err
		},
		"no seq": func() error {
			_, err := rpc.Propose(ctx, &pb.ProposeRequest{Group: "orders", Session: bytes.Repeat([]byte{1}, 16)})
			return err
		},
		"seq alone": func() error {
			_, err := rpc.Propose(ctx, &pb.ProposeRequest{Group: "orders", Seq: 1})
			return err
		},
		"no close": func() error {
			_, err := rpc.CloseSession(ctx, &pb.CloseSessionRequest{Group: "orders"})
			return err
		},
		"level": func() error {
			_, err := rpc.Query(ctx, &pb.QueryRequest{Group: "orders", Consistency: 9})
			return err
		},
		"history": func() error {
			_, err := rpc.Query(ctx, &pb.QueryRequest{Group: "orders", After: &pb.Token{History: []byte{1}, Number: 1}})
			return err
		},
		"number alone": func() error {
			_, err := rpc.Query(ctx, &pb.QueryRequest{Group: "orders", After: &pb.Token{Number: 1}})
			return err
		},
		"no restore": func() error {
			s, err := rpc.RestoreSnapshot(ctx)
			if err != nil {
				return err
			}
			_, err = s.CloseAndReceive()
			return err
		},
	} {
		err := call()
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		if _, d := detail(t, err); d.Code != pb.CodeInvalid {
			t.Errorf("%s: %v", name, d)
		}
	}
}

func TestReflection(t *testing.T) {
	p := serve(t, nil)
	proto := new(http.Protocols)
	proto.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: proto}
	defer tr.CloseIdleConnections()
	c := grpcreflect.NewClient(&http.Client{Transport: tr}, p.base, connect.WithGRPC())
	s := c.NewStream(context.Background())
	names, err := s.ListServices()
	if err != nil || fmt.Sprint(names) != "[diarchy.v1.Diarchy grpc.health.v1.Health]" {
		t.Errorf("%v, %v", names, err)
	}
	files, err := s.FileContainingSymbol("diarchy.v1.Diarchy")
	if err != nil || len(files) == 0 {
		t.Errorf("%d files, %v", len(files), err)
	}
	if _, err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestGRPCHealth(t *testing.T) {
	p := serve(t, nil)
	proto := new(http.Protocols)
	proto.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: proto}
	defer tr.CloseIdleConnections()
	hc := &http.Client{Transport: tr}
	check := connect.NewClient[healthpb.HealthCheckRequest, healthpb.HealthCheckResponse](hc, p.base+"/grpc.health.v1.Health/Check", connect.WithGRPC())
	watch := connect.NewClient[healthpb.HealthCheckRequest, healthpb.HealthCheckResponse](hc, p.base+"/grpc.health.v1.Health/Watch", connect.WithGRPC())
	ctx := context.Background()
	ask := func(service string) (healthpb.HealthCheckResponse_ServingStatus, error) {
		r, err := check.CallUnary(ctx, connect.NewRequest(&healthpb.HealthCheckRequest{Service: service}))
		if err != nil {
			return 0, err
		}
		return r.Msg.Status, nil
	}
	for _, service := range []string{"", "diarchy.v1.Diarchy"} {
		if st, err := ask(service); err != nil || st != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("%q: %v, %v", service, st, err)
		}
	}
	if _, err := ask("other"); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("unknown service: %v", err)
	}
	w, err := watch.CallServerStream(ctx, connect.NewRequest(&healthpb.HealthCheckRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if !w.Receive() || w.Msg().Status != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("watch: %v", w.Err())
	}
	p.Lead(-1)
	if !w.Receive() || w.Msg().Status != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("watch after the leader went: %v, %v", w.Msg(), w.Err())
	}
	if st, _ := ask(""); st != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("check after the leader went: %v", st)
	}
}

func TestPingsOnAStream(t *testing.T) {
	p := serve(t, nil)
	rpc, done := p.rpcClient(connect.WithGRPC())
	defer done()
	s, err := rpc.Stream(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&pb.StreamRequest{}); err != nil {
		t.Fatal(err)
	}
	if m, err := s.Receive(); err != nil || len(m.Runs) != 0 {
		t.Errorf("a ping was answered %v, %v", m, err)
	}
	if err := s.CloseRequest(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Receive(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ended with %v", err)
	}
}
