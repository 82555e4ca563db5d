package wire

import (
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// A frame writes itself as one message, a filler takes one in.
type (
	frame interface {
		// size is the exact number of bytes that appendTo appends.
		size() int
		appendTo(b []byte) []byte
	}
	filler interface {
		// fill takes one message in. data is gRPC's again when it returns.
		fill(data mem.BufferSlice) error
	}
)

// codec is gRPC's protobuf codec, except for the messages of Apply.
type codec struct{ rest encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2(proto.Name)} }

func (c codec) Name() string { return proto.Name }

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	f, ok := v.(frame)
	if !ok {
		return c.rest.Marshal(v)
	}
	n := f.size()
	if mem.IsBelowBufferPoolingThreshold(n) {
		return mem.BufferSlice{mem.SliceBuffer(f.appendTo(make([]byte, 0, n)))}, nil
	}
	pool := mem.DefaultBufferPool()
	buf := pool.Get(n)
	*buf = f.appendTo((*buf)[:0])
	return mem.BufferSlice{mem.NewBuffer(buf, pool)}, nil
}

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if f, ok := v.(filler); ok {
		return f.fill(data)
	}
	return c.rest.Unmarshal(data, v)
}
