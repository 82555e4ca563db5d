package discovery

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/hashicorp/memberlist"

	"github.com/diarchy/diarchy/framework"
)

// Limits of a node's metadata record. The longest record has metaHead +
// 16 + ClientBytesMax + VersionBytesMax + 16*ExpectMax = 402 bytes; memberlist
// panics above 512.
const (
	ClientBytesMax  = 128
	VersionBytesMax = 32
	// ExpectMax bounds bootstrap_expect: the first members of a new cluster.
	// More nodes join it once it is formed.
	ExpectMax = 9
)

const (
	metaVersion = 1
	metaHead    = 82
	flagFormed  = 1 << 0
	flagsKnown  = flagFormed
)

// Meta is what a node tells of itself by gossip.
type Meta struct {
	ID framework.UUID
	// Cluster is the cluster the node belongs to, zero while it has none.
	Cluster framework.UUID
	// Run is random and new in each run of the node: it tells news of an earlier
	// run from news of this one.
	Run uint64
	// Expect is the node's bootstrap_expect; 0 takes no part in forming.
	Expect int
	// Agreement is how far the node is in forming a cluster with others.
	Agreement Agreement
	// Peer is where it takes other nodes' connections; without an address the
	// gossip address's.
	Peer netip.AddrPort
	// Client is "host:port" for clients, may be empty.
	Client string
	// Version is the program's.
	Version string
}

var errMeta = errors.New("malformed node metadata")

// The record, version 1, integers big-endian:
//
//	 0 version   1 flags   2 phase   3 expect
//	 4 id [16]  20 cluster [16]  36 H [32]  68 run u64  76 peer port u16
//	78 peer address length (0, 4, 16)  79 client length  80 version length
//	81 number of ids in the set
//	82 peer address, client, version, ids [16] each, ascending
func (m *Meta) encode() ([]byte, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	b := make([]byte, metaHead, memberlist.MetaMaxSize)
	b[0] = metaVersion
	if m.Cluster != (framework.UUID{}) {
		b[1] = flagFormed
	}
	b[2], b[3] = byte(m.Agreement.Phase), byte(m.Expect)
	copy(b[4:], m.ID[:])
	copy(b[20:], m.Cluster[:])
	if len(m.Agreement.Set) > 0 {
		h := SetHash(m.Agreement.Set)
		copy(b[36:], h[:])
	}
	binary.BigEndian.PutUint64(b[68:], m.Run)
	binary.BigEndian.PutUint16(b[76:], m.Peer.Port())
	ip := m.Peer.Addr().AsSlice()
	b[78], b[79], b[80], b[81] = byte(len(ip)), byte(len(m.Client)), byte(len(m.Version)), byte(len(m.Agreement.Set))
	b = append(b, ip...)
	b = append(b, m.Client...)
	b = append(b, m.Version...)
	for _, id := range m.Agreement.Set {
		b = append(b, id[:]...)
	}
	if len(b) > memberlist.MetaMaxSize {
		return nil, fmt.Errorf("node metadata is %d bytes long, at most %d are allowed", len(b), memberlist.MetaMaxSize)
	}
	return b, nil
}

// check holds for what is sent and for what is received.
func (m *Meta) check() error {
	a := m.Agreement
	switch {
	case m.ID == framework.UUID{}:
		return errors.New("node metadata without an id")
	case len(m.Client) > ClientBytesMax:
		return fmt.Errorf("the client address %q is %d bytes long, at most %d are allowed", m.Client, len(m.Client), ClientBytesMax)
	case len(m.Version) > VersionBytesMax:
		return fmt.Errorf("the version %q is %d bytes long, at most %d are allowed", m.Version, len(m.Version), VersionBytesMax)
	case !printable(m.Client) || !printable(m.Version):
		return errors.New("the client address or version holds characters other than printable ASCII")
	case m.Expect < 0 || m.Expect > ExpectMax:
		return fmt.Errorf("bootstrap_expect is %d: expected 0 (join only) to %d; more nodes join once the cluster is formed", m.Expect, ExpectMax)
	case a.Phase > PhaseFormed:
		return fmt.Errorf("unknown phase %d", a.Phase)
	case (a.Phase == PhaseFormed) != (m.Cluster != framework.UUID{}) || a.Cluster != m.Cluster:
		return errors.New("a node is formed if and only if it names a cluster")
	case (a.Phase == PhasePrepared || a.Phase == PhaseReady) != (len(a.Set) > 0):
		return errors.New("a node has a set of ids if and only if it is prepared or ready")
	case len(a.Set) > ExpectMax || !ascending(a.Set):
		return fmt.Errorf("a set of ids holds at most %d, ascending", ExpectMax)
	}
	return nil
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// decodeMeta reads a record from outside. It accepts exactly what encode makes.
func decodeMeta(b []byte) (Meta, error) {
	if len(b) == 0 || b[0] != metaVersion {
		v := "none"
		if len(b) > 0 {
			v = fmt.Sprint(b[0])
		}
		return Meta{}, fmt.Errorf("%w: its version is %s, expected %d (does the node run another version of diarchy?)", errMeta, v, metaVersion)
	}
	if len(b) < metaHead || b[1]&^flagsKnown != 0 {
		return Meta{}, errMeta
	}
	ipLen, clientLen, versionLen, ids := int(b[78]), int(b[79]), int(b[80]), int(b[81])
	if len(b) != metaHead+ipLen+clientLen+versionLen+16*ids || ids > ExpectMax {
		return Meta{}, errMeta
	}
	var m Meta
	copy(m.ID[:], b[4:])
	copy(m.Cluster[:], b[20:])
	m.Run = binary.BigEndian.Uint64(b[68:])
	m.Expect = int(b[3])
	m.Agreement.Phase = Phase(b[2])
	rest := b[metaHead:]
	ip, ok := netip.AddrFromSlice(rest[:ipLen])
	if !ok && ipLen != 0 {
		return Meta{}, errMeta
	}
	m.Peer = netip.AddrPortFrom(ip, binary.BigEndian.Uint16(b[76:]))
	rest = rest[ipLen:]
	m.Client, rest = string(rest[:clientLen]), rest[clientLen:]
	m.Version, rest = string(rest[:versionLen]), rest[versionLen:]
	for i := range ids {
		m.Agreement.Set = append(m.Agreement.Set, framework.UUID(rest[16*i:16*i+16]))
	}
	var h [32]byte
	if ids > 0 {
		h = SetHash(m.Agreement.Set)
	}
	if h != [32]byte(b[36:68]) || (b[1]&flagFormed != 0) != (m.Cluster != framework.UUID{}) {
		return Meta{}, errMeta
	}
	if m.Agreement.Phase == PhaseFormed {
		m.Agreement.Cluster = m.Cluster
	}
	if err := m.check(); err != nil {
		return Meta{}, fmt.Errorf("%w: %v", errMeta, err)
	}
	return m, nil
}
