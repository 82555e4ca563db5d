package raftengine

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/diarchy/diarchy/framework"
	"github.com/diarchy/diarchy/internal/hlog"
)

// snapshotStore keeps the newest snapshots durably, in raft.FileSnapshotStore's
// format. It hides those found damaged, so that raft and the host fall back to
// the one before, and keeps raft from installing what this replica is past.
//
// It is raft's SnapshotStore, and the engine's own.
type snapshotStore struct {
	back raft.SnapshotStore
	dir  string // "" in memory
	log  *slog.Logger
	// past says why a snapshot that raft is about to install is refused.
	past func(index uint64) error

	mu     sync.Mutex
	bad    map[string]bool
	newest uint64
}

const (
	snapshotDir = "snapshots" // raft.FileSnapshotStore's
	unfinished  = ".tmp"
)

func openSnapshots(dir string, log *slog.Logger) (*snapshotStore, error) {
	s := &snapshotStore{dir: dir, log: log, bad: map[string]bool{}, past: func(uint64) error { return nil }}
	if dir == "" {
		s.back = &memorySnapshots{}
		return s, nil
	}
	files, err := raft.NewFileSnapshotStoreWithLogger(dir, snapshotsKept, hlog.New(log, "snapshots", slog.LevelWarn))
	if err != nil {
		return nil, fmt.Errorf("open snapshots in %s: %w", dir, err)
	}
	s.back = files
	if err := s.removeUnfinished(); err != nil {
		return nil, err
	}
	all, err := s.List()
	if err != nil {
		return nil, fmt.Errorf("list snapshots in %s: %w", dir, err)
	}
	if len(all) > 0 {
		s.newest = all[0].Index
	}
	return s, nil
}

// removeUnfinished clears away what a crash left half written.
func (s *snapshotStore) removeUnfinished() error {
	left, err := filepath.Glob(filepath.Join(s.dir, snapshotDir, "*"+unfinished))
	if err != nil {
		return fmt.Errorf("look for unfinished snapshots: %w", err)
	}
	for _, p := range left {
		if err := os.RemoveAll(p); err != nil {
			return fmt.Errorf("remove unfinished snapshot: %w", err)
		}
	}
	return nil
}

// newestIndex is the newest durable snapshot's, 0 for none. It reads no disk.
func (s *snapshotStore) newestIndex() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.newest
}

// List implements raft.SnapshotStore: newest first, without the damaged.
func (s *snapshotStore) List() ([]*raft.SnapshotMeta, error) {
	all, err := s.back.List()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(all, func(m *raft.SnapshotMeta) bool { return s.bad[m.ID] }), nil
}

// Open implements raft.SnapshotStore. The whole file is checked against its sum
// first.
func (s *snapshotStore) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	meta, r, err := s.back.Open(id)
	if err != nil {
		s.mark(id, err)
		return nil, nil, fmt.Errorf("snapshot %s: %w", id, err)
	}
	return meta, &snapshotReader{ReadCloser: r, meta: meta}, nil
}

// mark hides a snapshot that cannot be opened, unless it is gone because there
// are newer ones.
func (s *snapshotStore) mark(id string, err error) {
	all, listErr := s.back.List()
	if listErr != nil || !slices.ContainsFunc(all, func(m *raft.SnapshotMeta) bool { return m.ID == id }) {
		return
	}
	s.log.Error("a snapshot is damaged; the one before is used", "snapshot", id, "err", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bad[id] = true
	s.newest = 0
	for _, m := range all {
		if !s.bad[m.ID] {
			s.newest = max(s.newest, m.Index)
		}
	}
}

// snapshotReader lets raft's FSM know what it is given.
type snapshotReader struct {
	io.ReadCloser
	meta *raft.SnapshotMeta
}

// Create implements raft.SnapshotStore. raft calls it to install another
// replica's snapshot, which it does whatever it has applied already.
func (s *snapshotStore) Create(v raft.SnapshotVersion, index, term uint64, conf raft.Configuration, confIndex uint64, t raft.Transport) (raft.SnapshotSink, error) {
	if err := s.past(index); err != nil {
		return nil, err
	}
	return s.create(v, index, term, conf, confIndex, t)
}

func (s *snapshotStore) create(v raft.SnapshotVersion, index, term uint64, conf raft.Configuration, confIndex uint64, t raft.Transport) (raft.SnapshotSink, error) {
	sink, err := s.back.Create(v, index, term, conf, confIndex, t)
	if err != nil {
		return nil, err
	}
	return &snapshotSink{SnapshotSink: sink, store: s, index: index}, nil
}

type snapshotSink struct {
	raft.SnapshotSink
	store *snapshotStore
	index uint64
}

// Close makes the snapshot durable; raft's own leaves the snapshot's directory
// itself unsynced.
func (k *snapshotSink) Close() error {
	if err := k.SnapshotSink.Close(); err != nil {
		return err
	}
	if k.store.dir != "" {
		if err := syncDir(filepath.Join(k.store.dir, snapshotDir, k.ID())); err != nil {
			return err
		}
	}
	k.store.mu.Lock()
	k.store.newest = max(k.store.newest, k.index)
	k.store.mu.Unlock()
	return nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !strings.Contains(err.Error(), "invalid argument") && !os.IsPermission(err) {
		return err // some systems cannot sync a directory, and need not
	}
	return nil
}

// memorySnapshots keeps snapshots in memory, for tests. Unlike raft's own it does
// not show one before it is whole.
type memorySnapshots struct {
	mu   sync.Mutex
	kept []*memorySnapshot // newest first
}

type memorySnapshot struct {
	meta raft.SnapshotMeta
	data []byte
}

func (m *memorySnapshots) Create(v raft.SnapshotVersion, index, term uint64, conf raft.Configuration, confIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	return &memorySink{store: m, snap: &memorySnapshot{meta: raft.SnapshotMeta{
		Version: v, ID: fmt.Sprintf("%d-%d", term, index), Index: index, Term: term,
		Configuration: conf.Clone(), ConfigurationIndex: confIndex,
	}}}, nil
}

func (m *memorySnapshots) List() ([]*raft.SnapshotMeta, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []*raft.SnapshotMeta
	for _, s := range m.kept {
		meta := s.meta
		out = append(out, &meta)
	}
	return out, nil
}

func (m *memorySnapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.kept {
		if s.meta.ID == id {
			meta := s.meta
			return &meta, io.NopCloser(bytes.NewReader(s.data)), nil
		}
	}
	return nil, nil, framework.ErrNoSnapshot
}

type memorySink struct {
	store *memorySnapshots
	snap  *memorySnapshot
}

func (k *memorySink) ID() string { return k.snap.meta.ID }

func (k *memorySink) Write(b []byte) (int, error) {
	k.snap.data = append(k.snap.data, b...)
	return len(b), nil
}

func (k *memorySink) Cancel() error { return nil }

func (k *memorySink) Close() error {
	k.snap.meta.Size = int64(len(k.snap.data))
	m := k.store
	m.mu.Lock()
	defer m.mu.Unlock()
	m.kept = slices.DeleteFunc(m.kept, func(s *memorySnapshot) bool { return s.meta.ID == k.snap.meta.ID })
	m.kept = append(m.kept, k.snap)
	slices.SortFunc(m.kept, func(a, b *memorySnapshot) int { return int(b.meta.Index) - int(a.meta.Index) })
	m.kept = m.kept[:min(len(m.kept), snapshotsKept)]
	return nil
}
