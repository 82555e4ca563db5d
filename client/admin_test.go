package client_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/diarchy/diarchy/client"
	pb "github.com/diarchy/diarchy/client/clientpb"
	"github.com/diarchy/diarchy/fsm/kv"
	"github.com/diarchy/diarchy/server"
)

// A question about one node is never answered by another.
func TestTheNodeIsTheFirstAddress(t *testing.T) {
	c := start(t, 3, nil)
	cl := c.client(func(cfg *client.Config) { cfg.Addresses = []string{c.addrs()[1], c.addrs()[2]} })
	g := cl.Group("orders")
	ctx := within(t, 20*time.Second)
	if _, err := g.Propose(ctx, kv.Put("k", nil, 0)); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return client.Known(g) == 3 })
	for range 5 {
		if st, err := cl.Status(ctx); err != nil || st.Node.Name != "n2" {
			t.Errorf("%v, %v", st, err)
		}
		if st, err := g.LocalStatus(ctx); err != nil || st.Replicas[0].Name != "n2" {
			t.Errorf("%v, %v", st, err)
		}
	}
	c.ports[1].stop()
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	if st, err := cl.Status(short); err == nil {
		t.Errorf("with the node gone %s answered", st.Node.Name)
	}
}

func TestAdministration(t *testing.T) {
	c := start(t, 2, nil)
	cl := c.client(nil)
	g := cl.Group("orders")
	ctx := within(t, 20*time.Second)
	if l, err := cl.Groups(ctx); err != nil || len(l) != 1 {
		t.Errorf("%v, %v", l, err)
	}
	if _, err := cl.CreateGroup(ctx, &pb.GroupSpec{Name: "orders"}); client.CodeOf(err) != pb.CodeGroupExists {
		t.Errorf("%v", err)
	}
	if i, err := cl.CreateGroup(ctx, &pb.GroupSpec{Name: "new"}); err != nil || i.Spec.Name != "new" {
		t.Errorf("%v, %v", i, err)
	}
	if err := cl.DestroyGroup(ctx, "orders", "no"); !errors.Is(err, client.ErrInvalid) {
		t.Errorf("%v", err)
	}
	if l, err := cl.Nodes(ctx); err != nil || len(l) != 2 {
		t.Errorf("%v, %v", l, err)
	}
	for _, call := range []func() error{
		func() error { _, err := cl.Members(ctx); return err },
		func() error { _, err := cl.Join(ctx, "x:1"); return err },
		func() error { return cl.Leave(ctx) },
		func() error { return cl.ForceLeave(ctx, "x") },
		func() error { _, err := cl.Plugins(ctx); return err },
		func() error { _, err := cl.Plugin(ctx, "x"); return err },
	} {
		if err := call(); !errors.Is(err, client.ErrUnsupported) {
			t.Errorf("%v", err)
		}
	}
	if st, err := cl.Status(ctx); err != nil || !st.Ready {
		t.Errorf("%v, %v", st, err)
	}
	if v, err := cl.Version(ctx); err != nil || v.Version != "test" {
		t.Errorf("%v, %v", v, err)
	}
	if st, err := g.Status(ctx); err != nil || len(st.Replicas) != 2 {
		t.Errorf("%v, %v", st, err)
	}
	if st, err := g.LocalStatus(ctx); err != nil || len(st.Replicas) != 1 {
		t.Errorf("%v, %v", st, err)
	}
	if err := g.ChangeMembership(ctx, pb.ChangeOp_CHANGE_OP_PROMOTE, "n9", 0, false); client.CodeOf(err) != pb.CodeNoSuchNode {
		t.Errorf("%v", err)
	}
	if err := g.Replace(ctx, "n1", "n2", false); err != nil {
		t.Error(err)
	}
	if err := g.Transfer(ctx, "n2"); err != nil {
		t.Error(err)
	}
	if st, err := g.Status(ctx); err != nil || st.Leader != st.Replicas[1].Node {
		t.Errorf("%v, %v", st, err)
	}
	if _, err := g.TakeSnapshot(ctx); err != nil {
		t.Error(err)
	}
	if s, err := g.Checksum(ctx); err != nil || len(s.Sha256) != 64 {
		t.Errorf("%v, %v", s, err)
	}
	if _, err := cl.Group("nobody").Status(ctx); !errors.Is(err, client.ErrNoSuchGroup) {
		t.Errorf("%v", err)
	}
	if _, err := cl.Group("nobody").Propose(ctx, nil); !errors.Is(err, client.ErrNoSuchGroup) {
		t.Errorf("%v", err)
	}
}

type failingWriter struct{ after int }

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.after -= len(p); w.after < 0 {
		return 0, errors.New("disk full")
	}
	return len(p), nil
}

func TestSnapshots(t *testing.T) {
	c := start(t, 2, nil)
	g := c.group(nil)
	ctx := within(t, 20*time.Second)
	big := bytes.Repeat([]byte("v"), 700<<10)
	if _, err := g.KV().Put(ctx, "k", big, 0); err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	rep, err := g.SaveSnapshot(ctx, &archive)
	if err != nil || rep.Number != 1 || rep.Bytes != int64(archive.Len()) {
		t.Fatalf("%v, %v", rep, err)
	}
	if _, err := g.SaveSnapshot(ctx, &failingWriter{after: 300 << 10}); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("%v", err)
	}
	if _, err := g.KV().Put(ctx, "k", []byte("changed"), 0); err != nil {
		t.Fatal(err)
	}
	before, err := g.Checksum(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.RestoreSnapshot(ctx, bytes.NewReader(archive.Bytes()[:archive.Len()/2])); !errors.Is(err, client.ErrInvalid) {
		t.Errorf("half an archive: %v", err)
	}
	if after, err := g.Checksum(ctx); err != nil || after.Sha256 != before.Sha256 {
		t.Errorf("half an archive changed the state: %v", err)
	}
	if _, err := g.RestoreSnapshot(ctx, bytes.NewReader(archive.Bytes())); err != nil {
		t.Fatal(err)
	}
	item, _, _, err := g.KV().Get(ctx, "k", client.ReadOptions{})
	if err != nil || !bytes.Equal(item.Value, big) {
		t.Errorf("%d bytes, %v", len(item.Value), err)
	}
}

func TestTokens(t *testing.T) {
	c := start(t, 1, func(cfg *server.Config) { cfg.AdminToken, cfg.ReadToken = "admin", "read" })
	ctx := within(t, 20*time.Second)
	for token, want := range map[string]string{"": pb.CodeUnauthenticated, "wrong": pb.CodeUnauthenticated, "read": pb.CodeDenied, "admin": ""} {
		g := c.group(func(cfg *client.Config) { cfg.Token = token })
		if _, err := g.ProposeWithoutSession(ctx, kv.Put("k", nil, 0)); client.CodeOf(err) != want || want != "" && client.HappenedOf(err) != client.No {
			t.Errorf("token %q: propose gave %v", token, err)
		}
		if want == pb.CodeDenied {
			want = ""
		}
		if _, err := g.Query(ctx, kv.GetQuery("k"), client.ReadOptions{}); client.CodeOf(err) != want {
			t.Errorf("token %q: query gave %v", token, err)
		}
		if _, err := g.Status(ctx); client.CodeOf(err) != want {
			t.Errorf("token %q: status gave %v", token, err)
		}
	}
}
