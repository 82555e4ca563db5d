package raftengine

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/hashicorp/raft"

	"github.com/diarchy/diarchy/framework"
)

// How snapshots are taken without raft knowing.
//
// raft remembers the snapshot it took or installed last (lastSnapshotIndex and
// its term) and is not told of those that Engine.Snapshot writes, so its memory
// is of an older one. What it uses that for, and why each stays right:
//
//   - The last entry (getLastIndex, getLastEntry: votes, appends, terms of a new
//     leader) is the later of the log's last and the snapshot's. A snapshot is
//     only of an applied position, and raft's memory of the log's last entry is at
//     or past it.
//   - setPreviousLog takes the remembered snapshot's term for its index: still
//     true of that index. For every other index it reads the log. The entry at
//     the newest snapshot's index is therefore always kept in the log: after
//     shipping that snapshot the leader goes on from the entry after it, whose
//     predecessor it must find. Without that it would ship it for ever.
//   - setNewLogs answers ErrLogNotFound for what is no longer there, and raft
//     ships the newest snapshot of the store, whoever wrote it.
//   - A follower looks for PrevLogEntry in the log, at or above its commit index,
//     where entries are kept.
//   - shouldSnapshot and compactLogs belong to raft's own snapshots; the threshold
//     is out of reach. removeOldLogs on install empties the log: what it empties
//     is older than the snapshot installed, or was never committed (see past).
//   - At start raft reads the store, so its memory is exact again; the log holds
//     everything after the older of the two snapshots kept, so a damaged newest
//     one costs nothing but time.

// Snapshot implements framework.Engine.
func (e *engine) Snapshot(ctx context.Context, at framework.Position, payload io.WriterTo) error {
	if err := e.running(); err != nil {
		return err
	}
	index := uint64(at)
	switch through := e.fsm.through.Load(); {
	case index > through:
		return framework.ErrInvalid.Because("snapshot at position %d: only %d is committed here", at, through)
	case index <= e.snaps.newestIndex():
		return nil
	}
	var entry raft.Log
	if err := e.store.get(index, &entry); err != nil {
		if index <= e.snaps.newestIndex() {
			return nil // one was installed meanwhile
		}
		return fmt.Errorf("snapshot at position %d: its entry: %w", at, err)
	}
	conf, ok := e.confs.at(index)
	if !ok {
		return fmt.Errorf("snapshot at position %d: no membership is known there", at)
	}
	sink, err := e.snaps.create(1, index, entry.Term, conf.conf, conf.index, e.trans)
	if err != nil {
		return fmt.Errorf("snapshot at position %d: %w", at, err)
	}
	if _, err := payload.WriteTo(&boundWriter{ctx, sink, e.stopping}); err != nil {
		return errors.Join(fmt.Errorf("snapshot at position %d: write: %w", at, err), sink.Cancel())
	}
	if err := sink.Close(); err != nil {
		return fmt.Errorf("snapshot at position %d: make durable: %w", at, err)
	}
	e.wake()
	return e.shorten()
}

// boundWriter ends a long write with its context or the engine.
type boundWriter struct {
	ctx      context.Context
	w        io.Writer
	stopping <-chan struct{}
}

func (b *boundWriter) Write(p []byte) (int, error) {
	select {
	case <-b.ctx.Done():
		return 0, b.ctx.Err()
	case <-b.stopping:
		return 0, framework.ErrStopped
	default:
		return b.w.Write(p)
	}
}

// deleteStep bounds how much of the log is deleted in one call, which in boltdb
// keeps appends waiting.
const deleteStep = 16 << 10

// shorten lets the log's beginning go: what is at or below the older of the two
// snapshots kept, but never of the newest trailing entries, nor what a follower
// that is being sent a snapshot will ask for next.
func (e *engine) shorten() error {
	all, err := e.snaps.List()
	if err != nil || len(all) < snapshotsKept {
		return err
	}
	first, last := e.store.bounds()
	if last <= e.set.trailing {
		return nil
	}
	high := min(all[len(all)-1].Index, all[0].Index-1, last-e.set.trailing)
	if from := e.trans.peers.keepFrom(); from != 0 {
		high = min(high, from-1)
	}
	for low := first; low <= high; low += deleteStep {
		if err := e.store.remove(low, min(high, low+deleteStep-1)); err != nil {
			return fmt.Errorf("shorten the log: %w", err)
		}
	}
	e.confs.forgetBelow(all[len(all)-1].Index)
	return nil
}

// pastSnapshot refuses to install what this replica is past. raft does not look:
// a message delayed on a dead connection until after its successor's would take
// back what has been applied, and with it entries already acknowledged. A leader
// that needs the install never meets this: it ships a snapshot only to a log that
// ends, or differs, below it.
func (e *engine) pastSnapshot(index uint64) error {
	through := e.fsm.through.Load()
	_, last := e.store.bounds()
	if index < through || index == through && last > index {
		return fmt.Errorf("raftengine: snapshot at %d is out of date: %d is applied here, the log reaches %d", index, through, last)
	}
	return nil
}

// OpenSnapshot implements framework.Engine. A damaged one is an error here, and
// the next call opens the one before.
func (e *engine) OpenSnapshot() (framework.Position, io.ReadCloser, error) {
	if err := e.running(); err != nil {
		return 0, nil, err
	}
	for {
		all, err := e.snaps.List()
		if err != nil {
			return 0, nil, fmt.Errorf("list snapshots: %w", err)
		}
		if len(all) == 0 {
			return 0, nil, framework.ErrNoSnapshot
		}
		meta, r, err := e.snaps.Open(all[0].ID)
		if err == nil {
			return framework.Position(meta.Index), r, nil
		}
		if again, listErr := e.snaps.List(); listErr != nil || len(again) == 0 || again[0].Index <= all[0].Index {
			return 0, nil, fmt.Errorf("open snapshot at position %d: %w", all[0].Index, err)
		}
		// Newer ones came and this one went.
	}
}

// Entries implements framework.Engine. It gives what has been announced.
func (e *engine) Entries(from framework.Position, maxBytes int) ([]framework.Entry, framework.Position, error) {
	if err := e.running(); err != nil {
		return nil, 0, err
	}
	through := e.fsm.through.Load()
	index := uint64(max(from, 1))
	if first, _ := e.store.bounds(); index < first {
		return nil, 0, &framework.CompactedError{Oldest: framework.Position(first)}
	}
	var entries []framework.Entry
	bytes := 0
	for ; index <= through; index++ {
		var l raft.Log
		if err := e.store.get(index, &l); err != nil {
			if first, _ := e.store.bounds(); uint64(from) < first {
				return nil, 0, &framework.CompactedError{Oldest: framework.Position(first)}
			}
			return nil, 0, fmt.Errorf("entry at position %d: %w", index, err)
		}
		entry, class := entryOf(&l)
		if class != entryHost {
			continue
		}
		if len(entries) > 0 && bytes+len(entry.Data) > maxBytes {
			break
		}
		entries = append(entries, entry)
		bytes += len(entry.Data)
	}
	return entries, framework.Position(min(index-1, through)), nil
}
