// Package fsm says what a replicated state machine must provide, in words exact
// enough to test; package fsmtest turns them into tests.
//
// A machine is fed the same commands in the same order on every replica, and
// must reach the same state and the same results on each: no clock, no
// randomness, no map order, nothing read from outside. What it needs of those
// comes with each [Entry].
//
// The package holds no engine, no network and no process: the same value runs
// inside the host, or in a process of its own behind plugins/sdk. Read fsm.go
// first, base.go for what an author may leave out, typed.go for a machine
// written one typed command at a time.
package fsm

import (
	"context"
	"errors"
	"io"
)

// A Machine is one replica's copy of a user's state. Exactly one host drives
// it, in this order: Open once; then at most one of Apply, Snapshot or Restore
// at a time; Query and Digest's callers are given below; Close last, once.
//
// An error from Apply, Snapshot (other than [ErrUnsupported]) or Restore means
// that the machine is lost: the host closes it, asks its [Factory] for another,
// restores the newest snapshot and replays. It never means that a command was
// refused; that is a [Result] with Err set.
type Machine interface {
	// Open prepares the machine and says what it is. It is called once, before
	// anything else. An on-disk machine returns the newest Batch.Host bytes it
	// holds; replay starts where they say.
	Open(ctx context.Context) (Opened, error)

	// Apply executes b.Entries in order and fills results, one for each, in
	// place. Its effects must depend on the machine's state and b alone.
	//
	// b.Entries and the Data in them belong to the host again once Apply
	// returns: keep a copy of what must last. results[i].Value passes to the
	// host, which only reads it, until the next Apply returns at the earliest;
	// it may be state that the machine never changes in place.
	//
	// A batch without entries is a tick, given only to machines whose
	// Capabilities ask for ticks: the group's time has moved on to b.Time, and
	// results holds one element of which only Due is read.
	Apply(ctx context.Context, b Batch, results []Result) error

	// Query reads. It is called by many goroutines, beside Apply and Snapshot,
	// and must see whole commands only: the state between two entries of any
	// batch, never one half done. It changes nothing. The answer passes to the
	// caller, who may keep it but not change it.
	Query(ctx context.Context, q Query) ([]byte, error)

	// Snapshot captures the present state and returns at once; it is called
	// between two Apply calls. What it returns is written out beside later
	// Apply calls, so it must not change with them (copy on write, or a copy).
	Snapshot(ctx context.Context) (Snapshot, error)

	// Restore replaces the whole state, however much of it there is, by what r
	// holds: the bytes a Snapshot wrote, perhaps in another process, on another
	// machine, by an older version of this machine. It must read r to io.EOF;
	// r reports damage as an error, never as wrong bytes. After an error the
	// machine is not used again.
	Restore(ctx context.Context, info SnapshotInfo, r io.Reader) error

	// Digest returns a hash of the state: equal states give equal bytes, on
	// every replica. It is called between two Apply calls, and only when
	// Capabilities.Digest is set; it must be cheap (kept up to date by Apply).
	Digest(ctx context.Context) ([]byte, error)

	// Close releases everything. Nothing is called after it; it may be called
	// while a Query, an Apply that hangs or a Snapshot's WriteTo is under way.
	Close() error
}

// A Factory makes a machine from nothing: at start, and again each time one is
// lost. Calls do not overlap. The host owns what it returns and closes it.
type Factory func(ctx context.Context) (Machine, error)

// Opened is what a machine says of itself. It crosses the process line as it is,
// but for Lost.
type Opened struct {
	// Name and Version name the machine and its command and snapshot formats;
	// both are recorded in snapshots, and a snapshot of another Name is refused.
	Name, Version string

	Capabilities Capabilities

	// Host is, for a machine with Capabilities.Durable, the Batch.Host bytes
	// of the newest batch whose effects it holds; nil when it holds none.
	Host []byte

	// Lost is closed when the machine is lost while nobody calls it: its process
	// has ended. nil for a machine to which that cannot happen. It is the host's
	// side alone that sets it.
	Lost <-chan struct{} `json:"-"`
}

// Capabilities say what a machine offers beyond the methods that every machine
// has. Absent is the zero value. What is left out of the methods themselves
// answers [ErrUnsupported] (see [Base]) and needs no flag.
type Capabilities struct {
	// Digest: the Digest method works.
	Digest bool
	// Durable: state lives on the machine's own disk; every Apply stores its
	// effects and Batch.Host in one transaction, and Open returns the newest.
	Durable bool
	// Ticks: the machine has deadlines; see Result.Due.
	Ticks bool
}

// A Batch is a run of commands that were agreed on, in order.
type Batch struct {
	// Entries are the commands, oldest first.
	Entries []Entry
	// Time is the group's time after the batch: Unix nanoseconds, equal on all
	// replicas, never less than that of any batch before.
	Time int64
	// Host is opaque to the machine: at most [HostBytesMax] bytes that a
	// durable machine stores in the same transaction as the effects of this
	// batch. Other machines ignore it. Not to be kept uncopied.
	Host []byte
}

// HostBytesMax bounds Batch.Host.
const HostBytesMax = 4096

// An Entry is one command.
type Entry struct {
	// Index is the command's number: 1, 2, 3, … over the commands of the group,
	// equal on all replicas. After a backup is restored it may jump forward.
	Index uint64
	// Time is when the leader took the command, in Unix nanoseconds, made
	// non-decreasing: equal on all replicas. The only clock a machine may use.
	Time int64
	// Data is the command as the client sent it.
	Data []byte
}

// A Result is what one command gave. Both fields replicate: every replica must
// produce the same.
type Result struct {
	// Value is the answer. nil and empty are the same.
	Value []byte
	// Err, when not empty, is an application error: the command was executed
	// and said no, for a reason its author chose. It is not a failure of the
	// machine, and Value may accompany it.
	Err string
	// Due is read from the last result of a batch, and only when
	// Capabilities.Ticks is set: the earliest time (Unix nanoseconds) at which
	// the state is to change by itself, 0 for never. Once the group's time has
	// reached it, a tick follows. It is not part of the answer.
	Due int64
}

// A Query is one read.
type Query struct {
	// Data is the query as the client sent it.
	Data []byte
	// Index and Time are those of the group when the query was let through: the
	// machine has applied at least the command numbered Index, and Time is the
	// clock to judge deadlines by.
	Index uint64
	Time  int64
}

// A Snapshot is a captured state. WriteTo is called at most once, beside Apply
// and Query, by one goroutine; equal states should write equal bytes. Release
// is called exactly once, whether or not WriteTo was, and frees what is held.
type Snapshot interface {
	io.WriterTo
	Release()
}

// SnapshotInfo describes the bytes given to Restore.
type SnapshotInfo struct {
	// Index and Time are those of the last command in the snapshot.
	Index uint64
	Time  int64
	// Name and Version are those of the machine that wrote it.
	Name, Version string
	// Size is the number of bytes that follow, -1 when it is not known.
	Size int64
	// Host is what Open must return from now on, until the next Apply, for a
	// machine with Capabilities.Durable.
	Host []byte
}

var (
	// ErrLost is wrapped by hosts around whatever made a machine unusable: its
	// process ended, it broke the protocol, or Apply returned an error.
	ErrLost = errors.New("fsm: machine lost")

	// ErrUnsupported is what a method answers that the machine does not have.
	// It is the answer to that call and does not mean that the machine is lost.
	ErrUnsupported = errors.New("fsm: not supported by this machine")
)
