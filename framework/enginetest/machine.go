package enginetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
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
	held chan struct{} // and Restore for this one
	in   int           // calls of Restore that have waited for it
	lose bool          // the next Apply loses the machine
}

func newLedger() *ledger { return &ledger{seen: map[uint64][32]byte{}} }

// hangRestore makes Restore block until release.
func (l *ledger) hangRestore() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held, l.in = make(chan struct{}), 0
}

// restoring tells whether Restore waits.
func (l *ledger) restoring() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held != nil && l.in > 0
}

func (l *ledger) enterRestore(ctx context.Context) error {
	l.mu.Lock()
	held := l.held
	l.in++
	l.mu.Unlock()
	if held == nil {
		return nil
	}
	select {
	case <-held:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

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
	if l.held != nil {
		close(l.held)
		l.held = nil
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
	for i, e := range b.Entries {
		if bytes.Contains(e.Data, longAnswer) {
			results[i].Value = make([]byte, longAnswerBytes)
		}
	}
	return nil
}

func (m *machine) Restore(ctx context.Context, info fsm.SnapshotInfo, r io.Reader) error {
	// Half of it is taken in when the wait begins.
	half := make([]byte, 64)
	n, err := io.ReadFull(r, half)
	if err != nil && err != io.ErrUnexpectedEOF && err != io.EOF {
		return err
	}
	if err := m.ledger.enterRestore(ctx); err != nil {
		return err
	}
	return m.Machine.Restore(ctx, info, io.MultiReader(bytes.NewReader(half[:n]), r))
}

// A command that holds longAnswer is answered with longAnswerBytes.
var longAnswer = []byte("give a long answer")

const longAnswerBytes = 1000
