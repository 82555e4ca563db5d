package kv

import "encoding/binary"

// An Item is one key and what it holds.
type Item struct {
	Key   string
	Value []byte
	// Revision is the number of the command that wrote it last.
	Revision uint64
	// Expires is in Unix nanoseconds, 0 for never.
	Expires int64
}

// An Outcome is what a command gave.
type Outcome struct {
	Op Op
	// OK: it was written (put, cas, append, add), there was something to delete
	// (delete, delete-if) or to read (get), the guards held (txn).
	OK bool
	// Revision is the key's after the command; of a delete that which was
	// deleted; of a conflict that which is there (0 for none); of a transaction
	// that which it wrote with. For get see Item.
	Revision uint64
	// Number is the counter after add, the length after append.
	Number int64
	// Item is what get read, if OK.
	Item Item
	// Results are those of the transaction's operations.
	Results []Outcome
}

// Conflict tells whether it is the answer to a conditional command (cas,
// delete-if) whose condition did not hold.
func (o Outcome) Conflict() bool { return !o.OK && (o.Op == OpCAS || o.Op == OpDeleteIf) }

// DecodeOutcome reads the value of a command's result. It shares memory with b.
func DecodeOutcome(b []byte) (Outcome, error) {
	c := cursor{b: b}
	o := readOutcome(&c, true)
	if fault := c.end(); fault != "" {
		return Outcome{}, invalid("answer: %s", fault)
	}
	return o, nil
}

// DecodeItem reads the answer to a GetQuery; found tells whether the key is
// there. It shares memory with b.
func DecodeItem(b []byte) (item Item, found bool, err error) {
	o, err := DecodeOutcome(b)
	if err == nil && o.Op != OpGet {
		err = invalid("answer: it is one to %v, not to get", o.Op)
	}
	if err != nil {
		return Item{}, false, err
	}
	return o.Item, o.OK, nil
}

// DecodeList reads the answer to a ListQuery. more: there are items after the
// last of these; ask again with After set to its key. It shares memory with b.
func DecodeList(b []byte) (items []Item, more bool, err error) {
	c := cursor{b: b}
	if op := Op(c.byte()); op != OpList {
		return nil, false, invalid("answer: it is one to %v, not to list", op)
	}
	more = c.flag()
	for range c.count() {
		if c.fault != "" {
			break
		}
		items = append(items, readItem(&c))
	}
	if more && len(items) == 0 {
		c.fail("there is more, but nothing before it")
	}
	if fault := c.end(); fault != "" {
		return nil, false, invalid("answer: %s", fault)
	}
	return items, more, nil
}

func readOutcome(c *cursor, top bool) Outcome {
	o := Outcome{Op: Op(c.byte()), OK: c.flag()}
	switch o.Op {
	case OpGet:
		if o.OK {
			o.Item = readItem(c)
		}
		return o
	case OpPut, OpDelete, OpCAS, OpDeleteIf:
		o.Revision = c.uvarint()
	case OpAppend, OpAdd:
		o.Revision = c.uvarint()
		o.Number = c.varint()
	case OpTxn:
		o.Revision = c.uvarint()
		if !top {
			c.fail("a transaction stands in a transaction")
		}
		for range c.count() {
			if c.fault != "" {
				break
			}
			o.Results = append(o.Results, readOutcome(c, false))
		}
	default:
		c.fail(unknownCode(byte(o.Op)))
	}
	return o
}

func readItem(c *cursor) Item {
	return Item{Key: string(c.bytes()), Value: c.bytes(), Revision: c.uvarint(), Expires: c.varint()}
}

// appendOutcome is for everything but get and txn.
func appendOutcome(dst []byte, op Op, ok bool, revision uint64) []byte {
	dst = appendFlag(append(dst, byte(op)), ok)
	return binary.AppendUvarint(dst, revision)
}

// appendNumber is for append and add, which never answer no.
func appendNumber(dst []byte, op Op, revision uint64, n int64) []byte {
	return binary.AppendVarint(appendOutcome(dst, op, true, revision), n)
}

func appendItem(dst []byte, it *item, value []byte) []byte {
	dst = appendBytes(dst, it.key)
	dst = appendBytes(dst, value)
	dst = binary.AppendUvarint(dst, it.revision)
	return binary.AppendVarint(dst, it.expires)
}
