package enginetest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"

	"github.com/diarchy/diarchy/fsm"
	"github.com/diarchy/diarchy/fsm/kv"
)

// ledger remembers, over all lives of a node's machine, what was executed there
// under which number.
type ledger struct {
	mu   sync.Mutex
	seen map[uint64][32]byte
	bad  []string
	gate chan struct{} // Apply waits for it when not nil
	lose bool          // the next Apply loses the machine
}

func newLedger() *ledger { return &ledger{seen: map[uint64][32]byte{}} }

// hang makes Apply block until release.
func (l *ledger) hang() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gate == nil {
		l.gate = make(chan struct{})
	}
}

func (l *ledger) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gate != nil {
		close(l.gate)
		l.gate = nil
	}
}

func (l *ledger) loseNext() {
	l.mu.Lock()
	l.lose = true
	l.mu.Unlock()
}

// enter waits while the machine is to hang; true when it is to be lost.
func (l *ledger) enter(ctx context.Context) bool {
	l.mu.Lock()
	gate, lose := l.gate, l.lose
	l.lose = false
	l.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return true
		}
	}
	return lose
}

func (l *ledger) note(es []fsm.Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range es {
		h := sha256.Sum256(e.Data)
		if was, again := l.seen[e.Index]; again && was != h {
			l.bad = append(l.bad, fmt.Sprintf("command %d was executed with other bytes than before", e.Index))
		}
		l.seen[e.Index] = h
	}
}

// machine is the key-value machine with a ledger.
type machine struct {
	*kv.Machine
	ledger *ledger
}

func (l *ledger) factory(context.Context) (fsm.Machine, error) {
	return &machine{kv.New(), l}, nil
}

func (m *machine) Apply(ctx context.Context, b fsm.Batch, results []fsm.Result) error {
	if m.ledger.enter(ctx) {
		return fmt.Errorf("told to be lost")
	}
	if err := m.Machine.Apply(ctx, b, results); err != nil {
		return err
	}
	m.ledger.note(b.Entries)
	return nil
}
