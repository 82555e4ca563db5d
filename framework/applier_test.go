package framework

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/diarchy/diarchy/fsm"
)

func value(r Receipt) uint64 { return binary.LittleEndian.Uint64(r.Value) }

func TestCommandsAreNumberedFromOneWithoutGaps(t *testing.T) {
	r := newRig(t, nil)
	for i := uint64(1); i <= 20; i++ {
		rec := r.mustAdd(i, Session{})
		if rec.Token.Number != i || value(rec) != i*(i+1)/2 {
			t.Fatalf("command %d: %+v", i, rec)
		}
	}
	if got := r.sum(); got != 210 {
		t.Fatalf("sum %d", got)
	}
}

func TestApplicationErrorsAndLongResultsAreAnswers(t *testing.T) {
	r := newRig(t, func(r *rig) { r.cfg.Limits.ResultBytes = 100 })
	for cmd, want := range map[string]string{"no": "refused", "big": "result too large (1000 > 100)"} {
		rec, err := r.g.Propose(context.Background(), Command{Data: []byte(cmd)})
		if err != nil || rec.Err != want {
			t.Fatalf("%s: %+v %v", cmd, rec, err)
		}
	}
}

// A control entry that nobody here waits for, with nothing after it, counts as
// applied: a read that waits for its position must be let through.
func TestAControlEntryOfAnotherReplicaIsAppliedToo(t *testing.T) {
	r := newRig(t, nil)
	h := header{origin: 1, ref: 1, time: 1}
	body := append([]byte{byte(controlOpenSession)}, make([]byte, 17)...)
	r.engine.mu.Lock()
	r.engine.last++
	at := r.engine.last
	e := Entry{Position: at, Term: 1, Kind: KindControl, Data: appendEntry(nil, &h, body)}
	r.engine.log = append(r.engine.log, e)
	r.engine.host.Announce([]Entry{e}, at)
	r.engine.mu.Unlock()
	if got := r.sum(); got != 0 { // linearizable: it waits for the position
		t.Fatal(got)
	}
}

func TestARetryInASessionIsExecutedOnce(t *testing.T) {
	r := newRig(t, nil)
	id := SessionID{7}
	if err := r.g.OpenSession(context.Background(), id, SessionOptions{}); err != nil {
		t.Fatal(err)
	}
	first := r.mustAdd(5, Session{ID: id, Seq: 1})
	again := r.mustAdd(5, Session{ID: id, Seq: 1})
	if !again.Duplicate || value(again) != value(first) || again.Token != first.Token {
		t.Fatalf("first %+v again %+v", first, again)
	}
	if got := r.sum(); got != 5 {
		t.Fatalf("executed twice: %d", got)
	}
}

func TestADuplicateInTheSameBatchIsRecognised(t *testing.T) {
	r := newRig(t, nil)
	id := SessionID{7}
	if err := r.g.OpenSession(context.Background(), id, SessionOptions{}); err != nil {
		t.Fatal(err)
	}
	c := Command{Data: num(3), Session: Session{ID: id, Seq: 1}}
	var mu sync.Mutex
	var got []Receipt
	var wg sync.WaitGroup
	wg.Add(3)
	r.g.ProposeAsync(context.Background(), []Command{c, c, c}, func(_ int, rec Receipt, err error) {
		defer wg.Done()
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			t.Error(err)
		}
		got = append(got, rec)
	})
	wg.Wait()
	dups := 0
	for _, rec := range got {
		if value(rec) != 3 || rec.Token.Number != 1 {
			t.Errorf("%+v", rec)
		}
		if rec.Duplicate {
			dups++
		}
	}
	if dups != 2 || r.sum() != 3 {
		t.Fatalf("%d duplicates, sum %d", dups, r.sum())
	}
}

func TestSessionRefusals(t *testing.T) {
	r := newRig(t, func(r *rig) { r.cfg.Limits.Sessions, r.cfg.Limits.SessionWindow = 2, 4 })
	open := func(b byte, o SessionOptions) SessionID {
		id := SessionID{b}
		if err := r.g.OpenSession(context.Background(), id, o); err != nil {
			t.Fatal(err)
		}
		return id
	}
	a, b := open(1, SessionOptions{}), open(2, SessionOptions{Ordered: true})
	expect := func(s Session, want error, happened Happened) {
		t.Helper()
		_, err := r.add(1, s)
		if !errors.Is(err, want) || HappenedOf(err) != happened {
			t.Errorf("%+v: got %v (%v), want %v (%v)", s, err, HappenedOf(err), want, happened)
		}
	}
	r.mustAdd(1, Session{ID: a, Seq: 1})
	expect(Session{ID: a, Seq: 5}, ErrWindow, No)
	r.mustAdd(1, Session{ID: a, Seq: 5, AckedBelow: 2})
	expect(Session{ID: a, Seq: 1}, ErrResultGone, Yes)
	expect(Session{ID: b, Seq: 2}, ErrOutOfOrder, No)
	r.mustAdd(1, Session{ID: b, Seq: 1})
	r.mustAdd(1, Session{ID: b, Seq: 2})
	open(3, SessionOptions{}) // evicts a: b was committed later
	expect(Session{ID: a, Seq: 6}, ErrSessionExpired, Maybe)
	r.mustAdd(1, Session{ID: b, Seq: 3})
	if got := r.sum(); got != 5 {
		t.Fatalf("sum %d: a refused command was executed", got)
	}
}

