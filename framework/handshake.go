package framework

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/diarchy/diarchy/internal/certs"
)

// The handshake of a connection between nodes: the dialing side sends a hello,
// the other answers with a hello of its own (welcome) or with a refusal. Each is
// one frame:
//
//	magic "DRCY", version u8, kind u8, length of the body u16, CRC-32C of the body u32, body
//
// hello:   plane u8, cluster 16, group 16, incarnation u32, from, to, name
// refusal: code u8, text
//
// Integers are big endian; from, to and name are a length u8 and bytes. The frame
// and the refusal are the same in all versions, so that a refusal for the version
// can be read.
const (
	handshakeMagic    = "DRCY"
	handshakeVersion  = 1
	frameHeaderBytes  = 12
	frameBodyBytesMax = 1024
	helloFixedBytes   = 1 + 16 + 16 + 4
	nodeIDBytesMax    = 64
	nodeNameBytesMax  = 255
	reasonBytesMax    = 512
)

const (
	frameHello   = 1
	frameWelcome = 2
	frameRefusal = 3
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// RefusalCode names why a connection was refused.
type RefusalCode uint8

// Refusals.
const (
	// RefusedVersion: the two speak different versions of the protocol.
	RefusedVersion RefusalCode = iota + 1
	// RefusedMalformed: the hello cannot be read.
	RefusedMalformed
	// RefusedIdentity: the certificate is not that of the node named.
	RefusedIdentity
	// RefusedCluster: the two belong to different clusters.
	RefusedCluster
	// RefusedNode: another node than the one wanted has this address.
	RefusedNode
	// RefusedSameID: the caller has the id of the node called: a copied
	// data directory.
	RefusedSameID
	// RefusedListener: the node has nothing that takes this plane and group.
	RefusedListener
	// RefusedIncarnation: the group is there in another incarnation.
	RefusedIncarnation
	// RefusedBusy: the node has as many connections as it may, or nobody
	// takes them; a later try may succeed.
	RefusedBusy
)

var refusalNames = [...]string{
	"refused", "other version", "malformed hello", "identity", "other cluster", "other node", "same node id",
	"no such listener here", "other incarnation", "too many connections",
}

func (c RefusalCode) String() string {
	if int(c) < len(refusalNames) {
		return refusalNames[c]
	}
	return refusalNames[0]
}

// refusal is a reason not to take a connection.
type refusal struct {
	code RefusalCode
	text string
}

func refuse(code RefusalCode, format string, args ...any) *refusal {
	return &refusal{code: code, text: fmt.Sprintf(format, args...)}
}

// reason is what the other side is told and the log has.
func (r *refusal) reason() string { return r.code.String() + ": " + r.text }

// hello is what each side says of itself and of the connection.
type hello struct {
	plane       Plane
	cluster     UUID
	group       UUID
	incarnation uint32
	from, to    NodeID
	name        string
}

func (p Plane) String() string {
	if p < PlaneRaft || p > PlaneBulk {
		return fmt.Sprintf("plane %d", uint8(p))
	}
	return [...]string{"raft", "vsr", "peer service", "bulk"}[p-1]
}

// errNotOurs is for what does not begin as a frame of ours does.
var errNotOurs = errors.New("not the peer protocol")

// errDamaged is for a frame that does not hold what it says.
var errDamaged = errors.New("damaged handshake")

// frame is one frame as read. Only the version of this program is looked into.
type frame struct {
	version, kind uint8
	body          []byte
}

// readFrame reads one frame and nothing past it. What it allocates is bounded
// whatever comes.
func readFrame(r io.Reader) (frame, error) {
	var head [frameHeaderBytes]byte
	if _, err := io.ReadFull(r, head[:len(handshakeMagic)]); err != nil {
		return frame{}, fmt.Errorf("read the handshake: %w", err)
	}
	if string(head[:len(handshakeMagic)]) != handshakeMagic {
		return frame{}, fmt.Errorf("%w: it begins with %q%s", errNotOurs, head[:len(handshakeMagic)], guessProtocol(head[:]))
	}
	if _, err := io.ReadFull(r, head[len(handshakeMagic):]); err != nil {
		return frame{}, fmt.Errorf("read the handshake: %w", err)
	}
	length := int(binary.BigEndian.Uint16(head[6:]))
	if length > frameBodyBytesMax {
		return frame{}, fmt.Errorf("%w: %d bytes, at most %d are allowed", errDamaged, length, frameBodyBytesMax)
	}
	f := frame{version: head[4], kind: head[5], body: make([]byte, length)}
	if _, err := io.ReadFull(r, f.body); err != nil {
		return frame{}, fmt.Errorf("read the handshake: %w", err)
	}
	if crc32.Checksum(f.body, castagnoli) != binary.BigEndian.Uint32(head[8:]) {
		return frame{}, fmt.Errorf("%w: wrong checksum", errDamaged)
	}
	return f, nil
}

// guessProtocol helps with the commonest mistakes.
func guessProtocol(head []byte) string {
	switch {
	case head[0] >= 0x14 && head[0] <= 0x17 && head[1] == 3:
		return " (that is TLS, which only one of the two sides is set up for)"
	case strings.HasPrefix(string(head), "GET ") || strings.HasPrefix(string(head), "POST") ||
		strings.HasPrefix(string(head), "HTTP") || strings.HasPrefix(string(head), "PRI "):
		return " (that is HTTP; is it the client port that is wanted?)"
	}
	return ""
}

func encodeFrame(kind uint8, body []byte) []byte {
	out := make([]byte, 0, frameHeaderBytes+len(body))
	out = append(out, handshakeMagic...)
	out = append(out, handshakeVersion, kind)
	out = binary.BigEndian.AppendUint16(out, uint16(len(body)))
	out = binary.BigEndian.AppendUint32(out, crc32.Checksum(body, castagnoli))
	return append(out, body...)
}

func (h hello) encode(kind uint8) []byte {
	b := make([]byte, 0, helloFixedBytes+3+len(h.from)+len(h.to)+len(h.name))
	b = append(b, byte(h.plane))
	b = append(b, h.cluster[:]...)
	b = append(b, h.group[:]...)
	b = binary.BigEndian.AppendUint32(b, h.incarnation)
	for _, s := range []string{string(h.from), string(h.to), h.name} {
		b = append(append(b, byte(len(s))), s...)
	}
	return encodeFrame(kind, b)
}

func (r *refusal) encode() []byte {
	text := r.text
	if len(text) > reasonBytesMax {
		text = text[:reasonBytesMax]
	}
	return encodeFrame(frameRefusal, append([]byte{byte(r.code)}, text...))
}

func decodeHello(b []byte) (h hello, err error) {
	if len(b) < helloFixedBytes {
		return h, fmt.Errorf("%w: a hello of %d bytes", errDamaged, len(b))
	}
	h.plane = Plane(b[0])
	copy(h.cluster[:], b[1:17])
	copy(h.group[:], b[17:33])
	h.incarnation = binary.BigEndian.Uint32(b[33:])
	rest := b[helloFixedBytes:]
	var fields [3]string
	for i, limit := range [3]int{nodeIDBytesMax, nodeIDBytesMax, nodeNameBytesMax} {
		if len(rest) == 0 || int(rest[0]) > limit || int(rest[0]) > len(rest)-1 {
			return hello{}, fmt.Errorf("%w: a name is cut short or too long", errDamaged)
		}
		n := int(rest[0])
		fields[i], rest = string(rest[1:1+n]), rest[1+n:]
		if !isPlain(fields[i]) {
			return hello{}, fmt.Errorf("%w: a name is not plain text", errDamaged)
		}
	}
	if len(rest) > 0 {
		return hello{}, fmt.Errorf("%w: %d bytes too many", errDamaged, len(rest))
	}
	h.from, h.to, h.name = NodeID(fields[0]), NodeID(fields[1]), fields[2]
	if h.from == "" || h.to == "" {
		return hello{}, fmt.Errorf("%w: it names no node", errDamaged)
	}
	return h, nil
}

// isPlain keeps what goes to logs and messages free of control characters.
func isPlain(s string) bool {
	return strings.ToValidUTF8(s, "") == s && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}

func decodeRefusal(b []byte) (refusal, error) {
	if len(b) < 1 || len(b) > 1+reasonBytesMax {
		return refusal{}, fmt.Errorf("%w: a refusal of %d bytes", errDamaged, len(b))
	}
	text := strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, string(b[1:]))
	return refusal{code: RefusalCode(b[0]), text: text}, nil
}

