package raftengine

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/metrics"
	"go.etcd.io/bbolt"

	"github.com/diarchy/diarchy/internal/hlog"
)

// backend is what keeps raft's log and its few durable values.
type backend interface {
	raft.LogStore
	raft.StableStore
	io.Closer
}

// Where each store keeps its files in the replica's directory.
const (
	walDir   = "wal"
	boltFile = "raft.db"
)

func openBackend(kind, dir string, log *slog.Logger, counters metrics.Collector) (backend, error) {
	if kind == storeMemory {
		return memoryBackend{raft.NewInmemStore()}, nil
	}
	if err := refuseOtherStore(kind, dir); err != nil {
		return nil, err
	}
	if kind == storeBolt {
		b, err := raftboltdb.New(raftboltdb.Options{
			Path: filepath.Join(dir, boltFile),
			// The list of free pages is rebuilt at start instead of written whole
			// at each commit.
			BoltOptions: &bbolt.Options{Timeout: time.Second, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType},
		})
		if err != nil {
			return nil, fmt.Errorf("open log store %s: %w", filepath.Join(dir, boltFile), err)
		}
		return b, nil
	}
	path := filepath.Join(dir, walDir)
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("make log directory: %w", err)
	}
	// raft-wal leaves its description open, and locked, when the rest cannot be
	// opened (a full disk): the next try would wait for that lock for ever.
	meta := &metadb.BoltMetaDB{}
	w, err := wal.Open(path, wal.WithMetaStore(meta), wal.WithLogger(hlog.New(log, "raft-wal", slog.LevelWarn)), wal.WithMetricsCollector(counters))
	if err != nil {
		_ = meta.Close()
		return nil, fmt.Errorf("open log store %s: %w", path, err)
	}
	return w, nil
}

// refuseOtherStore keeps a replica from starting with an empty log, and so
// without its votes, because another store was configured.
func refuseOtherStore(kind, dir string) error {
	other, path := storeBolt, filepath.Join(dir, boltFile)
	if kind == storeBolt {
		other, path = storeWAL, filepath.Join(dir, walDir)
	}
	if _, err := os.Stat(path); err == nil {
		return fmt.Errorf("option %s = %q, but this replica keeps its log in %q (%s): set it back", logStoreOption, kind, other, path)
	} else if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("look for a log: %w", err)
	}
	return nil
}

type memoryBackend struct{ *raft.InmemStore }

func (memoryBackend) Close() error { return nil }
