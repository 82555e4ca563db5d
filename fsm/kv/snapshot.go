package kv

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/google/btree"

	"github.com/diarchy/diarchy/fsm"
)

// A snapshot is snapshotMagic, whose last byte is the version of the format, a
// uvarint count, and so many items in order of key, in the encoding that
// answers use. Equal states give equal bytes. Damage is for the host to find;
// what is checked here is what the machine relies on.
var snapshotMagic = [...]byte{'d', 'k', 'v', 1}

type snapshot struct{ tree *btree.BTreeG[*item] }

// Snapshot implements [fsm.Machine].
func (m *Machine) Snapshot(context.Context) (fsm.Snapshot, error) {
	// Cloning gives the live tree a new owner mark: a write, as queries see it.
	m.mu.Lock()
	defer m.mu.Unlock()
	return &snapshot{tree: m.store.byKey.Clone()}, nil
}

// WriteTo implements [fsm.Snapshot].
func (s *snapshot) WriteTo(w io.Writer) (int64, error) {
	out := &countingWriter{w: w}
	buffered := bufio.NewWriterSize(out, 64<<10)
	// A bufio.Writer keeps its first error for Flush.
	_, _ = buffered.Write(snapshotMagic[:])
	var scratch []byte
	_, _ = buffered.Write(binary.AppendUvarint(nil, uint64(s.tree.Len())))
	s.tree.Ascend(func(it *item) bool {
		scratch = appendItem(scratch[:0], it, it.value)
		_, err := buffered.Write(scratch)
		return err == nil
	})
	err := buffered.Flush()
	return out.n, err
}

// Release implements [fsm.Snapshot]. A clone is garbage once it is dropped.
func (s *snapshot) Release() {}

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// Restore implements [fsm.Machine]. It builds the new state beside the old one.
func (m *Machine) Restore(ctx context.Context, info fsm.SnapshotInfo, r io.Reader) error {
	if info.Name != "" && info.Name != Name {
		return fmt.Errorf("kv: restore: the snapshot is of machine %q", info.Name)
	}
	fresh, err := readStore(ctx, bufio.NewReaderSize(r, 64<<10))
	if err != nil {
		return fmt.Errorf("kv: restore: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.store = fresh
	return nil
}

func readStore(ctx context.Context, r *bufio.Reader) (store, error) {
	s := newStore()
	var magic [len(snapshotMagic)]byte
	if _, err := io.ReadFull(r, magic[:]); err != nil {
		return s, cut(err)
	}
	if !bytes.Equal(magic[:3], snapshotMagic[:3]) {
		return s, invalid("snapshot: it does not begin as one of kv")
	}
	if magic[3] != snapshotMagic[3] {
		return s, invalid("snapshot: its format is version %d, this is version %d", magic[3], snapshotMagic[3])
	}
	count, err := binary.ReadUvarint(r)
	if err != nil {
		return s, cut(err)
	}
	var last []byte
	for i := range count {
		if i%1024 == 0 && ctx.Err() != nil {
			return s, ctx.Err()
		}
		it, err := readSnapshotItem(r)
		if err != nil {
			return s, err
		}
		if i > 0 && bytes.Compare(last, it.key) >= 0 {
			return s, invalid("snapshot: its keys are not in order at %s", shown(it.key))
		}
		last = it.key
		s.set(it)
	}
	return s, expectEnd(r)
}

func readSnapshotItem(r *bufio.Reader) (*item, error) {
	key, err := readSized(r, MaxKeyBytes)
	if err != nil {
		return nil, err
	}
	if why := keyFault(key); why != "" {
		return nil, invalid("snapshot: %s", why)
	}
	value, err := readSized(r, MaxValueBytes)
	if err != nil {
		return nil, err
	}
	revision, err := binary.ReadUvarint(r)
	if err != nil {
		return nil, cut(err)
	}
	expires, err := binary.ReadVarint(r)
	if err != nil {
		return nil, cut(err)
	}
	it := &item{key: key, value: value, revision: revision, expires: expires}
	it.sum = it.hash()
	return it, nil
}

// readSized reads bytes behind their length, which it trusts up to most.
func readSized(r *bufio.Reader, most uint64) ([]byte, error) {
	n, err := binary.ReadUvarint(r)
	if err != nil {
		return nil, cut(err)
	}
	if n > most {
		return nil, invalid("snapshot: %d bytes where at most %d can be", n, most)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, cut(err)
	}
	return b, nil
}

// cut names an end that comes too early.
func cut(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func expectEnd(r *bufio.Reader) error {
	switch _, err := r.ReadByte(); {
	case err == nil:
		return invalid("snapshot: something follows its end")
	case errors.Is(err, io.EOF):
		return nil
	default:
		return err
	}
}
