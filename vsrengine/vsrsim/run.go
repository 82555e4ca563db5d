package vsrsim

import (
	"fmt"
	"math"
	"runtime/debug"
	"strings"

	"github.com/diarchy/diarchy/vsrengine/vsr"
)

// Failure is what was wrong with a run.
type Failure struct {
	Kind  string // a checker's name, "stuck", or "panic"
	What  string
	Event int
	Tick  uint64
}

// Error is the failure with its place.
func (f *Failure) Error() string {
	return fmt.Sprintf("%s (event %d, tick %d): %s", f.Kind, f.Event, f.Tick, f.What)
}

// Line is the failure's first line.
func (f *Failure) Line() string {
	s, _, _ := strings.Cut(f.Error(), "\n")
	return s
}

// Result is a run and how it went.
type Result struct {
	Seed     uint64
	Lane     Lane
	Options  Options
	Events   int
	Ticks    uint64
	Hash     uint64 // of everything that happened
	Counters Counters
	Failure  *Failure // nil if all is well
}

// Run is one run, drawn from its seed. An observer is told every event.
func Run(seed uint64, lane Lane, observer ...func(*Event)) Result {
	return RunWith(seed, lane, Draw(seed, lane), observer...)
}

// RunWith is a run with options of the caller's.
func RunWith(seed uint64, lane Lane, o Options, observer ...func(*Event)) (res Result) {
	var observe func(*Event)
	if len(observer) > 0 {
		observe = observer[0]
	}
	res = Result{Seed: seed, Lane: lane, Options: o}
	w := &world{}
	defer func() {
		if p := recover(); p != nil {
			w.fail("panic", fmt.Sprintf("%v\n%s", p, stack()))
		}
		res.Events, res.Ticks, res.Hash, res.Counters, res.Failure = w.events, w.now/microticks, w.hash, w.counts, w.failure
	}()
	w.init(seed, o, observe)
	w.run(o.Events, math.MaxUint64)
	if lane == "quiet" && w.failure == nil {
		w.wasQuiet()
	}
	if w.failure == nil {
		w.live()
	}
	return res
}

// wasQuiet: where nothing happens, nothing may happen.
func (w *world) wasQuiet() {
	c := &w.counts
	if c.ViewsEntered > 0 {
		w.fail("unquiet", fmt.Sprintf("%d view changes without a fault", c.ViewsEntered))
	}
	if c.Proposed > c.Committed+uint64(w.o.Pipeline) {
		w.fail("unquiet", fmt.Sprintf("%d batches proposed, %d committed", c.Proposed, c.Committed))
	}
}

// stack is where the program was, without what runs it.
func stack() string {
	var out []string
	for _, l := range strings.Split(string(debug.Stack()), "\n") {
		if strings.Contains(l, "/vsr/") || strings.Contains(l, "/vsrsim/") && !strings.Contains(l, "run.go") {
			out = append(out, strings.TrimSpace(l))
		}
	}
	return strings.Join(out, "\n")
}

// Hunt runs one seed after the other with a defect in the core until one fails,
// and reports the seed's result and how many were run. Failure is nil if none did.
func Hunt(defect vsr.Defect, lane Lane, from uint64, maxSeeds int) (Result, int) {
	var res Result
	for i := range maxSeeds {
		seed := from + uint64(i)
		o := Draw(seed, lane)
		o.Defect = defect
		if res = RunWith(seed, lane, o); res.Failure != nil {
			return res, i + 1
		}
	}
	return res, maxSeeds
}
