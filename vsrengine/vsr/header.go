package vsr

import (
	"encoding/binary"

	"github.com/cespare/xxhash/v2"
)

// EntryKind says what a batch holds.
type EntryKind uint8

// The kinds of batch. Config, Learners and Noop hold no commands and stand alone.
const (
	KindNone     EntryKind = iota
	KindUser               // commands of users
	KindControl            // commands of the framework
	KindConfig             // a Reconfigure: the last op of its epoch
	KindLearners           // a change that touches no voter: takes effect when committed
	KindNoop               // nothing
)

func (k EntryKind) String() string {
	if k > KindNoop {
		return "unknown"
	}
	return [...]string{"none", "user", "control", "config", "learners", "noop"}[k]
}

// Header describes one op: the unit of agreement is a batch (D1). It travels and
// survives without its body. A zero Checksum means that nothing is known but Op.
type Header struct {
	Checksum     Checksum // of everything below, seeded with cluster and group
	BodyChecksum Checksum // of the body
	Parent       Checksum // the Checksum of Op-1: the chain
	View         View     // in which the op was first prepared; stays when it is carried over
	Op           Op
	First        Position // of the first command, if there is any
	Time         int64    // Unix nanoseconds, the proposer's
	Count        uint32   // commands in the batch
	Size         uint32   // bytes of body
	Kind         EntryKind
}

// Entry is a header with its body. A nil Body of an Entry with Size > 0 stands
// for "in the journal": whoever sends or applies it reads it from there.
type Entry struct {
	Header
	Body []byte
}

// Next is the position after the batch's last command.
func (h *Header) Next() Position { return h.First + Position(h.Count) }

// Sum computes what Checksum must be. seed is [Seed] of cluster and group.
func (h *Header) Sum(seed uint64) Checksum {
	var b [72]byte
	le := binary.LittleEndian
	le.PutUint64(b[0:], seed)
	le.PutUint64(b[8:], uint64(h.BodyChecksum))
	le.PutUint64(b[16:], uint64(h.Parent))
	le.PutUint64(b[24:], uint64(h.View))
	le.PutUint64(b[32:], uint64(h.Op))
	le.PutUint64(b[40:], uint64(h.First))
	le.PutUint64(b[48:], uint64(h.Time))
	le.PutUint32(b[56:], h.Count)
	le.PutUint32(b[60:], h.Size)
	b[64] = byte(h.Kind)
	return nonzero(xxhash.Sum64(b[:]))
}

// Seed folds cluster and group into every checksum, so that an entry of another
// group never fits.
func Seed(cluster, group [16]byte) uint64 {
	var b [32]byte
	copy(b[:16], cluster[:])
	copy(b[16:], group[:])
	return xxhash.Sum64(b[:])
}

// BodySum is the checksum of a body.
func BodySum(body []byte) Checksum { return nonzero(xxhash.Sum64(body)) }

func nonzero(sum uint64) Checksum {
	if sum == 0 {
		return 1
	}
	return Checksum(sum)
}
