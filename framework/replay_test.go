package framework

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// What is answered with a control entry must not wait for what follows it: the
// machine may be lost over that, and the caller's place is taken up by then.
func TestACallerOfAControlEntryHearsThoughTheNextCommandKillsTheMachine(t *testing.T) {
	r := newRig(t, func(r *rig) { r.shared.dieAt[1] = 1 })
	r.engine.hold()
	opened := make(chan error, 1)
	go func() {
		ctx, cancel := soon()
		defer cancel()
		opened <- r.g.OpenSession(ctx, SessionID{1}, SessionOptions{})
	}()
	r.until("held", func() bool { return r.engine.heldNow() == 1 })
	added := make(chan error, 1)
	go func() {
		_, err := r.add(1, Session{ID: SessionID{1}, Seq: 1})
		added <- err
	}()
	r.until("held", func() bool { return r.engine.heldNow() == 2 })
	r.engine.release()
	finishes(t, "OpenSession", func() {
		if err := <-opened; err != nil {
			t.Error(err)
		}
	})
	if err := <-added; err != nil {
		t.Error(err)
	}
}

// otherReplica gives the payload of a replica that has gone further.
func otherReplica(t *testing.T, commands int) []byte {
	o := newRig(t, nil)
	for range commands {
		o.mustAdd(1, Session{})
	}
	ctx, cancel := soon()
	defer cancel()
	if _, err := o.g.Snapshot(ctx); err != nil {
		t.Fatal(err)
	}
	return o.engine.snap
}

// Commands that are committed but not executed here when a snapshot replaces
// the state have callers that nobody would ever answer.
func TestCallersThatASnapshotFromElsewhereOvertakesAreTold(t *testing.T) {
	payload := otherReplica(t, 50)
	r := newRig(t, nil)
	r.mustAdd(1, Session{})
	entered, open := r.shared.stop("apply", false)
	var wg sync.WaitGroup
	var mu sync.Mutex
	errs := map[bool]int{}
	wg.Add(3)
	r.g.ProposeAsync(context.Background(), []Command{{Data: num(1)}}, func(_ int, _ Receipt, err error) {
		if err != nil {
			t.Errorf("the one that was executed: %v", err)
		}
		wg.Done()
	})
	<-entered
	r.g.ProposeAsync(context.Background(), []Command{{Data: num(1)}, {Data: num(1)}}, func(_ int, _ Receipt, err error) {
		mu.Lock()
		errs[errors.Is(err, ErrMaybe)]++
		mu.Unlock()
		wg.Done()
	})
	r.engine.install(1000, payload)
	open()
	finishes(t, "a proposal", wg.Wait)
	if errs[true] != 2 {
		t.Fatal(errs)
	}
	if got := r.sum(); got != 50 {
		t.Fatal(got)
	}
	if n := r.g.a.pending.waiting(); n != 0 {
		t.Fatalf("%d still wait", n)
	}
}

