package discovery

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/diarchy/diarchy/framework"
)

// This file decides which nodes form a new cluster: a pure function of what a
// node has promised durably and of what it sees of others. bootstrapper.go
// makes its outcomes durable, publishes them and acts.
//
// A node with bootstrap_expect = E goes, one way unless said otherwise:
//
//	none -> prepared(S) -> ready(S) -> formed(cluster)
//
//	prepared(S)  "I would form a cluster with exactly these E nodes." It may
//	             change its mind to another S.
//	ready(S)     "I will never form a cluster with any other set." It goes there
//	             from prepared(S) when all of S, alive, publish prepared(S) or
//	             ready(S) and nobody is formed.
//	formed(c)    It acts on S when it is ready(S) and has seen every node of S
//	             publish ready(S), or anyone be formed as the cluster of S. Or it
//	             joins a cluster that it sees formed.
//
// Each state is durable before it is published (law 1), and a promise is judged
// by what its maker published, however old and whoever brought it: the argument
// needs no order of messages, no clock, and nobody to be alive.
//
// Why two different sets that share a node never both form. ready(S) is left
// only for formed, and formed is final, so a node is ready for at most one set
// in its life. A set forms only after somebody has seen all its nodes publish
// that they are ready for it (who forms on seeing its cluster formed follows
// one who did). Two sets that both formed and share a node would have that node
// ready for both; so they are the same set.
//
// Why no node of a formed set ends elsewhere. Law 2: a node that is ready(S)
// gives S up only on seeing some j of S formed in a cluster other than S's.
// Take the first node ever to give S up, and its j. Had j been ready(S) before,
// it would have left that for S's cluster, which it did not, or given S up,
// which nobody had yet. So j never was ready(S), and being formed it never will
// be: S has not formed and cannot.
//
// With fewer than 2*E nodes about there is therefore at most one cluster. With
// 2*E or more, two islands that cannot see each other may each form one; no
// agreement among E of them could know. As soon as one promise is seen the rest
// wait for it: a node outside a set that is ready, and could still form,
// prepares nothing.
//
// What may block: a promise is kept also when one of S is lost for ever between
// ready and formed, or when two sets hold one node each of the other. Then the
// complaint says who waits for whom, and an operator decides (--force-new on a
// node that is stopped makes it forget its promise; that is safe only when no
// node of its set has formed). Waiting until a set has stood still for a moment
// before preparing (bootstrapper.go) makes that rare; it is not needed for
// safety.

// Phase is how far a node is in forming a cluster.
type Phase uint8

// Phases.
const (
	PhaseNone Phase = iota
	PhasePrepared
	PhaseReady
	PhaseFormed
)

func (p Phase) String() string {
	return [...]string{"none", "prepared", "ready", "formed"}[min(p, PhaseFormed)]
}

// Agreement is a node's durable promise.
type Agreement struct {
	Phase Phase
	// Set holds the ids of the nodes that are to form a cluster, ascending; in
	// the phases prepared and ready.
	Set []framework.UUID
	// Cluster is the cluster, in the phase formed.
	Cluster framework.UUID
}

func (a Agreement) equal(b Agreement) bool {
	return a.Phase == b.Phase && a.Cluster == b.Cluster && slices.Equal(a.Set, b.Set)
}

// Sighting is what is known of another node.
type Sighting struct {
	ID   framework.UUID
	Name string
	Addr string
	// Alive: gossip holds it to be running now.
	Alive     bool
	Expect    int
	Agreement Agreement
}

func (s *Sighting) String() string {
	return fmt.Sprintf("%s (%s at %s)", s.Name, s.ID, s.Addr)
}

// Act is what to do once Decision.Next is allowed for.
type Act uint8

// Acts. Both end in Decision.Next, which is to be made durable after the act.
const (
	ActNone Act = iota
	// ActForm: form the cluster Next.Cluster with the nodes of Decision.Set.
	ActForm
	// ActJoin: belong to the cluster Next.Cluster, which others have formed.
	ActJoin
)

// Decision is the outcome of one look.
type Decision struct {
	Act Act
	// Next is the node's promise from now on. Without an act: durable first,
	// then published.
	Next Agreement
	// Set is the set to form with, for ActForm.
	Set []framework.UUID
	// Complaint is what an operator must mend; Waiting is what is waited for.
	Complaint, Waiting string
}

// SetHash is H, the hash of a sorted set of node ids.
func SetHash(set []framework.UUID) [32]byte {
	h := sha256.New()
	fmt.Fprintf(h, "diarchy cluster of %d\n", len(set))
	for _, id := range set {
		h.Write(id[:])
	}
	return [32]byte(h.Sum(nil))
}

