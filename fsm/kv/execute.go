package kv

import (
	"bytes"
	"fmt"
	"math"
	"strconv"

	"github.com/diarchy/diarchy/fsm"
)

// An execution is what one command needs while it runs, kept to be used again.
type execution struct {
	index uint64
	now   int64

	probe item // what keys are looked up with
	req   request
	txn   txnRequest
	undo  []change // of the transaction under way
	inTxn bool
}

// A change is what undoing one write needs: what stood at key before.
type change struct {
	key []byte
	old *item
}

// execute runs one command and appends its answer. refusal is its application
// error, with or without an answer.
func (m *Machine) execute(e *fsm.Entry, out []byte) (_ []byte, refusal string) {
	m.store.sweep(e.Time)
	x := &m.exec
	x.index, x.now = e.Index, e.Time
	if fault := x.req.decode(e.Data, &x.txn); fault != "" {
		return out, "kv: " + fault
	}
	defer x.letGo()
	switch x.req.op {
	case OpTxn:
		return m.transact(out)
	case OpList:
		return out, "kv: list is a query, not a command"
	}
	return m.operate(&x.req, out)
}

// letGo drops what refers to the host's bytes.
func (x *execution) letGo() {
	x.probe, x.req = item{}, request{}
	x.txn.letGo()
	clear(x.undo)
	x.undo = x.undo[:0]
}

// operate runs anything but a transaction.
func (m *Machine) operate(r *request, out []byte) ([]byte, string) {
	switch r.op {
	case OpPut:
		return m.put(r, out)
	case OpDelete:
		return m.remove(r, out)
	case OpCAS:
		return m.compareAndSet(r, out)
	case OpDeleteIf:
		return m.deleteIf(r, out)
	case OpAppend:
		return m.extend(r, out)
	case OpAdd:
		return m.add(r, out)
	default: // OpGet: decode lets nothing else through
		return appendGet(out, m.find(r.key)), ""
	}
}

// find returns the live item at key, nil when there is none.
func (m *Machine) find(key []byte) *item {
	m.exec.probe.key = key
	return m.store.live(&m.exec.probe, m.exec.now)
}

func (m *Machine) write(it *item) {
	old := m.store.set(it)
	if m.exec.inTxn {
		m.exec.undo = append(m.exec.undo, change{key: it.key, old: old})
	}
}

func (m *Machine) erase(it *item) {
	m.store.remove(it)
	if m.exec.inTxn {
		m.exec.undo = append(m.exec.undo, change{key: it.key, old: it})
	}
}

func (m *Machine) put(r *request, out []byte) ([]byte, string) {
	x := &m.exec
	m.write(newItem(r.key, r.value, x.index, expiry(x.now, r.ttl)))
	return appendOutcome(out, r.op, true, x.index), ""
}

func (m *Machine) remove(r *request, out []byte) ([]byte, string) {
	it := m.find(r.key)
	if it == nil {
		return appendOutcome(out, r.op, false, 0), ""
	}
	m.erase(it)
	return appendOutcome(out, r.op, true, it.revision), ""
}

func (m *Machine) compareAndSet(r *request, out []byte) ([]byte, string) {
	if it := m.find(r.key); revisionOf(it) != r.revision {
		return appendOutcome(out, r.op, false, revisionOf(it)), conflict(r, revisionOf(it))
	}
	return m.put(r, out)
}

func (m *Machine) deleteIf(r *request, out []byte) ([]byte, string) {
	if it := m.find(r.key); revisionOf(it) != r.revision {
		return appendOutcome(out, r.op, false, revisionOf(it)), conflict(r, revisionOf(it))
	}
	return m.remove(r, out)
}

func revisionOf(it *item) uint64 {
	if it == nil {
		return 0
	}
	return it.revision
}

func conflict(r *request, is uint64) string {
	switch {
	case is == 0:
		return fmt.Sprintf("kv: conflict: key %s does not exist, expected at revision %d", shown(r.key), r.revision)
	case r.revision == 0:
		return fmt.Sprintf("kv: conflict: key %s exists at revision %d, expected not to", shown(r.key), is)
	default:
		return fmt.Sprintf("kv: conflict: key %s is at revision %d, expected at %d", shown(r.key), is, r.revision)
	}
}

func (m *Machine) extend(r *request, out []byte) ([]byte, string) {
	x := &m.exec
	old := m.find(r.key)
	if old == nil {
		m.write(newItem(r.key, r.value, x.index, 0))
		return appendNumber(out, OpAppend, x.index, int64(len(r.value))), ""
	}
	if n := len(old.value) + len(r.value); n > MaxValueBytes {
		return out, fmt.Sprintf("kv: append to %s: the value would have %d bytes, more than %d", shown(r.key), n, MaxValueBytes)
	}
	it := old.extended(r.value, x.index)
	m.write(it)
	return appendNumber(out, OpAppend, x.index, int64(len(it.value))), ""
}

// extended returns it with more at the end of its value. The room behind the
// value is used when there is some: it belongs to the newest item of a key
// alone, who reads an older one reads only up to that one's end, and what is
// extended has not been before (or the transaction that did was undone).
func (it *item) extended(more []byte, revision uint64) *item {
	next := &item{key: it.key, value: it.value, revision: revision, expires: it.expires}
	if need := len(it.value) + len(more); need > cap(it.value) {
		// The key moves along, or it would hold on to where the value was.
		room := need + min(need/2, 64<<10)
		buf := append(make([]byte, 0, len(it.key)+room), it.key...)
		next.key = buf[:len(it.key):len(it.key)]
		next.value = append(buf[len(it.key):], it.value...)
	}
	next.value = append(next.value, more...)
	next.sum = next.hash()
	return next
}

func (m *Machine) add(r *request, out []byte) ([]byte, string) {
	x := &m.exec
	var n, expires int64
	if old := m.find(r.key); old != nil {
		var ok bool
		if n, ok = counter(old.value); !ok {
			return out, fmt.Sprintf("kv: add to %s: its value is no number", shown(r.key))
		}
		expires = old.expires
	}
	if r.delta > 0 && n > math.MaxInt64-r.delta || r.delta < 0 && n < math.MinInt64-r.delta {
		return out, fmt.Sprintf("kv: add to %s: %d and %d is out of range", shown(r.key), n, r.delta)
	}
	n += r.delta
	var text [20]byte
	m.write(newItem(r.key, strconv.AppendInt(text[:0], n, 10), x.index, expires))
	return appendNumber(out, OpAdd, x.index, n), ""
}

// counter reads a value as a decimal number, in the one way that add writes it.
func counter(value []byte) (int64, bool) {
	const longest = 20
	if len(value) > longest {
		return 0, false
	}
	n, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil {
		return 0, false
	}
	var text [longest]byte
	return n, bytes.Equal(strconv.AppendInt(text[:0], n, 10), value)
}
