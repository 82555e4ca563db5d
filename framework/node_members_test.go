package framework_test

import (
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

func checkAWipedNodeIsReplaced(t *testing.T, r *rig) {
	nodes := r.form(3)
	r.create(nodes[0], "notes", 3)
	r.propose(nodes[0], "notes", "before")
	old := nodes[2].id
	cluster := nodes[0].Cluster()
	r.stop("n3")
	if err := os.RemoveAll(nodes[2].dir); err != nil {
		t.Fatal(err)
	}
	r.propose(nodes[0], "notes", "without")
	fresh := r.start("n3")
	if fresh.id == old {
		t.Fatal("the wiped node has its old id")
	}
	if err := fresh.Join(r.ctx(5*time.Second), cluster); err != nil {
		t.Fatal(err)
	}
	r.registered(fresh) // it takes over the name
	if _, err := fresh.LocalStatus("notes"); err == nil {
		t.Fatal("the wiped node has a replica by itself")
	}
	r.eventually("they are told what to do", func() bool {
		status, err := nodes[0].GroupStatus(r.ctx(5*time.Second), "notes")
		return err == nil && strings.Contains(strings.Join(status.Problems, "\n"), "diarchy group replace notes n3 n3")
	})
	for _, group := range []string{"notes", SystemGroup} {
		if err := fresh.Replace(r.ctx(30*time.Second), group, "n3", "n3", false); err != nil {
			t.Fatalf("replace in %s: %v", group, err)
		}
		// Asked again, it finds its work done.
		if err := fresh.Replace(r.ctx(30*time.Second), group, string(old), "n3", false); err != nil {
			t.Fatalf("replace in %s again: %v", group, err)
		}
		status, err := nodes[1].GroupStatus(r.ctx(5*time.Second), group)
		if err != nil {
			t.Fatal(err)
		}
		m, ok := status.Membership.Find(fresh.id)
		if _, stays := status.Membership.Find(old); !ok || m.Suffrage != Voter || stays || status.Membership.Voters() != 3 {
			t.Fatalf("%s: %+v", group, status.Membership)
		}
	}
	r.eventually("the old node is forgotten", func() bool {
		all, _ := nodes[0].Nodes(r.ctx(time.Second))
		return len(all) == 3
	})
	r.propose(fresh, "notes", "after")
	r.eventually("the new replica has everything", func() bool {
		a, err := fresh.Query(r.ctx(time.Second), "notes", ReadQuery{Consistency: Stale})
		return err == nil && string(a.Value) == "before without after"
	})
}

func TestTwoNodesOfOneName(t *testing.T) {
	r := newRig(t, newSharedWorld().driver())
	nodes := r.form(3)
	twin, err := r.tryStart("twin", "n2", filepath.Join(r.dir, "twin"))
	if err != nil {
		t.Fatal(err)
	}
	if err := twin.Join(r.ctx(time.Second), nodes[0].Cluster()); err != nil {
		t.Fatal(err)
	}
	err = twin.AwaitRegistered(r.ctx(15 * time.Second))
	if !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), string(nodes[1].id)) {
		t.Fatalf("a second n2: %v", err)
	}
}

func TestADirectoryIsOneNodesAlone(t *testing.T) {
	r := newRig(t, newSharedWorld().driver())
	nodes := r.form(1)
	if _, err := LoadNodeID(nodes[0].dir); !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Errorf("a second process: %v", err)
	}
	r.stop("n1")
	if _, err := r.tryStart("x", "other", nodes[0].dir); !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), `belongs to node "n1"`) {
		t.Errorf("another name: %v", err)
	}
	c := NodeConfig{
		ID: "00000000-0000-4000-8000-000000000000", Name: "n1", DataDir: nodes[0].dir, Streams: nodes[0].streams,
		Engines: map[string]EngineDriver{"raft": r.driver},
	}
	if _, err := OpenNode(context.Background(), c); !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), "belongs to node "+string(nodes[0].id)) {
		t.Errorf("another id: %v", err)
	}
	n := r.start("n1")
	if n.id != nodes[0].id {
		t.Errorf("the id has changed")
	}
	if err := n.Join(r.ctx(time.Second), UUID{1}); !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), "belongs to cluster "+n.Cluster().String()) {
		t.Errorf("another cluster: %v", err)
	}
	if err := os.Chmod(n.dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadNodeID(n.dir); err == nil || !strings.Contains(err.Error(), "chmod 700") {
		t.Errorf("a directory that everybody may write: %v", err)
	}
}

