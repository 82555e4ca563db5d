package framework

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"
)

// countedContext counts what is registered with it and not taken back.
type countedContext struct {
	context.Context
	done chan struct{}
	mu   sync.Mutex
	open int
}

func (c *countedContext) Done() <-chan struct{} { return c.done }

func (c *countedContext) AfterFunc(func()) func() bool {
	c.mu.Lock()
	c.open++
	c.mu.Unlock()
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.open--
		return true
	}
}

// A stream proposes under one context as long as it lives: nothing may stay
// with that for each batch.
func TestABatchLeavesNothingWithItsContext(t *testing.T) {
	r := newRig(t, func(r *rig) { r.cfg.Queues.Proposals = 3 })
	ctx := &countedContext{Context: context.Background(), done: make(chan struct{})}
	for range 100 {
		var wg sync.WaitGroup
		wg.Add(4)
		r.g.ProposeAsync(ctx, []Command{{Data: num(1)}, {Data: make([]byte, 2<<20)}, {Data: num(1)}, {Data: []byte("no")}},
			func(int, Receipt, error) { wg.Done() })
		wg.Wait()
	}
	r.until("all are taken back", func() bool {
		ctx.mu.Lock()
		defer ctx.mu.Unlock()
		return ctx.open == 0
	})
}

func TestABatchWhoseContextEndsIsAnsweredOnceEach(t *testing.T) {
	r := newRig(t, func(r *rig) { r.engine.holding = true })
	for _, early := range []bool{true, false} {
		ctx, cancel := context.WithCancel(context.Background())
		var mu sync.Mutex
		told := map[int]int{}
		var wg sync.WaitGroup
		wg.Add(10)
		r.g.ProposeAsync(ctx, make([]Command, 10), func(i int, _ Receipt, err error) {
			defer wg.Done()
			mu.Lock()
			defer mu.Unlock()
			told[i]++
			if early && err != nil || !early && (!errors.Is(err, ErrMaybe) || HappenedOf(err) != Maybe) {
				t.Error(err)
			}
		})
		if early {
			r.engine.release()
			wg.Wait()
			cancel()
			r.engine.hold()
		} else {
			cancel()
			wg.Wait()
			r.engine.release()
		}
		for i := range 10 {
			if told[i] != 1 {
				t.Errorf("%d was told %d times", i, told[i])
			}
		}
	}
	if n := r.sum(); n != 0 {
		t.Fatal(n)
	}
	if n := r.g.a.pending.waiting(); n != 0 {
		t.Errorf("%d wait", n)
	}
}

// What comes after a command that was refused for want of room is refused too:
// an ordered session would only be told that one is missing.
func TestNothingOvertakesACommandThatWasRefusedForWantOfRoom(t *testing.T) {
	r := newRig(t, func(r *rig) { r.cfg.Queues.ProposalBytes = 1000; r.engine.holding = true })
	var mu sync.Mutex
	busy := map[int]bool{}
	r.g.ProposeAsync(context.Background(), []Command{{Data: make([]byte, 500)}, {Data: make([]byte, 500)}, {Data: num(1)}},
		func(i int, _ Receipt, err error) {
			mu.Lock()
			busy[i] = errors.Is(err, ErrBusy)
			mu.Unlock()
		})
	mu.Lock()
	if busy[0] || !busy[1] || !busy[2] {
		t.Errorf("%v", busy)
	}
	mu.Unlock()
	r.engine.release()
}

// The framework's own entries are no longer because commands must be short.
func TestAGroupOfTinyCommandsHasRoomForControlEntries(t *testing.T) {
	var most int
	r := newRig(t, func(r *rig) {
		r.cfg.Limits.CommandBytes, r.engine.keepLog = 8, true
		d := r.cfg.Engine.New
		r.cfg.Engine.New = func(ctx context.Context, c EngineConfig) (Engine, error) {
			most = c.EntryBytesMax
			return d(ctx, c)
		}
	})
	ctx, cancel := soon()
	defer cancel()
	if err := r.g.CommitRestore(ctx, r.stagedFrom(archiveOf(t, 2))); err != nil {
		t.Fatal(err)
	}
	for _, e := range r.engine.log {
		if len(e.Data) > most {
			t.Errorf("an entry of %d bytes where the engine takes %d", len(e.Data), most)
		}
	}
}

// Who gives up while the machine hangs leaves nothing behind that grows.
func TestSnapshotsAskedForWhileTheMachineHangsDoNotPileUp(t *testing.T) {
	for _, method := range []string{"apply", "snapshot"} {
		r := newRig(t, nil)
		r.mustAdd(1, Session{})
		entered, open := r.shared.stop(method, true)
		if method == "apply" {
			r.g.ProposeAsync(context.Background(), []Command{{Data: num(1)}}, func(int, Receipt, error) {})
			<-entered
		}
		for range 20 {
			ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
			finishes(t, "Checksum", func() {
				if _, err := r.g.Checksum(ctx); !errors.Is(err, ErrDeadline) || HappenedOf(err) != No {
					t.Error(err)
				}
			})
			cancel()
		}
		r.g.a.ring.mu.Lock()
		if n := len(r.g.a.ring.jobs); n > 1 {
			t.Errorf("%s: %d jobs wait", method, n)
		}
		r.g.a.ring.mu.Unlock()
		open()
		ctx, cancel := soon()
		if _, err := r.g.Checksum(ctx); err != nil {
			t.Error(err)
		}
		cancel()
	}
}

func TestEmptyCommandsAndValues(t *testing.T) {
	r := newRig(t, nil)
	id := r.session(1)
	for _, s := range []Session{{}, {ID: id, Seq: 1}, {ID: id, Seq: 1}} {
		ctx, cancel := soon()
		rec, err := r.g.Propose(ctx, Command{Session: s})
		cancel()
		if err != nil || value(rec) != 0 {
			t.Errorf("%+v %v", rec, err)
		}
	}
	if s := r.g.Status(); s.Number != 2 {
		t.Errorf("number %d", s.Number)
	}
}

func TestTheLargestCommandAndTheFirstTooLarge(t *testing.T) {
	r := newRig(t, nil)
	ctx, cancel := soon()
	defer cancel()
	if _, err := r.g.Propose(ctx, Command{Data: make([]byte, 1<<20)}); err != nil {
		t.Error(err)
	}
	if _, err := r.g.Propose(ctx, Command{Data: make([]byte, 1<<20+1)}); !errors.Is(err, ErrTooLarge) || HappenedOf(err) != No {
		t.Error(err)
	}
}
