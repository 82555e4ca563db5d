package framework_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/diarchy/diarchy/framework"
	"github.com/diarchy/diarchy/raftengine"
)

// checks are what must hold whatever the engine is.
var checks = map[string]func(*testing.T, *rig){
	"FormCreateAndForward":               checkFormCreateAndForward,
	"AsyncProposalsAreEachToldOnce":      checkAsyncProposalsAreEachToldOnce,
	"EverybodyComesBackWithNewAddresses": checkEverybodyComesBackWithNewAddresses,
	"GroupsGoOnWithoutTheSystemGroup":    checkGroupsGoOnWithoutTheSystemGroup,
	"AWipedNodeIsReplaced":               checkAWipedNodeIsReplaced,
	"DestroyAndCreateAnew":               checkDestroyAndCreateAnew,
	"MembershipByName":                   checkMembershipByName,
	"BackupAndRestoreThroughAnyNode":     checkBackupAndRestoreThroughAnyNode,
	"RecoverAfterTheQuorumIsLost":        checkRecoverAfterTheQuorumIsLost,
}

// TestNodes runs the checks with a log in shared memory, which is quick.
func TestNodes(t *testing.T) {
	for name, check := range checks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			check(t, newRig(t, newSharedWorld().driver()))
		})
	}
}

// TestNodesOnRaft runs them with the real thing.
func TestNodesOnRaft(t *testing.T) {
	for name, check := range checks {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, raftengine.Driver())
			r.tune = func(c *NodeConfig) { c.Heartbeat, c.Election = 250*time.Millisecond, 250*time.Millisecond }
			check(t, r)
		})
	}
}

func checkFormCreateAndForward(t *testing.T, r *rig) {
	nodes := r.form(4)
	info := r.create(nodes[3], "notes", 3)
	if len(info.Placed) != 3 {
		t.Fatalf("placed on %v", info.Placed)
	}
	// Every node takes commands, one of them without a replica.
	want := []string{}
	for i, n := range nodes {
		got := r.propose(n, "notes", fmt.Sprint("c", i))
		want = append(want, fmt.Sprint("c", i))
		if string(got.Value) != fmt.Sprint(i+1) {
			t.Errorf("through %s: %q", n.name, got.Value)
		}
	}
	for _, n := range nodes {
		if got := r.read(n, "notes"); got != strings.Join(want, " ") {
			t.Errorf("read through %s: %q", n.name, got)
		}
	}
	// Creating it again finds it; another one of its name is refused.
	if again := r.create(nodes[0], "notes", 3); again.ID != info.ID {
		t.Errorf("another group: %s and %s", again.ID, info.ID)
	}
	_, err := nodes[0].CreateGroup(r.ctx(5*time.Second), GroupSpec{Name: "notes", Machine: "builtin:notes", Replicas: 1})
	if !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), "3 in the catalogue and 1") {
		t.Errorf("a group that differs: %v", err)
	}
}

// hosts says which of the nodes have one of a group's three replicas, and which
// have not.
func hosts(t *testing.T, r *rig, nodes []*rigNode, group string) (leader *rigNode, followers, others []*rigNode) {
	t.Helper()
	r.eventually("a leader of "+group, func() bool {
		leader, followers, others = nil, nil, nil
		for _, n := range nodes {
			s, err := n.LocalStatus(group)
			switch {
			case err != nil:
				others = append(others, n)
			case s.Role == "leader":
				leader = n
			default:
				followers = append(followers, n)
			}
		}
		return leader != nil && len(followers) == 2
	})
	return leader, followers, others
}

func TestNoForwardNamesTheLeadersClientAddress(t *testing.T) {
	r := newRig(t, newSharedWorld().driver())
	nodes := r.form(4)
	r.create(nodes[0], "notes", 3)
	r.propose(nodes[0], "notes", "x")
	leader, followers, others := hosts(t, r, nodes, "notes")
	for _, n := range append(followers, others...) {
		r.propose(n, "notes", "so that it has learned who leads")
		_, err := n.Propose(r.ctx(5*time.Second), "notes", Command{Data: []byte("y"), NoForward: true})
		var e *Error
		if !errors.As(err, &e) || e.Code != CodeNotLeader || e.Happened != No || e.LeaderAddr != "client-of-"+leader.name {
			t.Errorf("through %s: %+v", n.name, e)
		}
	}
}

