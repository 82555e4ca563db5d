package framework

import (
	"context"
	"sync"
	"time"

	"github.com/diarchy/diarchy/fsm"
)

// tail keeps the newest applied commands, within a bound of bytes, for
// subscribers. It costs the applier one copy of slice headers a batch; a
// subscriber that is too slow loses its place and nothing else.
//
// Invariant: the numbers of entries[first:] follow each other without a gap, and
// next follows the last; next is 0 when nothing is known yet.
type tail struct {
	mu      sync.Mutex
	max     int
	bytes   int
	first   int // entries before it are dropped, their room not yet given back
	entries []TailEntry
	next    uint64
	more    chan struct{} // closed when something was added; nil while nobody waits
}

func newTail(maxBytes int) *tail { return &tail{max: maxBytes} }

func (t *tail) add(es []fsm.Entry) {
	if len(es) == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	// Commands replayed after a machine was lost: seen already.
	for t.next != 0 && len(es) > 0 && es[0].Index < t.next {
		es = es[1:]
	}
	if len(es) == 0 {
		return
	}
	if es[0].Index > t.next {
		t.drop() // a snapshot stands for what is between
	}
	for i := range es {
		t.entries = append(t.entries, TailEntry{Number: es[i].Index, Time: time.Unix(0, es[i].Time), Data: es[i].Data})
		t.bytes += len(es[i].Data) + entryOverhead
	}
	t.next = es[len(es)-1].Index + 1
	for t.bytes > t.max && t.first < len(t.entries) {
		t.bytes -= len(t.entries[t.first].Data) + entryOverhead
		t.entries[t.first] = TailEntry{}
		t.first++
	}
	if t.first > len(t.entries)/2 {
		n := copy(t.entries, t.entries[t.first:])
		clear(t.entries[n:])
		t.entries, t.first = t.entries[:n], 0
	}
	t.wake()
}

// forget drops everything: the numbers that follow do not continue these.
func (t *tail) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drop()
	t.next = 0
	t.wake()
}

func (t *tail) drop() { t.entries, t.first, t.bytes = nil, 0, 0 }

func (t *tail) wake() {
	if t.more != nil {
		close(t.more)
		t.more = nil
	}
}

// from copies up to len(buf) entries from number want on. When there are none
// yet more is what to wait for. oldest is set when want is no longer kept.
func (t *tail) from(want uint64, buf []TailEntry) (n int, more <-chan struct{}, oldest uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.next == 0 || want >= t.next {
		if t.more == nil {
			t.more = make(chan struct{})
		}
		return 0, t.more, 0
	}
	kept := t.entries[t.first:]
	oldest = t.next
	if len(kept) > 0 {
		oldest = kept[0].Number
	}
	if want < oldest {
		return 0, nil, oldest
	}
	return copy(buf, kept[want-oldest:]), nil, 0
}

const tailBurst = 256

// Tail: see Service. It ends with ErrOtherHistory when a restore begins another
// history.
func (g *Group) Tail(ctx context.Context, from uint64, each func(TailEntry) error) error {
	select { // where the state begins is not known before there is one
	case <-g.a.loaded:
	case <-g.a.ctx.Done():
		return ErrStopped
	case <-ctx.Done():
		return ctx.Err()
	}
	_, applied, _, history := g.a.seen.get()
	next := from
	if next == 0 {
		next = applied + 1
	}
	buf := make([]TailEntry, tailBurst)
	for started := false; ; {
		n, more, oldest := g.a.tail.from(next, buf)
		// In this order: a restore publishes its history, then wakes us.
		if _, _, _, h := g.a.seen.get(); h != history {
			return ErrOtherHistory
		}
		if oldest == 0 && n == 0 && !started && next <= applied {
			oldest = applied + 1 // applied before this replica started: it is in a snapshot
		}
		if oldest > 0 {
			return tailGone(next, oldest, started)
		}
		started = true
		for i := range n {
			if err := each(buf[i]); err != nil {
				return err
			}
		}
		clear(buf[:n])
		next += uint64(n)
		if n > 0 {
			continue
		}
		select {
		case <-more:
		case <-g.a.ctx.Done():
			return ErrStopped
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tailGone says that a subscriber's next command is no longer kept.
func tailGone(next, oldest uint64, started bool) error {
	if started {
		e := ErrBusy.Because("this subscriber was too slow and has missed commands from %d on; the oldest kept is %d", next, oldest)
		e.Index = next
		return e
	}
	e := ErrCompacted.Because("command %d is no longer kept; the oldest kept is %d", next, oldest)
	e.Index = oldest
	return e
}
