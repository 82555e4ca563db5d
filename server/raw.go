package server

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"

	"github.com/diarchy/diarchy/framework"
)

func (s *Server) postPropose(w http.ResponseWriter, r *request) error {
	command, err := s.readBody(w, r)
	if err != nil {
		return err
	}
	ctx, cancel, err := s.context(r)
	if err != nil {
		return err
	}
	defer cancel()
	rec, err := s.proposeHTTP(ctx, r, command)
	if err != nil {
		return err
	}
	setReceipt(w.Header(), rec)
	if rec.Err != "" {
		return refused(rec)
	}
	return writeBytes(w, r, rec.Value)
}

func (s *Server) postQuery(w http.ResponseWriter, r *request) error {
	q, err := s.readBody(w, r)
	if err != nil {
		return err
	}
	ctx, cancel, err := s.context(r)
	if err != nil {
		return err
	}
	defer cancel()
	a, err := s.queryHTTP(ctx, r, q)
	if err != nil {
		return err
	}
	setAnswer(w.Header(), a)
	return writeBytes(w, r, a.Value)
}

func (s *Server) putSession(w http.ResponseWriter, r *request) error {
	id, err := parseSession(r.session)
	if err != nil {
		return err
	}
	ordered, err := r.flag("ordered")
	if err != nil {
		return err
	}
	ctx, cancel, err := s.context(r)
	if err != nil {
		return err
	}
	defer cancel()
	if err := s.svc.OpenSession(ctx, r.group, id, framework.SessionOptions{Ordered: ordered}); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) deleteSession(w http.ResponseWriter, r *request) error {
	id, err := parseSession(r.session)
	if err != nil {
		return err
	}
	ctx, cancel, err := s.context(r)
	if err != nil {
		return err
	}
	defer cancel()
	if err := s.svc.CloseSession(ctx, r.group, id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) proposeHTTP(ctx context.Context, r *request, command []byte) (framework.Receipt, error) {
	session, err := sessionOf(r.Header)
	if err != nil {
		return framework.Receipt{}, err
	}
	noForward, err := r.flag("no_forward")
	if err != nil {
		return framework.Receipt{}, err
	}
	return s.svc.Propose(ctx, r.group, framework.Command{Data: command, Session: session, NoForward: noForward})
}

func (s *Server) queryHTTP(ctx context.Context, r *request, q []byte) (framework.Answer, error) {
	level, err := framework.ParseConsistency(r.query.Get("consistency"))
	if err != nil {
		return framework.Answer{}, err
	}
	noForward, err := r.flag("no_forward")
	if err != nil {
		return framework.Answer{}, err
	}
	after, err := tokenFrom(r.Header)
	if err != nil {
		return framework.Answer{}, err
	}
	return s.svc.Query(ctx, r.group, framework.ReadQuery{Data: q, Consistency: level, After: after, NoForward: noForward})
}

// context bounds a request by ?timeout or the server's own limit.
func (s *Server) context(r *request) (context.Context, context.CancelFunc, error) {
	d, err := r.duration("timeout")
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.timeoutFor(d))
	return ctx, cancel, nil
}

// readBody reads a command or query. Memory grows with what has arrived, not
// with what was announced.
func (s *Server) readBody(w http.ResponseWriter, r *request) ([]byte, error) {
	most := int64(s.cfg.CommandBytesMax)
	if r.ContentLength > most {
		return nil, framework.ErrTooLarge.Because("the body has %d bytes, over the limit of %d", r.ContentLength, most)
	}
	body := http.MaxBytesReader(w, r.Body, most)
	var b []byte
	var err error
	if n := r.ContentLength; n >= 0 && n <= 64<<10 {
		b = make([]byte, n)
		_, err = io.ReadFull(body, b)
	} else {
		b, err = io.ReadAll(body)
	}
	var tooLong *http.MaxBytesError
	switch {
	case err == nil || errors.As(err, &tooLong):
		return b, err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, framework.ErrDeadline.Because("the body did not arrive in time; nothing was done")
	}
	return nil, framework.ErrInvalid.Because("the body was cut off: %s; nothing was done", err)
}

