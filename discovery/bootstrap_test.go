package discovery

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/diarchy/diarchy/framework"
)

func testID(n int) framework.UUID { return framework.UUID{0: byte(n), 15: 1} }

func testIDs(ns ...int) []framework.UUID {
	var out []framework.UUID
	for _, n := range ns {
		out = append(out, testID(n))
	}
	return out
}

// modelNode is a node as Decide's driver runs it: a durable promise, all that
// it ever published, and what it holds of others.
type modelNode struct {
	Sighting
	published []Sighting
	view      map[int]Sighting
	formedSet []framework.UUID // by ActForm
}

// model runs Decide on nodes whose news may be old, reordered, lost, or brought
// back by a third party: a view of another node is anything it ever published.
type model struct {
	nodes []*modelNode
	t     *rapid.T
}

func newModel(t *rapid.T, expects ...int) *model {
	m := &model{t: t}
	for i, e := range expects {
		n := &modelNode{view: map[int]Sighting{}}
		n.Sighting = Sighting{ID: testID(i + 1), Name: fmt.Sprintf("n%d", i+1), Addr: "a", Alive: true, Expect: e}
		n.published = []Sighting{n.Sighting}
		m.nodes = append(m.nodes, n)
	}
	return m
}

// look is one look of node i. crash: it stops after its promise is durable and
// before anybody hears of it.
func (m *model) look(i int, crash bool) Decision {
	n := m.nodes[i]
	var others []Sighting
	for _, s := range n.view {
		others = append(others, s)
	}
	d := Decide(n.Sighting, others)
	before := n.Agreement
	if d.Act == ActForm {
		n.formedSet = d.Set
	}
	n.Agreement = d.Next
	m.checkStep(n, before, d)
	if crash {
		clear(n.view)
	} else if !before.equal(d.Next) {
		n.published = append(n.published, n.Sighting)
	}
	return d
}

// checkStep holds for every step of every node.
func (m *model) checkStep(n *modelNode, before Agreement, d Decision) {
	if before.Phase == PhaseFormed && !before.equal(d.Next) {
		m.t.Fatalf("%s left the cluster it had formed: %+v", n.Name, d)
	}
	if before.Phase == PhaseReady && d.Next.Phase != PhaseFormed && !before.equal(d.Next) {
		m.t.Fatalf("%s broke its promise %+v: %+v", n.Name, before, d)
	}
	if d.Act == ActForm && !slices.Contains(d.Set, n.ID) {
		m.t.Fatalf("%s forms a set without itself: %+v", n.Name, d)
	}
}

// checkAll are the promises of the file's argument.
func (m *model) checkAll() {
	var formed [][]framework.UUID
	for _, n := range m.nodes {
		if n.formedSet != nil && !slices.ContainsFunc(formed, func(s []framework.UUID) bool { return slices.Equal(s, n.formedSet) }) {
			formed = append(formed, n.formedSet)
		}
	}
	owner := map[framework.UUID]framework.UUID{}
	for _, set := range formed {
		for _, id := range set {
			if c, ok := owner[id]; ok && c != ClusterOf(set) {
				m.t.Fatalf("two formed sets share %s: %v", id, formed)
			}
			owner[id] = ClusterOf(set)
		}
	}
	for _, n := range m.nodes {
		c, bound := owner[n.ID]
		if bound && n.Agreement.Phase == PhaseFormed && n.Agreement.Cluster != c {
			m.t.Fatalf("%s is of the set that formed %s and ended in %s", n.Name, c, n.Agreement.Cluster)
		}
		if bound && n.Agreement.Phase < PhaseReady {
			m.t.Fatalf("%s is of the set that formed %s and is only %s", n.Name, c, n.Agreement.Phase)
		}
		if n.Agreement.Phase == PhaseFormed && !slices.ContainsFunc(formed, func(s []framework.UUID) bool { return ClusterOf(s) == n.Agreement.Cluster }) {
			m.t.Fatalf("%s joined cluster %s, which nobody formed", n.Name, n.Agreement.Cluster)
		}
	}
	e := m.nodes[0].Expect
	uniform := !slices.ContainsFunc(m.nodes, func(n *modelNode) bool { return n.Expect != e })
	if uniform && len(formed) > 1 && len(m.nodes) < 2*e {
		m.t.Fatalf("%d nodes with bootstrap_expect %d formed %d clusters: %v", len(m.nodes), e, len(formed), formed)
	}
}

