package vsr

// Output is what a replica wants done. Its order is the law of durability: Send
// may leave at once. Persist must be written in this order, and each ticket told
// to [Replica.Persisted] when it and all before it are durable. Promise states
// something durable: the replica gives a promise out only after its ticket, and
// only while its view still stands, so these may leave at once too, but never
// before an earlier Output's Persist was told durable. Apply is committed.
//
// Output is valid until the next [Replica.Take]; entries and what messages point
// to live on.
type Output struct {
	Send    []Message
	Persist []Write
	Promise []Message
	Install *Snapshot // replace the machine's state by this one, before Apply
	Apply   []Entry   // in order, without gaps; a body may have to be read (see Entry)
	Reads   []Read    // reads that are decided
}

// WriteKind says what a Write changes on disk.
type WriteKind uint8

// The kinds of write.
const (
	WriteEntry  WriteKind = iota // append Entry; whatever else its slot holds is superseded
	WriteRecord                  // replace the view record, atomically
	WriteChunk                   // Data at Offset of the snapshot being received
	WriteSeal                    // the snapshot being received is whole: verify it, make it durable under its name
	WriteTrim                    // entries of ops below Op, and snapshots older than Snapshot, may go
	WriteHeal                    // damaged records that were told before the input that gave this out may go, and no others
)

// Write is one step of the ordered stream that must become durable.
type Write struct {
	Kind     WriteKind
	Ticket   Ticket
	Op       Op
	Offset   uint64
	Entry    Entry
	Data     []byte
	Record   *Record
	Snapshot *Snapshot
}

// Record is the view record: everything that must survive beside the log, small
// and replaced as a whole (D3). In memory mode it is the stamp file and holds no
// headers (D4).
type Record struct {
	View    View
	Log     *Log // what a DoViewChange for View says; after a StartView, how View began
	Members Membership
	Virgin  bool // formatted, never started
}

// Snapshot names a snapshot and holds what its envelope says (D9).
type Snapshot struct {
	Header  Header   // of the last op in it
	Next    Position // of the first command after it
	Members Membership
	Size    uint64   // bytes of payload
	Sum     Checksum // of the payload
}

// Read is the outcome of a ReadIndex. Err nil: a machine that has applied Op
// answers linearizably. Otherwise it did not happen, and may be tried anywhere.
type Read struct {
	Token uint64
	Op    Op
	Err   error
}

// State is what a replica finds when it starts. The journal has dropped a torn
// tail already (D8).
type State struct {
	Record *Record // nil: no format mark, which is a wiped disk (D15)

	// Slots are the intact and the damaged entries, in the order in which they
	// were written; several may be of one op.
	Slots []Slot

	// Unplaced says that a damaged record's op is unknown: the head is uncertain.
	Unplaced bool

	Snapshots []Snapshot // intact ones, oldest first

	// SnapshotDamaged says that there is one that cannot be read.
	SnapshotDamaged bool

	// Incarnation is fresh from crypto/rand: nonces are made from it.
	Incarnation Nonce
}

// Slot is an entry in the journal. Its Body may be nil although it is intact, but
// not for KindConfig and KindLearners.
type Slot struct {
	Entry
	Damaged bool // the body, or with a zero Checksum the header too, is unreadable
}

// Batch is what is proposed. Count is 0 for all kinds but KindUser and
// KindControl.
type Batch struct {
	Kind         EntryKind
	Count        uint32
	Time         int64
	Body         []byte
	BodyChecksum Checksum // BodySum(Body); zero: the core computes it
}
