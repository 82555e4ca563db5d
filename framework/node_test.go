package framework_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

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
		if name == "AsyncProposalsAreEachToldOnce" {
			continue // enginetest has it
		}
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

func TestCloseLeavesNothing(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) }) // after the rig's
	r := newRig(t, raftengine.Driver())
	r.tune = func(c *NodeConfig) {
		c.Heartbeat, c.Election = 250*time.Millisecond, 250*time.Millisecond
		c.Metrics = prometheus.NewRegistry()
	}
	nodes := r.form(4)
	r.create(nodes[0], "notes", 3)
	for _, n := range nodes {
		r.propose(n, "notes", "x")
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, n := range nodes {
		wg.Go(func() {
			err := n.Tail(ctx, "notes", 0, func(TailEntry) error { return nil })
			if err == nil {
				t.Error("a tail has ended by itself")
			}
		})
		wg.Go(func() { _, _ = n.WaitIndex(ctx, "notes", 1000) })
	}
	for _, n := range nodes {
		r.stop(n.name)
	}
	cancel()
	wg.Wait()
	if _, err := nodes[0].Propose(context.Background(), "notes", Command{Data: []byte("x")}); err == nil {
		t.Error("a closed node takes commands")
	}
}
