package raftengine

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

// A log that cannot be opened (a full disk, say) is tried again: the first try
// must not keep the lock that the next one needs.
func TestALogThatCannotBeOpenedCanBeTriedAgain(t *testing.T) {
	dir := t.TempDir()
	open := func() (backend, error) {
		return openBackend(storeWAL, dir, slog.New(slog.DiscardHandler), newWALCounters())
	}
	b, err := open()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	segments, err := filepath.Glob(filepath.Join(dir, walDir, "*.wal"))
	if err != nil || len(segments) != 1 {
		t.Fatalf("%v, %v", segments, err)
	}
	if err := os.Remove(segments[0]); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(segments[0], 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 { // without the lock given back the second never ends
		if b, err := open(); err == nil {
			_ = b.Close()
			t.Fatal("a log whose segment is a directory was opened")
		}
	}
	if err := os.Remove(segments[0]); err != nil {
		t.Fatal(err)
	}
	if b, err = open(); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}
