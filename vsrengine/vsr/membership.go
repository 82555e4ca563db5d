package vsr

import (
	"encoding/binary"
	"errors"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// Role is what a member does.
type Role uint8

// The roles. A learner receives and applies everything and counts for nothing.
const (
	Voter Role = iota + 1
	Learner
)

// Member is a replica in a configuration.
type Member struct {
	ID   ID
	Role Role
}

// Membership is one configuration of a group (D10). Values are not changed once
// they are shared.
type Membership struct {
	Epoch    uint64
	First    uint64   // counter of the epoch's first view
	Op       Op       // the op that made it; 0 for the first
	Sum      Checksum // that op's checksum
	Lineage  Checksum // hash chain over all configurations
	Members  []Member // ascending by ID
	Previous []ID     // the members before, who must hear of it
}

// VotersMax is the largest number of voters of a group.
const VotersMax = 7

// NewMembership is a group's first configuration.
func NewMembership(members ...Member) Membership {
	m := Membership{Members: slices.Clone(members)}
	slices.SortFunc(m.Members, func(a, b Member) int { return int(int64(a.ID) - int64(b.ID)) })
	m.Lineage = m.lineage(0)
	return m
}

// Role is the role of a replica, 0 for one that is not a member.
func (m *Membership) Role(id ID) Role {
	for _, x := range m.Members {
		if x.ID == id {
			return x.Role
		}
	}
	return 0
}

// Voters counts the voters.
func (m *Membership) Voters() int {
	n := 0
	for _, x := range m.Members {
		if x.Role == Voter {
			n++
		}
	}
	return n
}

// Primary is the primary of a view of this epoch.
func (m *Membership) Primary(v View) ID {
	i := v.Counter() % uint64(m.Voters())
	for _, x := range m.Members {
		if x.Role != Voter {
			continue
		}
		if i == 0 {
			return x.ID
		}
		i--
	}
	return 0
}

// newer reports whether this configuration came after another.
func (m *Membership) newer(o *Membership) bool {
	return m.Epoch > o.Epoch || m.Epoch == o.Epoch && m.Op > o.Op
}

// named reports whether a replica is in this configuration or was in the last.
func (m *Membership) named(id ID) bool {
	return m.Role(id) != 0 || slices.Contains(m.Previous, id)
}

// With is the configuration that follows: the same members but for one change.
// Role 0 removes.
func (m *Membership) With(id ID, role Role) Membership {
	next := Membership{Epoch: m.Epoch}
	for _, x := range m.Members {
		next.Previous = append(next.Previous, x.ID)
		if x.ID != id {
			next.Members = append(next.Members, x)
		}
	}
	if role != 0 {
		next.Members = append(next.Members, Member{id, role})
		slices.SortFunc(next.Members, func(a, b Member) int { return int(int64(a.ID) - int64(b.ID)) })
	}
	if m.Role(id) == Voter || role == Voter {
		next.Epoch++
	}
	next.Lineage = next.lineage(m.Lineage)
	return next
}

func (m *Membership) lineage(before Checksum) Checksum {
	b := binary.LittleEndian.AppendUint64(nil, uint64(before))
	b = binary.LittleEndian.AppendUint64(b, m.Epoch)
	for _, x := range m.Members {
		b = binary.LittleEndian.AppendUint64(b, uint64(x.ID))
		b = append(b, byte(x.Role))
	}
	return nonzero(xxhash.Sum64(b))
}

// quorum is both the replication and the view change quorum (D16).
func quorum(voters int) int { return voters/2 + 1 }

// nackQuorum is how many voters must never have had an op for it to be cut.
func nackQuorum(voters int) int { return voters - quorum(voters) + 1 }

// meetQuorum is how many voters meet every view change quorum: enough to know
// that no later view has begun (D12).
func meetQuorum(voters int) int { return voters - quorum(voters) + 1 }

// encode is the body of a Config or Learners op.
func (m *Membership) encode() []byte {
	le := binary.LittleEndian
	b := le.AppendUint64(nil, m.Epoch)
	b = le.AppendUint64(b, m.First)
	b = le.AppendUint64(b, uint64(m.Lineage))
	b = le.AppendUint32(b, uint32(len(m.Members)))
	for _, x := range m.Members {
		b = le.AppendUint64(b, uint64(x.ID))
		b = append(b, byte(x.Role))
	}
	for _, id := range m.Previous {
		b = le.AppendUint64(b, uint64(id))
	}
	return b
}

var errMembership = errors.New("vsr: membership cannot be decoded")

// DecodeMembership reads the body of a Config or Learners entry.
func DecodeMembership(e *Entry) (Membership, error) {
	le := binary.LittleEndian
	b := e.Body
	if len(b) < 28 {
		return Membership{}, errMembership
	}
	m := Membership{Epoch: le.Uint64(b), First: le.Uint64(b[8:]), Lineage: Checksum(le.Uint64(b[16:])), Op: e.Op, Sum: e.Checksum}
	n := uint64(le.Uint32(b[24:]))
	if b = b[28:]; n > 1024 || uint64(len(b)) < 9*n || (uint64(len(b))-9*n)%8 != 0 {
		return Membership{}, errMembership
	}
	for ; n > 0; n-- {
		m.Members = append(m.Members, Member{ID(le.Uint64(b)), Role(b[8])})
		b = b[9:]
	}
	for ; len(b) > 0; b = b[8:] {
		m.Previous = append(m.Previous, ID(le.Uint64(b)))
	}
	if !m.wellFormed() {
		return Membership{}, errMembership
	}
	return m, nil
}
