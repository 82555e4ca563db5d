package server

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/diarchy/diarchy/framework"
)

// tailBytesMax bounds what one subscriber holds here. When it is full the
// framework is kept waiting, and cuts off who stays too slow.
const tailBytesMax = 1 << 20

// tailPump stands between the framework, which hands over one command at a
// time, and a connection, on which many go at once.
type tailPump struct {
	mu      sync.Mutex
	entries []framework.TailEntry
	bytes   int
	err     error
	done    bool
	wake    chan struct{} // capacity 1: there is something to send
	room    chan struct{} // capacity 1: there is room again
}

// A tail says something, if only that there is nothing, soon after it has begun
// and then now and again: the client learns that it stands, and we that the
// client is still there.
const (
	tailFirst = 200 * time.Millisecond
	tailIdle  = 15 * time.Second
)

// tail subscribes and calls send with batches, and with none when it has been
// silent for long, until that fails, the subscription ends, or the server stops.
func (s *Server) tail(ctx context.Context, group string, from uint64, send func([]framework.TailEntry) error) error {
	ctx, cancel := context.WithCancel(ctx)
	p := &tailPump{wake: make(chan struct{}, 1), room: make(chan struct{}, 1)}
	var wg sync.WaitGroup
	wg.Go(func() {
		err := s.svc.Tail(ctx, group, from, func(e framework.TailEntry) error { return p.put(ctx, e) })
		p.end(err)
	})
	defer wg.Wait()
	defer cancel()
	silent := time.NewTimer(tailFirst)
	defer silent.Stop()
	for {
		idle := false
		select {
		case <-p.wake:
		case <-silent.C:
			idle = true
		case <-s.stop:
			return errStopping
		case <-ctx.Done():
			return nil
		}
		entries, done, err := p.take()
		if len(entries) > 0 || idle {
			if err := send(entries); err != nil {
				return err
			}
			silent.Reset(tailIdle)
		}
		if done {
			return err
		}
	}
}

func (p *tailPump) put(ctx context.Context, e framework.TailEntry) error {
	for {
		p.mu.Lock()
		if p.bytes == 0 || p.bytes+len(e.Data) <= tailBytesMax {
			// A command is at least its header's size to us.
			p.bytes += len(e.Data) + 32
			p.entries = append(p.entries, e)
			p.mu.Unlock()
			nudge(p.wake)
			return nil
		}
		p.mu.Unlock()
		select {
		case <-p.room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (p *tailPump) end(err error) {
	p.mu.Lock()
	p.err, p.done = err, true
	p.mu.Unlock()
	nudge(p.wake)
}

func (p *tailPump) take() (entries []framework.TailEntry, done bool, err error) {
	p.mu.Lock()
	entries, p.entries, p.bytes = p.entries, nil, 0
	done, err = p.done, p.err
	p.mu.Unlock()
	nudge(p.room)
	return entries, done, err
}

func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// tailLine is one command as getTail writes it; data is in base64.
type tailLine struct {
	Number uint64    `json:"number"`
	Time   time.Time `json:"time"`
	Data   []byte    `json:"data"`
}

// getTail streams one JSON object a line, or server-sent events when the client
// accepts those; an empty line now and again. A failure after the first line is a last line {"error": …}.
func (s *Server) getTail(w http.ResponseWriter, r *request) error {
	from, _, err := r.number("from")
	if err != nil {
		return err
	}
	if _, given := r.query["from"]; !given && r.Header.Get("Last-Event-ID") != "" {
		last, err := headerNumber(r.Header, "Last-Event-ID")
		if err != nil {
			return err
		}
		from = last + 1
	}
	events := strings.Contains(r.Header.Get("Accept"), "text/event-stream")
	rc := http.NewResponseController(w)
	begun := false
	begin := func() {
		kind := "application/x-ndjson"
		if events {
			kind = "text/event-stream"
		}
		w.Header().Set("Content-Type", kind)
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(http.StatusOK)
		begun = true
	}
	err = s.tail(r.Context(), r.group, from, func(entries []framework.TailEntry) error {
		if !begun {
			begin()
		}
		for _, e := range entries {
			if err := writeTailLine(w, events, e); err != nil {
				return err
			}
		}
		if len(entries) == 0 {
			if _, err := io.WriteString(w, "\n"); err != nil {
				return err
			}
		}
		return rc.Flush()
	})
	if r.Context().Err() != nil {
		return nil // the client went away
	}
	if err == nil || !begun {
		return err
	}
	line, _ := json.Marshal(map[string]errorBody{"error": bodyOf(asError(err))})
	if events {
		line = fmt.Appendf(nil, "event: error\ndata: %s\n", line)
	}
	_, werr := w.Write(append(line, '\n'))
	return werr
}

func writeTailLine(w http.ResponseWriter, events bool, e framework.TailEntry) error {
	line, err := json.Marshal(tailLine{Number: e.Number, Time: e.Time.UTC(), Data: e.Data})
	if err != nil {
		return err
	}
	if events {
		line = fmt.Appendf(nil, "id: %d\ndata: %s\n", e.Number, line)
	}
	_, err = w.Write(append(line, '\n'))
	return err
}
