package kv

import (
	"encoding/binary"
	"time"
)

// Op is the code of a command or query, and of its answer.
type Op uint8

// The commands and queries.
const (
	OpPut      Op = 1
	OpDelete   Op = 2
	OpCAS      Op = 3
	OpDeleteIf Op = 4
	OpAppend   Op = 5
	OpAdd      Op = 6
	OpGet      Op = 7
	OpTxn      Op = 8
	OpList     Op = 9
)

var opNames = [...]string{
	OpPut: "put", OpDelete: "delete", OpCAS: "cas", OpDeleteIf: "delete-if", OpAppend: "append",
	OpAdd: "add", OpGet: "get", OpTxn: "txn", OpList: "list",
}

func (o Op) String() string {
	if o == 0 || int(o) >= len(opNames) {
		return "unknown"
	}
	return opNames[o]
}

// The builders below never fail: what is wrong with a key, value or ttl is told
// by the machine, as an application error, or before sending by [CheckCommand].

// Put sets key to value. It expires after ttl; 0 is never.
func Put(key string, value []byte, ttl time.Duration) []byte {
	b := start(OpPut, key, len(value))
	b = binary.AppendUvarint(b, uint64(ttl))
	return appendBytes(b, value)
}

// Delete removes key. One that is not there is no error.
func Delete(key string) []byte { return start(OpDelete, key, 0) }

// CAS sets key to value if its revision is the one given; 0 means that key must
// not exist. Otherwise nothing changes and the answer is an application error
// with an [Outcome] whose Conflict is true and which tells the revision found.
func CAS(key string, revision uint64, value []byte, ttl time.Duration) []byte {
	b := start(OpCAS, key, len(value))
	b = binary.AppendUvarint(b, revision)
	b = binary.AppendUvarint(b, uint64(ttl))
	return appendBytes(b, value)
}

// DeleteIf removes key if its revision is the one given, which cannot be 0.
// Otherwise it answers as CAS does.
func DeleteIf(key string, revision uint64) []byte {
	return binary.AppendUvarint(start(OpDeleteIf, key, 0), revision)
}

// Append adds value at the end of key's value. It creates key when it is not
// there, and leaves its expiry as it is.
func Append(key string, value []byte) []byte {
	return appendBytes(start(OpAppend, key, len(value)), value)
}

// Add adds delta to the counter at key, a decimal number in text; one that is
// not there counts as 0. It leaves the expiry as it is. A value that is no
// number, or a sum out of range, is an application error.
func Add(key string, delta int64) []byte {
	return binary.AppendVarint(start(OpAdd, key, 0), delta)
}

// GetQuery reads key. The answer is for [DecodeItem]. It may also be sent as a
// command or stand in a [Txn]; its answer is then for [DecodeOutcome].
func GetQuery(key string) []byte { return start(OpGet, key, 0) }

// List asks for the items whose keys start with Prefix, in order of key.
type List struct {
	Prefix string
	// After, when set, lists keys greater than it: the last key of the answer
	// before goes on where that one stopped.
	After string
	// Limit bounds the items, at most MaxListItems; 0 is DefaultListItems.
	// Fewer may come, with More set, so that an answer stays within 1 MiB.
	Limit int
	// KeysOnly leaves the values out.
	KeysOnly bool
}

// ListQuery encodes l. The answer is for [DecodeList].
func ListQuery(l List) []byte {
	b := appendString(start(OpList, l.Prefix, len(l.After)), l.After)
	b = binary.AppendUvarint(b, uint64(max(l.Limit, 0)))
	return appendFlag(b, l.KeysOnly)
}

// start makes room for room bytes of value beside the fixed fields.
func start(op Op, key string, room int) []byte {
	const fixed = 1 + 4*binary.MaxVarintLen64
	b := make([]byte, 0, fixed+len(key)+room)
	return appendString(append(b, byte(op)), key)
}

// A Txn does the operations of Then if all guards of If hold, those of Else
// otherwise: all of them or, when one answers an application error, none.
// Operations are what Put, Delete, Append, Add and GetQuery return.
type Txn struct {
	If         []Guard
	Then, Else [][]byte
}

// Command encodes t.
func (t Txn) Command() []byte {
	b := []byte{byte(OpTxn)}
	b = binary.AppendUvarint(b, uint64(len(t.If)))
	for _, g := range t.If {
		b = g.append(b)
	}
	for _, ops := range [...][][]byte{t.Then, t.Else} {
		b = binary.AppendUvarint(b, uint64(len(ops)))
		for _, op := range ops {
			b = append(b, op...)
		}
	}
	return b
}

type guardKind uint8

const (
	guardRevision guardKind = 1
	guardValue    guardKind = 2
	guardExists   guardKind = 3
	guardAbsent   guardKind = 4
)

// A Guard is a condition on one key. Kind 1 carries a revision, 2 a value, 3
// (exists) and 4 (is absent) nothing more.
type Guard struct {
	kind     guardKind
	key      []byte
	revision uint64
	value    []byte
}

// RevisionIs holds when key has that revision; 0 means that it does not exist.
func RevisionIs(key string, revision uint64) Guard {
	return Guard{kind: guardRevision, key: []byte(key), revision: revision}
}

// ValueIs holds when key exists with exactly that value.
func ValueIs(key string, value []byte) Guard {
	return Guard{kind: guardValue, key: []byte(key), value: value}
}

// Exists holds when key exists.
func Exists(key string) Guard { return Guard{kind: guardExists, key: []byte(key)} }

// Absent holds when key does not exist.
func Absent(key string) Guard { return Guard{kind: guardAbsent, key: []byte(key)} }

func (g Guard) append(b []byte) []byte {
	b = appendBytes(append(b, byte(g.kind)), g.key)
	switch g.kind {
	case guardRevision:
		b = binary.AppendUvarint(b, g.revision)
	case guardValue:
		b = appendBytes(b, g.value)
	}
	return b
}
