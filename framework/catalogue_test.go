package framework

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/diarchy/diarchy/fsm"
	"github.com/diarchy/diarchy/fsm/fsmtest"
)

// fixedUUID is a UUID that tests can recognise.
func fixedUUID(n int) UUID {
	var u UUID
	u[0], u[15] = 0xaa, byte(n)
	return u
}

func fixedNode(n int) NodeID { return NodeID(fixedUUID(n).String()) }

// feed applies commands, one batch each, and returns the last answer.
type feed struct {
	t *testing.T
	c *catalogue
	n uint64
}

func newFeed(t *testing.T) *feed {
	f := &feed{t: t, c: newCatalogue(nil)}
	f.ok(catalogueCommand{Op: opInit, Cluster: fixedUUID(100), ID: fixedUUID(101), Nodes: []NodeID{fixedNode(1), fixedNode(2), fixedNode(3)},
		Spec: &GroupSpec{Name: SystemGroup, Engine: "raft", Machine: CatalogueMachine, Replicas: 3}})
	for i := range 3 {
		f.register(i+1, false)
	}
	return f
}

func (f *feed) do(c catalogueCommand, into any) error {
	f.t.Helper()
	f.n++
	results := make([]fsm.Result, 1)
	err := f.c.Apply(context.Background(), fsm.Batch{Entries: []fsm.Entry{{Index: f.n, Data: c.encode()}}}, results)
	if err != nil {
		f.t.Fatal(err)
	}
	return catalogueAnswer(Receipt{Value: results[0].Value, Err: results[0].Err}, into)
}

func (f *feed) ok(c catalogueCommand) {
	f.t.Helper()
	if err := f.do(c, nil); err != nil {
		f.t.Fatalf("%s: %v", c.Op, err)
	}
}

func (f *feed) register(n int, takeover bool) {
	f.t.Helper()
	f.ok(catalogueCommand{Op: opRegister, Node: &catalogueNode{ID: fixedNode(n), Name: fmt.Sprintf("n%d", n)}, Takeover: takeover})
}

func (f *feed) create(name string, id, replicas int, candidates ...NodeID) (GroupInfo, error) {
	f.t.Helper()
	var info GroupInfo
	err := f.do(catalogueCommand{Op: opCreate, ID: fixedUUID(id), Spec: &GroupSpec{Name: name, Replicas: replicas}, Nodes: candidates}, &info)
	return info, err
}

func allNodes(n int) (ids []NodeID) {
	for i := range n {
		ids = append(ids, fixedNode(i+1))
	}
	return ids
}

// catalogueCommands draws commands that mostly make sense.
func catalogueCommands(r *rand.Rand) []byte {
	node := func() NodeID { return fixedNode(1 + r.IntN(6)) }
	id := fixedUUID(10 + r.IntN(8))
	switch r.IntN(9) {
	case 0:
		return catalogueCommand{Op: opInit, Cluster: fixedUUID(100), ID: fixedUUID(101), Nodes: allNodes(3), Spec: &GroupSpec{Name: SystemGroup}}.encode()
	case 1, 2:
		n := catalogueNode{ID: node(), Name: fmt.Sprintf("n%d", 1+r.IntN(6))}
		return catalogueCommand{Op: opRegister, Node: &n, Takeover: r.IntN(2) == 0}.encode()
	case 3, 4:
		spec := GroupSpec{Name: fmt.Sprintf("g%d", r.IntN(6)), Replicas: 1 + r.IntN(3), Options: map[string]string{"b": "2", "a": "1"}}
		return catalogueCommand{Op: opCreate, ID: id, Spec: &spec, Nodes: allNodes(6)}.encode()
	case 5:
		return catalogueCommand{Op: opPlace, ID: id, Target: node()}.encode()
	case 6:
		return catalogueCommand{Op: opUnplace, ID: id, Target: node()}.encode()
	case 7:
		return catalogueCommand{Op: opDestroy, ID: id}.encode()
	}
	if r.IntN(2) == 0 {
		return catalogueCommand{Op: opCleaned, ID: id, Target: node()}.encode()
	}
	return catalogueCommand{Op: opIncarnation, ID: id, Incarnation: uint32(r.IntN(4)), Nodes: []NodeID{node()}}.encode()
}

