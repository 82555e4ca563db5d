package client

import (
	"context"
	"errors"
	"fmt"
	"io"

	pb "github.com/diarchy/diarchy/client/clientpb"
)

// chunkBytes is how much of an archive goes in one message.
const chunkBytes = 256 << 10

// SaveSnapshot writes a backup of the group to w. After an error what w holds is
// not whole.
func (g *Group) SaveSnapshot(ctx context.Context, w io.Writer) (*pb.SnapshotReport, error) {
	t := g.c.newTry(g, false, true)
	for {
		n, _, e := t.pick(g.c)
		if e != nil {
			return nil, e
		}
		written, rep, err := g.saveFrom(ctx, n, w)
		if err == nil {
			return rep, nil
		}
		if e = fromConnect(err); written {
			e.Happened = No
			return nil, e // w cannot be begun again
		}
		if e = t.again(ctx, g.c, n, e); e != nil {
			e.Happened = No
			return nil, e
		}
	}
}

func (g *Group) saveFrom(ctx context.Context, n *node, w io.Writer) (written bool, rep *pb.SnapshotReport, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := n.rpc.SaveSnapshot(ctx, &pb.SaveSnapshotRequest{Group: g.name})
	if err != nil {
		return false, nil, err
	}
	defer s.Close()
	for s.Receive() {
		m := s.Msg()
		if m.Report != nil {
			rep = m.Report
		}
		if len(m.Chunk) == 0 {
			continue
		}
		written = true
		if _, err := w.Write(m.Chunk); err != nil {
			return true, nil, &Error{Code: pb.CodeInvalid, Message: fmt.Sprintf("writing the backup: %v", err), cause: contextCause(err)}
		}
	}
	if err := s.Err(); err != nil {
		return written, nil, err
	}
	if rep == nil {
		return written, nil, errors.New("the backup was cut off")
	}
	return written, rep, nil
}

// RestoreSnapshot replaces the group's state by a backup's. It is sent once: when
// the answer is lost, Status tells by the group's history whether it happened.
func (g *Group) RestoreSnapshot(ctx context.Context, r io.Reader) (*pb.SnapshotReport, error) {
	n, err := g.c.seed(g.c.begin.Load())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := n.rpc.RestoreSnapshot(ctx)
	if err != nil {
		return nil, fromConnect(err)
	}
	buf := make([]byte, chunkBytes)
	m := &pb.RestoreSnapshotRequest{Group: g.name}
	for !m.Complete {
		k, err := io.ReadFull(r, buf)
		m.Chunk = buf[:k]
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			m.Complete = true
		case err != nil:
			return nil, &Error{Code: pb.CodeInvalid, Message: fmt.Sprintf("reading the backup: %v; nothing was restored", err)}
		}
		if err := s.Send(m); err != nil {
			break // CloseAndReceive tells why
		}
		m.Group = ""
	}
	rep, err := s.CloseAndReceive()
	if err != nil {
		return nil, fromConnect(err)
	}
	return rep, nil
}
