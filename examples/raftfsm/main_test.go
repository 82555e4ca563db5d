package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/diarchy/diarchy/fsm"
	"github.com/diarchy/diarchy/plugins"
)

// TestAsPlugin builds the example, runs it as a node would, moves its state into
// a second process by a snapshot, and asks there.
func TestAsPlugin(t *testing.T) {
	path := filepath.Join(t.TempDir(), "words")
	if out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	host, err := plugins.New(plugins.Options{
		RunDir: filepath.Join(shortDir(t), "run"),
		Specs:  []plugins.Spec{{Name: "words", Path: path, AllowUnpinned: true}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	first, second := open(t, host), open(t, host)
	results := make([]fsm.Result, 2)
	batch := fsm.Batch{
		Entries: []fsm.Entry{{Index: 1, Time: 1, Data: []byte("to be or not to be")}, {Index: 2, Time: 2, Data: []byte("to sleep")}},
		Time:    2,
	}
	if err := first.Apply(t.Context(), batch, results); err != nil {
		t.Fatal(err)
	}
	if string(results[0].Value) != "4" || string(results[1].Value) != "1" {
		t.Errorf("new words: %s and %s, expected 4 and 1", results[0].Value, results[1].Value)
	}
	move(t, first, second)
	answer, err := second.Query(t.Context(), fsm.Query{Data: []byte("to"), Index: 2, Time: 2})
	if err != nil || string(answer) != "3" {
		t.Errorf("count of \"to\" in the second process: %s, %v; expected 3", answer, err)
	}
}

func open(t *testing.T, host *plugins.Host) fsm.Machine {
	t.Helper()
	make, err := host.Factory("words")
	if err != nil {
		t.Fatal(err)
	}
	m, err := make(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	opened, err := m.Open(t.Context())
	if err != nil || opened.Name != "words" {
		t.Fatalf("opened %+v, %v", opened, err)
	}
	return m
}

// move hands the state of one machine to another, as a replica does that comes
// late.
func move(t *testing.T, from, to fsm.Machine) {
	t.Helper()
	snapshot, err := from.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer snapshot.Release()
	var state bytes.Buffer
	if _, err := snapshot.WriteTo(&state); err != nil {
		t.Fatal(err)
	}
	info := fsm.SnapshotInfo{Index: 2, Time: 2, Name: "words", Version: "1", Size: int64(state.Len())}
	if err := to.Restore(t.Context(), info, &state); err != nil {
		t.Fatal(err)
	}
}

// shortDir is for sockets, whose paths may not be long.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "w")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