const everybody = -1

// sync shows the nodes of an island, a bit set, the newest of each other.
func (m *model) sync(island int) {
	for i, n := range m.nodes {
		for j, o := range m.nodes {
			if i != j && island>>i&1 == 1 && island>>j&1 == 1 {
				n.view[j] = o.published[len(o.published)-1]
			}
		}
	}
}

// chaos is what the network and the machines may do. The seed and the number of
// steps are rapid's, so that a failure shrinks to its shortest beginning; the
// steps are drawn evenly, which rapid's own integers are not.
func (m *model) chaos(stepsMax int) {
	r := rand.New(rand.NewPCG(rapid.Uint64().Draw(m.t, "seed"), 0))
	steps := stepsMax - rapid.IntRange(0, stepsMax).Draw(m.t, "fewer")
	for range steps {
		i, j := r.IntN(len(m.nodes)), r.IntN(len(m.nodes))
		n, o := m.nodes[i], m.nodes[j]
		switch what := r.IntN(12); {
		case what < 5 && i != j: // news of another arrives, of any age
			s := o.published[len(o.published)-1]
			if r.IntN(4) == 0 {
				s = o.published[r.IntN(len(o.published))]
			}
			s.Alive = r.IntN(8) != 0
			n.view[j] = s
		case what == 5: // it forgets another (left, pruned)
			delete(n.view, j)
		case what == 6: // an island: some see the newest of each other
			m.sync(r.IntN(1 << len(m.nodes)))
		case what == 7 && r.IntN(3) == 0: // it starts again and publishes what it had promised
			clear(n.view)
			n.published = append(n.published, n.Sighting)
		default:
			m.look(i, r.IntN(12) == 0)
		}
		m.checkAll()
	}
}

func TestBootstrapNeverSplits(t *testing.T) {
	formed, total := 0, 0
	checkMany(t, func(t *rapid.T) {
		expect := rapid.IntRange(1, 3).Draw(t, "expect")
		n := rapid.SampledFrom([]int{1, 2, 3, 4, 5, 6}).Draw(t, "nodes")
		expects := make([]int, n)
		for i := range expects {
			expects[i] = expect
		}
		m := newModel(t, expects...)
		m.chaos(300)
		total++
		if slices.ContainsFunc(m.nodes, func(n *modelNode) bool { return n.formedSet != nil }) {
			formed++
		}
	})
	// A model in which nothing ever forms would prove nothing.
	if formed*10 < total {
		t.Fatalf("only %d of %d runs formed a cluster: the model is too hostile to show anything", formed, total)
	}
	t.Logf("%d of %d runs formed a cluster", formed, total)
}

// checkMany runs ten times what -rapid.checks says: a run takes 0.2 ms.
func checkMany(t *testing.T, f func(*rapid.T)) {
	t.Helper()
	for range 10 {
		if rapid.Check(t, f); t.Failed() {
			return
		}
	}
}

func TestBootstrapDifferentExpectNeverSplits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t, rapid.SliceOfN(rapid.IntRange(0, 4), 2, 6).Draw(t, "expects")...)
		m.chaos(200)
		m.sync(everybody)
		free := map[int]bool{}
		for _, n := range m.nodes {
			if n.Agreement.Phase == PhaseFormed {
				return
			}
			if n.Agreement.Phase < PhaseReady && n.Expect != 0 {
				free[n.Expect] = true
			}
		}
		if len(free) < 2 {
			return
		}
		for i, n := range m.nodes {
			if n.Agreement.Phase >= PhaseReady || n.Expect == 0 {
				continue
			}
			d := m.look(i, true)
			if !strings.Contains(d.Complaint, "bootstrap_expect differs") {
				t.Fatalf("%s does not complain: %+v", n.Name, d)
			}
		}
	})
}