// The snapshot that a replica starts from overtakes nobody.
func TestAStartFromASnapshotAnswersWhatIsProposedMeanwhile(t *testing.T) {
	r := newRig(t, nil)
	r.mustAdd(1, Session{})
	ctx, cancel := soon()
	defer cancel()
	if _, err := r.g.Snapshot(ctx); err != nil {
		t.Fatal(err)
	}
	r.close()
	entered, open := r.shared.stop("open", false)
	r.open()
	<-entered
	done := make(chan error, 1)
	r.g.ProposeAsync(context.Background(), []Command{{Data: num(1)}}, func(_ int, _ Receipt, err error) { done <- err })
	open()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// After a start the engine may not know how far the log was committed, and a
// durable machine stands beyond what it says. Its state must not be taken for
// that of an earlier position.
func TestADurableMachineAheadOfTheLogGivesNoSnapshotOfAnEarlierPosition(t *testing.T) {
	r := newRig(t, func(r *rig) { r.shared.durable = true })
	for range 5 {
		r.mustAdd(1, Session{})
	}
	r.close()
	r.engine.behind = true
	r.open()
	r.until("the machine is open", func() bool { made, _ := r.shared.machines(); return made == 2 && r.g.Status().Machine.Name != "" })
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if rep, err := r.g.Snapshot(ctx); err == nil {
		t.Errorf("a snapshot of number %d while the machine stands at 5", rep.Number)
	}
	if a, err := r.g.Query(context.Background(), ReadQuery{Consistency: Stale}); err == nil {
		t.Errorf("an answer said to be of number %d", a.Token.Number)
	}
	r.engine.announceAll()
	if rec := r.mustAdd(1, Session{}); value(rec) != 6 || rec.Token.Number != 6 {
		t.Errorf("%+v", rec)
	}
	if want := []uint64{1, 2, 3, 4, 5, 6}; !slices.Equal(r.shared.stored.seen, want) {
		t.Errorf("executed %v", r.shared.stored.seen)
	}
}

// A tick and a restored backup that a durable machine has behind it are not
// given to it again, and what it is told to store never goes back.
func TestADurableMachineIsGivenNothingTwice(t *testing.T) {
	r := newRig(t, func(r *rig) { r.shared.durable, r.shared.ticks = true, true })
	r.mustAdd(1, Session{})
	var archive bytes.Buffer
	ctx, cancel := soon()
	defer cancel()
	if _, err := r.g.Backup(ctx, &archive); err != nil {
		t.Fatal(err)
	}
	r.mustAdd(10, Session{})
	hash, _, err := r.g.StageRestore(ctx, bytes.NewReader(archive.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.g.CommitRestore(ctx, hash); err != nil {
		t.Fatal(err)
	}
	if _, err := r.g.control(ctx, []byte{byte(controlTick)}); err != nil {
		t.Fatal(err)
	}
	rec := r.mustAdd(100, Session{})
	if value(rec) != 101 || rec.Token.Number != 3 {
		t.Fatalf("%+v", rec)
	}
	r.close()
	ticks := len(r.shared.ticked)
	r.open()
	again := r.mustAdd(1000, Session{})
	if value(again) != 1101 || again.Token.Number != 4 || again.Token.History != rec.Token.History {
		t.Errorf("%+v", again)
	}
	r.shared.mu.Lock()
	defer r.shared.mu.Unlock()
	if n := len(r.shared.ticked); n != ticks {
		t.Errorf("%d ticks before the restart, %d after it", ticks, n)
	}
	if !slices.IsSorted(r.shared.hosts) {
		t.Errorf("told to store %v", r.shared.hosts)
	}
	if want := []uint64{3, 4}; !slices.Equal(r.shared.stored.seen, want) {
		t.Errorf("executed since the restore: %v", r.shared.stored.seen)
	}
}

// A durable machine's data of another group, and nothing to replace it by.
func TestADurableMachineOfAnotherGroupIsRefused(t *testing.T) {
	r := newRig(t, func(r *rig) { r.shared.durable = true })
	r.mustAdd(1, Session{})
	r.close()
	r.engine = &fakeEngine{}
	r.cfg.Engine, r.cfg.Identity.ID, r.cfg.Dir = r.engine.driver(), UUID{2}, t.TempDir()
	r.open()
	r.until("refused", func() bool { return r.g.Status().Machine.State == "down" })
	if err := r.g.Status().Machine.Err; err == "" {
		t.Error("no reason given")
	}
	if _, err := r.g.Query(context.Background(), ReadQuery{Consistency: Stale}); !errors.Is(err, ErrMachineDown) {
		t.Error(err)
	}
}

func TestAResultThatADurableMachineHadBeforeARestartIsGoneWithItsNumber(t *testing.T) {
	r := newRig(t, func(r *rig) { r.shared.durable = true })
	r.mustAdd(1, Session{})
	entered, open := r.shared.stop("apply", false)
	done := make(chan error, 1)
	r.g.ProposeAsync(context.Background(), []Command{{Data: num(1)}}, func(_ int, _ Receipt, err error) { done <- err })
	<-entered
	// The machine's process executes the command, and dies before it says so.
	r.shared.mu.Lock()
	r.shared.stored = &sumMachine{sum: 2, seen: []uint64{1, 2}}
	r.shared.host = r.g.a.hostBytes(r.engine.Status().Last)
	r.shared.dieAt[2] = 1
	r.shared.mu.Unlock()
	open()
	var e *Error
	if err := <-done; !errors.As(err, &e) || e.Code != CodeResultGone || e.Happened != Yes || e.Index != 2 {
		t.Fatalf("%v", err)
	}
	if got := r.sum(); got != 2 {
		t.Fatal(got)
	}
}

// Where batches end differs from replica to replica, so a machine must not be
// shown anything that depends on it.
func TestABatchHasTheTimeOfItsLastCommand(t *testing.T) {
	r := newRig(t, nil)
	r.mustAdd(1, Session{})
	entry := func(at int64, s Session) Entry {
		h := header{origin: 1, time: at, session: s}
		return Entry{Kind: KindCommand, Data: appendEntry(nil, &h, num(1))}
	}
	far := time.Now().Add(time.Hour).UnixNano()
	// The second is refused: its session is not open.
	r.engine.append(entry(far, Session{}), entry(far+5, Session{ID: SessionID{9}, Seq: 1}))
	if got := r.sum(); got != 2 {
		t.Fatal(got)
	}
	if s := r.g.Status(); s.Time.UnixNano() != far+5 {
		t.Errorf("the group's time is %v", s.Time)
	}
	r.shared.mu.Lock()
	defer r.shared.mu.Unlock()
	for _, b := range r.shared.batches {
		if last := b.Entries[len(b.Entries)-1]; b.Time != last.Time {
			t.Errorf("a batch of time %d whose last command has %d", b.Time, last.Time)
		}
	}
}

// A machine that comes up and is lost at once, again and again, must not be
// started ten times a second for ever.
func TestAMachineThatIsLostSoonAfterEachStartIsStartedLessAndLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(r *rig) {
			r.cfg.Dir = ""
			r.shared.lost = make(chan struct{})
			close(r.shared.lost)
		})
		time.Sleep(10 * time.Minute)
		made, _ := r.shared.machines()
		if made < 10 || made > 80 {
			t.Errorf("%d machines in ten minutes", made)
		}
		r.shared.mu.Lock()
		r.shared.lost = nil
		r.shared.mu.Unlock()
		time.Sleep(10 * time.Minute) // it has proved itself
		before, _ := r.shared.machines()
		r.shared.mu.Lock()
		r.shared.dieAt[1] = 1
		r.shared.mu.Unlock()
		begin := time.Now()
		r.mustAdd(1, Session{})
		if took := time.Since(begin); took > time.Second {
			t.Errorf("a machine that had run long came back after %s", took)
		}
		if after, _ := r.shared.machines(); after != before+1 {
			t.Errorf("%d machines, then %d", before, after)
		}
	})
}

