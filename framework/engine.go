package framework

import (
	"context"
	"io"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// NodeID names a node: a UUID in its canonical text form, made once in the
// node's data directory. It is also the node's name in every membership.
type NodeID string

// Position is a place in an engine's log: strictly increasing, equal on all
// replicas. Gaps are allowed; nobody may assume that the next one is +1.
type Position uint64

// Term numbers leaderships. It never decreases, over views, epochs and restores.
type Term uint64

// Kind tells whose entry it is. The engine's own entries have no kind: they
// never leave it.
type Kind uint8

// The kinds of entry that an engine carries for the framework.
const (
	// KindCommand is a user's command.
	KindCommand Kind = 1
	// KindControl is the framework's own: sessions, ticks, restores.
	KindControl Kind = 2
)

// An Entry is one committed entry. Data is shared and never written to.
type Entry struct {
	Position Position
	Term     Term
	Kind     Kind
	Data     []byte
}

// A Proposal is one entry to be agreed on. The engine keeps Data; nobody writes
// to it again.
type Proposal struct {
	Kind Kind
	Data []byte
	// Ref comes back in the Outcome. It is opaque to the engine and local.
	Ref uint64
}

// An Outcome is what became of one Proposal, told exactly once for each.
type Outcome struct {
	Ref uint64
	// Position is where it was committed, when Err is nil.
	Position Position
	// Err is nil for committed, otherwise an *Error whose Happened is No or
	// Maybe.
	Err error
}

// Engine is a replicated log. It never calls a machine. Its methods are safe
// for concurrent use.
type Engine interface {
	// Propose takes a batch and returns at once. Each proposal gets exactly one
	// Outcome, by Host.Resolve, perhaps before Propose returns. A full queue
	// resolves what does not fit with ErrBusy; a replica that does not lead
	// resolves all with ErrNotLeader.
	Propose(batch []Proposal)

	// ReadIndex returns a position such that a machine that has applied up to
	// it answers linearizably as of some moment within the call. One quorum
	// round serves all calls that wait. Errors (nothing happened): ErrNotLeader,
	// ErrNoQuorum at ctx's end, ErrStopped.
	ReadIndex(ctx context.Context) (Position, error)

	// Entries returns committed entries with positions >= from, oldest first, of
	// about maxBytes of data in all and at least one when there is one. through
	// is the position up to which the answer is complete: engine-own entries
	// leave gaps, and an answer may be empty with through >= from. Below the
	// oldest kept: a *CompactedError.
	Entries(from Position, maxBytes int) (entries []Entry, through Position, err error)

	// Snapshot stores payload durably as the state at position at, which the
	// host has applied, then lets the log below it go (what slow followers are
	// still to get is the engine's business). It returns once the snapshot is
	// durable. One call at a time. When a newer snapshot is already held it
	// answers nil and does nothing.
	Snapshot(ctx context.Context, at Position, payload io.WriterTo) error

	// OpenSnapshot opens the newest durable snapshot's payload. ErrNoSnapshot
	// when there is none. What is read is checked: damage is an error.
	OpenSnapshot() (at Position, payload io.ReadCloser, err error)

	// Change makes one membership step, if the present membership is still the
	// one named basedOn (Membership.ID; 0 means whatever it is), and returns
	// when it is committed. Errors: ErrNotLeader, ErrMembershipChanged,
	// ErrChangeInProgress (did not happen); ErrMaybe.
	Change(ctx context.Context, change Change, basedOn uint64) error

	// Transfer hands leadership over, to the node named or to the engine's
	// choice when to is empty, and returns when another replica leads or the
	// hand-over has failed (leadership may then be where it was).
	Transfer(ctx context.Context, to NodeID) error

	// Status is cheap, and never blocks on the engine.
	Status() EngineStatus

	// Changed returns a channel that is closed at the next change of Status
	// worth knowing (role, term, leader, membership, failure; not positions).
	// To miss nothing: take the channel, then read Status.
	Changed() <-chan struct{}

	// Features says what the engine can do.
	Features() Features

	// Close stops the replica. After it nothing of the engine runs, every
	// proposal has its outcome, and Host is not called any more.
	Close(ctx context.Context) error
}

// Host is what an engine calls. The framework's applier is one; enginetest has
// another. No method blocks, and none calls the engine back.
type Host interface {
	// Announce hands over entries that have become committed, in order, and
	// says that everything through position through is committed: where that
	// is past the last entry the rest were the engine's own. Calls are in
	// order, each through higher than the last. The host may drop entries and
	// read them again with Entries.
	Announce(entries []Entry, through Position)

	// Install says that the newest durable snapshot (OpenSnapshot) stands at
	// position at, received from another replica or found at start, and that
	// announcements go on from there. It may come before New returns.
	Install(at Position)

	// Resolve tells the outcomes of proposals. The slice is the engine's again
	// when it returns.
	Resolve(outcomes []Outcome)
}

// Role is what a replica is in its group at the moment.
type Role uint8

// Roles.
const (
	RoleFollower Role = iota
	RoleCandidate
	RoleLeader
	RoleLearner
	// RoleStopped: the replica has stopped for good; EngineStatus.Err says why.
	RoleStopped
)

func (r Role) String() string {
	return [...]string{"follower", "candidate", "leader", "learner", "stopped"}[r]
}

// Suffrage is what a member counts for.
type Suffrage uint8

// Suffrages.
const (
	Voter Suffrage = iota
	Learner
)

func (s Suffrage) String() string { return [...]string{"voter", "learner"}[s] }

// A Member is one replica of a group.
type Member struct {
	ID       NodeID   `json:"id"`
	Suffrage Suffrage `json:"suffrage"`
}

// Membership is a named configuration of a group. ID grows with every change.
type Membership struct {
	ID      uint64   `json:"id"`
	Members []Member `json:"members"`
	// Committed is false while the newest change is not agreed on yet.
	Committed bool `json:"committed"`
}

// Find returns the member with this id.
func (m Membership) Find(id NodeID) (Member, bool) {
	for _, x := range m.Members {
		if x.ID == id {
			return x, true
		}
	}
	return Member{}, false
}

// Voters counts the members that vote.
func (m Membership) Voters() int {
	n := 0
	for _, x := range m.Members {
		if x.Suffrage == Voter {
			n++
		}
	}
	return n
}

// ChangeOp is one kind of membership step.
type ChangeOp uint8

// Membership steps.
const (
	AddLearner ChangeOp = iota + 1
	Promote
	Demote
	Remove
)

func (o ChangeOp) String() string {
	return [...]string{"none", "add-learner", "promote", "demote", "remove"}[o]
}

// A Change is one membership step.
type Change struct {
	Op   ChangeOp
	Node NodeID
}

// PeerProgress is what a leader knows of another replica.
type PeerProgress struct {
	Node NodeID `json:"node"`
	// Match is the highest position known to be stored there; 0 when unknown.
	Match Position `json:"match"`
	// Contact is when the replica last answered; zero when it never has.
	Contact time.Time `json:"contact"`
}

// EngineStatus is a replica's view of its group at one moment.
type EngineStatus struct {
	Role Role
	Term Term
	// Leader is empty when unknown.
	Leader NodeID
	// Last is the newest entry stored here, Commit the newest known committed,
	// First the oldest that Entries can give, Snapshot the newest durable
	// snapshot (0: none).
	Last, Commit, First, Snapshot Position
	Membership                    Membership
	// LeaderContact is when a follower last heard from its leader.
	LeaderContact time.Time
	// Peers is filled on a leader.
	Peers []PeerProgress
	// Warning says in words what is wrong while the replica still runs (a disk
	// call that hangs); empty when nothing is.
	Warning string
	// Err is why the replica stopped for good, nil while it runs.
	Err error
}

// Features says what an engine can do; what is absent answers ErrUnsupported.
type Features struct {
	// MemoryMode: durability "memory" is offered.
	MemoryMode bool
	// LogRepair: a damaged log is healed from peers.
	LogRepair bool
	// Leases: reads by lease are offered.
	Leases bool
}

// EngineConfig is what an engine is started with.
type EngineConfig struct {
	Group GroupIdentity
	Self  NodeID
	// Dir is the replica's own directory; it exists. Empty: keep nothing on
	// disk (tests).
	Dir string
	// Bootstrap is the first membership of a new group, the same on every
	// member; nil for a replica that joins a group or has state already (with
	// state it is ignored).
	Bootstrap []Member
	Streams   Streams
	Host      Host
	// Options are the engine's own settings from the group's configuration;
	// an unknown key or bad value is an error at New.
	Options map[string]string
	// Heartbeat and Election are the engine's base timeouts; zero takes its
	// defaults.
	Heartbeat, Election time.Duration
	// EntryBytesMax bounds Proposal.Data. QueueBytesMax and QueueMax bound what
	// Propose holds that is not yet agreed on.
	EntryBytesMax, QueueBytesMax, QueueMax int
	// StallAfter is how long a storage call may last before the replica stops
	// taking part (contract: a leader whose disk hangs). Zero: 2 s.
	StallAfter time.Duration
	Logger     *slog.Logger
	// Metrics may be nil.
	Metrics prometheus.Registerer
}

// EngineDriver is one kind of engine, as cmd/diarchy's map literal names it.
type EngineDriver struct {
	New func(ctx context.Context, c EngineConfig) (Engine, error)
	// Check reports bad options and durability before anything starts.
	Check func(durability string, options map[string]string) error
	// Recover rewrites a stopped replica's membership after a quorum is lost
	// for ever. Only Group, Self, Dir, Options and Logger of c are read.
	Recover  func(ctx context.Context, c EngineConfig, members []Member) (RecoverReport, error)
	Features Features
}

// RecoverReport says what a recovered replica holds.
type RecoverReport struct {
	Term           Term
	Last, Snapshot Position
	Old, New       []Member
}
