package kv

import (
	"fmt"
)

// A request is one decoded command or query. Its bytes are those it was decoded
// from: whoever keeps some of them copies.
type request struct {
	op       Op
	key      []byte // prefix of a list
	value    []byte
	ttl      int64
	delta    int64
	revision uint64

	after    []byte
	limit    int
	keysOnly bool
}

// A txnRequest holds the parts of a transaction, and is used again for the next.
type txnRequest struct {
	guards    []Guard
	then, els []request
}

// CheckCommand says what is wrong with a command; nil when the machine would
// execute it (and might still answer an application error, by its state).
func CheckCommand(b []byte) error {
	var r request
	if fault := r.decode(b, new(txnRequest)); fault != "" {
		return invalid("%s", fault)
	}
	if r.op == OpList {
		return invalid("list is a query, not a command")
	}
	return nil
}

// CheckQuery says what is wrong with a query; nil when nothing is.
func CheckQuery(b []byte) error {
	var r request
	if fault := r.decode(b, nil); fault != "" {
		return invalid("%s", fault)
	}
	if r.op != OpGet && r.op != OpList {
		return invalid("%v is a command, not a query", r.op)
	}
	return nil
}

// decode fills r from all of b, with txn for the parts of a transaction (nil
// where none may be), and tells what is wrong; "" when nothing is.
func (r *request) decode(b []byte, txn *txnRequest) string {
	if len(b) == 0 {
		return "the command is empty"
	}
	c := cursor{b: b}
	*r = request{op: Op(c.byte())}
	switch {
	case r.op != OpTxn:
		r.fields(&c)
	case txn == nil:
		c.fail("txn is a command, not a query")
	default:
		txn.decode(&c)
	}
	return c.end()
}

// fields reads what follows the code of anything but a transaction.
func (r *request) fields(c *cursor) {
	switch r.op {
	case OpPut:
		r.readKey(c)
		r.readTTL(c)
		r.readValue(c)
	case OpCAS:
		r.readKey(c)
		r.revision = c.uvarint()
		r.readTTL(c)
		r.readValue(c)
	case OpDelete, OpGet:
		r.readKey(c)
	case OpDeleteIf:
		r.readKey(c)
		if r.revision = c.uvarint(); r.revision == 0 {
			c.fail("delete-if needs a revision above 0")
		}
	case OpAppend:
		r.readKey(c)
		r.readValue(c)
	case OpAdd:
		r.readKey(c)
		r.delta = c.varint()
	case OpList:
		r.readList(c)
	default:
		c.fail(unknownCode(byte(r.op)))
	}
}

func unknownCode(code byte) string {
	text := fmt.Sprintf("unknown command code 0x%02x", code)
	if code >= ' ' && code <= '~' {
		text += " (text is not a command; kv.ParseCommand makes one of it)"
	}
	return text
}

func (r *request) readKey(c *cursor) { r.key = readKey(c) }

func readKey(c *cursor) []byte {
	key := c.bytes()
	if why := keyFault(key); why != "" {
		c.fail(why)
	}
	return key
}

func (r *request) readValue(c *cursor) {
	r.value = c.bytes()
	if len(r.value) > MaxValueBytes {
		c.fail(fmt.Sprintf("the value has %d bytes, more than %d", len(r.value), MaxValueBytes))
	}
}

func (r *request) readTTL(c *cursor) {
	ttl := c.uvarint()
	if ttl > uint64(MaxTTL) {
		c.fail("the ttl is negative or over 100 years")
		return
	}
	r.ttl = int64(ttl)
}

func (r *request) readList(c *cursor) {
	r.key = c.bytes()
	r.after = c.bytes()
	for _, key := range [...][]byte{r.key, r.after} {
		if why := prefixFault(key); why != "" {
			c.fail(why)
		}
	}
	limit := c.uvarint()
	if limit > MaxListItems {
		c.fail(fmt.Sprintf("the limit is %d, more than %d", limit, MaxListItems))
	}
	if r.limit = int(limit); limit == 0 {
		r.limit = DefaultListItems
	}
	r.keysOnly = c.flag()
}

func (t *txnRequest) decode(c *cursor) {
	t.letGo()
	for range t.parts(c, "guards") {
		t.guards = append(t.guards, readGuard(c))
	}
	for range t.parts(c, "operations") {
		t.then = append(t.then, readOperation(c))
	}
	for range t.parts(c, "operations") {
		t.els = append(t.els, readOperation(c))
	}
}

// letGo drops the parts, and with them the bytes they were decoded from.
func (t *txnRequest) letGo() {
	clear(t.guards)
	clear(t.then)
	clear(t.els)
	t.guards, t.then, t.els = t.guards[:0], t.then[:0], t.els[:0]
}

func (t *txnRequest) parts(c *cursor, what string) int {
	n := c.count()
	if n > MaxTxnParts {
		c.fail(fmt.Sprintf("the transaction has %d %s, more than %d", n, what, MaxTxnParts))
		return 0
	}
	return n
}

func readGuard(c *cursor) Guard {
	g := Guard{kind: guardKind(c.byte()), key: readKey(c)}
	switch g.kind {
	case guardRevision:
		g.revision = c.uvarint()
	case guardValue:
		g.value = c.bytes()
	case guardExists, guardAbsent:
	default:
		c.fail(fmt.Sprintf("unknown guard kind %d", g.kind))
	}
	return g
}

func readOperation(c *cursor) request {
	r := request{op: Op(c.byte())}
	switch r.op {
	case OpPut, OpDelete, OpAppend, OpAdd, OpGet:
		r.fields(c)
	case OpCAS, OpDeleteIf:
		c.fail(r.op.String() + " cannot stand in a transaction: use a guard on the revision")
	case OpTxn, OpList:
		c.fail(r.op.String() + " cannot stand in a transaction")
	default:
		c.fail(unknownCode(byte(r.op)))
	}
	return r
}
