package server

import (
	"errors"
	"io"
	"net/http"
	"strconv"

	"connectrpc.com/connect"

	pb "github.com/diarchy/diarchy/client/clientpb"
	"github.com/diarchy/diarchy/framework"
)

// chunkBytes is how much of an archive goes in one message.
const chunkBytes = 256 << 10

// getSnapshot downloads a backup. What is in it is told in trailers, since it
// is known at the end only; a download that ends without them is not whole.
func (s *Server) getSnapshot(w http.ResponseWriter, r *request) error {
	h := w.Header()
	h.Set("Trailer", headerIndex+", "+headerHistory)
	out := &lateHeader{w: w, name: r.group}
	rep, err := s.svc.Backup(r.Context(), r.group, out)
	if err != nil {
		h.Del("Trailer")
		return err
	}
	if !out.begun {
		out.begin()
	}
	h.Set(headerIndex, strconv.FormatUint(rep.Number, 10))
	h.Set(headerHistory, rep.History.String())
	return nil
}

// lateHeader sends the status with the first byte, so that what fails before is
// told by a status of its own.
type lateHeader struct {
	w     http.ResponseWriter
	name  string
	begun bool
}

func (l *lateHeader) begin() {
	h := l.w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Disposition", "attachment; filename="+strconv.Quote(fileName(l.name)+".diarchy"))
	l.w.WriteHeader(http.StatusOK)
	l.begun = true
}

// fileName keeps of a group's name what every file system takes.
func fileName(group string) string {
	b := []byte(group)
	for i, c := range b {
		plain := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
		if !plain {
			b[i] = '_'
		}
	}
	return string(b)
}

func (l *lateHeader) Write(p []byte) (int, error) {
	if !l.begun {
		l.begin()
	}
	return l.w.Write(p)
}

func (s *Server) putSnapshot(w http.ResponseWriter, r *request) error {
	rep, err := s.svc.RestoreBackup(r.Context(), r.group, r.Body)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, rep)
	return nil
}

// chunkWriter sends an archive as messages of chunkBytes.
type chunkWriter struct {
	out  *connect.ServerStream[pb.SaveSnapshotResponse]
	held []byte
}

func (c *chunkWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		take := min(len(p), chunkBytes-len(c.held))
		c.held = append(c.held, p[:take]...)
		p = p[take:]
		if len(c.held) == chunkBytes {
			if err := c.flush(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

func (c *chunkWriter) flush() error {
	if len(c.held) == 0 {
		return nil
	}
	err := c.out.Send(&pb.SaveSnapshotResponse{Chunk: c.held})
	c.held = c.held[:0]
	return err
}

// chunkReader gives an archive's bytes as they arrive. It ends well only after
// the message that says that the archive is whole.
type chunkReader struct {
	in    *connect.ClientStream[pb.RestoreSnapshotRequest]
	held  []byte
	whole bool
}

func (c *chunkReader) Read(p []byte) (int, error) {
	for len(c.held) == 0 {
		if c.whole {
			return 0, io.EOF
		}
		if !c.in.Receive() {
			if err := c.in.Err(); err != nil {
				return 0, err
			}
			return 0, framework.ErrInvalid.Because("the archive was cut off; nothing was restored")
		}
		c.held, c.whole = c.in.Msg().Chunk, c.in.Msg().Complete
	}
	n := copy(p, c.held)
	c.held = c.held[n:]
	return n, nil
}

// restoreName reads the first message, which names the group.
func (c *chunkReader) restoreName() (string, error) {
	if !c.in.Receive() {
		if err := c.in.Err(); err != nil {
			return "", err
		}
		return "", errors.New("no message")
	}
	m := c.in.Msg()
	c.held, c.whole = m.Chunk, m.Complete
	return m.Group, nil
}
