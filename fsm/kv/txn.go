package kv

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// transact runs the decoded transaction: one branch of it, whole or not at all.
func (m *Machine) transact(out []byte) ([]byte, string) {
	x := &m.exec
	held := m.allHold(x.txn.guards)
	ops := x.txn.then
	if !held {
		ops = x.txn.els
	}
	start := len(out)
	out = appendOutcome(out, OpTxn, held, x.index)
	out = binary.AppendUvarint(out, uint64(len(ops)))

	x.inTxn = true
	defer func() { x.inTxn = false }()
	for i := range ops {
		var refusal string
		out, refusal = m.operate(&ops[i], out)
		if refusal == "" && len(out)-start > answerBytesMax {
			refusal = fmt.Sprintf("kv: the answer would have more than %d bytes", answerBytesMax)
		}
		if refusal != "" {
			m.undoAll()
			return out[:start], fmt.Sprintf("kv: transaction undone: operation %d of %d: %s", i+1, len(ops), refusal[len("kv: "):])
		}
	}
	return out, ""
}

func (m *Machine) allHold(guards []Guard) bool {
	for i := range guards {
		if !guards[i].holds(m.find(guards[i].key)) {
			return false
		}
	}
	return true
}

// holds tells whether the guard does for it, which is nil for an absent key.
func (g *Guard) holds(it *item) bool {
	switch g.kind {
	case guardRevision:
		return revisionOf(it) == g.revision
	case guardValue:
		return it != nil && bytes.Equal(it.value, g.value)
	case guardExists:
		return it != nil
	default: // guardAbsent: decode lets nothing else through
		return it == nil
	}
}

// undoAll puts back what the operations so far have changed, newest first.
func (m *Machine) undoAll() {
	x := &m.exec
	for i := len(x.undo) - 1; i >= 0; i-- {
		if old := x.undo[i].old; old != nil {
			m.store.set(old)
			continue
		}
		x.probe.key = x.undo[i].key
		m.store.remove(&x.probe)
	}
}
