package raftfsm_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/diarchy/diarchy/framework"
	"github.com/diarchy/diarchy/framework/enginetest"
	"github.com/diarchy/diarchy/fsm"
	"github.com/diarchy/diarchy/raftengine"
	"github.com/diarchy/diarchy/raftengine/raftfsm"
)

// A machine written for hashicorp/raft in a real group: answers, refusals, reads,
// a leader that stops, and one that comes back from its snapshot.
func TestInAGroup(t *testing.T) {
	for name, start := range map[string]func() (raft.FSM, raftfsm.Options){
		"FSM": func() (raft.FSM, raftfsm.Options) {
			w := newWords()
			return w, raftfsm.Options{Name: "words", Query: w.query}
		},
		"BatchingFSM": func() (raft.FSM, raftfsm.Options) {
			w := newBatchedWords()
			return w, raftfsm.Options{Name: "words", Query: w.query}
		},
	} {
		t.Run(name, func(t *testing.T) {
			group := enginetest.StartTrio(t, raftengine.Driver(), framework.SnapshotPolicy{}, func(int) fsm.Factory {
				return func(context.Context) (fsm.Machine, error) { return raftfsm.New(start()) }
			})
			inAGroup(t, group)
		})
	}
}

func inAGroup(t *testing.T, group *enginetest.Trio) {
	session := framework.Session{ID: framework.SessionID{1}}
	group.OpenSession(session.ID)
	propose := func(command string) framework.Receipt {
		session.Seq++
		return group.Propose(framework.Command{Data: []byte(command), Session: session})
	}
	for i := range 100 {
		before := fmt.Sprint(i - 1)
		if i == 0 {
			before = ""
		}
		r := propose(fmt.Sprintf("set a %d", i))
		if string(r.Value) != before || r.Err != "" || r.Token.Number != uint64(i)+1 {
			t.Fatalf("set %d: %q %q at %d", i, r.Value, r.Err, r.Token.Number)
		}
	}
	if r := propose("dance"); r.Err != "no such command" {
		t.Errorf("an FSM's error came as %+v", r)
	}
	old := group.Leader()
	if _, err := group.Group(old).Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	group.Stop(old)
	if r := propose("set b 1"); r.Err != "" {
		t.Errorf("after the leader's stop: %+v", r)
	}
	group.Start(old)
	group.Level()
	sums := map[string]int{}
	for i := range 3 {
		a, err := group.Group(i).Query(t.Context(), framework.ReadQuery{Consistency: framework.Stale})
		if err != nil || string(a.Value) != `{"a":99,"b":1}` {
			t.Errorf("replica %d holds %s, %v", i, a.Value, err)
		}
		sum, err := group.Group(i).Checksum(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		sums[sum.SHA256]++
	}
	if len(sums) != 1 {
		t.Errorf("states differ: %v", sums)
	}
}