// sameCluster judges two clusters. Nodes that are still forming one have none:
// they may reach each other's peer service, and nothing else of a formed one.
func sameCluster(p Plane, here, there UUID) *refusal {
	none := UUID{}
	if here == there || (p == PlanePeer && (here == none || there == none)) {
		return nil
	}
	say := func(u UUID) string {
		if u == none {
			return "in none yet"
		}
		return "in " + u.String()
	}
	return refuse(RefusedCluster, "this node is %s, the caller is %s", say(here), say(there))
}

// checkFit says what is wrong with names and ids before they are sent.
func checkFit(id NodeID, name string) error {
	if id == "" || len(id) > nodeIDBytesMax || !isPlain(string(id)) {
		return fmt.Errorf("the node id %q must be plain text of 1 to %d bytes", id, nodeIDBytesMax)
	}
	if len(name) > nodeNameBytesMax || !isPlain(name) {
		return fmt.Errorf("the node name %q must be plain text of at most %d bytes", name, nodeNameBytesMax)
	}
	return nil
}

// StreamTLS is how both ends of connections between nodes prove who they are.
// Server must require and verify the dialing side's certificate; Client must
// verify the other's authority. Which node it is, and that it is a node, is
// checked by Streams (see internal/certs for the form of the names).
type StreamTLS struct {
	Server, Client *tls.Config
}

