package raftengine

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/diarchy/diarchy/framework"
)

func (n *replica) recover(members ...framework.Member) (framework.RecoverReport, error) {
	return Recover(context.Background(), n.config, members)
}

func TestRecoverOneOfThree(t *testing.T) {
	for _, withSnapshot := range []bool{false, true} {
		bubble(t, 3, func(t *testing.T, c *cluster) {
			c.option(trailingLogsOption, "0").start()
			l := c.leader()
			last := l.write("a", "b")
			n := c.nodes[0]
			n.host.untilThrough(last)
			var at framework.Position
			if withSnapshot {
				at = n.snapshot("state")
			}
			c.close()
			before, err := n.recover(framework.Member{ID: n.id})
			if err != nil {
				t.Fatal(err)
			}
			if before.Last <= last || before.Snapshot != at || len(before.Old) != 3 || len(before.New) != 1 {
				t.Errorf("report %+v; last was %d, the snapshot at %d", before, last, at)
			}
			n.start()
			c.leader(n)
			n.write("c")
			want := []string{"a", "b", "c"}
			if withSnapshot {
				want = want[2:]
			}
			if got := n.host.data(); !slices.Equal(got, want) {
				t.Errorf("it was told %v, want %v", got, want)
			}
			s := n.e.Status()
			if s.Membership.Voters() != 1 || !s.Membership.Committed || s.Term <= before.Term {
				t.Errorf("%+v", s)
			}
			// And again after a restart.
			n.stop()
			n.start()
			c.leader(n).write("d")
		})
	}
}

// Two survivors of five with logs of the same length but of different terms are
// recovered with one list: they must not take their logs for equal.
func TestRecoverTwoWithDifferentEnds(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *cluster) {
		old := configurationOf([]framework.Member{{ID: "n1"}, {ID: "n2"}, {ID: "x"}, {ID: "y"}, {ID: "z"}})
		for i, n := range c.nodes {
			b, err := openBackend(storeWAL, n.config.Dir, testLoggerOrNone(t, n), newWALCounters())
			if err != nil {
				t.Fatal(err)
			}
			logs := []*raft.Log{
				{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(old)},
				{Index: 2, Term: 1, Data: []byte("common")},
				{Index: 3, Term: uint64(2 + i), Data: []byte("of " + n.id)},
			}
			if err := errors.Join(b.StoreLogs(logs), b.SetUint64(keyCurrentTerm, 3), b.Close()); err != nil {
				t.Fatal(err)
			}
		}
		var terms []framework.Term
		for _, n := range c.nodes {
			rep, err := n.recover(framework.Member{ID: "n2"}, framework.Member{ID: "n1"})
			if err != nil {
				t.Fatal(err)
			}
			terms = append(terms, rep.Term)
		}
		if terms[0] == terms[1] {
			t.Errorf("both write their membership in term %d", terms[0])
		}
		c.start()
		last := c.leader().write("together")
		for _, n := range c.nodes {
			n.host.untilThrough(last)
		}
		a, b := c.nodes[0].host.data(), c.nodes[1].host.data()
		if !slices.Equal(a, b) || len(a) != 3 {
			t.Errorf("they hold %v and %v", a, b)
		}
	})
}

func TestRecoverRefusals(t *testing.T) {
	bubble(t, 3, func(t *testing.T, c *cluster) {
		c.start()
		c.leader()
		n := c.nodes[0]
		expect := func(what string, members ...framework.Member) {
			t.Helper()
			if _, err := n.recover(members...); err == nil || !strings.Contains(err.Error(), what) {
				t.Errorf("%v, want it to say %q", err, what)
			}
		}
		expect("in use by", framework.Member{ID: n.id})
		c.close()
		expect("does not hold this node", framework.Member{ID: "other"})
		expect("no voter", framework.Member{ID: n.id, Suffrage: framework.Learner})
		expect("named twice", framework.Member{ID: n.id}, framework.Member{ID: n.id})
		n.config.Dir = t.TempDir()
		expect("nothing to recover", framework.Member{ID: n.id})
		n.config.Dir = ""
		expect("nothing on disk", framework.Member{ID: n.id})
	})
}

func TestRecoveryTermsAreNeverShared(t *testing.T) {
	members := sortedMembers([]framework.Member{{ID: "c"}, {ID: "a"}, {ID: "b"}})
	owner := map[uint64]framework.NodeID{}
	for present := range uint64(50) {
		for _, m := range members {
			term := recoveryTerm(present, members, m.ID)
			if term <= present || term > present+3 {
				t.Errorf("from %d to %d", present, term)
			}
			if o, taken := owner[term]; taken && o != m.ID {
				t.Errorf("term %d is %s's and %s's", term, o, m.ID)
			}
			owner[term] = m.ID
		}
	}
}