// After any chaos, with exactly as many nodes as expected and everybody seeing
// everybody, the cluster forms: no state is a dead end.
func TestBootstrapFormsInTheEnd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		expect := rapid.IntRange(1, 5).Draw(t, "expect")
		expects := make([]int, expect)
		for i := range expects {
			expects[i] = expect
		}
		m := newModel(t, expects...)
		m.chaos(100)
		m.settle()
		for _, n := range m.nodes {
			if n.Agreement.Phase != PhaseFormed {
				t.Fatalf("%s is still %+v", n.Name, n.Agreement)
			}
		}
	})
}

// With more nodes than expected everybody ends in the cluster, or those that
// do not say whom they wait for.
func TestBootstrapExcessJoinsOrComplains(t *testing.T) {
	done, blocked := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		expect := rapid.IntRange(2, 3).Draw(t, "expect")
		n := rapid.IntRange(expect+1, 2*expect-1).Draw(t, "nodes")
		expects := make([]int, n)
		for i := range expects {
			expects[i] = expect
		}
		m := newModel(t, expects...)
		m.chaos(120)
		last := m.settle()
		all := true
		for i, n := range m.nodes {
			if n.Agreement.Phase == PhaseFormed {
				continue
			}
			all = false
			if n.Agreement.Phase == PhaseReady && last[i].Complaint == "" {
				t.Fatalf("%s is stuck and does not say why: %+v %+v", n.Name, n.Agreement, last[i])
			}
			if last[i].Complaint == "" && last[i].Waiting == "" {
				t.Fatalf("%s is stuck without a word", n.Name)
			}
		}
		if done++; !all {
			blocked++
		}
	})
	if blocked*5 > done {
		t.Fatalf("%d of %d runs blocked: promises should cross seldom", blocked, done)
	}
	t.Logf("%d of %d runs blocked on crossed promises", blocked, done)
}

// settle lets everybody see everybody until nothing changes.
func (m *model) settle() []Decision {
	last := make([]Decision, len(m.nodes))
	for _, n := range m.nodes { // everybody has started again
		n.published = append(n.published, n.Sighting)
	}
	for range 20 * len(m.nodes) {
		for i := range m.nodes {
			m.sync(everybody)
			last[i] = m.look(i, false)
			m.checkAll()
		}
	}
	return last
}

func sight(n, expect int, alive bool, a Agreement) Sighting {
	return Sighting{ID: testID(n), Name: fmt.Sprintf("n%d", n), Addr: fmt.Sprintf("10.0.0.%d:7946", n), Alive: alive, Expect: expect, Agreement: a}
}

