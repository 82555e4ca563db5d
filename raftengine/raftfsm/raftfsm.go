// Package raftfsm runs a state machine written for hashicorp/raft, any raft.FSM,
// as an [fsm.Machine]: on any engine, in the host or behind plugins/sdk. It runs
// no raft, and imports nothing of this module but fsm.
//
// Read raftfsm.go first; result.go says what becomes of what Apply returned,
// snapshot.go how snapshots pass.
//
// What an FSM must know: its Log has Index (the number of the command: 1, 2, 3,
// …, not a place in some log), Term 1, Type LogCommand, Data, and AppendedAt, the
// leader's time in UTC, which is the only clock it may use. Extensions are
// empty. Data is its own to keep, as with raft. It is called as raft calls it:
// Apply (or ApplyBatch), Snapshot and Restore never at once, Persist beside
// Apply. It panics or returns wrong lengths at its own peril: the machine is
// lost, as [fsm.Machine] has it.
package raftfsm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/diarchy/diarchy/fsm"
)

// Options say what a raft.FSM cannot.
type Options struct {
	// Name and Version are those of [fsm.Opened]. An empty Name goes unchecked
	// when a snapshot is restored.
	Name, Version string

	// Query answers reads, by whatever methods the FSM has beside raft's. It is
	// called by many goroutines beside Apply, so it takes the FSM's own lock,
	// and must see whole commands only. nil: there are no queries.
	Query func(ctx context.Context, q fsm.Query) ([]byte, error)

	// EncodeResult turns what Apply returned into the bytes of the answer. It is
	// not asked about nil and errors. It must be deterministic; its own error
	// becomes the command's application error, though what the command did
	// stands. nil is [EncodeResult].
	EncodeResult func(result any) ([]byte, error)

	// Close, when set, releases what the FSM holds; raft has no word for it.
	Close func() error
}

// ErrConfigurationStore is returned by New for an FSM that wants to be told of
// membership: the membership of a group belongs to its engine and is told to no
// machine, so the FSM would wait for calls that never come.
var ErrConfigurationStore = errors.New("raftfsm: the FSM is a raft.ConfigurationStore, and no engine tells a machine about membership: " +
	"leave StoreConfiguration out, and read membership from the group's status")

type machine struct {
	fsm      raft.FSM
	batching raft.BatchingFSM // nil when it is none
	o        Options
}

// New makes a machine of f, which no raft may run at the same time. ApplyBatch
// is used when f is a raft.BatchingFSM. A raft.ConfigurationStore is refused with
// [ErrConfigurationStore].
func New(f raft.FSM, o Options) (fsm.Machine, error) {
	if f == nil {
		return nil, errors.New("raftfsm: the FSM is nil")
	}
	if _, ok := f.(raft.ConfigurationStore); ok {
		return nil, ErrConfigurationStore
	}
	if o.EncodeResult == nil {
		o.EncodeResult = EncodeResult
	}
	batching, _ := f.(raft.BatchingFSM)
	return &machine{fsm: f, batching: batching, o: o}, nil
}

func (m *machine) Open(context.Context) (fsm.Opened, error) {
	return fsm.Opened{Name: m.o.Name, Version: m.o.Version}, nil
}

func (m *machine) Apply(_ context.Context, b fsm.Batch, results []fsm.Result) error {
	logs := make([]raft.Log, len(b.Entries))
	for i, e := range b.Entries {
		logs[i] = logOf(e)
	}
	if m.batching == nil {
		for i := range logs {
			results[i] = m.result(m.fsm.Apply(&logs[i]))
		}
		return nil
	}
	if len(logs) == 0 {
		return nil
	}
	pointers := make([]*raft.Log, len(logs))
	for i := range logs {
		pointers[i] = &logs[i]
	}
	answers := m.batching.ApplyBatch(pointers)
	if len(answers) != len(logs) {
		return fmt.Errorf("raftfsm: ApplyBatch answered %d of %d commands", len(answers), len(logs))
	}
	for i, a := range answers {
		results[i] = m.result(a)
	}
	return nil
}

// logOf copies the data: raft lets an FSM keep it, a host takes it back. An
// empty command is never nil, so that an FSM which tells them apart does so
// alike on every replica.
func logOf(e fsm.Entry) raft.Log {
	return raft.Log{
		Index:      e.Index,
		Term:       1,
		Type:       raft.LogCommand,
		Data:       append(make([]byte, 0, len(e.Data)), e.Data...),
		AppendedAt: time.Unix(0, e.Time).UTC(),
	}
}

func (m *machine) Query(ctx context.Context, q fsm.Query) ([]byte, error) {
	if m.o.Query == nil {
		return nil, fsm.ErrUnsupported
	}
	return m.o.Query(ctx, q)
}

// Digest is absent: raft has none.
func (m *machine) Digest(context.Context) ([]byte, error) { return nil, fsm.ErrUnsupported }

func (m *machine) Close() error {
	if m.o.Close == nil {
		return nil
	}
	return m.o.Close()
}
