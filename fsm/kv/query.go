package kv

import (
	"bytes"
	"encoding/binary"
)

// appendGet answers get; it is nil when the key is not there.
func appendGet(dst []byte, it *item) []byte {
	if it == nil {
		return appendFlag(append(dst, byte(OpGet)), false)
	}
	if dst == nil {
		dst = make([]byte, 0, itemBytes(it, it.value)+2)
	}
	return appendItem(appendFlag(append(dst, byte(OpGet)), true), it, it.value)
}

// itemBytes is at least what appendItem appends.
func itemBytes(it *item, value []byte) int {
	return len(it.key) + len(value) + 4*binary.MaxVarintLen64
}

func (s *store) list(r *request, now int64) []byte {
	// Room for the head: code, more, and the count, written last.
	const head = 2 + binary.MaxVarintLen64
	out := make([]byte, head, 1<<10)
	count, more := 0, false
	s.byKey.AscendGreaterOrEqual(&item{key: listStart(r)}, func(it *item) bool {
		if !bytes.HasPrefix(it.key, r.key) {
			return false
		}
		if it.expired(now) || len(r.after) > 0 && bytes.Equal(it.key, r.after) {
			return true
		}
		value := it.value
		if r.keysOnly {
			value = nil
		}
		if count == r.limit || len(out)+itemBytes(it, value) > answerBytesMax {
			more = true
			return false
		}
		out = appendItem(out, it, value)
		count++
		return true
	})
	return listHead(out, head, count, more)
}

// listStart is the first key that can be in the answer.
func listStart(r *request) []byte {
	if bytes.Compare(r.after, r.key) > 0 {
		return r.after
	}
	return r.key
}

// listHead writes the head right before the items, and cuts off the room that
// it does not need.
func listHead(out []byte, room, count int, more bool) []byte {
	var head [2 + binary.MaxVarintLen64]byte
	h := appendFlag(append(head[:0], byte(OpList)), more)
	h = binary.AppendUvarint(h, uint64(count))
	out = out[room-len(h):]
	copy(out, h)
	return out
}
