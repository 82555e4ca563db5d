package framework_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/diarchy/diarchy/framework"
)

func checkDestroyAndCreateAnew(t *testing.T, r *rig) {
	nodes := r.form(3)
	first := r.create(nodes[0], "notes", 3)
	r.propose(nodes[0], "notes", "old")
	if err := nodes[1].DestroyGroup(r.ctx(5*time.Second), "notes", "note"); !errors.Is(err, ErrInvalid) {
		t.Fatalf("destroyed with a wrong name: %v", err)
	}
	// One node is away while it happens.
	r.stop("n3")
	if err := nodes[1].DestroyGroup(r.ctx(5*time.Second), "notes", "notes"); err != nil {
		t.Fatal(err)
	}
	if _, err := nodes[1].Propose(r.ctx(5*time.Second), "notes", Command{Data: []byte("x")}); !errors.Is(err, ErrNoSuchGroup) {
		t.Fatalf("propose to what was destroyed: %v", err)
	}
	second, err := nodes[0].CreateGroup(r.ctx(5*time.Second), GroupSpec{Name: "notes", Machine: "builtin:notes", Nodes: []NodeID{nodes[0].id, nodes[1].id, nodes[2].id}})
	if err != nil || second.ID == first.ID {
		t.Fatalf("%s, %s: %v", first.ID, second.ID, err)
	}
	r.propose(nodes[0], "notes", "new")
	nodes[2] = r.start("n3")
	for _, n := range nodes {
		r.eventually(n.name+" has the new group and nothing of the old", func() bool {
			_, gone := os.Stat(filepath.Join(n.dir, "groups", first.ID.String()))
			a, err := n.Query(r.ctx(time.Second), "notes", ReadQuery{Consistency: Stale})
			return os.IsNotExist(gone) && err == nil && string(a.Value) == "new"
		})
	}
}

func TestEnsureWaitsForNodesAndNamesWhatDiffers(t *testing.T) {
	r := newRig(t, newSharedWorld().driver())
	nodes := r.form(1)
	spec := GroupSpec{Name: "notes", Machine: "builtin:notes", Replicas: 3}
	short, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if _, err := nodes[0].Ensure(short, spec); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "3 replicas and the cluster has 1") {
		t.Fatalf("with one node: %v", err)
	}
	type answer struct {
		info GroupInfo
		err  error
	}
	got := make(chan answer, 3)
	ensure := func(n *rigNode) {
		info, err := n.Ensure(r.ctx(20*time.Second), spec)
		got <- answer{info, err}
	}
	go ensure(nodes[0])
	for _, name := range []string{"n2", "n3"} {
		n := r.start(name)
		if err := n.Join(r.ctx(time.Second), nodes[0].Cluster()); err != nil {
			t.Fatal(err)
		}
		go ensure(n)
		nodes = append(nodes, n)
	}
	ids := map[UUID]bool{}
	for range 3 {
		a := <-got
		if a.err != nil {
			t.Fatal(a.err)
		}
		ids[a.info.ID] = true
	}
	if len(ids) != 1 {
		t.Fatalf("%d groups of one name", len(ids))
	}
	other := spec
	other.Options = map[string]string{"log_store": "boltdb"}
	if _, err := nodes[1].Ensure(r.ctx(5*time.Second), other); !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), `not set in the catalogue and "boltdb" in the configuration`) {
		t.Fatalf("a block that differs: %v", err)
	}
}

func TestASpecThatCannotBeIsRefused(t *testing.T) {
	r := newRig(t, newSharedWorld().driver())
	nodes := r.form(1)
	for want, spec := range map[string]GroupSpec{
		`engine "vsr" is not known here: expected one of raft`: {Name: "g", Engine: "vsr"},
		`there is no machine "plugin:x"`:                       {Name: "g", Machine: "plugin:x"},
		"unknown option bad":                                   {Name: "g", Options: map[string]string{"bad": "1"}},
		`durability = "memory" is not offered`:                 {Name: "g", Durability: "memory"},
		"5 replicas and the cluster has 1 live nodes":          {Name: "g", Replicas: 5},
		"the catalogue's own":                                  {Name: SystemGroup, Replicas: 1},
		"expected letters, digits":                             {Name: "a/b", Replicas: 1},
		`no such node: "n7"`:                                   {Name: "g", Nodes: []NodeID{"n7"}},
	} {
		if spec.Machine == "" {
			spec.Machine = "builtin:notes"
		}
		_, err := nodes[0].CreateGroup(r.ctx(5*time.Second), spec)
		if err == nil || !strings.Contains(err.Error(), want) || HappenedOf(err) != No {
			t.Errorf("%+v: %v", spec, err)
		}
	}
	if _, err := nodes[0].Propose(r.ctx(5*time.Second), SystemGroup, Command{Data: []byte("{}")}); !errors.Is(err, ErrDenied) {
		t.Errorf("a client's command to the catalogue: %v", err)
	}
}

