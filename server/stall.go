package server

import (
	"io"
	"net/http"
	"sync"
	"time"
)

// A client that stops reading its answer, or sends its body a byte a minute,
// holds memory here. guardStalls gives each single write of the answer, and
// each single read of the body, a limit. Waiting between them costs nothing:
// a stream may be silent for as long as it likes, where readStalls is false.
func (s *Server) guardStalls(w http.ResponseWriter, r *http.Request, readStalls bool) (*stallWriter, *http.Request) {
	limit := s.cfg.StallTimeout
	sw := &stallWriter{ResponseWriter: w, limit: limit, control: http.NewResponseController(w), count: sync.OnceFunc(s.metrics.cut.Inc)}
	sw.timer = time.AfterFunc(limit, sw.cut)
	sw.timer.Stop()
	if readStalls && r.Body != nil && r.Body != http.NoBody {
		b := &stallBody{ReadCloser: r.Body, limit: limit}
		b.timer = time.AfterFunc(limit, func() { sw.interrupt() })
		b.timer.Stop()
		r2 := *r
		r2.Body = b
		return sw, &r2
	}
	return sw, r
}

type stallWriter struct {
	http.ResponseWriter
	limit   time.Duration
	timer   *time.Timer
	control *http.ResponseController
	count   func()
	// wrote: the status line is out, an error can no longer be told by it.
	wrote bool

	mu sync.Mutex
	// finished: the handler returns, and net/http's own parts must not be
	// touched any more: a timer that fires just then would bring the process
	// down.
	finished bool
}

// past is a deadline that is over.
var past = time.Unix(1, 0)

// cut makes the write that waits fail. It may come from any goroutine, late.
func (w *stallWriter) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.finished {
		return
	}
	w.count()
	_ = w.control.SetWriteDeadline(past)
}

// interrupt makes the read that waits fail, and says whether it can.
func (w *stallWriter) interrupt() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.finished && w.control.SetReadDeadline(past) == nil
}

// finish is called when the handler returns.
func (w *stallWriter) finish() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.finished = true
}

func (w *stallWriter) WriteHeader(status int) {
	w.wrote = true
	w.ResponseWriter.WriteHeader(status)
}

func (w *stallWriter) Write(p []byte) (int, error) {
	w.wrote = true
	w.timer.Reset(w.limit)
	defer w.timer.Stop()
	return w.ResponseWriter.Write(p)
}

// Flush is what connect looks for; see http.Flusher.
func (w *stallWriter) Flush() { _ = w.FlushError() }

func (w *stallWriter) FlushError() error {
	w.wrote = true
	w.timer.Reset(w.limit)
	defer w.timer.Stop()
	return w.control.Flush()
}

// Unwrap is for http.ResponseController.
func (w *stallWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

type stallBody struct {
	io.ReadCloser
	limit time.Duration
	timer *time.Timer
}

func (b *stallBody) Read(p []byte) (int, error) {
	b.timer.Reset(b.limit)
	defer b.timer.Stop()
	return b.ReadCloser.Read(p)
}