func TestCatalogueIsAMachine(t *testing.T) {
	fsmtest.Run(t, fsmtest.InProcess(func() fsm.Machine { return newCatalogue(nil) }), fsmtest.Options{
		Command: catalogueCommands,
		Corpus:  [][]byte{nil, []byte("{}"), []byte("\x00\xff"), []byte(`{"v":2,"op":"init"}`), []byte(`{"v":1,"op":"what"}`), []byte(`{"v":1,"op":"create"}`)},
		Queries: [][]byte{nil},
	})
}

// The invariants that catalogueState lists hold after any commands.
func TestCatalogueKeepsItsInvariants(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 1))
		s := &catalogueState{Format: catalogueFormat}
		groups, tombstones := 0, 0
		for i := range 400 {
			_, _ = s.apply(catalogueCommands(r))
			if err := checkCatalogue(s); err != nil {
				t.Fatalf("seed %d, command %d: %v", seed, i, err)
			}
			groups, tombstones = max(groups, len(s.Groups)), max(tombstones, len(s.Destroyed))
		}
		if groups < 2 || tombstones < 1 {
			t.Fatalf("seed %d reached %d groups and %d tombstones only: the test tests nothing", seed, groups, tombstones)
		}
	}
}

func checkCatalogue(s *catalogueState) error {
	seen := map[string]bool{}
	for i, n := range s.Nodes {
		if i > 0 && s.Nodes[i-1].ID >= n.ID {
			return fmt.Errorf("nodes out of order at %d", i)
		}
		if seen["node "+n.Name] {
			return fmt.Errorf("two nodes called %s", n.Name)
		}
		seen["node "+n.Name] = true
	}
	for i, g := range s.Groups {
		if i > 0 && s.Groups[i-1].Name >= g.Name {
			return fmt.Errorf("groups out of order at %d", i)
		}
		if seen[g.ID.String()] {
			return fmt.Errorf("group id %s twice", g.ID)
		}
		seen[g.ID.String()] = true
		for _, f := range g.Founders {
			if !slices.Contains(g.Placed, f) {
				return fmt.Errorf("group %s: founder %s is not placed", g.Name, f)
			}
		}
		if len(g.Placed) == 0 {
			return fmt.Errorf("group %s is placed nowhere", g.Name)
		}
	}
	for _, t := range s.Destroyed {
		if seen[t.ID.String()] {
			return fmt.Errorf("group %s is there and destroyed", t.ID)
		}
	}
	return nil
}

func TestGroupsArePlacedWhereFewestReplicasAre(t *testing.T) {
	f := newFeed(t)
	for i := 4; i <= 5; i++ {
		f.register(i, false)
	}
	// Nodes 1 to 3 hold the system group: 4 and 5 come first, then by id.
	g, err := f.create("one", 11, 3, allNodes(5)...)
	if err != nil || !slices.Equal(g.Placed, []NodeID{fixedNode(1), fixedNode(4), fixedNode(5)}) {
		t.Fatalf("placed on %v: %v", g.Placed, err)
	}
	g, err = f.create("two", 12, 3, allNodes(5)...)
	if err != nil || !slices.Equal(g.Placed, []NodeID{fixedNode(2), fixedNode(3), fixedNode(4)}) {
		t.Fatalf("placed on %v: %v", g.Placed, err)
	}
	// A node that is not a candidate (gossip says it is gone) gets none.
	g, err = f.create("three", 13, 2, fixedNode(1), fixedNode(2))
	if err != nil || !slices.Equal(g.Placed, []NodeID{fixedNode(1), fixedNode(2)}) {
		t.Fatalf("placed on %v: %v", g.Placed, err)
	}
	if _, err = f.create("four", 14, 7, allNodes(5)...); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "7 replicas and the cluster has 5") {
		t.Fatalf("more replicas than nodes: %v", err)
	}
}

func TestCreateIsIdempotentAndNamesWhatDiffers(t *testing.T) {
	f := newFeed(t)
	first, err := f.create("orders", 11, 3, allNodes(3)...)
	if err != nil {
		t.Fatal(err)
	}
	again, err := f.create("orders", 12, 3, allNodes(3)...) // another asker drew another id
	if err != nil || again.ID != first.ID {
		t.Fatalf("the same group got id %s, then %s: %v", first.ID, again.ID, err)
	}
	_, err = f.create("orders", 13, 1, allNodes(3)...)
	if !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), "replicas is 3 in the catalogue and 1 in the configuration") {
		t.Fatalf("another number of replicas: %v", err)
	}
}

