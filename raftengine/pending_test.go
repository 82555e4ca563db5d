package raftengine

import (
	"errors"
	"slices"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/diarchy/diarchy/framework"
)

// pendingRun plays raft: it takes what pending gives, and stores it or not.
type pendingRun struct {
	t     *testing.T
	p     *pending
	given []raft.Log
	told  map[uint64]error // nil: committed
	at    map[uint64]framework.Position
}

var (
	errWasRefused = errors.New("refused")
	errWasLost    = errors.New("lost")
	errWasMaybe   = errors.New("maybe")
	errWasFresh   = errors.New("fresh")
)

func newPendingRun(t *testing.T) *pendingRun {
	return &pendingRun{t: t, p: newPending(), told: map[uint64]error{}, at: map[uint64]framework.Position{}}
}

func (r *pendingRun) give(refs ...uint64) {
	var batch []framework.Proposal
	for _, ref := range refs {
		batch = append(batch, framework.Proposal{Kind: framework.KindCommand, Ref: ref})
	}
	r.given = r.p.give(batch, r.given)
}

// store has raft's leader store some of what it was given, by place.
func (r *pendingRun) store(index, term uint64, places ...int) []*raft.Log {
	var logs []*raft.Log
	for i, place := range places {
		l := r.given[place]
		l.Index, l.Term = index+uint64(i), term
		logs = append(logs, &l)
	}
	refused, _ := r.p.dispatch(logs)
	for i := range refused {
		refused[i].Err = errWasRefused
	}
	r.tell(refused)
	return logs
}

func (r *pendingRun) tell(out []settled) {
	for _, o := range out {
		if _, twice := r.told[o.Ref]; twice {
			r.t.Errorf("proposal %d has a second outcome", o.Ref)
		}
		r.told[o.Ref], r.at[o.Ref] = o.Err, o.Position
	}
}

func (r *pendingRun) expect(ref uint64, want error) {
	r.t.Helper()
	if got, ok := r.told[ref]; !ok || !errors.Is(got, want) {
		r.t.Errorf("proposal %d: %v (told: %v), want %v", ref, got, ok, want)
	}
}

func (r *pendingRun) open(refs ...uint64) {
	r.t.Helper()
	for _, ref := range refs {
		if got, ok := r.told[ref]; ok {
			r.t.Errorf("proposal %d has an outcome already: %v", ref, got)
		}
	}
}

func TestPendingCommitted(t *testing.T) {
	r := newPendingRun(t)
	r.give(1, 2, 3)
	logs := r.store(5, 2, 0, 1, 2)
	r.open(1, 2, 3)
	r.tell(r.p.applied(logs[:2], errWasLost, nil))
	r.expect(1, nil)
	r.expect(2, nil)
	r.open(3)
	if r.at[2] != 6 {
		t.Errorf("proposal 2 is at %d", r.at[2])
	}
}

func TestPendingPassedOverWasRefused(t *testing.T) {
	r := newPendingRun(t)
	r.give(1, 2, 3, 4)
	r.store(5, 2, 0, 2)
	r.expect(2, errWasRefused)
	r.open(1, 3, 4)
}

func TestPendingReplacedDidNotHappen(t *testing.T) {
	r := newPendingRun(t)
	r.give(1, 2, 3)
	r.store(5, 2, 0, 1, 2)
	// Of a newer leader: another entry at 5, a no-op that nobody sees at 6, at 7.
	r.tell(r.p.applied([]*raft.Log{{Index: 5, Term: 3}, {Index: 7, Term: 3}}, errWasLost, nil))
	for _, ref := range []uint64{1, 2, 3} {
		r.expect(ref, errWasLost)
	}
}

func TestPendingSweep(t *testing.T) {
	r := newPendingRun(t)
	r.give(1, 2, 3)
	logs := r.store(5, 2, 0, 1)
	r.tell(r.p.sweep(0, 5, errWasFresh, errWasMaybe, nil))
	r.open(1) // committed, and on its way
	r.expect(2, errWasMaybe)
	r.expect(3, errWasFresh)
	r.tell(r.p.applied(logs[:1], errWasLost, nil))
	r.expect(1, nil)
	// What was swept may be stored and committed yet; it has had its outcome.
	late := r.store(6, 2, 2)
	r.tell(r.p.applied(late, errWasLost, nil))
	// What a newer leadership has stored already is its own.
	r.give(4, 5)
	r.store(9, 4, 3)
	r.tell(r.p.sweep(4, 0, errWasFresh, errWasMaybe, nil))
	r.open(4)
	r.expect(5, errWasFresh)
}

func TestPendingOvertakenBySnapshot(t *testing.T) {
	r := newPendingRun(t)
	r.give(1, 2, 3)
	r.store(5, 2, 0, 1)
	r.tell(r.p.overtaken(5, errWasMaybe))
	r.expect(1, errWasMaybe)
	r.open(2, 3)
}

func TestPendingKnowsItsOwn(t *testing.T) {
	r := newPendingRun(t)
	r.give(1)
	foreign := slices.Grow([]byte{}, tagBytes)[:0:tagBytes]
	copied := append(slices.Grow([]byte{}, tagBytes)[:0:tagBytes], r.given[0].Extensions[:tagBytes]...)[:0]
	for i, ext := range [][]byte{foreign, copied, nil, {extControl}} {
		if _, s := r.p.find(&raft.Log{Extensions: ext}); s != nil {
			t.Errorf("entry %d of another is taken for its own", i)
		}
	}
	if _, s := r.p.find(&r.given[0]); s == nil || s.ref != 1 {
		t.Error("its own entry is not known")
	}
}

func TestPendingMarkers(t *testing.T) {
	r := newPendingRun(t)
	r.give(1)
	marker := r.p.giveMarker()
	waits := r.p.dispatched()
	select {
	case <-waits:
		t.Error("nothing was taken up yet")
	default:
	}
	marker.Index, marker.Term = 7, 2
	refused, seen := r.p.dispatch([]*raft.Log{&marker})
	if !seen || len(refused) != 1 || refused[0].Ref != 1 {
		t.Errorf("a marker behind a refused proposal: seen %v, refused %v", seen, refused)
	}
	<-waits
	if out := r.p.applied([]*raft.Log{&marker}, errWasLost, nil); len(out) != 0 {
		t.Errorf("a marker has outcomes: %v", out)
	}
	if r.p.live != 0 || r.p.count != 0 {
		t.Errorf("%d live, %d held", r.p.live, r.p.count)
	}
}

func TestPendingGrowsAndWraps(t *testing.T) {
	r := newPendingRun(t)
	next, stored, index := uint64(1), 0, uint64(1)
	for _, n := range []int{100, 300, 50, 700} {
		var refs, places = []uint64{}, []int{}
		for range n {
			refs = append(refs, next)
			next++
		}
		r.give(refs...)
		for range n {
			places = append(places, stored)
			stored++
		}
		logs := r.store(index, 1, places...)
		index += uint64(n)
		r.tell(r.p.applied(logs, errWasLost, nil))
	}
	for ref := uint64(1); ref < next; ref++ {
		r.expect(ref, nil)
		if r.at[ref] != framework.Position(ref) {
			t.Fatalf("proposal %d is at %d", ref, r.at[ref])
		}
	}
}
