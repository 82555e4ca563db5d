package framework

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/diarchy/diarchy/fsm"
)

// leading is a rig in a bubble that leads b and c, of whom peers tells.
func leading(t *testing.T, peers map[NodeID]ReplicaStatus, set func(*rig)) *rig {
	r := newRig(t, func(r *rig) {
		r.cfg.Dir, r.engine.notLead = "", true
		r.engine.members = []Member{{ID: "b"}, {ID: "c"}}
		r.cfg.PeerState = func(id NodeID) (ReplicaStatus, bool) {
			p, ok := peers[id]
			p.Node, p.Reachable = id, ok
			return p, ok
		}
		if set != nil {
			set(r)
		}
	})
	synctest.Wait() // the machine runs before it leads
	r.engine.lead(true)
	return r
}

func running(applied Position) ReplicaStatus {
	return ReplicaStatus{Applied: applied, Machine: MachineStatus{State: "running"}}
}

func down() ReplicaStatus { return ReplicaStatus{Machine: MachineStatus{State: "down"}} }

// fail makes the machine impossible to start.
func (r *rig) fail() {
	r.shared.mu.Lock()
	r.shared.dieAt[1] = 1 << 30
	r.shared.mu.Unlock()
	r.g.ProposeAsync(context.Background(), []Command{{Data: num(1)}}, func(int, Receipt, error) {})
	synctest.Wait()
}

func TestALeaderWhoseMachineIsDownHandsOverAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peers := map[NodeID]ReplicaStatus{"b": running(5), "c": running(7)}
		r := leading(t, peers, nil)
		time.Sleep(time.Minute)
		if got := r.engine.transferred(); len(got) != 0 {
			t.Fatalf("handed over to %v though all was well", got)
		}
		r.engine.transfer = func(int) error { r.engine.lead(false); return nil }
		r.fail() // no time passes
		if got := r.engine.transferred(); !slices.Equal(got, []NodeID{"c"}) {
			t.Errorf("handed over to %v", got)
		}
	})
}

func TestAHandOverThatFailedIsTriedAgain(t *testing.T) {
	for name, err := range map[string]error{"with an error": errors.New("no"), "silently": nil} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := leading(t, map[NodeID]ReplicaStatus{"b": running(5), "c": down()}, nil)
				r.engine.transfer = func(n int) error {
					if n < 4 {
						return err
					}
					r.engine.lead(false)
					return nil
				}
				synctest.Wait()
				r.fail()
				time.Sleep(time.Minute)
				if got := r.engine.transferred(); len(got) != 4 {
					t.Errorf("%d attempts in a minute", len(got))
				}
			})
		})
	}
}

func TestHandOversThatFailForEverAreNotTriedAllTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := leading(t, map[NodeID]ReplicaStatus{"b": running(5)}, nil)
		r.engine.transfer = func(int) error { return errors.New("no") }
		synctest.Wait()
		r.fail()
		time.Sleep(10 * time.Minute)
		if got := len(r.engine.transferred()); got < 10 || got > 60 {
			t.Errorf("%d attempts in ten minutes", got)
		}
	})
}

func TestLeadershipStaysWhenNobodyIsHealthier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		learner := running(9)
		r := leading(t, map[NodeID]ReplicaStatus{"b": down(), "d": learner}, func(r *rig) {
			r.engine.members = append(r.engine.members, Member{ID: "d", Suffrage: Learner})
		})
		synctest.Wait()
		r.fail()
		time.Sleep(10 * time.Minute)
		if got := r.engine.transferred(); len(got) != 0 {
			t.Errorf("handed over to %v", got)
		}
	})
}

// Without a view of the others the engine chooses; replicas that are all down
// must not pass leadership round and round.
func TestLeadershipGoesRoundSlowlyWhenNothingIsKnownOfTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := leading(t, nil, func(r *rig) { r.cfg.PeerState = nil })
		synctest.Wait()
		r.engine.transfer = func(int) error { // it comes back at once
			r.engine.lead(false)
			r.engine.lead(true)
			return nil
		}
		r.fail()
		time.Sleep(10 * time.Minute)
		if got := len(r.engine.transferred()); got < 2 || got > 60 {
			t.Errorf("%d hand-overs in ten minutes", got)
		}
	})
}

