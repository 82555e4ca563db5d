//go:build unix

package plugins_test

import (
	"errors"
	"testing"

	"github.com/diarchy/diarchy/fsm"
	"github.com/diarchy/diarchy/fsm/fsmtest"
	"github.com/diarchy/diarchy/fsm/kv"
	"github.com/diarchy/diarchy/plugins"
	"github.com/diarchy/diarchy/plugins/plugintest"
)

// The bundled machine passes one suite in this process, behind the protocol in
// one process, and in a process of its own.
func TestTheBundledMachineKeepsTheContract(t *testing.T) {
	options := fsmtest.Options{
		Corpus:  [][]byte{kv.Put("a", []byte("1"), 0), kv.Add("n", 3), kv.Append("a", []byte("2")), kv.CAS("a", 1, []byte("3"), 0), kv.Delete("b"), kv.Put("ttl", nil, 1)},
		Queries: [][]byte{kv.GetQuery("a"), kv.GetQuery("n"), kv.ListQuery(kv.List{})},
	}
	inProcess := fsmtest.InProcess(func() fsm.Machine { return kv.New() })
	t.Run("in this process", func(t *testing.T) { fsmtest.Run(t, inProcess, options) })
	t.Run("behind the protocol", func(t *testing.T) { fsmtest.Run(t, plugintest.Factory(t, inProcess), options) })
	t.Run("in a process of its own", func(t *testing.T) {
		h := newHost(t, plugins.Options{Specs: []plugins.Spec{role(t, "kv")}})
		f, err := h.Factory("kv")
		if err != nil {
			t.Fatal(err)
		}
		fsmtest.Run(t, f, options)
		if left := h.Status(); len(left) > 0 {
			t.Errorf("left running: %v", left)
		}
	})
}

// What differs between processes is seen by nobody but a suite that has several.
func TestTheSuiteFindsWhatDiffersBetweenProcesses(t *testing.T) {
	check := func(f fsm.Factory) error {
		for _, c := range fsmtest.Checks() {
			if c.Name == "deterministic" {
				return c.Run(t.Context(), f, fsmtest.Options{})
			}
		}
		return errors.New("no such check")
	}
	if err := check(fsmtest.InProcess(func() fsm.Machine { return pids{} })); err != nil {
		t.Errorf("in one process: %v", err)
	}
	_, f := factoryOf(t, role(t, "pids"))
	if err := check(f); err == nil {
		t.Error("a machine that answers its process's number passed")
	}
}
