// Package fsmtest turns the contract of package fsm into tests that any machine
// can run: in the host, behind real gRPC, or in a process of its own. It knows
// machines by their interface alone, and no engine.
//
//	func TestMachine(t *testing.T) {
//		fsmtest.Run(t, fsmtest.InProcess(func() fsm.Machine { return kv.New() }), fsmtest.Options{
//			Command: func(r *rand.Rand) []byte { … },
//		})
//	}
//
// A check that passes is no proof: it shows that what it looks for did not
// happen on the commands it tried, so give it commands that do something. Run
// it under -race. Read fsmtest.go first, then the checks, one function each, in
// the files check_*.go; rig.go and subject.go are what they are written with.
package fsmtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/diarchy/diarchy/fsm"
)

// Options say what to feed a machine. The zero value works: random bytes.
type Options struct {
	// Command makes one command; what it returns is not changed. It is asked in
	// the same order in every run with the same Seed. nil makes random bytes.
	Command func(*rand.Rand) []byte
	// Corpus are commands that come first in every check.
	Corpus [][]byte
	// Query makes one query; nil makes random bytes if Queries is empty too.
	Query func(*rand.Rand) []byte
	// Queries are asked in every check. The more of the state they show, the
	// more the checks see.
	Queries [][]byte

	// Seed changes what Command and Query are given. 0 is 1.
	Seed uint64
	// Commands is how many a check uses, about; 0 is 200.
	Commands int
	// LargeBytes is the size of a large command; 0 is 1 MiB.
	LargeBytes int
	// SnapshotsDiffer: equal states may write unequal snapshots, which are then
	// not compared. Queries, digests and later results still are.
	SnapshotsDiffer bool
	// Timeout is how long something may take that nothing holds up; 0 is 30 s.
	Timeout time.Duration

	// Store is needed for machines with Capabilities.Durable: the factory of a
	// machine whose disk is in dir, which asked again for the same dir finds
	// what the one before it left. The factory given to Run must make machines
	// that share no disk.
	Store func(dir string) fsm.Factory
}

func (o Options) withDefaults() Options {
	if o.Seed == 0 {
		o.Seed = 1
	}
	if o.Commands == 0 {
		o.Commands = 200
	}
	if o.LargeBytes == 0 {
		o.LargeBytes = 1 << 20
	}
	if o.Timeout == 0 {
		o.Timeout = 30 * time.Second
	}
	return o
}

// InProcess makes a factory of a function that makes a machine.
func InProcess(new func() fsm.Machine) fsm.Factory {
	return func(context.Context) (fsm.Machine, error) { return new(), nil }
}

// Run runs every check as a subtest. The factory makes new, empty machines,
// which share nothing; it is asked for up to four in a check.
func Run(t *testing.T, factory fsm.Factory, o Options) {
	for _, c := range Checks() {
		t.Run(c.Name, func(t *testing.T) {
			switch err := c.Run(t.Context(), factory, o); {
			case errors.Is(err, ErrNotApplicable):
				t.Skip(err)
			case err != nil:
				t.Errorf("%s: %v", c.Promise, err)
			}
		})
	}
}

// ErrNotApplicable is wrapped by the error of a check on something that the
// machine does not have.
var ErrNotApplicable = errors.New("not applicable")

func notApplicable(why string) error { return fmt.Errorf("%w: %s", ErrNotApplicable, why) }

// A Check tries one promise.
type Check struct {
	// Name is short, of lower-case words with hyphens.
	Name string
	// Promise is what the contract asks of the machine.
	Promise string

	run func(*rig) error
}

// Run tries the promise on machines of the factory, and says how it was broken.
// An error of the machine or factory is one of the check.
func (c Check) Run(ctx context.Context, factory fsm.Factory, o Options) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &rig{ctx: ctx, factory: factory, o: o.withDefaults()}
	err := guarded("the check", func() error { return c.run(r) })
	if closing := r.closeAll(); err == nil {
		err = closing
	}
	return err
}

// Checks are all there are, in the order in which they are best read.
func Checks() []Check {
	return []Check{
		{"open", "Open says the same of every new machine", checkOpen},
		{"deterministic", "the same commands give the same results and the same state on every replica", checkDeterministic},
		{"batches", "how commands are cut into batches makes no difference", checkBatches},
		{"keeps-no-data", "the bytes of a batch are the host's again once Apply has returned", checkKeepsNoData},
		{"results-stand", "results and query answers stay as they are at least until the next Apply has returned", checkResultsStand},
		{"sizes", "empty and large commands are executed or refused by a result, never by Apply's error", checkSizes},
		{"random-bytes", "bytes that are no command are refused by a result, never by Apply's error or a panic", checkRandomBytes},
		{"queries-beside-apply", "a query beside Apply sees whole commands only, and all that were applied before it", checkQueriesBesideApply},
		{"queries-change-nothing", "a query changes nothing", checkQueriesChangeNothing},
		{"snapshot-beside-apply", "a snapshot is of the moment it was captured, whatever is applied before and while it is written", checkSnapshotBesideApply},
		{"snapshot-changes-nothing", "a snapshot, written or not, changes nothing", checkSnapshotChangesNothing},
		{"snapshot-write-fails", "WriteTo reports that its writer failed, and the machine goes on", checkSnapshotWriteFails},
		{"restore-replaces", "Restore replaces the whole state and reads to the end", checkRestoreReplaces},
		{"restore-read-fails", "Restore reports that its reader failed", checkRestoreReadFails},
		{"digest", "Digest changes with the state, and only with it", checkDigest},
		{"ticks", "ticks are deterministic, and what was due is no longer due", checkTicks},
		{"durable", "a durable machine opened again is where the newest Batch.Host says", checkDurable},
		{"absent", "a method that is absent says so, and calling it does no harm", checkAbsent},
		{"close", "Close may come beside a Query and a WriteTo, and both return", checkClose},
	}
}
