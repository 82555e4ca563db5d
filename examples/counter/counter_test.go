package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/diarchy/diarchy/fsm"
	"github.com/diarchy/diarchy/fsm/fsmtest"
	"github.com/diarchy/diarchy/plugins"
	"github.com/diarchy/diarchy/plugins/plugintest"
)

// what fsmtest feeds the machine.
var what = fsmtest.Options{
	Command: func(r *rand.Rand) []byte {
		return fmt.Appendf(nil, `{"name":"thing %d","by":%d}`, r.IntN(20), r.IntN(200)-100)
	},
	Corpus: [][]byte{
		[]byte(`{"name":"apples","by":3}`), []byte(`{"name":"","by":3}`), []byte(`{"by":"3"}`),
		fmt.Appendf(nil, `{"name":"apples","by":%d}`, math.MaxInt64),
	},
	Queries: [][]byte{nil, []byte("apples")},
}

func inProcess() fsm.Factory {
	return fsmtest.InProcess(func() fsm.Machine { return NewCounter() })
}

// The contract, three times: the machine as it is, behind the plugin protocol,
// and as a node runs it.

func TestCounterKeepsTheContract(t *testing.T) { fsmtest.Run(t, inProcess(), what) }

func TestCounterKeepsTheContractBehindTheProtocol(t *testing.T) {
	fsmtest.Run(t, plugintest.Factory(t, inProcess()), what)
}

func TestCounterKeepsTheContractAsAPlugin(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a program")
	}
	fsmtest.Run(t, built(t), what)
}

// built builds this directory and returns what runs it.
func built(t *testing.T) fsm.Factory {
	t.Helper()
	run, err := os.MkdirTemp("", "counter") // short, for the sockets in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	path := build(t)
	sum, err := plugins.Verify(plugins.Spec{Name: "counter", Path: path, AllowUnpinned: true})
	if err != nil {
		t.Fatal(err)
	}
	host, err := plugins.New(plugins.Options{RunDir: run, Specs: []plugins.Spec{{Name: "counter", Path: path, SHA256: sum}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := host.Close(); err != nil {
			t.Error(err)
		}
	})
	factory, err := host.Factory("counter")
	if err != nil {
		t.Fatal(err)
	}
	return factory
}

func build(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "counter")
	if out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return path
}

func TestCounterCounts(t *testing.T) {
	m := plugintest.New(t, NewCounter())
	ctx := context.Background()
	if o, err := m.Open(ctx); err != nil || o.Name != "counter" {
		t.Fatalf("open: %+v, %v", o, err)
	}
	commands := []string{`{"name":"apples","by":3}`, `{"name":"pears","by":2}`, `{"name":"apples","by":-1}`, `{"by":1}`, `3 apples`}
	batch := fsm.Batch{Time: 1}
	for i, c := range commands {
		batch.Entries = append(batch.Entries, fsm.Entry{Index: uint64(i + 1), Time: 1, Data: []byte(c)})
	}
	results := make([]fsm.Result, len(commands))
	if err := m.Apply(ctx, batch, results); err != nil {
		t.Fatal(err)
	}
	if got := string(results[2].Value); got != `{"name":"apples","total":2}` {
		t.Errorf("the third answer: %s", got)
	}
	if results[3].Err != errNoName.Error() || results[4].Err == "" {
		t.Errorf("what should be refused: %+v", results[3:])
	}
	var all map[string]int64
	answer, err := m.Query(ctx, fsm.Query{})
	if err := errors.Join(err, json.Unmarshal(answer, &all)); err != nil || len(all) != 2 || all["apples"] != 2 || all["pears"] != 2 {
		t.Errorf("all totals: %s, %v", answer, err)
	}
	if _, err := m.Query(ctx, fsm.Query{Data: []byte("plums")}); err == nil || !strings.Contains(err.Error(), "plums") {
		t.Errorf("what was never counted: %v", err)
	}
}

func TestStartedByHandItSaysWhatToDo(t *testing.T) {
	path := build(t)
	var said bytes.Buffer
	cmd := exec.Command(path)
	cmd.Stderr = &said
	var exit *exec.ExitError
	if err := cmd.Run(); !errors.As(err, &exit) || exit.ExitCode() != 2 {
		t.Errorf("%v, want exit status 2", err)
	}
	sum, err := plugins.Verify(plugins.Spec{Name: "counter", Path: path, AllowUnpinned: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Diarchy plugin", "diarchy dev --plugin " + path, sum, `machine = "plugin:counter"`} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("%q is not in what it says:\n%s", want, &said)
		}
	}
}
