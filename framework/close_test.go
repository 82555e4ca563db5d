package framework

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A machine that hangs, and does not end for its context nor for Close, costs
// its goroutine and nothing else.
func TestCloseEndsThoughTheMachineHangs(t *testing.T) {
	for _, method := range []string{"apply", "open", "snapshot"} {
		t.Run(method, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var entered <-chan struct{}
				var open func()
				r := newRig(t, func(r *rig) {
					r.cfg.Dir = ""
					r.cfg.Snapshots.Entries = 1
					entered, open = r.shared.stop(method, true)
				})
				done := make(chan error, 1)
				r.g.ProposeAsync(context.Background(), []Command{{Data: num(1)}}, func(_ int, _ Receipt, err error) { done <- err })
				<-entered
				begin := time.Now()
				if err := r.g.Close(context.Background()); err == nil {
					t.Error("nothing said of the call that never returned")
				}
				if took := time.Since(begin); took > time.Minute {
					t.Errorf("Close took %s", took)
				}
				if err := <-done; method != "snapshot" && !errors.Is(err, ErrMaybe) {
					t.Errorf("the caller: %v", err)
				}
				again, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				_ = r.g.Close(again) // must end as well
				open()
				synctest.Wait()
				if made, closed := r.shared.machines(); made != 1 || closed != 1 {
					t.Errorf("%d machines, %d closed", made, closed)
				}
			})
		})
	}
}

// Close that is given no time takes little.
func TestCloseWithoutTimeIsQuick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(r *rig) { r.cfg.Dir = "" })
		synctest.Wait()
		_, open := r.shared.stop("apply", true)
		r.g.ProposeAsync(context.Background(), []Command{{Data: num(1)}}, func(int, Receipt, error) {})
		synctest.Wait()
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		begin := time.Now()
		_ = r.g.Close(ctx)
		if took := time.Since(begin); took > 3*time.Second {
			t.Errorf("Close took %s", took)
		}
		open()
	})
}

func TestWhoWaitsIsToldWhenTheReplicaCloses(t *testing.T) {
	r := newRig(t, nil)
	rec := r.mustAdd(1, Session{})
	far := Token{History: rec.Token.History, Number: 1000}
	waits := map[string]func() error{
		"a read for a number": func() error {
			_, err := r.g.Query(context.Background(), ReadQuery{Consistency: Stale, After: far})
			return err
		},
		"WaitIndex": func() error {
			_, err := r.g.WaitIndex(context.Background(), 1000)
			return err
		},
		"Tail": func() error {
			return r.g.Tail(context.Background(), 0, func(TailEntry) error { return nil })
		},
	}
	var wg sync.WaitGroup
	for what, f := range waits {
		wg.Go(func() {
			if err := f(); !errors.Is(err, ErrStopped) {
				t.Errorf("%s: %v", what, err)
			}
		})
	}
	r.until("they wait", func() bool {
		p := &r.g.a.seen
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.byNum.waiting) == 2
	})
	r.close()
	finishes(t, "one that waits", wg.Wait)
}

// Nothing of the replica runs any more once Close has returned.
func TestCloseWaitsForTheSnapshotThatIsBeingWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(r *rig) { r.cfg.Dir, r.cfg.Snapshots.Entries = "", 1 })
		entered, open := r.shared.stop("write", true)
		r.mustAdd(1, Session{})
		<-entered
		go func() {
			<-r.g.a.ctx.Done()
			time.Sleep(time.Second)
			open()
		}()
		r.close()
		if r.g.Status().SnapshotProgress >= 0 {
			t.Error("it is still being written")
		}
	})
}

func TestCloseEndsABackupThatIsBeingTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(r *rig) { r.cfg.Dir, r.cfg.Snapshots.BytesPerSec = "", 1 })
		r.mustAdd(1, Session{})
		failed := make(chan error, 1)
		go func() {
			_, err := r.g.Backup(context.Background(), &bytes.Buffer{})
			failed <- err
		}()
		synctest.Wait()
		begin := time.Now()
		r.close()
		if err := <-failed; err == nil || time.Since(begin) > time.Second {
			t.Errorf("%v after %s", err, time.Since(begin))
		}
	})
}

func TestCloseFinishesWhatWasAccepted(t *testing.T) {
	for _, leads := range []bool{true, false} {
		r := newRig(t, func(r *rig) { r.engine.holding = true })
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if _, err := r.add(1, Session{}); err != nil {
					t.Error(err)
				}
			})
		}
		r.until("all are held", func() bool { return r.engine.heldNow() == 20 })
		// What was committed under one leader is answered where it was asked.
		r.engine.lead(leads)
		go r.engine.release()
		r.close()
		wg.Wait()
		if _, err := r.add(1, Session{}); !errors.Is(err, ErrStopped) {
			t.Fatal(err)
		}
	}
}

// Whoever closes goes on leading nothing, whatever the choice.
func TestCloseHandsOverToAReplicaThatRuns(t *testing.T) {
	peers := map[NodeID]string{"b": "down", "c": "running"}
	r := newRig(t, func(r *rig) {
		r.engine.members, r.engine.notLead = []Member{{ID: "b"}, {ID: "c"}}, true
		r.cfg.PeerState = func(id NodeID) (ReplicaStatus, bool) {
			return ReplicaStatus{Node: id, Reachable: true, Machine: MachineStatus{State: peers[id]}}, true
		}
	})
	r.until("it runs", func() bool { return r.g.Status().Machine.State == "running" })
	r.engine.lead(true)
	r.close()
	if got := r.engine.transferred(); len(got) != 1 || got[0] != "c" {
		t.Errorf("handed over to %v", got)
	}
}
