package framework

import (
	"context"
	"io"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/diarchy/diarchy/fsm"
)

// GroupConfig is what one replica of a group is opened with.
type GroupConfig struct {
	Identity GroupIdentity
	Self     NodeID
	// Dir is the replica's directory, made if absent; "" keeps nothing on disk.
	Dir string
	// Bootstrap: see EngineConfig.
	Bootstrap []Member
	Engine    EngineDriver
	// EngineOptions are handed to the engine as they are.
	EngineOptions map[string]string
	// Machine makes the user's machine; MachineName is for messages.
	Machine     fsm.Factory
	MachineName string
	Limits      Limits
	Streams     Streams
	Heartbeat   time.Duration
	Election    time.Duration
	Snapshots   SnapshotPolicy
	Queues      QueueLimits
	// StallAfter: see EngineConfig. MachineStallAfter is how long one call into
	// the machine may last before its replica counts as stalled and a leader
	// hands over; zero takes 5 s.
	StallAfter, MachineStallAfter time.Duration
	// Now stamps commands on the leader; nil takes time.Now.
	Now func() time.Time
	// PeerState is what the node last heard of another replica: its machine and
	// applied position. May be nil.
	PeerState func(NodeID) (ReplicaStatus, bool)
	// FetchPayload gets a staged backup from another node. May be nil.
	FetchPayload func(ctx context.Context, from NodeID, hash [32]byte) (io.ReadCloser, error)
	Logger       *slog.Logger
	Metrics      prometheus.Registerer
}

// SnapshotPolicy says when a replica snapshots by itself. Zero fields take the
// defaults.
type SnapshotPolicy struct {
	Entries     int64 // positions applied since the last: 100,000
	Bytes       int64 // command bytes applied since the last: 64 MiB
	BytesPerSec int64 // write rate of the payload: 0 is unlimited
}

// QueueLimits bound what a replica holds for its callers. Zero fields take the
// defaults.
type QueueLimits struct {
	Proposals     int // commands proposed and not answered: 16,384
	ProposalBytes int // their bytes: 64 MiB
	RingBytes     int // committed entries not applied: 32 MiB
	TailBytes     int // applied commands kept for Tail: 8 MiB
}

// Group is this node's replica of a group: an engine and a machine joined by
// the applier. Its methods act on this replica alone and are safe for
// concurrent use; Node adds forwarding.
type Group struct{}

// OpenGroup starts a replica. It returns once the engine runs; the machine may
// still be starting or replaying (see Status).
func OpenGroup(ctx context.Context, c GroupConfig) (*Group, error) { panic("skeleton") }

// Propose has a command executed and waits for its result. Errors that did not
// happen: ErrNotLeader, ErrBusy, ErrTooLarge, ErrDeadline, ErrStopped, ErrWindow,
// ErrOutOfOrder. May have happened: ErrMaybe (also when ctx ends while it is on
// its way), ErrSessionExpired. Happened: ErrResultGone.
func (g *Group) Propose(ctx context.Context, c Command) (Receipt, error) { panic("skeleton") }

// ProposeAsync takes many commands; done is called once for each, from any
// goroutine, and must not block.
func (g *Group) ProposeAsync(ctx context.Context, cs []Command, done func(i int, r Receipt, err error)) {
	panic("skeleton")
}

// Query reads at the level asked for. Linearizable and FromLeader answer
// ErrNotLeader on a replica that does not lead.
func (g *Group) Query(ctx context.Context, q ReadQuery) (Answer, error) { panic("skeleton") }

// OpenSession registers a session; idempotent by id.
func (g *Group) OpenSession(ctx context.Context, id SessionID, o SessionOptions) error {
	panic("skeleton")
}

// CloseSession forgets a session.
func (g *Group) CloseSession(ctx context.Context, id SessionID) error { panic("skeleton") }

// Tail: see Service.
func (g *Group) Tail(ctx context.Context, from uint64, each func(TailEntry) error) error {
	panic("skeleton")
}

// WaitIndex: see Service.
func (g *Group) WaitIndex(ctx context.Context, after uint64) (uint64, error) { panic("skeleton") }

// Status is this replica's own view. Node and Name are filled with Self.
func (g *Group) Status() ReplicaStatus { panic("skeleton") }

// EngineStatus is the engine's own view.
func (g *Group) EngineStatus() EngineStatus { panic("skeleton") }

// Changed is closed at the next change of role, term, leader, membership,
// machine state or failure. Take it, then read Status: nothing is missed.
func (g *Group) Changed() <-chan struct{} { panic("skeleton") }

// Change makes one membership step on the leader: a promotion waits until the
// replica has kept up for 2 s (by ctx at the longest, then ErrNotCaughtUp);
// what would leave no live quorum is refused unless forced; removing the leader
// transfers first, then answers ErrNotLeader so that the new leader is asked.
func (g *Group) Change(ctx context.Context, c Change, basedOn uint64, force bool) error {
	panic("skeleton")
}

// Transfer hands leadership over; "" lets the engine choose.
func (g *Group) Transfer(ctx context.Context, to NodeID) error { panic("skeleton") }

// Snapshot snapshots now and returns when it is durable.
func (g *Group) Snapshot(ctx context.Context) (SnapshotReport, error) { panic("skeleton") }

// Checksum hashes the machine's state at the applied number.
func (g *Group) Checksum(ctx context.Context) (Checksum, error) { panic("skeleton") }

// Backup writes an archive of the state this replica has applied.
func (g *Group) Backup(ctx context.Context, w io.Writer) (SnapshotReport, error) { panic("skeleton") }

// StageRestore reads and checks an archive, keeps its payload under its hash
// and reports what it holds. Nothing of the group changes.
func (g *Group) StageRestore(ctx context.Context, r io.Reader) (hash [32]byte, rep SnapshotReport, err error) {
	panic("skeleton")
}

// StagePayload keeps a payload fetched from another node, checked against hash.
func (g *Group) StagePayload(ctx context.Context, hash [32]byte, r io.Reader) error {
	panic("skeleton")
}

// OpenStaged opens a staged payload for another node to fetch.
func (g *Group) OpenStaged(hash [32]byte) (io.ReadCloser, error) { panic("skeleton") }

// CommitRestore, on the leader, makes the staged payload the group's state by a
// control entry and waits until this replica has it.
func (g *Group) CommitRestore(ctx context.Context, hash [32]byte) error { panic("skeleton") }

// Close hands leadership over, finishes what was accepted, closes everything.
func (g *Group) Close(ctx context.Context) error { panic("skeleton") }