func checkAsyncProposalsAreEachToldOnce(t *testing.T, r *rig) {
	nodes := r.form(4)
	r.create(nodes[0], "notes", 3)
	r.propose(nodes[0], "notes", "first")
	const count = 2000
	done := 0 // surely executed
	for _, n := range nodes {
		var mu sync.Mutex
		told := map[int]int{}
		var wg sync.WaitGroup
		wg.Add(count)
		cs := make([]Command, count)
		for i := range cs {
			cs[i].Data = fmt.Appendf(nil, "%s-%d", n.name, i)
		}
		n.ProposeAsync(r.ctx(20*time.Second), "notes", cs, func(i int, _ Receipt, err error) {
			mu.Lock()
			told[i]++
			if err == nil {
				done++
			}
			mu.Unlock()
			if err != nil && HappenedOf(err) != Maybe { // a slow machine may lose a leader
				t.Errorf("%s %d: %v", n.name, i, err)
			}
			wg.Done() // panics when told once too often
		})
		wg.Wait()
		if len(told) != count {
			t.Errorf("%s: %d of %d told", n.name, len(told), count)
		}
	}
	got := strings.Fields(r.read(nodes[0], "notes"))
	slices.Sort(got)
	if twice := len(got) - len(slices.Compact(got)); done == 0 || len(got) < 1+done || len(got) > 1+4*count || twice > 0 {
		t.Errorf("of %d commands %d were told to be executed, %d were, %d twice", 1+4*count, 1+done, len(got), twice)
	}
}

func checkEverybodyComesBackWithNewAddresses(t *testing.T, r *rig) {
	nodes := r.form(4)
	r.create(nodes[0], "notes", 3)
	r.propose(nodes[0], "notes", "before")
	for _, n := range nodes {
		r.stop(n.name)
	}
	for i, n := range nodes {
		nodes[i] = r.start(n.name)
		if nodes[i].Cluster() == (UUID{}) {
			t.Fatalf("%s has forgotten its cluster", n.name)
		}
	}
	for _, n := range nodes {
		r.propose(n, "notes", "after-"+n.name)
	}
	if got := r.read(nodes[3], "notes"); got != "before after-n1 after-n2 after-n3 after-n4" {
		t.Errorf("%q", got)
	}
}

func checkGroupsGoOnWithoutTheSystemGroup(t *testing.T, r *rig) {
	tune := r.tune
	r.tune = func(c *NodeConfig) {
		if tune != nil {
			tune(c)
		}
		c.SystemReplicas = 2
	}
	nodes := r.form(5)
	var without []*rigNode // nodes that have no replica of the system group
	for _, n := range nodes {
		if !slices.Contains(n.Self().Groups, SystemGroup) {
			without = append(without, n)
		}
	}
	if len(without) != 3 {
		t.Fatalf("%d nodes are without the system group", len(without))
	}
	spec := GroupSpec{Name: "notes", Machine: "builtin:notes", Nodes: []NodeID{without[0].id, without[1].id, without[2].id}}
	if _, err := without[0].CreateGroup(r.ctx(10*time.Second), spec); err != nil {
		t.Fatal(err)
	}
	r.propose(without[0], "notes", "before")
	for _, n := range nodes {
		if slices.Contains(n.Self().Groups, SystemGroup) {
			r.stop(n.name)
		}
	}
	r.propose(without[1], "notes", "during")
	// Even those that start now do.
	for _, n := range without {
		r.stop(n.name)
	}
	for i, n := range without {
		without[i] = r.start(n.name)
	}
	r.propose(without[2], "notes", "after")
	if got := r.read(without[0], "notes"); got != "before during after" {
		t.Errorf("%q", got)
	}
	_, err := without[0].CreateGroup(r.ctx(2*time.Second), GroupSpec{Name: "more", Machine: "builtin:notes", Replicas: 1})
	if err == nil {
		t.Error("a group was created without the catalogue")
	}
}

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
