package wire

import (
	"encoding/binary"
	"errors"
	"fmt"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/diarchy/diarchy/fsm"
	"github.com/diarchy/diarchy/plugins/fsmpb"
)

// A tag is a field's number in fsm.proto and its wire type, in one byte: all
// numbers are below 16. A field that comes with another type is an unknown one.
const (
	requestBatch   = 1<<3 | tagVarint
	requestEntries = 2<<3 | tagBytes
	requestLast    = 3<<3 | tagVarint
	requestTime    = 4<<3 | tagFixed64
	requestHost    = 5<<3 | tagBytes

	entryIndex = 1<<3 | tagVarint
	entryTime  = 2<<3 | tagFixed64
	entryData  = 3<<3 | tagBytes

	replyBatch   = 1<<3 | tagVarint
	replyResults = 2<<3 | tagBytes
	replyLast    = 3<<3 | tagVarint
	replyFailure = 4<<3 | tagBytes

	resultValue = 1<<3 | tagBytes
	resultErr   = 2<<3 | tagBytes
	resultDue   = 3<<3 | tagFixed64

	tagVarint, tagFixed64, tagBytes = byte(protowire.VarintType), byte(protowire.Fixed64Type), byte(protowire.BytesType)
)

// batchOut is an ApplyRequest on its way out.
type batchOut struct {
	batch   uint64
	entries []fsm.Entry
	last    bool
	time    int64
	host    []byte
	bytes   int // of entries, as fields
}

func (f *batchOut) size() int {
	n := f.bytes + sizeVarintField(f.batch)
	if f.last {
		n += 2 + sizeFixedField(f.time) + sizeBytesField(len(f.host))
	}
	return n
}

func (f *batchOut) appendTo(b []byte) []byte {
	b = appendVarintField(b, requestBatch, f.batch)
	for i := range f.entries {
		e := &f.entries[i]
		b = append(b, requestEntries)
		b = binary.AppendUvarint(b, uint64(sizeEntry(e)))
		b = appendVarintField(b, entryIndex, e.Index)
		b = appendFixedField(b, entryTime, e.Time)
		b = appendBytesField(b, entryData, e.Data)
	}
	if f.last {
		b = append(b, requestLast, 1)
		b = appendFixedField(b, requestTime, f.time)
		b = appendBytesField(b, requestHost, f.host)
	}
	return b
}

func sizeEntry(e *fsm.Entry) int {
	return sizeVarintField(e.Index) + sizeFixedField(e.Time) + sizeBytesField(len(e.Data))
}

// resultsOut is an ApplyReply on its way out.
type resultsOut struct {
	batch   uint64
	results []fsm.Result
	last    bool
	bytes   int // of results, as fields
}

func (f *resultsOut) size() int {
	n := f.bytes + sizeVarintField(f.batch)
	if f.last {
		n += 2
	}
	return n
}

func (f *resultsOut) appendTo(b []byte) []byte {
	b = appendVarintField(b, replyBatch, f.batch)
	for i := range f.results {
		r := &f.results[i]
		b = append(b, replyResults)
		b = binary.AppendUvarint(b, uint64(sizeResult(r)))
		b = appendBytesField(b, resultValue, r.Value)
		b = appendBytesField(b, resultErr, r.Err)
		b = appendFixedField(b, resultDue, r.Due)
	}
	if f.last {
		b = append(b, replyLast, 1)
	}
	return b
}

func sizeResult(r *fsm.Result) int {
	return sizeBytesField(len(r.Value)) + sizeBytesField(len(r.Err)) + sizeFixedField(r.Due)
}

// sizeItem is what a message of n bytes takes as a repeated field.
func sizeItem(n int) int { return 1 + protowire.SizeBytes(n) }

// Fields with their zero value are left out, as generated code does.

func sizeVarintField(v uint64) int {
	if v == 0 {
		return 0
	}
	return 1 + protowire.SizeVarint(v)
}

func sizeFixedField(v int64) int {
	if v == 0 {
		return 0
	}
	return 9
}

func sizeBytesField(n int) int {
	if n == 0 {
		return 0
	}
	return 1 + protowire.SizeBytes(n)
}

func appendVarintField(b []byte, tag byte, v uint64) []byte {
	if v == 0 {
		return b
	}
	return binary.AppendUvarint(append(b, tag), v)
}

func appendFixedField(b []byte, tag byte, v int64) []byte {
	if v == 0 {
		return b
	}
	return binary.LittleEndian.AppendUint64(append(b, tag), uint64(v))
}

