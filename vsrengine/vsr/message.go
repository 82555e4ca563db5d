package vsr

import "fmt"

// Kind says what a message is.
type Kind uint8

// The messages. Which fields each uses is in DESIGN.md's table; From, To and View
// (the sender's own, or the view the message is about) are in all of them.
const (
	KindInvalid      Kind = iota
	Prepare               // primary: append Entries[0]; Commit is known committed
	PrepareOK             // backup: everything up to Op is durable here, and Op is Checksum
	Commit                // primary's heartbeat: Commit is committed; answer Seq
	CommitOK              // backup: heard Seq
	StartViewChange       // I suspect; View is my target. Promises nothing
	DoViewChange          // to the new primary: Log is my log
	Notice                // to the rest: I am in View, for a quorum suspects (or Members says why)
	StartView             // new primary: View begins with Log
	GetView               // ask View's primary for a StartView with Nonce
	Progress              // candidate: I am still getting on, Op is my contiguous op
	HandOver              // primary of View: go to view Target at once
	GetState              // backup: send what follows Op in View
	NewState              // primary: Entries follow, all of View's log
	GetEntries            // anyone: the run of Seq entries that ends with Op, Checksum
	Entries               // anyone: Entries, found by checksum
	GetSnapshot           // anyone: which snapshot do you have?
	SnapshotOffer         // this one: Snapshot
	GetChunk              // bytes of Snapshot from offset Seq on
	Chunk                 // Data at offset Seq of Snapshot
	Recovery              // memory mode: I restarted empty; View is the lowest I may join
	RecoveryResponse      // normal voter: my view; the primary adds Log
	GetProof              // primary: learner, do you hold all up to Op, Checksum?
	Proof                 // learner: durably, in this incarnation
	EpochAhead            // your epoch has ended: Members is the present one
	kindCount
)

var kindNames = [kindCount]string{
	"Invalid", "Prepare", "PrepareOK", "Commit", "CommitOK", "StartViewChange", "DoViewChange", "Notice", "StartView",
	"GetView", "Progress", "HandOver", "GetState", "NewState", "GetEntries", "Entries", "GetSnapshot", "SnapshotOffer",
	"GetChunk", "Chunk", "Recovery", "RecoveryResponse", "GetProof", "Proof", "EpochAhead",
}

func (k Kind) String() string {
	if k < kindCount {
		return kindNames[k]
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// Message goes from one replica to another. What it points to is never written
// again by the sender and must not be by the receiver.
//
// Whoever decodes one from bytes must have checked its frame and every header's
// and body's checksum: the core trusts content, and distrusts only timing, order
// and origin.
type Message struct {
	Kind     Kind
	From, To ID
	View     View
	Target   View // HandOver: where to
	Op       Op
	Commit   Op
	Checksum Checksum
	Seq      uint64
	Nonce    Nonce

	Entries  []Entry
	Data     []byte // Chunk: nil until whoever sends it has read it
	Log      *Log
	Members  *Membership
	Snapshot *Snapshot
}

// Log is what one replica says of its log: in a DoViewChange, in the view record
// that was durable before it, and, as the new view's beginning, in a StartView.
type Log struct {
	LogView    View // the last view in which the sender's log was authoritative
	Head       Op   // its last op
	Begin      Op   // LogView began with this head: what lies above was first prepared in it
	First      Op   // the first op it still keeps
	Contiguous Op   // it holds every op from its snapshot to here
	Applied    Op   // it has given out everything up to here to be applied: that is certain
	Commit     Op   // it knows that this is committed
	Snapshot   Op   // its newest snapshot
	Intact     bool // no record of its journal is damaged: what it lacks it never had (D8)

	// Headers of the last ops up to Head, ascending, without gaps in Op. One
	// with a zero Checksum is not known. Claims has a byte for each.
	Headers []Header
	Claims  []Claim
}

// Claim says how a Log's sender holds an op.
type Claim uint8

// A header that is not Linked lies below a hole: the entry is there but may be
// of a dead view.
const (
	Linked  Claim = 1 << iota // the header belongs to the log of LogView
	Present                   // the body is there, or on its way to the disk
)

// Low is the first op that Headers describes; Head+1 if there are none.
func (l *Log) Low() Op { return l.Head + 1 - Op(len(l.Headers)) }

// at is the header of an op, or nil outside the range.
func (l *Log) at(op Op) (*Header, Claim) {
	if op > l.Head || op < l.Low() {
		return nil, 0
	}
	i := int(op - l.Low())
	return &l.Headers[i], l.Claims[i]
}

// linked is the headers that belong to the log of LogView; the others are blank.
func (l *Log) linked() []Header {
	out := make([]Header, len(l.Headers))
	for i := range l.Headers {
		out[i].Op = l.Headers[i].Op
		if l.Claims[i]&Linked != 0 {
			out[i] = l.Headers[i]
		}
	}
	return out
}

// holds reports whether the sender has the entry with this checksum.
func (l *Log) holds(op Op, sum Checksum) bool {
	h, claim := l.at(op)
	return h != nil && claim&Present != 0 && h.Checksum == sum
}