func TestDiffersNamesBothValues(t *testing.T) {
	base := GroupSpec{Name: "g", Engine: "raft", Machine: "builtin:kv", Replicas: 3, Options: map[string]string{"log_store": "wal"}}
	if err := differs(base, GroupSpec{Name: "g", Options: map[string]string{"log_store": "wal"}}); err != nil {
		t.Fatalf("what was left out is the default: %v", err)
	}
	for name, c := range map[string]struct {
		change func(*GroupSpec)
		want   string
	}{
		"engine":     {func(s *GroupSpec) { s.Engine = "vsr" }, `engine is "raft" in the catalogue and "vsr" in the configuration`},
		"machine":    {func(s *GroupSpec) { s.Machine = "plugin:x" }, `machine is "builtin:kv" in the catalogue and "plugin:x" in`},
		"durability": {func(s *GroupSpec) { s.Durability = "memory" }, `durability is "disk" in the catalogue and "memory" in`},
		"option":     {func(s *GroupSpec) { s.Options = map[string]string{"log_store": "boltdb"} }, `option log_store is "wal" in the catalogue and "boltdb" in`},
		"new option": {func(s *GroupSpec) { s.Options = map[string]string{"log_store": "wal", "z": "1"} }, `option z is not set in the catalogue and "1" in`},
		"limit":      {func(s *GroupSpec) { s.Limits.SessionWindow = 7 }, "limits is"},
	} {
		t.Run(name, func(t *testing.T) {
			want := base
			c.change(&want)
			if err := differs(base, want); !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v", err)
			}
		})
	}
}

func TestTwoNodesCannotHaveOneName(t *testing.T) {
	f := newFeed(t)
	other := catalogueNode{ID: fixedNode(9), Name: "n2"}
	err := f.do(catalogueCommand{Op: opRegister, Node: &other}, nil)
	if !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), string(fixedNode(2))) {
		t.Fatalf("a second n2: %v", err)
	}
	f.ok(catalogueCommand{Op: opRegister, Node: &other, Takeover: true})
	s := f.c.state.Load()
	if n := s.nodeNamed("n2"); n == nil || n.ID != other.ID {
		t.Fatalf("n2 is %v", n)
	}
	// The one before keeps its place in the system group, under another name.
	if old := s.node(fixedNode(2)); old == nil || old.Former != "n2" || old.Name == "n2" {
		t.Fatalf("the former n2 is %+v", old)
	}
	// And is forgotten with its last replica.
	f.ok(catalogueCommand{Op: opPlace, ID: fixedUUID(101), Target: other.ID})
	f.ok(catalogueCommand{Op: opUnplace, ID: fixedUUID(101), Target: fixedNode(2)})
	if old := f.c.state.Load().node(fixedNode(2)); old != nil {
		t.Fatalf("the former n2 is still %+v", old)
	}
}

func TestOnlyFoundersMayBootstrap(t *testing.T) {
	f := newFeed(t)
	f.register(4, false)
	g, err := f.create("g", 11, 3, allNodes(3)...)
	if err != nil {
		t.Fatal(err)
	}
	founders := func() []NodeID { return f.c.state.Load().group(g.ID).Founders }
	if !slices.Equal(founders(), allNodes(3)) {
		t.Fatalf("founders %v", founders())
	}
	f.ok(catalogueCommand{Op: opPlace, ID: g.ID, Target: fixedNode(4)})
	f.ok(catalogueCommand{Op: opUnplace, ID: g.ID, Target: fixedNode(3)})
	f.ok(catalogueCommand{Op: opPlace, ID: g.ID, Target: fixedNode(3)}) // back, with nothing
	if !slices.Equal(founders(), allNodes(2)) {
		t.Fatalf("founders %v", founders())
	}
	f.ok(catalogueCommand{Op: opIncarnation, ID: g.ID, Incarnation: incarnationStep, Nodes: allNodes(1)})
	if len(founders()) != 0 {
		t.Fatalf("founders %v after a recovery", founders())
	}
}

