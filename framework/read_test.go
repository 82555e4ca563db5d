package framework

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// stagedFrom stages a backup of another replica.
func (r *rig) stagedFrom(archive []byte) [32]byte {
	r.t.Helper()
	ctx, cancel := soon()
	defer cancel()
	hash, _, err := r.g.StageRestore(ctx, bytes.NewReader(archive))
	if err != nil {
		r.t.Fatal(err)
	}
	return hash
}

// archiveOf is a backup of a group after so many commands, each adding 1.
func archiveOf(t *testing.T, commands int) []byte {
	o := newRig(t, nil)
	for range commands {
		o.mustAdd(1, Session{})
	}
	var b bytes.Buffer
	ctx, cancel := soon()
	defer cancel()
	if _, err := o.g.Backup(ctx, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A restore moves the number on, perhaps past what a read of the old history
// waits for.
func TestAReadThatWaitsForANumberIsNotSatisfiedByAnotherHistory(t *testing.T) {
	archive := archiveOf(t, 150)
	r := newRig(t, nil)
	rec := r.mustAdd(1, Session{})
	rec.Token.Number = 100
	failed := make(chan error, 1)
	go func() {
		ctx, cancel := soon()
		defer cancel()
		a, err := r.g.Query(ctx, ReadQuery{Consistency: Stale, After: rec.Token})
		if err == nil {
			t.Errorf("answered with number %d", a.Token.Number)
		}
		failed <- err
	}()
	r.until("it waits", func() bool {
		p := &r.g.a.seen
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.byNum.waiting) == 1
	})
	ctx, cancel := soon()
	defer cancel()
	if err := r.g.CommitRestore(ctx, r.stagedFrom(archive)); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; !errors.Is(err, ErrOtherHistory) {
		t.Error(err)
	}
}

// A token may come from a replica that has met a restore that this one has only
// stored: it is not of another history.
func TestATokenOfAHistoryThatIsStillToComeIsWaitedFor(t *testing.T) {
	archive := archiveOf(t, 3)
	r := newRig(t, nil)
	r.mustAdd(1, Session{})
	hash := r.stagedFrom(archive)
	entered, open := r.shared.stop("apply", false)
	r.g.ProposeAsync(context.Background(), []Command{{Data: num(1)}}, func(int, Receipt, error) {})
	<-entered
	next := UUID{7}
	h := header{origin: 1, time: 1}
	body := append(append([]byte{byte(controlRestore)}, hash[:]...), next[:]...)
	r.engine.append(Entry{Kind: KindControl, Data: appendEntry(nil, &h, body)})
	type answer struct {
		a   Answer
		err error
	}
	got := make(chan answer, 1)
	go func() {
		ctx, cancel := soon()
		defer cancel()
		a, err := r.g.Query(ctx, ReadQuery{Consistency: Stale, After: Token{History: next, Number: 3}})
		got <- answer{a, err}
	}()
	r.until("it waits", func() bool {
		p := &r.g.a.seen
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.byAt.waiting) == 1
	})
	open()
	if g := <-got; g.err != nil || g.a.Token.History != next || binary.LittleEndian.Uint64(g.a.Value) != 3 {
		t.Errorf("%+v", g)
	}
}

// Nothing is called on a machine after Close: a query that is let through as
// the machine is put away ends first, or gets no machine.
func TestNoQueryReachesAMachineThatIsClosed(t *testing.T) {
	payload := otherReplica(t, 10)
	r := newRig(t, nil)
	r.mustAdd(1, Session{})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				a, err := r.g.Query(context.Background(), ReadQuery{Consistency: Stale})
				if err == nil && binary.LittleEndian.Uint64(a.Value) < a.Token.Number {
					t.Errorf("an answer of %d said to be of number %d", binary.LittleEndian.Uint64(a.Value), a.Token.Number)
					return
				}
			}
		})
	}
	for i := range 200 {
		at := Position(1000 * (i + 1))
		r.engine.install(at, payload)
		r.until("installed", func() bool { return r.g.Status().Applied >= at })
	}
	close(stop)
	wg.Wait()
}

// A query under way is waited for, but not for ever.
func TestAQueryThatHangsHoldsUpARestartForAWhileOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(r *rig) { r.cfg.Dir = ""; r.shared.dieAt[1] = 1 })
		synctest.Wait()
		entered, open := r.shared.stop("query", true)
		go func() { _, _ = r.g.Query(context.Background(), ReadQuery{Consistency: Stale}) }()
		<-entered
		begin := time.Now()
		r.mustAdd(1, Session{})
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("the machine came back after %s", took)
		}
		open()
		synctest.Wait()
	})
}

func TestWaitIndexOfTheGreatestNumberWaits(t *testing.T) {
	r := newRig(t, nil)
	r.mustAdd(1, Session{})
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
	defer cancel()
	if n, err := r.g.WaitIndex(ctx, ^uint64(0)); n != 1 || err != nil || ctx.Err() == nil {
		t.Errorf("%d %v, context %v", n, err, ctx.Err())
	}
}
