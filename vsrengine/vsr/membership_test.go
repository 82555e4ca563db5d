package vsr_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/diarchy/diarchy/vsrengine/vsr"
)

// change is one single change of a group: everything D10 allows.
type change struct {
	n        int
	old, new vsr.Membership
	id       vsr.ID
	add      bool
}

func (c *change) String() string {
	if c.add {
		return fmt.Sprintf("%d add %s", c.n, letter(c.id))
	}
	return fmt.Sprintf("%d remove %s", c.n, letter(c.id))
}

// singleChanges are all changes of groups of 1 to most voters.
func singleChanges(most int) []change {
	var out []change
	for n := 1; n <= most; n++ {
		var members []vsr.Member
		for i := range n {
			members = append(members, vsr.Member{ID: vsr.ID(i + 1), Role: vsr.Voter})
		}
		old := vsr.NewMembership(members...)
		if id := vsr.ID(n + 1); n < vsr.VotersMax {
			learner := old.With(id, vsr.Learner)
			out = append(out, change{n, old, learner.With(id, vsr.Voter), id, true})
		}
		for id := vsr.ID(1); n > 1 && id <= vsr.ID(n); id++ {
			out = append(out, change{n, old, old.With(id, 0), id, false})
		}
	}
	return out
}

func voters(m *vsr.Membership) []vsr.ID {
	var out []vsr.ID
	for _, x := range m.Members {
		if x.Role == vsr.Voter {
			out = append(out, x.ID)
		}
	}
	return out
}

// choose are all sets of k of these.
func choose(of []vsr.ID, k int) [][]vsr.ID {
	if k == 0 {
		return [][]vsr.ID{nil}
	}
	var out [][]vsr.ID
	for i := 0; i+k <= len(of); i++ {
		for _, rest := range choose(of[i+1:], k-1) {
			out = append(out, append([]vsr.ID{of[i]}, rest...))
		}
	}
	return out
}

func meet(a, b []vsr.ID) bool {
	return slices.ContainsFunc(a, func(id vsr.ID) bool { return slices.Contains(b, id) })
}

// TestSingleChangesMeet (R10): for every single change, every old quorum meets
// every new one, so whoever begins the next epoch has met all that was committed,
// and what an old quorum holds a new nack quorum alone cannot deny by never having
// been there.
func TestSingleChangesMeet(t *testing.T) {
	for _, c := range singleChanges(vsr.VotersMax) {
		before, after := voters(&c.old), voters(&c.new)
		if c.new.Epoch != c.old.Epoch+1 {
			t.Errorf("%s: epoch %d follows %d", &c, c.new.Epoch, c.old.Epoch)
		}
		for _, q := range choose(before, vsr.Quorum(len(before))) {
			for _, p := range choose(after, vsr.Quorum(len(after))) {
				if !meet(q, p) {
					t.Errorf("%s: %v and %v do not meet", &c, q, p)
				}
			}
		}
	}
}

// TestQuorumsMeet (D8, D12, D16): of n voters, two quorums meet; a nack quorum and
// the replicas whose answers confirm a view meet every quorum, and no fewer do.
func TestQuorumsMeet(t *testing.T) {
	for n := 1; n <= vsr.VotersMax; n++ {
		var ids []vsr.ID
		for i := range n {
			ids = append(ids, vsr.ID(i+1))
		}
		meets := func(k int) bool {
			for _, q := range choose(ids, vsr.Quorum(n)) {
				for _, p := range choose(ids, k) {
					if !meet(q, p) {
						return false
					}
				}
			}
			return true
		}
		for what, k := range map[string]int{"quorum": vsr.Quorum(n), "nack quorum": vsr.NackQuorum(n), "read quorum": vsr.MeetQuorum(n)} {
			if !meets(k) {
				t.Errorf("%d voters: a %s of %d misses a quorum", n, what, k)
			}
		}
		if k := vsr.NackQuorum(n); k > 1 && meets(k-1) {
			t.Errorf("%d voters: a nack quorum of %d would do", n, k-1)
		}
	}
}

// TestEverySingleChange (R10) runs them: the Reconfigure k is on a minimal old
// quorum alone and only its primary knows that it is committed; of the new
// epoch's voters a minimal quorum lives on, one of whom the primary told. It
// begins the new epoch with k, and goes on.
func TestEverySingleChange(t *testing.T) {
	most := 6
	if testing.Short() {
		most = 3
	}
	for _, c := range singleChanges(most) {
		t.Run(c.String(), func(t *testing.T) {
			t.Parallel()
			before, after := voters(&c.old), voters(&c.new)
			for _, q := range choose(before, vsr.Quorum(len(before))) {
				if q[0] != 1 {
					continue // A proposes k
				}
				for _, p := range choose(after, vsr.Quorum(len(after))) {
					runChange(t, &c, q, p)
				}
			}
		})
	}
}

func runChange(t *testing.T, c *change, old, new []vsr.ID) {
	s := &script{notes: map[vsr.Note]bool{}}
	do := func(format string, args ...any) {
		t.Helper()
		line := fmt.Sprintf(format, args...)
		cmd, as, err := datadriven.ParseLine(line)
		if err == nil {
			_, err = s.line(&datadriven.TestData{Cmd: cmd, CmdArgs: as})
		}
		if err == nil && len(s.cluster.props.broken) > 0 {
			err = fmt.Errorf("%s", strings.Join(s.cluster.props.broken, "\n"))
		}
		if err != nil {
			t.Fatalf("k on %s, then %s alone: %s: %v", lettersOf(old), lettersOf(new), line, err)
		}
	}
	do("cluster n=%d fsync=auto", c.n)
	do("propose A x")
	do("stabilize")
	who := letter(c.id)
	if c.add {
		do("change A add=%s", who)
		do("stabilize")
		do("run ticks=2")
		do("join %s", who)
		do("run ticks=8")
		do("change A promote=%s", who)
		do("deliver to=%s kind=GetProof", who)
		do("deliver to=A kind=Proof")
	} else {
		do("change A remove=%s", who)
	}
	for _, n := range s.cluster.replicas {
		if !slices.Contains(old, n.id) {
			do("drop kind=Prepare to=%s", n)
		}
	}
	if len(old) > 1 {
		do("deliver kind=Prepare")
		do("deliver to=A kind=PrepareOK")
	}
	told := new[0]
	if told == 1 && len(new) > 1 {
		told = new[1]
	}
	if told != 1 {
		do("deliver kind=(Notice,DoViewChange) from=A to=%s", letter(told))
	}
	for _, n := range s.cluster.replicas {
		if !slices.Contains(new, n.id) {
			do("crash %s", n)
		}
	}
	for range 100 {
		do("run ticks=4")
		if serves(s.cluster, new) {
			break
		}
	}
	for _, id := range new {
		do("propose %s y", letter(id)) // all but the primary refuse it
	}
	do("until applied=y on=%s ticks=60", strings.Join(strings.Split(lettersOf(new), ""), ","))
}

// serves reports whether one of these serves the next epoch.
func serves(c *cluster, ids []vsr.ID) bool {
	return slices.ContainsFunc(c.replicas, func(n *replica) bool {
		return n.core != nil && slices.Contains(ids, n.id) && n.status.Serving && n.status.Members.Epoch == 1
	})
}

func lettersOf(ids []vsr.ID) string {
	var b strings.Builder
	for _, id := range ids {
		b.WriteString(letter(id))
	}
	return b.String()
}
