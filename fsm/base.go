package fsm

import (
	"context"
	"io"
)

// Base supplies every method of [Machine] but Apply. Embed it and write what
// the machine has: what is left out is declared absent, by ErrUnsupported from
// Query, Snapshot, Restore and Digest, and by zero Capabilities from Open.
//
// A machine without Snapshot and Restore works, but its group's log is never
// compacted, and a replica that comes late replays all of it.
type Base struct{}

// Open says that the machine has no name and no capabilities.
func (Base) Open(context.Context) (Opened, error) { return Opened{}, nil }

// Query answers ErrUnsupported.
func (Base) Query(context.Context, Query) ([]byte, error) { return nil, ErrUnsupported }

// Snapshot answers ErrUnsupported.
func (Base) Snapshot(context.Context) (Snapshot, error) { return nil, ErrUnsupported }

// Restore answers ErrUnsupported.
func (Base) Restore(context.Context, SnapshotInfo, io.Reader) error { return ErrUnsupported }

// Digest answers ErrUnsupported.
func (Base) Digest(context.Context) ([]byte, error) { return nil, ErrUnsupported }

// Close does nothing.
func (Base) Close() error { return nil }
