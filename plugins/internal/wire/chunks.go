package wire

import (
	"errors"
	"fmt"
	"io"

	"github.com/diarchy/diarchy/plugins/fsmpb"
)

// snapshotChunkBytes is what chunks are filled up to: below the protocol's
// limit, so that batches get their turn on the connection.
const snapshotChunkBytes = 256 << 10

// chunkWriter sends what is written to it in chunks, and keeps no chunk once
// send has returned.
type chunkWriter struct {
	send    func(chunk []byte) error
	buf     []byte
	written uint64
}

func newChunkWriter(send func([]byte) error) *chunkWriter {
	return &chunkWriter{send: send, buf: make([]byte, 0, snapshotChunkBytes)}
}

func (w *chunkWriter) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		if len(w.buf) == cap(w.buf) {
			if err := w.flush(); err != nil {
				return total - len(p), err
			}
		}
		n := copy(w.buf[len(w.buf):cap(w.buf)], p)
		w.buf, p = w.buf[:len(w.buf)+n], p[n:]
	}
	return total, nil
}

func (w *chunkWriter) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	w.written += uint64(len(w.buf))
	err := w.send(w.buf)
	w.buf = w.buf[:0]
	return err
}

// chunkReader reads the chunks of a restore. It ends in io.EOF only when the
// host has said that all is there.
type chunkReader struct {
	next  func() (*fsmpb.RestoreRequest, error)
	chunk []byte
	read  uint64
	err   error
}

func (r *chunkReader) Read(p []byte) (int, error) {
	for len(r.chunk) == 0 && r.err == nil {
		r.err = r.more()
	}
	if len(r.chunk) == 0 {
		return 0, r.err
	}
	n := copy(p, r.chunk)
	r.chunk = r.chunk[n:]
	return n, nil
}

func (r *chunkReader) more() error {
	m, err := r.next()
	switch {
	case errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	case err != nil:
		return err
	case m.GetAbort() != "":
		return fmt.Errorf("the snapshot cannot be read: %s", m.GetAbort())
	}
	r.chunk = m.GetChunk()
	r.read += uint64(len(r.chunk))
	if !m.GetEnd() {
		return nil
	}
	if m.GetSize() != r.read {
		return fmt.Errorf("the snapshot is %d bytes long, %d arrived", m.GetSize(), r.read)
	}
	return io.EOF
}