// What this version does not know another may: to pass it over would be to part
// from the replicas that do.
func TestWhatThisVersionDoesNotKnowStopsTheMachineAndNotTheReplica(t *testing.T) {
	h := header{origin: 1, time: 1}
	for what, e := range map[string]Entry{
		"format":    {Kind: KindCommand, Data: []byte{0x0f, 1, 2}},
		"control":   {Kind: KindControl, Data: appendEntry(nil, &h, []byte{99})},
		"malformed": {Kind: KindControl, Data: appendEntry(nil, &h, []byte{byte(controlRestore), 1})},
		"empty":     {Kind: KindControl, Data: appendEntry(nil, &h, nil)},
	} {
		t.Run(what, func(t *testing.T) {
			r := newRig(t, nil)
			r.mustAdd(1, Session{})
			r.engine.append(e)
			r.until("it says so", func() bool { return r.g.Status().Machine.State == "down" })
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
			defer cancel()
			if _, err := r.g.Propose(ctx, Command{Data: num(1)}); !errors.Is(err, ErrMaybe) {
				t.Errorf("%v", err)
			}
			if s := r.g.Status(); s.Commit <= 4 || s.Number != 1 {
				t.Errorf("%+v", s)
			}
		})
	}
}

func TestAnInstalledSnapshotLeavesNoGapInTheTail(t *testing.T) {
	payload := otherReplica(t, 50)
	r := newRig(t, nil)
	for range 10 {
		r.mustAdd(1, Session{})
	}
	r.engine.install(1000, payload)
	r.sum()
	r.mustAdd(1, Session{})
	for from, want := range map[uint64]Code{5: CodeCompacted, 11: CodeCompacted, 50: CodeCompacted, 51: ""} {
		var got uint64
		ctx, cancel := soon()
		stop := errors.New("enough")
		err := r.g.Tail(ctx, from, func(e TailEntry) error { got = e.Number; return stop })
		cancel()
		if want == "" {
			if got != 51 {
				t.Errorf("from %d: %d, %v", from, got, err)
			}
			continue
		}
		var e *Error
		if !errors.As(err, &e) || e.Code != want || e.Index != 51 {
			t.Errorf("from %d: %d, %v", from, got, err)
		}
	}
}

// A retry's answer must be what the first answer was, also when the first
// caller has written over it.
func TestAKeptResultIsNotTheCallersToWriteTo(t *testing.T) {
	r := newRig(t, nil)
	id := r.session(1)
	for range 2 {
		rec := r.mustAdd(7, Session{ID: id, Seq: 1})
		if value(rec) != 7 {
			t.Fatalf("%v", rec.Value)
		}
		clear(rec.Value)
	}
	if rec := r.mustAdd(7, Session{ID: id, Seq: 1}); value(rec) != 7 {
		t.Fatalf("%v", rec.Value)
	}
}
