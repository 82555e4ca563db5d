package framework

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
)

// Plane tells connections between nodes apart by what they carry.
type Plane uint8

// Planes.
const (
	// PlaneRaft: one replica of a raft group to another.
	PlaneRaft Plane = 1
	// PlaneVSR: control frames of all VSR groups between two nodes.
	PlaneVSR Plane = 2
	// PlanePeer: the framework's own service between nodes.
	PlanePeer Plane = 3
	// PlaneBulk: snapshots and repair, never in the way of the others.
	PlaneBulk Plane = 4
)

// UUID is 16 random or hashed bytes; the zero value stands for none.
type UUID [16]byte

func (u UUID) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// MarshalText gives the canonical form.
func (u UUID) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// UnmarshalText reads the canonical form.
func (u *UUID) UnmarshalText(b []byte) (err error) {
	*u, err = ParseUUID(string(b))
	return err
}

// ParseUUID reads the canonical 36-character form.
func ParseUUID(s string) (UUID, error) {
	var u UUID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return u, fmt.Errorf("not a UUID: %q", s)
	}
	b, err := hex.DecodeString(s[:8] + s[9:13] + s[14:18] + s[19:23] + s[24:])
	if err != nil {
		return u, fmt.Errorf("not a UUID: %q", s)
	}
	copy(u[:], b)
	return u, nil
}

// GroupIdentity is what both ends of a group's connection must agree on.
type GroupIdentity struct {
	// ID is new at each create.
	ID UUID
	// Incarnation grows when a group is recovered after a quorum is lost, so
	// that a member left behind cannot come back.
	Incarnation uint32
	// Name is for logs only.
	Name string
}

// Streams dials and accepts the connections between nodes. TLS, identity and
// injected faults live below it, so every engine has them alike. Safe for
// concurrent use.
type Streams interface {
	// Dial connects to a node for a plane and group (the zero group for planes
	// that carry all groups). It returns once the other side has accepted the
	// handshake; a refusal is a *RefusedError that says why.
	Dial(ctx context.Context, to NodeID, plane Plane, group GroupIdentity) (net.Conn, error)

	// Listen takes the accepted connections of a plane and group. Closing the
	// listener gives the name free. One listener for each (plane, group).
	Listen(plane Plane, group GroupIdentity) (PeerListener, error)
}

// PeerListener accepts connections whose other end has said who it is.
type PeerListener interface {
	// Accept waits for the next; net.ErrClosed after Close.
	Accept() (PeerConn, error)
	Close() error
}

// PeerConn is an accepted connection.
type PeerConn interface {
	net.Conn
	// From is the node at the other end, certified by TLS where configured.
	From() NodeID
}

// Resolver turns a node into the address of its peer port, from gossip's hints.
// It must be quick; false when the node is not known now.
type Resolver func(NodeID) (addr string, ok bool)

// RefusedError is the other side's word that it will not take a connection.
type RefusedError struct {
	To   NodeID
	Code RefusalCode
	// Reason begins with the name of Code.
	Reason string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("node %s refused the connection: %s", e.To, e.Reason)
}
