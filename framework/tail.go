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
// Invariant: the numbers of entries[first:] follow each other without a gap.
type tail struct {
	mu      sync.Mutex
	max     int
	bytes   int
	first   int // entries before it are dropped, their room not yet given back
	entries []TailEntry
	more    chan struct{} // closed when something was added
}

func newTail(maxBytes int) *tail {
	return &tail{max: maxBytes, more: make(chan struct{})}
}

func (t *tail) add(es []fsm.Entry) {
	if len(es) == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.entries); n > t.first && t.entries[n-1].Number >= es[0].Index {
		// Commands replayed after a machine was lost: seen already.
		for len(es) > 0 && t.entries[n-1].Number >= es[0].Index {
			es = es[1:]
		}
	}
	for i := range es {
		t.entries = append(t.entries, TailEntry{Number: es[i].Index, Time: time.Unix(0, es[i].Time), Data: es[i].Data})
		t.bytes += len(es[i].Data) + entryOverhead
	}
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
	close(t.more)
	t.more = make(chan struct{})
}

// forget drops everything: the numbers that follow do not continue these.
func (t *tail) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.entries, t.first, t.bytes = nil, 0, 0
	close(t.more)
	t.more = make(chan struct{})
}

// from copies up to len(buf) entries from number next on. When there are none
// yet more is what to wait for. oldest is set when next is no longer kept.
func (t *tail) from(next uint64, buf []TailEntry) (n int, more <-chan struct{}, oldest uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	kept := t.entries[t.first:]
	if len(kept) == 0 || next > kept[len(kept)-1].Number {
		return 0, t.more, 0
	}
	if next < kept[0].Number {
		return 0, nil, kept[0].Number
	}
	return copy(buf, kept[next-kept[0].Number:]), nil, 0
}

const tailBurst = 256

// Tail: see Service.
func (g *Group) Tail(ctx context.Context, from uint64, each func(TailEntry) error) error {
	_, applied, _, history := g.a.seen.get()
	next := from
	if next == 0 {
		next = applied + 1
	}
	buf := make([]TailEntry, tailBurst)
	for started := false; ; {
		if _, _, _, h := g.a.seen.get(); h != history {
			return ErrOtherHistory
		}
		n, more, oldest := g.a.tail.from(next, buf)
		switch {
		case oldest > 0 && started:
			e := ErrBusy.Because("this subscriber was too slow and has missed commands from %d on; the oldest kept is %d", next, oldest)
			e.Index = next
			return e
		case oldest > 0:
			e := ErrCompacted.Because("command %d is no longer kept; the oldest kept is %d", next, oldest)
			e.Index = oldest
			return e
		case n == 0 && !started && next <= applied:
			// Applied before this replica started: it is in a snapshot.
			e := ErrCompacted.Because("command %d is no longer kept; the oldest kept is %d", next, applied+1)
			e.Index = applied + 1
			return e
		}
		started = true
		for i := range n {
			if err := each(buf[i]); err != nil {
				return err
			}
		}
		next += uint64(n)
		if n > 0 {
			continue
		}
		select {
		case <-more:
		case <-g.a.done:
			return ErrStopped
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
