package framework_test

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/diarchy/diarchy/framework"
)

func checkRecoverAfterTheQuorumIsLost(t *testing.T, r *rig) {
	nodes := r.form(3)
	info := r.create(nodes[0], "notes", 3)
	before := r.propose(nodes[0], "notes", "kept")
	for _, n := range nodes {
		r.stop(n.name)
	}
	engines := map[string]EngineDriver{"raft": r.driver}
	for _, group := range []string{"notes", SystemGroup} {
		var out bytes.Buffer
		c := RecoverConfig{DataDir: nodes[0].dir, Group: group, Peers: []NodeID{"n1"}, Engines: engines, Out: &out}
		if err := RecoverGroup(context.Background(), c); !errors.Is(err, ErrDenied) {
			t.Fatalf("without accepting the loss: %v", err)
		}
		c.AcceptLoss = true
		if err := RecoverGroup(context.Background(), c); err != nil {
			t.Fatal(err)
		}
		backups, err := filepath.Glob(filepath.Join(nodes[0].dir, "backups", "recover-"+group+"-*.tar"))
		if err != nil || len(backups) != 1 || !strings.Contains(out.String(), backups[0]) || !strings.Contains(out.String(), "n3") {
			t.Fatalf("backups %v, %v, said:\n%s", backups, err, out.String())
		}
	}
	nodes[0] = r.start("n1")
	after := r.propose(nodes[0], "notes", "after")
	if after.Token.History == before.Token.History {
		t.Error("the history is the same as before the recovery")
	}
	if got := r.read(nodes[0], "notes"); got != "kept after" {
		t.Errorf("%q", got)
	}
	r.eventually("the catalogue knows", func() bool {
		gs, err := nodes[0].Groups(r.ctx(time.Second))
		if err != nil || len(gs) != 2 {
			return false
		}
		return gs[0].Incarnation > 0 && gs[1].Incarnation > 0 && len(gs[0].Placed) == 1 && len(gs[1].Placed) == 1
	})
	// One left behind: it is no member, and comes back only with nothing.
	nodes[1] = r.start("n2")
	r.eventually("the replica left behind stops", func() bool {
		_, err := nodes[1].LocalStatus("notes")
		return errors.Is(err, ErrNoSuchGroup)
	})
	for _, op := range []ChangeOp{AddLearner, Promote} {
		if err := nodes[0].ChangeMembership(r.ctx(20*time.Second), "notes", ChangeRequest{Op: op, Node: "n2"}); err != nil {
			t.Fatal(err)
		}
	}
	aside, _ := filepath.Glob(filepath.Join(nodes[1].dir, "groups", info.ID.String()+".incarnation-0"))
	if len(aside) != 1 {
		t.Error("what it had before was not set aside")
	}
	r.eventually("it has everything", func() bool {
		a, err := nodes[1].Query(r.ctx(time.Second), "notes", ReadQuery{Consistency: Stale})
		return err == nil && string(a.Value) == "kept after"
	})
}

func TestRecoverRefuses(t *testing.T) {
	w := newSharedWorld()
	r := newRig(t, w.driver())
	nodes := r.form(1)
	r.create(nodes[0], "notes", 1)
	r.propose(nodes[0], "notes", "x")
	c := RecoverConfig{DataDir: nodes[0].dir, Group: "notes", Peers: []NodeID{nodes[0].id}, Engines: map[string]EngineDriver{"raft": w.driver()}}
	check := func(want string, c RecoverConfig) {
		t.Helper()
		if err := RecoverGroup(context.Background(), c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("expected %q: %v", want, err)
		}
	}
	check("is in use by process", c) // it runs
	r.stop("n1")
	with := func(change func(*RecoverConfig)) RecoverConfig {
		c := c
		change(&c)
		return c
	}
	check("there are: ", with(func(c *RecoverConfig) { c.Group = "nothing" }))
	check("must be among the peers", with(func(c *RecoverConfig) { c.Peers = []NodeID{"00000000-0000-4000-8000-000000000000"} }))
	check("neither a node id nor", with(func(c *RecoverConfig) { c.Peers = []NodeID{"n7"} }))
	check("not a node's data directory", with(func(c *RecoverConfig) { c.DataDir = t.TempDir() }))
	check("cannot recover", with(func(c *RecoverConfig) { c.Engines = nil }))
}