// ClusterOf is the UUID of the cluster that a sorted set of nodes forms: the
// same that Node.Form works out for itself.
func ClusterOf(set []framework.UUID) framework.UUID { return framework.ClusterID(nodeIDs(set)) }

func compareIDs(a, b framework.UUID) int { return bytes.Compare(a[:], b[:]) }

// ascending: sorted, without doubles.
func ascending(set []framework.UUID) bool {
	for i := 1; i < len(set); i++ {
		if compareIDs(set[i-1], set[i]) >= 0 {
			return false
		}
	}
	return true
}

// bootstrapView is one look: this node and those it sees, itself not among them.
type bootstrapView struct {
	self   Sighting
	others []Sighting
	byID   map[framework.UUID]*Sighting
}

// Decide looks once. self is this node with its durable promise, others what
// it sees (each id once; nodes that have left are not in it).
func Decide(self Sighting, others []Sighting) Decision {
	v := bootstrapView{self: self, others: others, byID: make(map[framework.UUID]*Sighting, len(others)+1)}
	for i := range others {
		v.byID[others[i].ID] = &others[i]
	}
	v.byID[self.ID] = &v.self
	switch self.Agreement.Phase {
	case PhaseFormed:
		return v.stay("", "")
	case PhaseReady:
		return v.whenReady()
	}
	return v.whenFree()
}

func (v *bootstrapView) stay(complaint, waiting string) Decision {
	return Decision{Next: v.self.Agreement, Complaint: complaint, Waiting: waiting}
}

func join(cluster framework.UUID) Decision {
	return Decision{Act: ActJoin, Next: Agreement{Phase: PhaseFormed, Cluster: cluster}}
}

// formed returns one witness of each cluster that is seen, those of alive nodes
// where there are any.
func (v *bootstrapView) formed() map[framework.UUID]*Sighting {
	seen := map[framework.UUID]*Sighting{}
	for i := range v.others {
		o := &v.others[i]
		if o.Agreement.Phase != PhaseFormed {
			continue
		}
		if w := seen[o.Agreement.Cluster]; w == nil || !w.Alive {
			seen[o.Agreement.Cluster] = o
		}
	}
	return seen
}

// whenReady: bound to S. Only S's cluster, or the proof that S never forms.
func (v *bootstrapView) whenReady() Decision {
	set := v.self.Agreement.Set
	mine, seen := ClusterOf(set), v.formed()
	if seen[mine] != nil {
		return v.form(set)
	}
	for _, id := range set {
		if s := v.byID[id]; s != nil && s.Agreement.Phase == PhaseFormed {
			return join(s.Agreement.Cluster) // law 2
		}
	}
	for cluster, w := range seen {
		return v.stay(fmt.Sprintf("this node has promised to form cluster %s with %s, but %s belongs to cluster %s: "+
			"separate the two (gossip label or join addresses), or stop this node, make sure that no node of its set has formed, and start it with --force-new",
			mine, v.names(set), w, cluster), "")
	}
	var missing []string
	for _, id := range set {
		s := v.byID[id]
		switch {
		case s == nil:
			missing = append(missing, fmt.Sprintf("%s (not seen)", id))
		case s.Agreement.Phase == PhaseReady && slices.Equal(s.Agreement.Set, set):
		case s.Agreement.Phase == PhaseReady:
			return v.stay(fmt.Sprintf("this node has promised to form a cluster with %s, and %s has promised to form one with %s: "+
				"unless one of the two sets forms, stop all these nodes, make sure that none has formed, and start them with --force-new",
				v.names(set), s, v.names(s.Agreement.Set)), "")
		default:
			missing = append(missing, s.String())
		}
	}
	if len(missing) > 0 {
		return v.stay("", "promised to form a cluster; still to promise the same: "+strings.Join(missing, ", "))
	}
	return v.form(set)
}

func (v *bootstrapView) form(set []framework.UUID) Decision {
	return Decision{Act: ActForm, Set: set, Next: Agreement{Phase: PhaseFormed, Cluster: ClusterOf(set)}}
}

