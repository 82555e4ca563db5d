package framework

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/diarchy/diarchy/fsm"
)

// The catalogue is the machine of the system group: what a cluster agrees on
// about itself. It runs in-process on the nodes that host that group; all other
// nodes read it over the peer service (node_view.go). What it holds and how
// commands change it is in catalogue_state.go and catalogue_apply.go.

// SystemGroup is the name of the group that holds the catalogue.
const SystemGroup = "system"

// CatalogueMachine names the catalogue as a machine, in GroupSpec.Machine.
const CatalogueMachine = "builtin:catalogue"

// catalogueBytesMax bounds a catalogue snapshot that is read back.
const catalogueBytesMax = 64 << 20

// catalogue is an fsm.Machine. Its state is a value that is never changed once
// it can be seen: Apply works on a copy and puts that in place, so Query and
// Snapshot need no lock and see whole batches.
type catalogue struct {
	fsm.Base
	state atomic.Pointer[catalogueState]
	// publish, when set, is told each new state.
	publish func(*catalogueState)
}

func newCatalogue(publish func(*catalogueState)) *catalogue {
	c := &catalogue{publish: publish}
	c.state.Store(&catalogueState{Format: catalogueFormat})
	return c
}

// Open implements fsm.Machine.
func (c *catalogue) Open(context.Context) (fsm.Opened, error) {
	return fsm.Opened{Name: "diarchy/catalogue", Version: "1"}, nil
}

// Apply implements fsm.Machine.
func (c *catalogue) Apply(_ context.Context, b fsm.Batch, results []fsm.Result) error {
	if len(b.Entries) == 0 {
		return nil
	}
	next := c.state.Load().clone()
	for i, e := range b.Entries {
		answer, err := next.apply(e.Data)
		results[i] = catalogueResult(answer, err)
		next.Number = e.Index
	}
	c.put(next)
	return nil
}

func (c *catalogue) put(s *catalogueState) {
	c.state.Store(s)
	if c.publish != nil {
		c.publish(s)
	}
}

// Query implements fsm.Machine: the whole state as JSON, whatever is asked.
func (c *catalogue) Query(context.Context, fsm.Query) ([]byte, error) {
	return json.Marshal(c.state.Load())
}

// Snapshot implements fsm.Machine.
func (c *catalogue) Snapshot(context.Context) (fsm.Snapshot, error) {
	return catalogueSnapshot{c.state.Load()}, nil
}

type catalogueSnapshot struct{ state *catalogueState }

func (s catalogueSnapshot) WriteTo(w io.Writer) (int64, error) {
	b, err := json.Marshal(s.state)
	if err != nil {
		return 0, err
	}
	n, err := w.Write(b)
	return int64(n), err
}

func (catalogueSnapshot) Release() {}

// Restore implements fsm.Machine.
func (c *catalogue) Restore(_ context.Context, info fsm.SnapshotInfo, r io.Reader) error {
	b, err := io.ReadAll(io.LimitReader(r, catalogueBytesMax+1))
	if err != nil {
		return err
	}
	if len(b) > catalogueBytesMax {
		return fmt.Errorf("catalogue snapshot over %d bytes", catalogueBytesMax)
	}
	s, err := decodeCatalogue(b)
	if err != nil {
		return err
	}
	// After a backup is restored the group goes on above the old number.
	s.Number = max(s.Number, info.Index)
	c.put(s)
	return nil
}

func decodeCatalogue(b []byte) (*catalogueState, error) {
	s := new(catalogueState)
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("decode the catalogue: %w", err)
	}
	if s.Format != catalogueFormat {
		return nil, fmt.Errorf("catalogue of format %d: this version reads format %d", s.Format, catalogueFormat)
	}
	return s, nil
}

// catalogueRefusal is how a refused command travels in fsm.Result.Value, so
// that the asker gets the Code back and not the words alone.
type catalogueRefusal struct {
	Code Code `json:"code"`
}

func catalogueResult(answer any, err error) fsm.Result {
	if err != nil {
		e := AsError(err)
		value, _ := json.Marshal(catalogueRefusal{e.Code})
		return fsm.Result{Value: value, Err: e.Error()}
	}
	if answer == nil {
		return fsm.Result{}
	}
	value, err := json.Marshal(answer)
	if err != nil {
		return fsm.Result{Err: err.Error()}
	}
	return fsm.Result{Value: value}
}

// catalogueAnswer reads a receipt of a catalogue command; into may be nil.
func catalogueAnswer(r Receipt, into any) error {
	if r.Err != "" {
		var refusal catalogueRefusal
		if err := json.Unmarshal(r.Value, &refusal); err != nil || refusal.Code == "" {
			return ErrInternal.Because("the catalogue said: %s", r.Err)
		}
		return &Error{Code: refusal.Code, Happened: No, Message: r.Err}
	}
	if into == nil {
		return nil
	}
	if len(r.Value) == 0 {
		return errors.New("the catalogue gave no answer")
	}
	return json.Unmarshal(r.Value, into)
}
