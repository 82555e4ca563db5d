package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"sync"

	"github.com/diarchy/diarchy/fsm"
)

// Add is the one command: it adds By to the counter called Name. As JSON:
// {"name":"apples","by":3}.
type Add struct {
	Name string `json:"name"`
	By   int64  `json:"by"`
}

// Total is its answer, and a query's.
type Total struct {
	Name  string `json:"name"`
	Total int64  `json:"total"`
}

// Counter counts things by name. fsm.Typed turns its add method into Apply,
// fsm.Base declares what it does not have.
type Counter struct {
	fsm.Base
	fsm.Typed[Add, Total]

	mu     sync.RWMutex
	totals map[string]int64
}

// NewCounter returns a counter of nothing.
func NewCounter() *Counter {
	c := &Counter{totals: map[string]int64{}}
	c.Handle, c.Locker = c.add, &c.mu
	return c
}

// Open says what the machine is. A snapshot is only given to a machine of the
// same name.
func (c *Counter) Open(context.Context) (fsm.Opened, error) {
	return fsm.Opened{Name: "counter", Version: "1"}, nil
}

// Its errors are answers: every replica gives the same, and goes on.
var (
	errNoName = errors.New("a counter needs a name")
	errTooFar = errors.New("the total would leave the range of 64 bits")
)

// add runs once for each command, on every replica, in the same order. What it
// needs of time or chance would have to come with e.
func (c *Counter) add(e fsm.Entry, a Add) (Total, error) {
	total := c.totals[a.Name]
	switch {
	case a.Name == "":
		return Total{}, errNoName
	case a.By > 0 && total > math.MaxInt64-a.By, a.By < 0 && total < math.MinInt64-a.By:
		return Total{}, errTooFar
	}
	c.totals[a.Name] = total + a.By
	return Total{Name: a.Name, Total: total + a.By}, nil
}

// Query answers the total of the counter that the query names, or all totals
// when it is empty.
func (c *Counter) Query(_ context.Context, q fsm.Query) ([]byte, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if len(q.Data) == 0 {
		return json.Marshal(c.totals) // in the order of names
	}
	total, ok := c.totals[string(q.Data)]
	if !ok {
		return nil, fmt.Errorf("nothing called %q was counted yet", q.Data)
	}
	return json.Marshal(Total{Name: string(q.Data), Total: total})
}

// Snapshot captures the totals. They are copied, since commands go on while the
// snapshot is written.
func (c *Counter) Snapshot(context.Context) (fsm.Snapshot, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return snapshot(maps.Clone(c.totals)), nil
}

type snapshot map[string]int64

func (s snapshot) WriteTo(w io.Writer) (int64, error) {
	b, err := json.Marshal(s)
	if err != nil {
		return 0, err
	}
	n, err := w.Write(b)
	return int64(n), err
}

func (snapshot) Release() {}

// Restore replaces the totals by those of a snapshot.
func (c *Counter) Restore(_ context.Context, _ fsm.SnapshotInfo, r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	totals := map[string]int64{}
	if err := json.Unmarshal(b, &totals); err != nil {
		return fmt.Errorf("the snapshot is no counter's: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.totals = totals
	return nil
}
