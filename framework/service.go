package framework

import (
	"context"
	"io"
	"time"
)

// Service is a node's face to whoever serves its clients (package server), and
// what an embedding program calls. *Node implements it. Every method may be
// called on any node: what must be done by a group's leader is forwarded there
// once, over the peer service, also for groups that this node does not host,
// unless the request says NoForward (then: ErrNotLeader with the leader's
// client address). All errors are *Error.
type Service interface {
	Propose(ctx context.Context, group string, c Command) (Receipt, error)
	// ProposeAsync takes many commands at once, for streams: done is called
	// once for each, with i its place in cs, from any goroutine; it must not
	// block. Nothing is called after ctx ends but what was taken up is told.
	ProposeAsync(ctx context.Context, group string, cs []Command, done func(i int, r Receipt, err error))
	Query(ctx context.Context, group string, q ReadQuery) (Answer, error)

	// OpenSession is idempotent by id. CloseSession forgets it.
	OpenSession(ctx context.Context, group string, id SessionID, o SessionOptions) error
	CloseSession(ctx context.Context, group string, id SessionID) error

	// Tail calls each with committed commands in order from number from on (0:
	// from the next one) until ctx ends or each returns an error. CodeCompacted
	// names the oldest kept; a subscriber too slow to follow gets CodeBusy with
	// Index the next number it has not had.
	Tail(ctx context.Context, group string, from uint64, each func(TailEntry) error) error
	// WaitIndex returns when this node has applied a command numbered above
	// after, or when ctx ends (nil in both cases), with the number reached.
	WaitIndex(ctx context.Context, group string, after uint64) (uint64, error)

	Groups(ctx context.Context) ([]GroupInfo, error)
	GroupStatus(ctx context.Context, group string) (GroupStatus, error)
	// LocalStatus is this node's replica alone: never forwarded, cheap.
	LocalStatus(group string) (ReplicaStatus, error)
	Nodes(ctx context.Context) ([]NodeInfo, error)
	Self() NodeInfo

	CreateGroup(ctx context.Context, spec GroupSpec) (GroupInfo, error)
	// DestroyGroup removes the group and its data everywhere; confirm must be
	// its name again.
	DestroyGroup(ctx context.Context, group, confirm string) error

	// Membership by node name or id.
	ChangeMembership(ctx context.Context, group string, r ChangeRequest) error
	Replace(ctx context.Context, group, oldNode, newNode string, force bool) error
	Transfer(ctx context.Context, group, toNode string) error

	// TakeSnapshot makes this node's replica snapshot now.
	TakeSnapshot(ctx context.Context, group string) (SnapshotReport, error)
	// Checksum hashes this node's replica's machine state at its applied number.
	Checksum(ctx context.Context, group string) (Checksum, error)
	// Backup writes an archive of the group's state to w.
	Backup(ctx context.Context, group string, w io.Writer) (SnapshotReport, error)
	// RestoreBackup replaces the group's state by an archive's.
	RestoreBackup(ctx context.Context, group string, r io.Reader) (SnapshotReport, error)
}

// SessionID is 128 bits drawn by the client; zero stands for no session.
type SessionID [16]byte

// Session places a command in its session (contract 4).
type Session struct {
	ID SessionID
	// Seq numbers the session's commands from 1.
	Seq uint64
	// AckedBelow: the client has the answers of all commands below it.
	AckedBelow uint64
}

// SessionOptions are fixed when a session is opened.
type SessionOptions struct {
	// Ordered: commands apply in the order of Seq, without gaps.
	Ordered bool
}

// Command is what a client wants done.
type Command struct {
	Data []byte
	// Session makes a retry safe. Without one a retry may do it twice.
	Session Session
	// NoForward: answer ErrNotLeader instead of forwarding.
	NoForward bool
}

// Token lets a client read its own writes on any replica.
type Token struct {
	History UUID
	Number  uint64
}

// Receipt is the answer to a command that was executed. Err is the machine's
// own word (an application error), not a failure.
type Receipt struct {
	Token Token
	Value []byte
	Err   string
	// Duplicate: the command had been executed before, by an earlier try.
	Duplicate bool
}

// Consistency is a read level.
type Consistency uint8

// Read levels.
const (
	// Linearizable: as of some moment within the call.
	Linearizable Consistency = iota
	// FromLeader: what the leader has applied, not confirmed with a quorum.
	FromLeader
	// Stale: what this node has applied, with its number and age.
	Stale
)

func (c Consistency) String() string { return [...]string{"linearizable", "leader", "stale"}[c] }

// ParseConsistency reads a level's name; "" is linearizable.
func ParseConsistency(s string) (Consistency, error) {
	switch s {
	case "", "linearizable":
		return Linearizable, nil
	case "leader":
		return FromLeader, nil
	case "stale":
		return Stale, nil
	}
	return 0, ErrInvalid.Because("unknown consistency %q: expected linearizable, leader or stale", s)
}

// ReadQuery is one read.
type ReadQuery struct {
	Data        []byte
	Consistency Consistency
	// After, when set, waits until this much is applied (read your writes).
	After     Token
	NoForward bool
}

// Answer is what a read gave.
type Answer struct {
	Value []byte
	// Token names the state the answer is from, at least.
	Token Token
	// Time is the group's time.
	Time time.Time
	// Age is how long ago the replica last heard from its leader (0 on the
	// leader); -1 when it never has.
	Age time.Duration
}

// TailEntry is one committed command as subscribers see it.
type TailEntry struct {
	Number uint64
	Time   time.Time
	Data   []byte
}