func TestALeaderWhoseMachineHangsHandsOver(t *testing.T) {
	for _, method := range []string{"apply", "snapshot", "restore"} {
		t.Run(method, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				archive := archiveOf(t, 1)
				r := leading(t, map[NodeID]ReplicaStatus{"b": running(5)}, nil)
				hash := r.stagedFrom(archive)
				_, open := r.shared.stop(method, false)
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				defer cancel()
				switch method {
				case "apply":
					_, _ = r.g.Propose(ctx, Command{Data: num(1)})
				case "snapshot":
					_, _ = r.g.Snapshot(ctx)
				case "restore":
					_ = r.g.CommitRestore(ctx, hash)
				}
				if got := r.engine.transferred(); len(got) == 0 {
					t.Errorf("not handed over: %+v", r.g.Status().Machine)
				}
				open()
			})
		})
	}
}

func ahead(s ReplicaStatus, d time.Duration) ReplicaStatus {
	s.ClockAhead = &d
	return s
}

func TestClocksThatDiffer(t *testing.T) {
	const off = 2 * time.Second
	well := running(5)
	for name, c := range map[string]struct {
		lag    time.Duration // of this node's clock behind the group's time
		peers  map[NodeID]ReplicaStatus
		warned bool
		to     []NodeID
	}{
		"all alike":                   {peers: map[NodeID]ReplicaStatus{"b": ahead(well, 0), "c": ahead(well, time.Millisecond)}},
		"behind, others not known":    {lag: off, peers: map[NodeID]ReplicaStatus{"b": well, "c": well}, warned: true},
		"behind, as all others":       {lag: off, peers: map[NodeID]ReplicaStatus{"b": ahead(well, 0), "c": ahead(well, 0)}, warned: true},
		"behind, one is not":          {lag: off, peers: map[NodeID]ReplicaStatus{"b": ahead(well, 0), "c": ahead(well, off)}, warned: true, to: []NodeID{"c"}},
		"a peer is off":               {peers: map[NodeID]ReplicaStatus{"b": ahead(well, off), "c": ahead(well, 0)}},
		"this one is off":             {peers: map[NodeID]ReplicaStatus{"b": ahead(well, -off), "c": ahead(down(), -off)}, warned: true, to: []NodeID{"b"}},
		"off, and nobody can take it": {peers: map[NodeID]ReplicaStatus{"b": ahead(down(), -off), "c": ahead(down(), -off)}, warned: true},
		"one other, who is off":       {peers: map[NodeID]ReplicaStatus{"b": ahead(well, off)}, warned: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var back atomic.Int64
				r := leading(t, c.peers, func(r *rig) {
					r.cfg.Now = func() time.Time { return time.Now().Add(-time.Duration(back.Load())) }
				})
				r.mustAdd(1, Session{})
				synctest.Wait()
				r.engine.transfer = func(int) error { r.engine.lead(false); return nil }
				back.Store(int64(c.lag))
				time.Sleep(time.Second)
				if s := r.g.Status(); (s.Warning != "") != c.warned && len(c.to) == 0 {
					t.Errorf("warning %q", s.Warning)
				}
				if got := r.engine.transferred(); !slices.Equal(got, c.to) {
					t.Errorf("handed over to %v", got)
				}
				back.Store(0)
			})
		})
	}
}

// Something may fall due at a time that the group has reached already: with the
// command that says so, or while another leader had no time for a tick.
func TestATickFollowsWhenTheGroupsTimeHasReachedTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(r *rig) {
			r.cfg.Dir = ""
			r.shared.ticks = true
			r.shared.due = func(e fsm.Entry) int64 { return e.Time - 1 }
		})
		time.Sleep(5 * time.Second)
		synctest.Wait()
		before := len(r.shared.ticked)
		r.mustAdd(1, Session{})
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if now := len(r.shared.ticked); now != before+1 {
			t.Errorf("%d ticks, then %d", before, now)
		}
	})
}

// What stays due is ticked for once a second, and not while the machine hangs.
func TestTicksComeOnceASecondAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(r *rig) {
			r.cfg.Dir = ""
			r.shared.ticks = true
			r.shared.overdue = true
		})
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(r.shared.ticked); n < 30 || n > 61 {
			t.Errorf("%d ticks in a minute", n)
		}
		_, open := r.shared.stop("apply", false)
		time.Sleep(10 * time.Second)
		before := r.engine.Status().Last
		time.Sleep(time.Hour)
		if now := r.engine.Status().Last; now != before {
			t.Errorf("the log grew from %d to %d while the machine hung", before, now)
		}
		open()
	})
}