func TestDecide(t *testing.T) {
	none := Agreement{}
	prepared := func(ns ...int) Agreement { return Agreement{Phase: PhasePrepared, Set: testIDs(ns...)} }
	ready := func(ns ...int) Agreement { return Agreement{Phase: PhaseReady, Set: testIDs(ns...)} }
	formedAs := func(ns ...int) Agreement { return Agreement{Phase: PhaseFormed, Cluster: ClusterOf(testIDs(ns...))} }
	for _, c := range []struct {
		name   string
		self   Sighting
		others []Sighting
		act    Act
		next   Agreement
		says   string
	}{
		{"too few are here", sight(1, 3, true, none), []Sighting{sight(2, 3, true, none)}, ActNone, none, "2 of 3"},
		{"all are here: prepare", sight(1, 2, true, none), []Sighting{sight(2, 2, true, none)}, ActNone, prepared(1, 2), "prepares"},
		{"a failed node is not counted", sight(1, 2, true, none), []Sighting{sight(2, 2, false, none)}, ActNone, none, "1 of 2"},
		{"the smallest ids are taken", sight(3, 2, true, none), []Sighting{sight(1, 2, true, none), sight(2, 2, true, none)}, ActNone, none, "one more than bootstrap_expect"},
		{"a node without expect is not counted", sight(1, 2, true, none), []Sighting{sight(2, 0, true, none)}, ActNone, none, "1 of 2"},
		{"a node without expect waits", sight(1, 0, true, none), []Sighting{sight(2, 2, true, none)}, ActNone, none, "waiting for a cluster"},
		{"different expect: both are named", sight(1, 3, true, none), []Sighting{sight(2, 5, true, none)}, ActNone, none, "it is 3 on this node, n1"},
		{"different expect: the other's value", sight(1, 3, true, none), []Sighting{sight(2, 5, true, none)}, ActNone, none, "5 on n2"},
		{"prepared, the other not yet", sight(1, 2, true, prepared(1, 2)), []Sighting{sight(2, 2, true, none)}, ActNone, prepared(1, 2), "not prepared for the same yet: n2"},
		{"all prepared: promise", sight(1, 2, true, prepared(1, 2)), []Sighting{sight(2, 2, true, prepared(1, 2))}, ActNone, ready(1, 2), "promises"},
		{"all prepared, one failed since", sight(1, 2, true, prepared(1, 2)), []Sighting{sight(2, 2, false, prepared(1, 2))}, ActNone, prepared(1, 2), "1 of 2"},
		{"all promised: form", sight(1, 2, true, ready(1, 2)), []Sighting{sight(2, 2, true, ready(1, 2))}, ActForm, formedAs(1, 2), ""},
		{"a promise outlives its maker's silence", sight(1, 2, true, ready(1, 2)), []Sighting{sight(2, 2, false, ready(1, 2))}, ActForm, formedAs(1, 2), ""},
		{"a promise is not broken for more nodes", sight(2, 2, true, ready(2, 3)), []Sighting{sight(1, 2, true, none), sight(3, 2, true, prepared(2, 3))}, ActNone, ready(2, 3), "still to promise the same: n3"},
		{"one has formed: follow", sight(1, 3, true, ready(1, 2, 3)), []Sighting{sight(2, 3, true, formedAs(1, 2, 3))}, ActForm, formedAs(1, 2, 3), ""},
		{"sees a formed cluster: joins, never forms", sight(1, 2, true, prepared(1, 2)), []Sighting{sight(2, 2, true, prepared(1, 2)), sight(9, 0, true, formedAs(7, 8))}, ActJoin, formedAs(7, 8), ""},
		{"a formed cluster that is down is waited for", sight(1, 2, true, none), []Sighting{sight(2, 2, true, none), sight(9, 2, false, formedAs(8, 9))}, ActNone, none, "to come back"},
		{"two formed clusters: neither", sight(1, 2, true, none), []Sighting{sight(7, 2, true, formedAs(6, 7)), sight(9, 2, true, formedAs(8, 9))}, ActNone, none, "sees several"},
		{"promised, and a stranger is formed", sight(1, 2, true, ready(1, 2)), []Sighting{sight(2, 2, true, ready(1, 2)), sight(9, 2, true, formedAs(8, 9))}, ActNone, ready(1, 2), "has promised to form cluster"},
		{"promised, and one of the set is formed elsewhere", sight(1, 2, true, ready(1, 2)), []Sighting{sight(2, 2, true, formedAs(2, 3))}, ActJoin, formedAs(2, 3), ""},
		{"crossed promises", sight(1, 2, true, ready(1, 2)), []Sighting{sight(2, 2, true, ready(2, 3))}, ActNone, ready(1, 2), "has promised to form one with"},
		{"a promise that names this node is followed", sight(2, 2, true, prepared(1, 2)), []Sighting{sight(1, 2, true, prepared(1, 2)), sight(3, 2, true, ready(2, 3))}, ActNone, prepared(2, 3), ""},
		{"a promise among others is waited for", sight(4, 2, true, none), []Sighting{sight(5, 2, true, none), sight(1, 2, true, ready(1, 2))}, ActNone, none, "without this node"},
		{"a promise that cannot form is not waited for", sight(4, 2, true, none), []Sighting{sight(5, 2, true, none), sight(1, 2, true, ready(1, 2)), sight(2, 2, true, ready(2, 1))}, ActNone, prepared(4, 5), ""},
		{"formed: for good", sight(1, 2, true, formedAs(1, 2)), []Sighting{sight(9, 2, true, formedAs(8, 9))}, ActNone, formedAs(1, 2), ""},
		{"expect 1 forms alone", sight(1, 1, true, ready(1)), nil, ActForm, formedAs(1), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := Decide(c.self, c.others)
			if d.Act != c.act || !d.Next.equal(c.next) {
				t.Errorf("got act %d, next %+v; want %d, %+v", d.Act, d.Next, c.act, c.next)
			}
			if said := d.Complaint + d.Waiting; !strings.Contains(said, c.says) {
				t.Errorf("says %q, expected %q in it", said, c.says)
			}
		})
	}
}