func TestResultsOverTheBoundAreDroppedAndSaidToBeGone(t *testing.T) {
	r := newRig(t, func(r *rig) { r.cfg.Limits.SessionResultBytes = 20 })
	id := SessionID{9}
	if err := r.g.OpenSession(context.Background(), id, SessionOptions{}); err != nil {
		t.Fatal(err)
	}
	for seq := uint64(1); seq <= 3; seq++ { // 8 bytes each: two fit
		r.mustAdd(1, Session{ID: id, Seq: seq})
	}
	_, err := r.add(1, Session{ID: id, Seq: 1})
	var e *Error
	if !errors.As(err, &e) || e.Code != CodeResultGone || e.Index != 1 || e.Happened != Yes {
		t.Fatalf("%v", err)
	}
	if rec := r.mustAdd(1, Session{ID: id, Seq: 3}); !rec.Duplicate || value(rec) != 3 {
		t.Fatalf("%+v", rec)
	}
}

func TestWhatTheRingDropsIsReadFromTheLog(t *testing.T) {
	r := newRig(t, func(r *rig) { r.cfg.Queues.RingBytes = 300 })
	entered, open := r.shared.stop("apply", false)
	const n = 200
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if _, err := r.add(1, Session{}); err != nil {
				t.Error(i, err)
			}
		})
	}
	<-entered // the machine hangs, the log goes on
	for {
		if s := r.engine.Status(); s.Last >= 3*n {
			break
		}
	}
	open()
	wg.Wait()
	if got := r.sum(); got != n {
		t.Fatalf("sum %d of %d", got, n)
	}
}

func TestALostMachineComesBackAndNothingIsDoubledOrSkipped(t *testing.T) {
	r := newRig(t, func(r *rig) { r.shared.dieAt[7], r.shared.dieAt[15] = 1, 2 })
	for i := uint64(1); i <= 20; i++ {
		if rec := r.mustAdd(1, Session{}); value(rec) != i || rec.Token.Number != i {
			t.Fatalf("command %d: %+v", i, rec)
		}
		if i == 10 {
			if _, err := r.g.Snapshot(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got, made := r.sum(), r.shared.made; got != 20 || made != 4 {
		t.Fatalf("sum %d, %d machines", got, made)
	}
	if s := r.g.Status().Machine; s.State != "running" || s.Restarts != 3 {
		t.Fatalf("%+v", s)
	}
}

func TestARestartFindsStateSessionsAndHistory(t *testing.T) {
	r := newRig(t, nil)
	id := SessionID{4}
	if err := r.g.OpenSession(context.Background(), id, SessionOptions{}); err != nil {
		t.Fatal(err)
	}
	r.mustAdd(1, Session{ID: id, Seq: 1})
	if _, err := r.g.Snapshot(context.Background()); err != nil {
		t.Fatal(err)
	}
	before := r.mustAdd(2, Session{ID: id, Seq: 2})
	r.close()
	r.open()
	for seq, want := range map[uint64]uint64{1: 1, 2: 3} {
		if rec := r.mustAdd(99, Session{ID: id, Seq: seq}); !rec.Duplicate || value(rec) != want || rec.Token.History != before.Token.History {
			t.Fatalf("seq %d: %+v", seq, rec)
		}
	}
	if got := r.sum(); got != 3 {
		t.Fatal(got)
	}
}

func TestSnapshotsAreTakenByEntriesAndByBytes(t *testing.T) {
	for _, p := range []SnapshotPolicy{{Entries: 10}, {Bytes: 400}} {
		r := newRig(t, func(r *rig) { r.cfg.Snapshots = p })
		for range 30 {
			r.mustAdd(1, Session{})
		}
		for r.g.Status().Snapshot == 0 {
			r.mustAdd(1, Session{})
		}
	}
}

func TestADurableMachineReplaysOnlyWhatItLacks(t *testing.T) {
	r := newRig(t, func(r *rig) { r.shared.durable = true })
	id := SessionID{4}
	if err := r.g.OpenSession(context.Background(), id, SessionOptions{}); err != nil {
		t.Fatal(err)
	}
	for i := uint64(1); i <= 5; i++ {
		r.mustAdd(1, Session{ID: id, Seq: i})
	}
	r.close()
	r.open()
	rec, err := r.add(1, Session{ID: id, Seq: 3})
	if !errors.Is(err, ErrResultGone) {
		t.Fatalf("a retry of what the machine had executed before the restart: %+v %v", rec, err)
	}
	if rec := r.mustAdd(1, Session{ID: id, Seq: 6}); value(rec) != 6 {
		t.Fatalf("%+v", rec)
	}
	if want := []uint64{1, 2, 3, 4, 5, 6}; !slices.Equal(r.shared.stored.seen, want) {
		t.Fatalf("executed %v", r.shared.stored.seen)
	}
}

func TestAHangingMachineHoldsUpNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(r *rig) { r.cfg.Dir = "" })
		synctest.Wait()
		_, open := r.shared.stop("apply", false)
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		_, err := r.g.Propose(ctx, Command{Data: num(1)})
		if !errors.Is(err, ErrMaybe) {
			t.Fatal(err)
		}
		if s := r.g.Status().Machine; s.State != "stalled" {
			t.Fatalf("%+v", s)
		}
		if last := r.engine.Status().Last; last == 0 {
			t.Fatal("the log stood still")
		}
		open()
		synctest.Wait()
		if got := r.sum(); got != 1 {
			t.Fatal(got)
		}
	})
}

func TestTicksComeOnlyWhileSomethingIsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(r *rig) {
			r.shared.ticks, r.cfg.Dir = true, ""
			r.shared.due = func(e fsm.Entry) int64 { return e.Time + int64(time.Minute) }
		})
		time.Sleep(5 * time.Second) // the first tick, which asks what is due
		r.mustAdd(1, Session{})
		before := r.engine.Status().Last
		time.Sleep(30 * time.Second)
		if now := r.engine.Status().Last; now != before {
			t.Fatalf("ticked though nothing was due: %d to %d", before, now)
		}
		time.Sleep(40 * time.Second)
		after := r.engine.Status().Last
		if after != before+3 {
			t.Fatalf("one tick expected at the deadline: %d to %d", before, after)
		}
		time.Sleep(time.Hour)
		if now := r.engine.Status().Last; now != after {
			t.Fatalf("ticked on: %d to %d", after, now)
		}
	})
}

func TestTimeNeverGoesBack(t *testing.T) {
	var mu sync.Mutex
	now := time.Unix(1000, 0)
	r := newRig(t, func(r *rig) {
		r.cfg.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	})
	r.mustAdd(1, Session{})
	mu.Lock()
	now = time.Unix(-5, 0) // before 1970, an hour and more back
	mu.Unlock()
	r.mustAdd(1, Session{})
	if s := r.g.Status(); !s.Time.Equal(time.Unix(1000, 0)) || s.Warning == "" {
		t.Fatalf("time %v, warning %q", s.Time, s.Warning)
	}
}

func TestTokensReadOwnWritesOfThisHistoryOnly(t *testing.T) {
	r := newRig(t, nil)
	rec := r.mustAdd(5, Session{})
	a, err := r.g.Query(context.Background(), ReadQuery{Consistency: Stale, After: rec.Token})
	if err != nil || binary.LittleEndian.Uint64(a.Value) != 5 || a.Token.Number < rec.Token.Number {
		t.Fatalf("%+v %v", a, err)
	}
	rec.Token.History[0] ^= 1
	if _, err := r.g.Query(context.Background(), ReadQuery{Consistency: Stale, After: rec.Token}); !errors.Is(err, ErrOtherHistory) {
		t.Fatal(err)
	}
}

func TestQueuesRefuseAtOnceWhenFull(t *testing.T) {
	r := newRig(t, func(r *rig) { r.cfg.Queues.Proposals = 8; r.engine.holding = true })
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var wg sync.WaitGroup
	cs := make([]Command, 12)
	for i := range cs {
		cs[i].Data = num(1)
	}
	var mu sync.Mutex
	busy, fine := 0, 0
	wg.Add(len(cs))
	r.g.ProposeAsync(ctx, cs, func(_ int, _ Receipt, err error) {
		defer wg.Done()
		mu.Lock()
		defer mu.Unlock()
		if errors.Is(err, ErrBusy) && HappenedOf(err) == No {
			busy++
		} else if err == nil {
			fine++
		} else {
			t.Error(err)
		}
	})
	mu.Lock()
	if busy != 4 {
		t.Errorf("%d refused, want 4", busy)
	}
	mu.Unlock()
	r.engine.release()
	wg.Wait()
	if fine != 8 || r.sum() != 8 {
		t.Fatalf("%d fine, sum %d", fine, r.sum())
	}
}

func TestDeadlinesTellWhetherItMayHaveHappened(t *testing.T) {
	r := newRig(t, func(r *rig) { r.engine.holding = true })
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := r.g.Propose(gone, Command{Data: num(1)}); !errors.Is(err, ErrDeadline) || HappenedOf(err) != No {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if _, err := r.g.Propose(ctx, Command{Data: num(1)}); !errors.Is(err, ErrMaybe) || HappenedOf(err) != Maybe {
		t.Fatal(err)
	}
	if _, err := r.g.Propose(context.Background(), Command{Data: make([]byte, 2<<20)}); !errors.Is(err, ErrTooLarge) || HappenedOf(err) != No {
		t.Fatal(err)
	}
}
