package framework

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/diarchy/diarchy/framework/peerpb"
)

// What another node sends is judged before it is used: whatever it is, it gets
// an answer, and the answer says that nothing happened.
func TestPeerServiceRefusesWhatItCannotRead(t *testing.T) {
	n := &Node{views: newViews(), changed: newSignal(), cfg: NodeConfig{Name: "n1"}}
	n.table.Store(&replicaTable{})
	n.ctx, n.cancel = context.WithCancel(context.Background())
	defer n.cancel()
	s, ctx := peerService{n: n}, context.Background()
	known := &replica{n: n, id: fixedUUID(1), record: groupRecord{Group: GroupInfo{GroupSpec: GroupSpec{Name: "g"}}}}
	known.live.Store(&Group{}) // never reached
	n.table.Store(&replicaTable{byID: map[UUID]*replica{known.id: known}})
	here, nowhere := known.id[:], make([]byte, 16)

	for what, call := range map[string]func(group []byte) error{
		"query": func(g []byte) error {
			_, err := s.Query(ctx, &peerpb.QueryRequest{Group: g, Consistency: 9})
			return err
		},
		"session": func(g []byte) error {
			_, err := s.Session(ctx, &peerpb.SessionRequest{Group: g, Id: []byte("short")})
			return err
		},
		"member": func(g []byte) error { _, err := s.Member(ctx, &peerpb.MemberRequest{Group: g, Op: 99}); return err },
		"stage": func(g []byte) error {
			_, err := s.Stage(ctx, &peerpb.StageRequest{Group: g, Hash: []byte("short")})
			return err
		},
		"no caller": func(g []byte) error {
			_, err := s.Stage(ctx, &peerpb.StageRequest{Group: g, Hash: make([]byte, 32)})
			return err
		},
	} {
		for _, group := range [][]byte{nil, []byte("short"), nowhere, here} {
			err := callError("n", call(group), false, false)
			var e *Error
			if !errors.As(err, &e) || e.Message == "" {
				t.Errorf("%s of group %x: %v", what, group, err)
			}
			if what != "no caller" && e.Happened != No {
				t.Errorf("%s of group %x: it happened: %s", what, group, e.Happened)
			}
		}
	}
	if _, err := s.Status(ctx, &peerpb.StatusRequest{Groups: [][]byte{{1}}}); err == nil {
		t.Error("a status of half a group")
	}
	o := newOutbox()
	s.takeUp(ctx, []*peerpb.Op{{Ref: 1, Group: nowhere}, {Ref: 2, Group: []byte("x")}, {Ref: 3, Group: here, Session: []byte("short")}}, o)
	out := o.take()
	if len(out) != 3 {
		t.Fatalf("%d outcomes for three operations", len(out))
	}
	for k, want := range []Code{CodeNoSuchGroup, CodeInvalid, CodeInvalid} {
		if out[k].Ref != uint64(k+1) || Code(out[k].Error.Code) != want || out[k].Error.Happened != uint32(No) {
			t.Errorf("operation %d: %+v", k+1, out[k])
		}
	}
}

func FuzzCatalogueCommand(f *testing.F) {
	f.Add([]byte(`{"v":1,"op":"register","node":{"id":"x","name":"n"}}`))
	f.Add(catalogueCommand{Op: opCreate, ID: fixedUUID(1), Spec: &GroupSpec{Name: "g"}, Nodes: allNodes(3)}.encode())
	f.Add(catalogueCommand{Op: opInit, Cluster: fixedUUID(1), ID: fixedUUID(2), Spec: &GroupSpec{Name: SystemGroup}, Nodes: allNodes(3)}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		s := &catalogueState{Format: catalogueFormat}
		for i := range 3 {
			_ = s.register(catalogueCommand{Node: &catalogueNode{ID: fixedNode(i + 1), Name: "n" + strings.Repeat("x", i)}})
		}
		before := len(s.Nodes)
		_, _ = s.apply(b)
		if err := checkCatalogue(s); err != nil {
			t.Fatal(err)
		}
		if len(s.Nodes) < before {
			t.Fatal("a node was lost")
		}
	})
}
