package fsmtest

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/diarchy/diarchy/fsm"
)

var sampleOptions = Options{Command: sampleCommand, Queries: sampleQueries, Timeout: 20 * time.Second}

// planted are machines with one fault each, by the check that must find it.
var planted = map[string][]string{
	"open":                     {"name-differs", "host-from-nowhere", "close-fails"},
	"deterministic":            {"map-order", "random", "digest-random"},
	"batches":                  {"time-of-batch", "place-in-batch", "counts-batches"},
	"keeps-no-data":            {"keeps-data", "result-is-data"},
	"results-stand":            {"result-reused", "answer-reused"},
	"sizes":                    {"nil-is-not-empty", "fails-on-garbage"},
	"random-bytes":             {"panics", "fails-on-garbage"},
	"queries-beside-apply":     {"torn", "query-lags"},
	"queries-change-nothing":   {"query-writes", "query-sweeps", "query-cached"},
	"snapshot-beside-apply":    {"captures-late", "write-locks", "forgets"},
	"snapshot-changes-nothing": {"snapshot-writes"},
	"snapshot-write-fails":     {"write-swallows"},
	"restore-replaces":         {"leaks", "forgets", "restore-stops", "write-miscounts"},
	"restore-read-fails":       {"restore-swallows"},
	"digest":                   {"digest-constant", "digest-random"},
	"ticks":                    {"due-for-ever", "forgets-deadlines"},
	"durable":                  {"not-stored", "host-not-stored", "restore-not-stored"},
	"absent":                   {"restore-absent"},
	"close":                    {"query-after-close", "write-hangs-on-close"},
}

func TestPlantedFaultsAreFound(t *testing.T) {
	for _, c := range Checks() {
		faults := planted[c.Name]
		if len(faults) == 0 {
			t.Errorf("no fault is planted for check %s", c.Name)
		}
		for _, fault := range faults {
			t.Run(c.Name+"/"+fault, func(t *testing.T) {
				o := sampleOptions
				if strings.HasPrefix(fault, "write-") {
					o.Timeout = time.Second // it hangs, on purpose
				}
				err := runSample(t, c, fault, o)
				if err == nil || errors.Is(err, ErrNotApplicable) {
					t.Fatalf("not found: %v", err)
				}
				t.Logf("%.300s", err)
			})
		}
	}
}

func TestSoundMachinePasses(t *testing.T) {
	for _, c := range Checks() {
		t.Run(c.Name, func(t *testing.T) {
			if err := runSample(t, c, "", sampleOptions); err != nil {
				t.Error(err)
			}
		})
	}
}

// runSample runs a check on samples, durable ones where that is the question.
func runSample(t *testing.T, c Check, fault string, o Options) error {
	factory := InProcess(func() fsm.Machine { return newSample(fault) })
	if c.Name == "durable" {
		o.Store = func(dir string) fsm.Factory { return durable(dir, fault) }
		factory = func(ctx context.Context) (fsm.Machine, error) { return durable(t.TempDir(), fault)(ctx) }
	}
	return c.Run(t.Context(), factory, o)
}

func durable(dir, fault string) fsm.Factory {
	return InProcess(func() fsm.Machine {
		s := newSample(fault)
		s.dir = dir
		return s
	})
}

func TestDurableMachineNeedsStore(t *testing.T) {
	for _, c := range Checks() {
		if c.Name != "durable" {
			continue
		}
		if err := c.Run(t.Context(), durable(t.TempDir(), ""), sampleOptions); err == nil || errors.Is(err, ErrNotApplicable) {
			t.Errorf("without Options.Store: %v, want a failure that names it", err)
		}
	}
}

// bare has what no machine can leave out.
type bare struct {
	fsm.Base
	n byte
}

func (b *bare) Apply(_ context.Context, batch fsm.Batch, results []fsm.Result) error {
	for i := range batch.Entries {
		b.n++
		results[i] = fsm.Result{Value: []byte{b.n}}
	}
	return nil
}

func TestMachineOfBaseAlone(t *testing.T) {
	applicable := map[string]bool{}
	for _, c := range Checks() {
		err := c.Run(t.Context(), InProcess(func() fsm.Machine { return &bare{} }), Options{})
		if err != nil && !errors.Is(err, ErrNotApplicable) {
			t.Errorf("%s: %v", c.Name, err)
		}
		applicable[c.Name] = err == nil
	}
	for name, want := range map[string]bool{
		"deterministic": true, "batches": true, "absent": true, "close": true,
		"queries-beside-apply": false, "snapshot-beside-apply": false, "ticks": false, "durable": false, "digest": false,
	} {
		if applicable[name] != want {
			t.Errorf("check %s applied: %v, want %v", name, applicable[name], want)
		}
	}
}

func TestFactoryThatFails(t *testing.T) {
	wrong := errors.New("no machine today")
	for _, c := range Checks() {
		if err := c.Run(t.Context(), func(context.Context) (fsm.Machine, error) { return nil, wrong }, Options{}); !errors.Is(err, wrong) {
			t.Errorf("%s: %v, want the factory's error", c.Name, err)
		}
		if err := c.Run(t.Context(), func(context.Context) (fsm.Machine, error) { return nil, nil }, Options{}); err == nil {
			t.Errorf("%s: a factory without a machine passes", c.Name)
		}
	}
}

// The suite as an author calls it.
func TestRun(t *testing.T) {
	Run(t, InProcess(func() fsm.Machine { return newSample("") }), sampleOptions)
}
