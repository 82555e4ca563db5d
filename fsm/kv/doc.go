// Package kv is the bundled key-value machine, and the bytes of its commands,
// queries and answers. Names are "kv", version "1".
//
// It is an ordinary [fsm.Machine]: it knows no engine, no network and no file,
// and runs in the host or behind plugins/sdk. Who sends it commands builds them
// with [Put], [Delete], [CAS] and the rest (command.go), and reads what comes
// back with [DecodeOutcome], [DecodeItem] and [DecodeList] (answer.go); for
// people at a command line there is a text form (text.go). Read machine.go for
// how the machine is put together, store.go for the state it keeps.
//
// # State
//
// A set of items, ordered by key. An item has a value, which may be empty and
// is then not the same as absent, a revision (the number of the command that
// wrote it last, [fsm.Entry.Index]), and perhaps an expiry. An expired item is
// absent from then on, for commands by the time of the command and for queries
// by that of the query, whether or not it has been swept away yet.
//
// Keys are 1 to [MaxKeyBytes] bytes without NUL, values up to [MaxValueBytes].
//
// # Encoding
//
// A command or query is one code byte (see [Op]) and its fields in order, with
// nothing after them. "bytes" is a uvarint length and that many bytes, "uvarint"
// and "varint" are those of encoding/binary; ttl is a uvarint of nanoseconds, 0
// for none.
//
//	1 put        key bytes, ttl, value bytes
//	2 delete     key bytes
//	3 cas        key bytes, revision uvarint, ttl, value bytes
//	4 delete-if  key bytes, revision uvarint
//	5 append     key bytes, value bytes
//	6 add        key bytes, delta varint
//	7 get        key bytes                                    (also a query)
//	8 txn        guards, then, else: each a uvarint count and so many
//	9 list       prefix bytes, after bytes, limit uvarint, flags byte   (a query)
//
// A guard is a kind byte, a key, and what it compares with (see [Guard]). The
// operations of a transaction are commands 1, 2, 5, 6 and 7, one after another.
//
// An answer starts with the code of what it answers, then:
//
//	1 to 6       ok byte, revision uvarint; for 5 and 6 a varint: length, number
//	7 get        ok byte; when 1, an item
//	8 txn        ok byte, revision uvarint, count uvarint, so many answers
//	9 list       more byte, count uvarint, so many items
//
// An item is key bytes, value bytes, revision uvarint, expiry varint (Unix
// nanoseconds, 0 for never).
//
// Snapshots are described in snapshot.go.
package kv
