package framework

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

func TestTailGivesEveryCommandInOrder(t *testing.T) {
	r := newRig(t, nil)
	for range 10 {
		r.mustAdd(1, Session{})
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var got []uint64
	done := make(chan error, 1)
	reached := make(chan struct{})
	go func() {
		done <- r.g.Tail(ctx, 3, func(e TailEntry) error {
			if got = append(got, e.Number); e.Number == 20 {
				close(reached)
			}
			return nil
		})
	}()
	for range 10 {
		r.mustAdd(1, Session{})
	}
	<-reached
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	for i, n := range got {
		if n != uint64(i)+3 {
			t.Fatalf("%v", got)
		}
	}
}

func TestTailSaysWhatIsOldestWhenCompacted(t *testing.T) {
	r := newRig(t, func(r *rig) { r.cfg.Queues.TailBytes = 500 })
	for range 100 {
		r.mustAdd(1, Session{})
	}
	err := r.g.Tail(context.Background(), 1, func(TailEntry) error { return nil })
	var e *Error
	if !errors.As(err, &e) || e.Code != CodeCompacted || e.Index < 80 {
		t.Fatalf("%v", err)
	}
}

// Where a subscriber begins that asks for what is next is not known before the
// state is there.
func TestATailFromTheNextCommandWaitsForTheState(t *testing.T) {
	r := newRig(t, nil)
	for range 10 {
		r.mustAdd(1, Session{})
	}
	ctx, cancel := soon()
	defer cancel()
	if _, err := r.g.Snapshot(ctx); err != nil {
		t.Fatal(err)
	}
	r.close()
	entered, open := r.shared.stop("open", false)
	r.open()
	<-entered
	enough := errors.New("enough")
	first := make(chan uint64, 1)
	done := make(chan error, 1)
	begun := make(chan struct{})
	go func() {
		close(begun)
		done <- r.g.Tail(ctx, 0, func(e TailEntry) error { first <- e.Number; return enough })
	}()
	<-begun
	open()
	r.sum()
	for {
		r.mustAdd(1, Session{})
		select {
		case n := <-first:
			if n < 11 {
				t.Errorf("the first is %d", n)
			}
			return
		case err := <-done:
			if !errors.Is(err, enough) {
				t.Fatal(err)
			}
		default:
		}
	}
}

func TestATailEndsWithItsHistory(t *testing.T) {
	archive := archiveOf(t, 3)
	r := newRig(t, nil)
	r.mustAdd(1, Session{})
	hash := r.stagedFrom(archive)
	ctx, cancel := soon()
	defer cancel()
	failed := make(chan error, 1)
	got := make(chan uint64, 10)
	go func() {
		failed <- r.g.Tail(ctx, 1, func(e TailEntry) error { got <- e.Number; return nil })
	}()
	<-got
	if err := r.g.CommitRestore(ctx, hash); err != nil {
		t.Fatal(err)
	}
	// No command follows, and it hears all the same.
	if err := <-failed; !errors.Is(err, ErrOtherHistory) {
		t.Error(err)
	}
}

// A machine that is lost after a restore replays what was before it: nobody is
// shown that again.
func TestATailGoesOnOverAReplay(t *testing.T) {
	archive := archiveOf(t, 3)
	r := newRig(t, func(r *rig) { r.shared.dieAt[7] = 1 })
	for range 4 {
		r.mustAdd(1, Session{})
	}
	ctx, cancel := soon()
	defer cancel()
	if err := r.g.CommitRestore(ctx, r.stagedFrom(archive)); err != nil {
		t.Fatal(err)
	}
	r.mustAdd(1, Session{}) // 5
	var got []uint64
	done := make(chan error, 1)
	enough := errors.New("enough")
	first := make(chan struct{}, 1)
	go func() {
		done <- r.g.Tail(ctx, 5, func(e TailEntry) error {
			got = append(got, e.Number)
			first <- struct{}{}
			if e.Number == 8 {
				return enough
			}
			<-first
			return nil
		})
	}()
	<-first
	first <- struct{}{}
	for range 3 {
		r.mustAdd(1, Session{})
	}
	finishes(t, "the tail", func() {
		for {
			select {
			case <-first:
				select {
				case first <- struct{}{}:
				default:
				}
			case err := <-done:
				if !errors.Is(err, enough) {
					t.Error(err)
				}
				return
			}
		}
	})
	for i, n := range got {
		if n != 5+uint64(i) {
			t.Fatalf("%v", got)
		}
	}
}

// What is too large to be kept at all is missed at once, not when the next
// command comes.
func TestACommandTooLargeForTheTailIsSaidToBeMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(r *rig) { r.cfg.Dir, r.cfg.Queues.TailBytes = "", 500 })
		r.mustAdd(1, Session{})
		failed := make(chan error, 1)
		go func() {
			failed <- r.g.Tail(context.Background(), 1, func(TailEntry) error { return nil })
		}()
		synctest.Wait()
		if _, err := r.g.Propose(context.Background(), Command{Data: make([]byte, 1000)}); err != nil {
			t.Fatal(err)
		}
		var e *Error
		if err := <-failed; !errors.As(err, &e) || e.Code != CodeBusy || e.Index != 2 {
			t.Error(err)
		}
		err := r.g.Tail(context.Background(), 2, func(TailEntry) error { return nil })
		if !errors.As(err, &e) || e.Code != CodeCompacted || e.Index != 3 {
			t.Error(err)
		}
	})
}

func TestASlowSubscriberIsCutOffWithItsPlace(t *testing.T) {
	r := newRig(t, func(r *rig) { r.cfg.Queues.TailBytes = 1000 })
	r.mustAdd(1, Session{})
	gate, entered := make(chan struct{}), make(chan struct{}, 1)
	failed := make(chan error, 1)
	var last uint64
	go func() {
		failed <- r.g.Tail(context.Background(), 1, func(e TailEntry) error {
			last = e.Number
			select {
			case entered <- struct{}{}:
			default:
			}
			<-gate
			return nil
		})
	}()
	<-entered
	for range 100 {
		r.mustAdd(1, Session{})
	}
	close(gate)
	var e *Error
	if err := <-failed; !errors.As(err, &e) || e.Code != CodeBusy || e.Index != last+1 {
		t.Errorf("%v after %d", err, last)
	}
}