func checkMembershipByName(t *testing.T, r *rig) {
	nodes := r.form(4)
	r.create(nodes[0], "notes", 3)
	r.propose(nodes[0], "notes", "x")
	leader, followers, others := hosts(t, r, nodes, "notes")
	spare := others[0]
	change := func(op ChangeOp, node string) {
		t.Helper()
		if err := spare.ChangeMembership(r.ctx(20*time.Second), "notes", ChangeRequest{Op: op, Node: node}); err != nil {
			t.Fatalf("%s %s: %v", op, node, err)
		}
	}
	suffrage := func(n *rigNode) string {
		t.Helper()
		s, err := spare.GroupStatus(r.ctx(5*time.Second), "notes")
		if err != nil {
			t.Fatal(err)
		}
		m, ok := s.Membership.Find(n.id)
		if !ok {
			return "none"
		}
		return m.Suffrage.String()
	}
	change(AddLearner, spare.name)
	change(AddLearner, spare.name) // again: done already
	if got := suffrage(spare); got != "learner" {
		t.Fatalf("%s is %s", spare.name, got)
	}
	change(Promote, spare.name)
	change(Demote, followers[0].name)
	if got := suffrage(spare) + " " + suffrage(followers[0]); got != "voter learner" {
		t.Fatal(got)
	}
	change(Remove, leader.name) // hands over first
	r.eventually("the removed replica stops", func() bool {
		_, err := leader.LocalStatus("notes")
		return errors.Is(err, ErrNoSuchGroup)
	})
	if got := suffrage(leader); got != "none" {
		t.Fatalf("the removed leader is a %s", got)
	}
	if _, err := os.Stat(filepath.Join(leader.dir, "groups")); err != nil {
		t.Fatalf("its data is not kept: %v", err)
	}
	r.stop(leader.name)
	leader = r.start(leader.name)
	r.propose(leader, "notes", "y")
	if _, err := leader.LocalStatus("notes"); err == nil {
		t.Fatal("the removed replica has started again")
	}
	if err := spare.ChangeMembership(r.ctx(time.Second), "notes", ChangeRequest{Op: Promote, Node: "n9"}); !errors.Is(err, ErrNoSuchNode) {
		t.Fatalf("promote nobody: %v", err)
	}
	if err := spare.Transfer(r.ctx(5*time.Second), "notes", spare.name); err != nil {
		t.Fatal(err)
	}
	if s, _ := spare.LocalStatus("notes"); s.Role != "leader" {
		t.Fatalf("after the transfer %s is %s", spare.name, s.Role)
	}
}

func TestStatusSaysWhatIsWrong(t *testing.T) {
	r := newRig(t, newSharedWorld().driver())
	nodes := r.form(3)
	r.create(nodes[0], "notes", 3)
	r.propose(nodes[0], "notes", "x")
	r.eventually("all is well", func() bool {
		s, err := nodes[0].GroupStatus(r.ctx(5*time.Second), "notes")
		return err == nil && len(s.Problems) == 0 && len(s.Replicas) == 3
	})
	problems := func() string {
		s, err := nodes[0].GroupStatus(r.ctx(5*time.Second), "notes")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(s.Problems, "; ")
	}
	r.stop("n3")
	if got := problems(); !strings.Contains(got, "n3 cannot be reached") || !strings.Contains(got, "quorum is at risk: 2 of 3") {
		t.Errorf("one down: %s", got)
	}
	r.stop("n2")
	if got := problems(); !strings.Contains(got, "no leader") || strings.Contains(got, "at risk") {
		t.Errorf("two down: %s", got)
	}
	_, err := nodes[0].Propose(r.ctx(500*time.Millisecond), "notes", Command{Data: []byte("y")})
	if err == nil || HappenedOf(err) != No {
		t.Errorf("propose without a quorum: %v", err)
	}
}

// A replica whose data is gone has forgotten whom it voted for. It must not
// begin anew in its old place.
func TestAReplicaWhoseDataIsGoneDoesNotStart(t *testing.T) {
	r := newRig(t, newSharedWorld().driver())
	nodes := r.form(3)
	info := r.create(nodes[0], "notes", 3)
	r.propose(nodes[0], "notes", "x")
	r.stop("n3")
	if err := os.RemoveAll(filepath.Join(nodes[2].dir, "groups", info.ID.String(), "replica")); err != nil {
		t.Fatal(err)
	}
	nodes[2] = r.start("n3")
	r.eventually("it says why", func() bool {
		s, err := nodes[2].LocalStatus("notes")
		return err == nil && s.Role == "stopped" && strings.Contains(s.Err, "is gone: it cannot vote in its old place")
	})
	status, err := nodes[0].GroupStatus(r.ctx(5*time.Second), "notes")
	if err != nil || !strings.Contains(strings.Join(status.Problems, "\n"), "diarchy group replace notes") {
		t.Errorf("%q, %v", status.Problems, err)
	}
	r.propose(nodes[2], "notes", "through it all the same")
}