func TestDestroyLeavesATombstoneUntilAllHaveCleaned(t *testing.T) {
	f := newFeed(t)
	g, err := f.create("g", 11, 3, allNodes(3)...)
	if err != nil {
		t.Fatal(err)
	}
	destroy := catalogueCommand{Op: opDestroy, ID: g.ID}
	f.ok(destroy)
	f.ok(destroy) // sent at least once
	again, err := f.create("g", 12, 3, allNodes(3)...)
	if err != nil || again.ID == g.ID {
		t.Fatalf("created anew: %v, %v", again, err)
	}
	for i := range 3 {
		if f.c.state.Load().tombstone(g.ID) == nil {
			t.Fatalf("the tombstone is gone after %d of 3", i)
		}
		f.ok(catalogueCommand{Op: opCleaned, ID: g.ID, Target: fixedNode(i + 1)})
	}
	if f.c.state.Load().tombstone(g.ID) != nil {
		t.Fatal("the tombstone stays for ever")
	}
	if err := f.do(catalogueCommand{Op: opDestroy, ID: fixedUUID(101)}, nil); !errors.Is(err, ErrDenied) {
		t.Fatalf("destroying the system group: %v", err)
	}
}

func TestARefusedCommandChangesNothing(t *testing.T) {
	f := newFeed(t)
	before, _ := json.Marshal(f.c.state.Load())
	for _, c := range []catalogueCommand{
		{Op: opInit, Cluster: fixedUUID(77), ID: fixedUUID(1), Nodes: allNodes(1), Spec: &GroupSpec{Name: "x"}},
		{Op: opCreate, ID: fixedUUID(11), Spec: &GroupSpec{Name: "../x"}, Nodes: allNodes(3)},
		{Op: opCreate, ID: fixedUUID(11), Spec: &GroupSpec{Name: SystemGroup}, Nodes: allNodes(3)},
		{Op: opCreate, ID: fixedUUID(11), Spec: &GroupSpec{Name: "g", Durability: "tape"}, Nodes: allNodes(3)},
		{Op: opCreate, ID: fixedUUID(11), Spec: &GroupSpec{Name: "g", Limits: Limits{CommandBytes: -1}}, Nodes: allNodes(3)},
		{Op: opCreate, ID: fixedUUID(11), Spec: &GroupSpec{Name: "g", Nodes: []NodeID{"nobody"}}},
		{Op: opPlace, ID: fixedUUID(101), Target: "nobody"},
		{Op: opUnplace, ID: fixedUUID(55), Target: fixedNode(1)},
		{Op: opRegister, Node: &catalogueNode{ID: "x", Name: "n9"}},
		{Op: opRegister, Node: &catalogueNode{ID: fixedNode(9), Name: "n 9"}},
		{Op: opIncarnation, ID: fixedUUID(101), Incarnation: 1},
	} {
		err := f.do(c, nil)
		if err == nil || HappenedOf(err) != No {
			t.Errorf("%+v: %v", c, err)
		}
		f.c.state.Load().Number = 4 // what newFeed applied
		if after, _ := json.Marshal(f.c.state.Load()); string(after) != string(before) {
			t.Errorf("%+v changed the state:\n%s\n%s", c, before, after)
		}
	}
}

func TestACatalogueOfAnotherFormatIsRefused(t *testing.T) {
	c := newCatalogue(nil)
	err := c.Restore(context.Background(), fsm.SnapshotInfo{}, strings.NewReader(`{"format":2}`))
	if err == nil || !strings.Contains(err.Error(), "format 2") {
		t.Fatalf("%v", err)
	}
	if err := c.Restore(context.Background(), fsm.SnapshotInfo{}, strings.NewReader(`{"format":`)); err == nil {
		t.Fatal("half a snapshot was taken")
	}
}

func TestClusterIDIsOfTheSetOfNodes(t *testing.T) {
	a, b, c := fixedNode(1), fixedNode(2), fixedNode(3)
	if ClusterID([]NodeID{a, b, c}) != ClusterID([]NodeID{c, a, b, a}) {
		t.Fatal("the order matters")
	}
	if ClusterID([]NodeID{a, b, c}) == ClusterID([]NodeID{a, b}) {
		t.Fatal("other nodes, same cluster")
	}
}

func TestNextIncarnation(t *testing.T) {
	ab, ac := nextIncarnation(0, allNodes(2)), nextIncarnation(0, []NodeID{fixedNode(1), fixedNode(3)})
	if ab == ac || ab < incarnationStep || nextIncarnation(ab, allNodes(2)) <= ab {
		t.Fatalf("%d, %d, %d", ab, ac, nextIncarnation(ab, allNodes(2)))
	}
}