// GroupSpec is what a group is created from. Everything here is in the
// catalogue and equal on all replicas.
type GroupSpec struct {
	Name string `json:"name"`
	// Engine names a driver: "raft".
	Engine string `json:"engine"`
	// Machine is "builtin:NAME" or "plugin:NAME[@VERSION]".
	Machine string `json:"machine"`
	// Replicas is how many voters to place; Nodes, when set, names where.
	Replicas int      `json:"replicas"`
	Nodes    []NodeID `json:"nodes,omitempty"`
	// Durability is "disk" or "memory".
	Durability string            `json:"durability"`
	Options    map[string]string `json:"options,omitempty"`
	Limits     Limits            `json:"limits"`
}

// Limits are the parameters that influence apply, so they are the group's, not
// a node's. Zero fields take the defaults.
type Limits struct {
	CommandBytes       int `json:"command_bytes"`        // 1 MiB
	ResultBytes        int `json:"result_bytes"`         // 1 MiB
	Sessions           int `json:"sessions"`             // 10,000
	SessionWindow      int `json:"session_window"`       // 256
	SessionResultBytes int `json:"session_result_bytes"` // 64 KiB
}

// WithDefaults fills the zero fields.
func (l Limits) WithDefaults() Limits {
	set := func(p *int, d int) {
		if *p == 0 {
			*p = d
		}
	}
	set(&l.CommandBytes, 1<<20)
	set(&l.ResultBytes, 1<<20)
	set(&l.Sessions, 10_000)
	set(&l.SessionWindow, 256)
	set(&l.SessionResultBytes, 64<<10)
	return l
}

// GroupInfo is a group as the catalogue has it.
type GroupInfo struct {
	GroupSpec
	ID          UUID   `json:"id"`
	Incarnation uint32 `json:"incarnation"`
	// Placed are the nodes that the catalogue has put replicas on.
	Placed []NodeID `json:"placed"`
	System bool     `json:"system,omitempty"`
}

// GroupStatus is a group as seen from its leader, or from the node that
// answered when no leader is known.
type GroupStatus struct {
	GroupInfo
	Leader     NodeID          `json:"leader"`
	Term       Term            `json:"term"`
	Membership Membership      `json:"membership"`
	Replicas   []ReplicaStatus `json:"replicas"`
	// Problems says what is wrong, in words; empty when nothing is.
	Problems []string `json:"problems"`
}

// ReplicaStatus is one replica.
type ReplicaStatus struct {
	Node NodeID `json:"node"`
	Name string `json:"name"`
	// Reachable is false when nothing was heard; the rest is then empty.
	Reachable bool     `json:"reachable"`
	Role      string   `json:"role"`
	Suffrage  string   `json:"suffrage"`
	Term      Term     `json:"term"`
	Leader    NodeID   `json:"leader"`
	Commit    Position `json:"commit"`
	Last      Position `json:"last"`
	First     Position `json:"first"`
	Snapshot  Position `json:"snapshot"`
	// Applied is the position applied, Number the command number, of History.
	Applied Position  `json:"applied"`
	Number  uint64    `json:"number"`
	History UUID      `json:"history"`
	Time    time.Time `json:"time"`
	// Lag is how many positions the replica is known to be behind its leader,
	// -1 when unknown; LagAge how old that knowledge is.
	Lag     int64         `json:"lag"`
	LagAge  time.Duration `json:"lag_age"`
	Machine MachineStatus `json:"machine"`
	// Clock is the replica's own clock when it answered, ClockAhead how far that
	// was ahead of the asker's; nil when it is not known.
	Clock      time.Time      `json:"clock"`
	ClockAhead *time.Duration `json:"clock_ahead,omitempty"`
	// Warning and Err: see EngineStatus.
	Warning string `json:"warning,omitempty"`
	Err     string `json:"error,omitempty"`
	// SnapshotProgress is bytes written of the snapshot under way; -1 when none.
	SnapshotProgress int64 `json:"snapshot_progress"`
}

// MachineStatus is how a replica's machine does.
type MachineStatus struct {
	// State is one of starting, replaying, running, stalled, down, stopped.
	State    string    `json:"state"`
	Name     string    `json:"name"`
	Version  string    `json:"version"`
	Since    time.Time `json:"since"`
	Restarts int       `json:"restarts"`
	// Backlog is how many committed positions are not applied yet.
	Backlog int64 `json:"backlog"`
	// Err is why it is down.
	Err string `json:"error,omitempty"`
}

// NodeInfo is a node of the cluster.
type NodeInfo struct {
	ID   NodeID `json:"id"`
	Name string `json:"name"`
	// Status is alive, suspect, failed or left, by gossip; unknown without it.
	Status     string   `json:"status"`
	PeerAddr   string   `json:"peer_addr"`
	ClientAddr string   `json:"client_addr"`
	GossipAddr string   `json:"gossip_addr"`
	Version    string   `json:"version"`
	Groups     []string `json:"groups"`
	Self       bool     `json:"self,omitempty"`
	Cluster    UUID     `json:"cluster"`
}

// ChangeRequest is a membership step asked for by name.
type ChangeRequest struct {
	Op   ChangeOp
	Node string
	// BasedOn is the Membership.ID that the asker saw; 0 for whatever it is.
	BasedOn uint64
	// Force does what would be refused for the quorum's sake.
	Force bool
}

// SnapshotReport describes a snapshot or backup.
type SnapshotReport struct {
	Number         uint64   `json:"number"`
	Position       Position `json:"position"`
	History        UUID     `json:"history"`
	MachineName    string   `json:"machine_name"`
	MachineVersion string   `json:"machine_version"`
	Bytes          int64    `json:"bytes"`
}

// Checksum is a hash of a replica's machine state.
type Checksum struct {
	Number  uint64 `json:"number"`
	History UUID   `json:"history"`
	SHA256  string `json:"sha256"`
}