func appendBytesField[T []byte | string](b []byte, tag byte, v T) []byte {
	if len(v) == 0 {
		return b
	}
	b = binary.AppendUvarint(append(b, tag), uint64(len(v)))
	return append(b, v...)
}

// batchIn gathers the ApplyRequests of one batch. What it gives out are views
// of held messages, valid until reset.
type batchIn struct {
	batch   uint64
	entries []fsm.Entry
	last    bool
	time    int64
	host    []byte
	held    []mem.Buffer
}

func (f *batchIn) reset() {
	for _, b := range f.held {
		b.Free()
	}
	clear(f.held)
	clear(f.entries)
	*f = batchIn{entries: f.entries[:0], held: f.held[:0]}
}

func (f *batchIn) fill(data mem.BufferSlice) error {
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	f.held = append(f.held, buf)
	return eachField(buf.ReadOnlyData(), func(tag byte, v value) error {
		switch tag {
		case requestBatch:
			f.batch = v.num
		case requestEntries:
			e, err := decodeEntry(v.bytes)
			f.entries = append(f.entries, e)
			return err
		case requestLast:
			f.last = v.num != 0
		case requestTime:
			f.time = int64(v.num)
		case requestHost:
			f.host = v.bytes
		}
		return nil
	})
}

func decodeEntry(b []byte) (e fsm.Entry, err error) {
	for len(b) > 0 {
		tag, v, n := consume(b)
		if n < 0 {
			return e, errMalformed
		}
		b = b[n:]
		switch tag {
		case entryIndex:
			e.Index = v.num
		case entryTime:
			e.Time = int64(v.num)
		case entryData:
			e.Data = v.bytes
		}
	}
	return e, nil
}

// resultsIn puts the ApplyReplys of one batch into the host's results. The
// values are the host's to keep: their memory is not used again.
type resultsIn struct {
	batch   uint64
	results []fsm.Result
	filled  int
	last    bool
	failure *fsmpb.Failure
}

var errTooMany = errors.New("more results than commands")

func (f *resultsIn) fill(data mem.BufferSlice) error {
	return eachField(data.Materialize(), func(tag byte, v value) error {
		switch tag {
		case replyBatch:
			f.batch = v.num
		case replyResults:
			if f.filled == len(f.results) {
				return errTooMany
			}
			f.filled++
			return decodeResult(v.bytes, &f.results[f.filled-1])
		case replyLast:
			f.last = v.num != 0
		case replyFailure:
			f.failure = new(fsmpb.Failure)
			return proto.Unmarshal(v.bytes, f.failure)
		}
		return nil
	})
}

func decodeResult(b []byte, r *fsm.Result) error {
	*r = fsm.Result{}
	for len(b) > 0 {
		tag, v, n := consume(b)
		if n < 0 {
			return errMalformed
		}
		b = b[n:]
		switch tag {
		case resultValue:
			r.Value = v.bytes
		case resultErr:
			r.Err = string(v.bytes)
		case resultDue:
			r.Due = int64(v.num)
		}
	}
	return nil
}

// value is a field's content: num for numbers, bytes for the rest.
type value struct {
	num   uint64
	bytes []byte
}

var errMalformed = errors.New("malformed message")

func eachField(b []byte, take func(byte, value) error) error {
	for len(b) > 0 {
		tag, v, n := consume(b)
		if n < 0 {
			return errMalformed
		}
		if err := take(tag, v); err != nil {
			return fmt.Errorf("field %d: %w", tag>>3, err)
		}
		b = b[n:]
	}
	return nil
}

// consume takes one field off b and returns its length, negative when it is
// malformed. A field that this version does not know has tag 0.
func consume(b []byte) (tag byte, v value, n int) {
	num, typ, n := protowire.ConsumeTag(b)
	if n < 0 {
		return 0, v, n
	}
	m := 0
	switch typ {
	case protowire.VarintType:
		v.num, m = protowire.ConsumeVarint(b[n:])
	case protowire.Fixed64Type:
		v.num, m = protowire.ConsumeFixed64(b[n:])
	case protowire.BytesType:
		v.bytes, m = protowire.ConsumeBytes(b[n:])
		v.bytes = v.bytes[:len(v.bytes):len(v.bytes)]
	default:
		m = protowire.ConsumeFieldValue(num, typ, b[n:])
	}
	if m < 0 {
		return 0, value{}, m
	}
	if num < 16 {
		tag = byte(num)<<3 | byte(typ)
	}
	return tag, v, n + m
}