func checkBackupAndRestoreThroughAnyNode(t *testing.T, r *rig) {
	nodes := r.form(4)
	r.create(nodes[0], "notes", 3)
	r.propose(nodes[0], "notes", "kept")
	_, _, others := hosts(t, r, nodes, "notes")
	var archive bytes.Buffer
	rep, err := others[0].Backup(r.ctx(10*time.Second), "notes", &archive)
	if err != nil || rep.Number != 1 {
		t.Fatalf("%+v: %v", rep, err)
	}
	before := r.propose(nodes[0], "notes", "dropped")
	restored, err := others[0].RestoreBackup(r.ctx(10*time.Second), "notes", bytes.NewReader(archive.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if restored.History == before.Token.History {
		t.Error("the history is the same")
	}
	if after := r.propose(nodes[0], "notes", "new"); after.Token.Number <= before.Token.Number {
		t.Errorf("numbers went from %d to %d", before.Token.Number, after.Token.Number)
	}
	for _, n := range nodes {
		if got := r.read(n, "notes"); got != "kept new" {
			t.Errorf("through %s: %q", n.name, got)
		}
	}
	cut := archive.Bytes()[:archive.Len()/2]
	if _, err := others[0].RestoreBackup(r.ctx(10*time.Second), "notes", bytes.NewReader(cut)); !errors.Is(err, ErrInvalid) {
		t.Errorf("half a backup: %v", err)
	}
	if got := r.read(nodes[0], "notes"); got != "kept new" {
		t.Errorf("after half a backup: %q", got)
	}
}

func TestSessionsTailAndWaitThroughANodeWithoutAReplica(t *testing.T) {
	r := newRig(t, newSharedWorld().driver())
	nodes := r.form(4)
	r.create(nodes[0], "notes", 3)
	r.propose(nodes[0], "notes", "one")
	_, _, others := hosts(t, r, nodes, "notes")
	n := others[0]
	id := SessionID{1, 2, 3}
	if err := n.OpenSession(r.ctx(5*time.Second), "notes", id, SessionOptions{}); err != nil {
		t.Fatal(err)
	}
	c := Command{Data: []byte("two"), Session: Session{ID: id, Seq: 1}}
	for try := range 2 {
		got, err := n.Propose(r.ctx(5*time.Second), "notes", c)
		if err != nil || string(got.Value) != "2" || got.Duplicate != (try == 1) {
			t.Fatalf("try %d: %+v, %v", try, got, err)
		}
	}
	if err := n.CloseSession(r.ctx(5*time.Second), "notes", id); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Propose(r.ctx(5*time.Second), "notes", c); !errors.Is(err, ErrSessionExpired) {
		t.Fatalf("a closed session: %v", err)
	}
	enough := errors.New("enough")
	var seen []string
	err := n.Tail(r.ctx(10*time.Second), "notes", 1, func(e TailEntry) error {
		if seen = append(seen, fmt.Sprintf("%d:%s", e.Number, e.Data)); len(seen) == 2 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || strings.Join(seen, " ") != "1:one 2:two" {
		t.Fatalf("%q, %v", seen, err)
	}
	if number, err := n.WaitIndex(r.ctx(5*time.Second), "notes", 1); err != nil || number < 2 {
		t.Fatalf("%d, %v", number, err)
	}
	short, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if number, err := n.WaitIndex(short, "notes", 99); err != nil || number > 2 {
		t.Fatalf("waiting for what never comes: %d, %v", number, err)
	}
}
