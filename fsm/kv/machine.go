package kv

import (
	"context"
	"sync"

	"github.com/diarchy/diarchy/fsm"
)

// Name and Version are what the machine's Open says.
const (
	Name    = "kv"
	Version = "1"
)

// Machine is the key-value machine. It has digests and asks for ticks.
//
// Commands run with mu held, a whole batch at a time; queries hold it for
// reading. A snapshot is a copy-on-write clone of the tree: the capture costs
// the same whatever the state's size.
type Machine struct {
	mu    sync.RWMutex
	store store

	exec execution // Apply's own
}

var _ fsm.Machine = (*Machine)(nil)

// New returns an empty machine.
func New() *Machine { return &Machine{store: newStore()} }

// Open implements [fsm.Machine].
func (m *Machine) Open(context.Context) (fsm.Opened, error) {
	return fsm.Opened{
		Name:         Name,
		Version:      Version,
		Capabilities: fsm.Capabilities{Digest: true, Ticks: true},
	}, nil
}

// Apply implements [fsm.Machine]. It never fails.
func (m *Machine) Apply(_ context.Context, b fsm.Batch, results []fsm.Result) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(b.Entries) == 0 {
		m.store.sweep(b.Time)
		results[0] = fsm.Result{Due: m.store.due()}
		return nil
	}
	// One allocation for the answers of the batch; it is never reused, so a host
	// may take its time with them.
	const usualAnswerBytes = 16
	out := make([]byte, 0, usualAnswerBytes*len(b.Entries))
	for i := range b.Entries {
		start := len(out)
		var refusal string
		out, refusal = m.execute(&b.Entries[i], out)
		results[i] = fsm.Result{Value: out[start:len(out):len(out)], Err: refusal}
	}
	results[len(results)-1].Due = m.store.due()
	return nil
}

// Query implements [fsm.Machine]: GetQuery and ListQuery.
func (m *Machine) Query(_ context.Context, q fsm.Query) ([]byte, error) {
	var r request
	if fault := r.decode(q.Data, nil); fault != "" {
		return nil, invalid("%s", fault)
	}
	switch r.op {
	case OpGet:
		return appendGet(nil, m.read(r.key, q.Time)), nil
	case OpList:
		m.mu.RLock()
		defer m.mu.RUnlock()
		return m.store.list(&r, q.Time), nil
	}
	return nil, invalid("%v is a command, not a query", r.op)
}

// read returns the live item at key. Items never change: what is done with it
// needs no lock.
func (m *Machine) read(key []byte, now int64) *item {
	probe := &item{key: key}
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.store.live(probe, now)
}

// Digest implements [fsm.Machine].
func (m *Machine) Digest(context.Context) ([]byte, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.store.digest(), nil
}

// Close implements [fsm.Machine]. There is nothing to release; queries and
// snapshots under way go on undisturbed.
func (m *Machine) Close() error { return nil }