// whenFree: nothing promised for good yet.
func (v *bootstrapView) whenFree() Decision {
	if seen := v.formed(); len(seen) > 0 {
		return v.joinOne(seen)
	}
	expect := v.self.Expect
	if expect == 0 {
		return v.stay("", "waiting for a cluster to join (bootstrap_expect is not set, so this node forms none)")
	}
	for i := range v.others {
		if o := &v.others[i]; o.Alive && o.Expect != 0 && o.Expect != expect {
			return v.stay(fmt.Sprintf("bootstrap_expect differs: it is %d on this node, %s (%s at %s), and %d on %s: set the same value on all nodes that form the cluster, and none on those that join it later",
				expect, v.self.Name, v.self.ID, v.self.Addr, o.Expect, o), "")
		}
	}
	set, why := v.target()
	if set == nil {
		return v.stay("", why)
	}
	if own := v.self.Agreement; own.Phase != PhasePrepared || !slices.Equal(own.Set, set) {
		return Decision{Next: Agreement{Phase: PhasePrepared, Set: set}, Waiting: "prepares to form a cluster with " + v.names(set)}
	}
	var missing []string
	for _, id := range set {
		s := v.byID[id]
		agrees := s != nil && s.Agreement.Phase != PhaseNone && slices.Equal(s.Agreement.Set, set)
		if !agrees || id != v.self.ID && !s.Alive {
			missing = append(missing, v.name(id))
		}
	}
	if len(missing) > 0 {
		return v.stay("", "prepared to form a cluster with "+v.names(set)+"; not prepared for the same yet: "+strings.Join(missing, ", "))
	}
	return Decision{Next: Agreement{Phase: PhaseReady, Set: set}, Waiting: "promises to form a cluster with " + v.names(set)}
}

// joinOne: others have formed. Of several clusters none is chosen.
func (v *bootstrapView) joinOne(seen map[framework.UUID]*Sighting) Decision {
	if len(seen) > 1 {
		var each []string
		for c, w := range seen {
			each = append(each, fmt.Sprintf("%s belongs to cluster %s", w, c))
		}
		slices.Sort(each)
		return v.stay("this node belongs to no cluster and sees several: "+strings.Join(each, ", ")+"; keep them apart with a gossip label", "")
	}
	for cluster, w := range seen {
		if w.Alive {
			return join(cluster)
		}
		return v.stay("", fmt.Sprintf("waiting for %s or another node of cluster %s to come back", w, cluster))
	}
	return v.stay("", "")
}

// target picks the set to prepare for: one that somebody has promised and that
// could still form before any other; else the smallest ids of the free nodes.
// nil: this node is to wait, and why.
func (v *bootstrapView) target() ([]framework.UUID, string) {
	var best []framework.UUID
	for i := range v.others {
		o := &v.others[i]
		if o.Agreement.Phase != PhaseReady || !v.canForm(o.Agreement.Set) {
			continue
		}
		if !slices.Contains(o.Agreement.Set, v.self.ID) {
			return nil, fmt.Sprintf("waiting for %s to form a cluster without this node, which then joins it", v.names(o.Agreement.Set))
		}
		if h := o.Agreement.Set; best == nil || compareHashes(h, best) < 0 {
			best = h
		}
	}
	if best != nil {
		return best, ""
	}
	free := []framework.UUID{v.self.ID}
	for i := range v.others {
		if o := &v.others[i]; o.Alive && o.Expect == v.self.Expect && o.Agreement.Phase != PhaseReady {
			free = append(free, o.ID)
		}
	}
	slices.SortFunc(free, compareIDs)
	if len(free) < v.self.Expect {
		return nil, fmt.Sprintf("waiting for more nodes: %d of %d (bootstrap_expect) are here", len(free), v.self.Expect)
	}
	free = free[:v.self.Expect]
	if !slices.Contains(free, v.self.ID) {
		return nil, fmt.Sprintf("waiting for %s to form a cluster; this node is one more than bootstrap_expect and joins it then", v.names(free))
	}
	return free, ""
}

// canForm is false when a node of set is seen to be bound to something else:
// then set never forms.
func (v *bootstrapView) canForm(set []framework.UUID) bool {
	for _, id := range set {
		if s := v.byID[id]; s != nil && s.Agreement.Phase == PhaseReady && !slices.Equal(s.Agreement.Set, set) {
			return false
		}
	}
	return true
}

func compareHashes(a, b []framework.UUID) int {
	x, y := SetHash(a), SetHash(b)
	return bytes.Compare(x[:], y[:])
}

func (v *bootstrapView) name(id framework.UUID) string {
	if s := v.byID[id]; s != nil {
		return s.Name
	}
	return id.String()
}

func (v *bootstrapView) names(set []framework.UUID) string {
	out := make([]string, len(set))
	for i, id := range set {
		out[i] = v.name(id)
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}