// check finds settings that would let anybody in.
func (t *StreamTLS) check(name string) error {
	if t.Server == nil || t.Client == nil {
		return errors.New("TLS between nodes needs settings for both directions")
	}
	if t.Server.ClientAuth != tls.RequireAndVerifyClientCert {
		return errors.New("TLS between nodes must require and verify client certificates")
	}
	if t.Client.InsecureSkipVerify && t.Client.VerifyConnection == nil && t.Client.VerifyPeerCertificate == nil {
		return errors.New("TLS between nodes must verify the other side's certificate")
	}
	if len(t.Server.Certificates) == 0 || t.Server.Certificates[0].Leaf == nil {
		return nil // served by a callback; the other side will check
	}
	is, err := certs.RequireNode(t.Server.Certificates[0].Leaf)
	if err != nil {
		return err
	}
	if is != name {
		return fmt.Errorf("the certificate is for node %q and this node is %q", is, name)
	}
	return nil
}

// client is the settings for dialing addr. Those that compare names and are not
// told which compare the host.
func (t *StreamTLS) client(addr net.Addr) *tls.Config {
	if t.Client.InsecureSkipVerify || t.Client.ServerName != "" {
		return t.Client
	}
	c := t.Client.Clone()
	c.ServerName = addr.String()
	if host, _, err := net.SplitHostPort(addr.String()); err == nil {
		c.ServerName = host
	}
	return c
}

// certifiedName answers the node that the other end of a TLS connection has
// proved to be.
func certifiedName(c *tls.Conn) (string, *refusal) {
	state := c.ConnectionState()
	if state.Version < tls.VersionTLS13 {
		return "", refuse(RefusedIdentity, "TLS 1.3 is needed")
	}
	if len(state.PeerCertificates) == 0 {
		return "", refuse(RefusedIdentity, "no certificate was shown")
	}
	name, err := certs.RequireNode(state.PeerCertificates[0])
	if err != nil {
		return "", refuse(RefusedIdentity, "%s", err)
	}
	return name, nil
}

// errTalksTooMuch is for a caller that sends more than any handshake needs.
var errTalksTooMuch = errors.New("more bytes than a handshake has")

// handshakeBytesMax is how much is read from a connection before its other end
// has said who it is. It holds a TLS handshake with a chain of certificates, and
// bounds what an unknown caller can make us keep.
const handshakeBytesMax = 16 << 10

// guard watches over what is read while a handshake goes on: how much, how long
// in all and how long without a byte. It is below TLS.
type guard struct {
	net.Conn
	lifted atomic.Bool
	left   int           // bytes
	idle   time.Duration // between bytes
	until  time.Time
}

func (g *guard) Read(p []byte) (int, error) {
	if g.lifted.Load() {
		return g.Conn.Read(p)
	}
	if g.left <= 0 {
		return 0, errTalksTooMuch
	}
	by := time.Now().Add(g.idle)
	if by.After(g.until) {
		by = g.until
	}
	if err := g.Conn.SetReadDeadline(by); err != nil {
		return 0, err
	}
	n, err := g.Conn.Read(p[:min(len(p), g.left)])
	g.left -= n
	return n, err
}

// lift ends the watch and the deadlines.
func (g *guard) lift() error {
	g.lifted.Store(true)
	return g.Conn.SetDeadline(time.Time{})
}
