package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"google.golang.org/grpc"

	"github.com/diarchy/diarchy/fsm"
	"github.com/diarchy/diarchy/plugins/fsmpb"
)

// Snapshot implements fsm.Machine.
func (c *Client) Snapshot(ctx context.Context) (fsm.Snapshot, error) {
	life, end := context.WithCancel(c.life)
	stop := context.AfterFunc(ctx, end)
	s, err := c.capture(life, end)
	switch stopped := stop(); {
	case stopped && err == nil:
		return s, nil
	case !stopped && c.life.Err() == nil:
		err = ctx.Err()
	}
	end()
	return nil, err
}

func (c *Client) capture(ctx context.Context, end context.CancelFunc) (*snapshot, error) {
	stream, err := c.rpc.Snapshot(ctx, &fsmpb.SnapshotRequest{})
	if err != nil {
		return nil, c.failed(ctx, "snapshot", err)
	}
	m, err := stream.Recv()
	switch {
	case err != nil:
		return nil, c.failed(ctx, "snapshot", err)
	case m.GetFailure() != nil:
		return nil, errorOf(m.GetFailure())
	case !m.GetCaptured():
		return nil, c.lost(errors.New("snapshot: bytes before the state was captured"))
	}
	return &snapshot{c: c, ctx: ctx, stream: stream, end: end}, nil
}

// snapshot is a state that the plugin has captured and sends as it is read.
type snapshot struct {
	c      *Client
	ctx    context.Context
	stream grpc.ServerStreamingClient[fsmpb.SnapshotReply]
	end    context.CancelFunc
}

// WriteTo implements fsm.Snapshot.
func (s *snapshot) WriteTo(w io.Writer) (n int64, err error) {
	for {
		m, err := s.stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return n, s.c.lost(errors.New("snapshot: it ended without a last message"))
		case err != nil:
			return n, s.c.failed(s.ctx, "snapshot", err)
		case m.GetFailure() != nil:
			return n, errorOf(m.GetFailure())
		case m.GetEnd() && m.GetSize() != uint64(n):
			return n, s.c.lost(fmt.Errorf("snapshot: it is %d bytes long, %d arrived", m.GetSize(), n))
		case m.GetEnd():
			return n, nil
		}
		k, err := w.Write(m.GetChunk())
		n += int64(k)
		if err != nil {
			return n, err
		}
	}
}

// Release implements fsm.Snapshot.
func (s *snapshot) Release() { s.end() }

// Restore implements fsm.Machine.
func (c *Client) Restore(ctx context.Context, info fsm.SnapshotInfo, r io.Reader) error {
	ctx, cancel := c.within(ctx)
	defer cancel()
	stream, err := c.rpc.Restore(ctx)
	if err != nil {
		return c.failed(ctx, "restore", err)
	}
	readErr := sendSnapshot(stream, info, r)
	reply, err := stream.CloseAndRecv()
	switch {
	case readErr != nil:
		return readErr
	case err != nil:
		return c.failed(ctx, "restore", err)
	}
	return errorOf(reply.GetFailure())
}

// sendSnapshot returns r's error, and tells the plugin of it. An error of the
// stream is left to its end, which knows the reason.
func sendSnapshot(stream grpc.ClientStreamingClient[fsmpb.RestoreRequest, fsmpb.RestoreReply], info fsm.SnapshotInfo, r io.Reader) error {
	err := stream.Send(&fsmpb.RestoreRequest{Info: &fsmpb.SnapshotInfo{
		Index: info.Index, Time: info.Time, Name: info.Name, Version: info.Version, Size: info.Size, Host: info.Host,
	}})
	if err != nil {
		return nil
	}
	var size uint64
	buf := make([]byte, snapshotChunkBytes)
	for {
		n, err := fill(r, buf)
		size += uint64(n)
		chunk := &fsmpb.RestoreRequest{Chunk: buf[:n]}
		switch {
		case err == io.EOF:
			chunk.End, chunk.Size = true, size
			_ = stream.Send(chunk)
			return nil
		case err != nil:
			_ = stream.Send(&fsmpb.RestoreRequest{Abort: "reading it: " + strings.ToValidUTF8(err.Error(), "\uFFFD")})
			return err
		}
		if stream.Send(chunk) != nil {
			return nil
		}
	}
}

// fill reads until buf is full or r ends. io.ReadFull would not do: it makes
// io.ErrUnexpectedEOF of an end, and r reports damage by that error.
func fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var k int
		k, err = r.Read(buf[n:])
		n += k
	}
	return n, err
}