// number reads ?name=N.
func (r *request) number(name string) (n uint64, given bool, err error) {
	v := r.query.Get(name)
	if !r.query.Has(name) {
		return 0, false, nil
	}
	n, err = strconv.ParseUint(v, 10, 64)
	if err != nil {
		return 0, false, framework.ErrInvalid.Because("?%s=%s: expected a number", name, quote(v))
	}
	return n, true, nil
}

func headerNumber(h http.Header, name string) (uint64, error) {
	v := h.Get(name)
	if v == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		return 0, framework.ErrInvalid.Because("header %s: %s: expected a number", name, quote(v))
	}
	return n, nil
}

func parseSession(v string) (framework.SessionID, error) {
	var id framework.SessionID
	if len(v) != hex.EncodedLen(len(id)) {
		return id, framework.ErrInvalid.Because("session %s: expected 32 hexadecimal digits (128 random bits)", quote(v))
	}
	if _, err := hex.Decode(id[:], []byte(v)); err != nil || id == (framework.SessionID{}) {
		return id, framework.ErrInvalid.Because("session %s: expected 32 hexadecimal digits (128 random bits, not all zero)", quote(v))
	}
	return id, nil
}

// sessionOf reads a command's place in its session from the headers.
func sessionOf(h http.Header) (framework.Session, error) {
	v := h.Get(headerSession)
	if v == "" {
		if h.Get(headerSeq) != "" {
			return framework.Session{}, framework.ErrInvalid.Because("header %s needs %s", headerSeq, headerSession)
		}
		return framework.Session{}, nil
	}
	id, err := parseSession(v)
	if err != nil {
		return framework.Session{}, err
	}
	seq, err := headerNumber(h, headerSeq)
	if err != nil {
		return framework.Session{}, err
	}
	if seq == 0 {
		return framework.Session{}, framework.ErrInvalid.Because("header %s needs %s, the command's number in the session from 1", headerSession, headerSeq)
	}
	acked, err := headerNumber(h, headerAcked)
	if err != nil {
		return framework.Session{}, err
	}
	return framework.Session{ID: id, Seq: seq, AckedBelow: acked}, nil
}

// tokenFrom reads the headers of an earlier answer, sent back to read what was
// written.
func tokenFrom(h http.Header) (framework.Token, error) {
	var t framework.Token
	var err error
	if t.Number, err = headerNumber(h, headerIndex); err != nil {
		return t, err
	}
	if v := h.Get(headerHistory); v != "" {
		if t.History, err = framework.ParseUUID(v); err != nil {
			return t, framework.ErrInvalid.Because("header %s: %s", headerHistory, err)
		}
	}
	if t.Number != 0 && t.History == (framework.UUID{}) {
		return t, framework.ErrInvalid.Because("header %s needs %s: send both as they came, or neither", headerIndex, headerHistory)
	}
	return t, nil
}

func setReceipt(h http.Header, rec framework.Receipt) {
	h.Set(headerIndex, strconv.FormatUint(rec.Token.Number, 10))
	h.Set(headerHistory, rec.Token.History.String())
	if rec.Duplicate {
		h.Set(headerRepeated, "true")
	}
}

func setAnswer(h http.Header, a framework.Answer) {
	h.Set(headerIndex, strconv.FormatUint(a.Token.Number, 10))
	h.Set(headerHistory, a.Token.History.String())
	if a.Age != 0 {
		h.Set(headerAge, a.Age.String())
	}
}

// writeBytes writes a value as it is. nosniff: it is a user's, and must not
// become a page of this origin.
func writeBytes(w http.ResponseWriter, r *request, b []byte) error {
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return nil
	}
	_, err := w.Write(b)
	return err
}
