package framework

import (
	"encoding/binary"
	"errors"
)

// What the framework writes into every entry, before the command itself:
//
//	byte 0      format (low nibble, 1) and flags (bit 4: has a session)
//	8 bytes     origin: random, one for each opening of a replica
//	8 bytes     ref: the origin's own number for this proposal
//	8 bytes     time: Unix nanoseconds on the proposing leader
//	32 bytes    session id, seq, ackedBelow (with the flag only)
//	rest        the command; for KindControl one byte of control kind, then its body
//
// All integers are little-endian. (origin, ref) is how the replica that
// proposed finds its waiting caller again when it applies the entry.
const (
	entryFormat    = 1
	flagSession    = 0x10
	headerBytes    = 1 + 3*8
	sessionBytes   = 16 + 2*8
	entryOverhead  = headerBytes + sessionBytes
	entryFlagsMask = 0xf0
)

// controlBytesMax is above the longest control entry's body and kind: however
// short a group's commands must be, there is room for it.
const controlBytesMax = 64

// control names what a control entry does.
type control uint8

const (
	controlOpenSession  control = 1 // body: 16 bytes id, 1 byte flags (bit 0 ordered)
	controlCloseSession control = 2 // body: 16 bytes id
	controlTick         control = 3 // no body
	controlRestore      control = 4 // body: 32 bytes payload hash, 16 bytes new history
)

// header is what stands before the command in every entry.
type header struct {
	origin, ref uint64
	time        int64
	session     Session
}

var errBadEntry = errors.New("entry of an unknown format")

func appendEntry(dst []byte, h *header, data []byte) []byte {
	first := byte(entryFormat)
	if h.session.ID != (SessionID{}) {
		first |= flagSession
	}
	dst = append(dst, first)
	dst = binary.LittleEndian.AppendUint64(dst, h.origin)
	dst = binary.LittleEndian.AppendUint64(dst, h.ref)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(h.time))
	if first&flagSession != 0 {
		dst = append(dst, h.session.ID[:]...)
		dst = binary.LittleEndian.AppendUint64(dst, h.session.Seq)
		dst = binary.LittleEndian.AppendUint64(dst, h.session.AckedBelow)
	}
	return append(dst, data...)
}

// encodedBytes is what appendEntry will write.
func encodedBytes(h *header, data []byte) int {
	n := headerBytes + len(data)
	if h.session.ID != (SessionID{}) {
		n += sessionBytes
	}
	return n
}

// decodeEntry fills h and returns the command, which shares b's memory.
func decodeEntry(b []byte, h *header) ([]byte, error) {
	if len(b) < headerBytes || b[0]&^entryFlagsMask != entryFormat || b[0]&entryFlagsMask&^flagSession != 0 {
		return nil, errBadEntry
	}
	h.origin = binary.LittleEndian.Uint64(b[1:])
	h.ref = binary.LittleEndian.Uint64(b[9:])
	h.time = int64(binary.LittleEndian.Uint64(b[17:]))
	h.session = Session{}
	flagged := b[0]&flagSession != 0
	b = b[headerBytes:]
	if flagged {
		if len(b) < sessionBytes {
			return nil, errBadEntry
		}
		copy(h.session.ID[:], b)
		h.session.Seq = binary.LittleEndian.Uint64(b[16:])
		h.session.AckedBelow = binary.LittleEndian.Uint64(b[24:])
		b = b[sessionBytes:]
	}
	return b, nil
}
