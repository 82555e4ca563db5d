package vsr_test

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/diarchy/diarchy/vsrengine/vsr"
)

// mutants says which script shows what each defect breaks.
var mutants = map[string]string{
	"TruncateOnPrepare":  "a01_later_prepare.txt",
	"OldAcks":            "a16_old_acks.txt",
	"OldStartView":       "a22_old_start_view.txt",
	"SlotByView":         "a49_carried_over.txt",
	"HeldPromise":        "a47_held_promise.txt",
	"CompletionByOp":     "a48_completion_by_ticket.txt",
	"LogViewEarly":       "a50_log_view_with_its_log.txt",
	"InstallDropsTail":   "a68_install_over_a_hole.txt",
	"FreshRead":          "a43_fresh_read.txt",
	"LogViewVolatile":    "a17_log_view_durable.txt",
	"ViewVolatile":       "a18_view_durable.txt",
	"TwoLogs":            "a19_same_vote.txt",
	"PrepareEarly":       "a20_prepare_after_log_view.txt",
	"NackDamaged":        "a23_damaged_is_no_nack.txt",
	"ExactTargets":       "a54_targets.txt",
	"NackTooFew":         "a23_damaged_is_no_nack.txt",
	"AbdicatedStartView": "a70_abdicated.txt",
	"NewVoterNack":       "a67_new_voter_nack.txt",
	"EpochWithoutQuorum": "membership.txt",
	"OldEpochVote":       "r05_laggard_of_an_old_epoch.txt",
	"DeadExecute":        "a72_dead_entry.txt",
	"SelfRecovery":       "a66_restarted_primary.txt",
	"InstallRewritesLog": "a69_same_vote_after_install.txt",
	"NackBesideDamage":   "a71_two_in_a_slot.txt",
	"UncertainStartView": "uncertain_below_hole.txt",
	"SkipFsync":          "normal_operation.txt",
	"AckBeforeQuorum":    "normal_operation.txt",
	"Amnesia":            "a02_amnesia.txt",
}

// notOfTheCore are the defects that no script can show, and where they are shown.
var notOfTheCore = map[string]string{
	"Sessionless": "the simulator's machine has the sessions: vsrengine/vsrsim",
}

// TestMutantsFailTheirScripts: with its defect put back, a script fails, and not
// only because something else happens than is written: a property breaks, or a
// verb fails.
func TestMutantsFailTheirScripts(t *testing.T) {
	for defect := vsr.Defect(1); defectName(defect) != ""; defect++ {
		name := defectName(defect)
		if _, ok := notOfTheCore[name]; ok {
			continue
		}
		path, ok := mutants[name]
		if !ok {
			t.Errorf("no script is named for defect %s", name)
			continue
		}
		t.Run(name, func(t *testing.T) {
			failure := runUnread(t, "testdata/"+path, &script{defect: defect})
			if failure == "" {
				t.Errorf("nothing in %s breaks with defect %s", path, name)
			} else {
				t.Logf("%s fails with defect %s, as it should:\n%s", path, name, failure)
			}
		})
	}
	for name, path := range mutants {
		if _, err := defectNamed(name); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// defectName is "" beyond the last defect.
func defectName(d vsr.Defect) string {
	s, ok := any(d).(fmt.Stringer)
	if !ok {
		return ""
	}
	name := s.String()
	if strings.HasPrefix(name, "Defect(") {
		return ""
	}
	return name
}

func defectNamed(name string) (vsr.Defect, error) {
	for d := vsr.Defect(1); defectName(d) != ""; d++ {
		if defectName(d) == name {
			return d, nil
		}
	}
	return 0, fmt.Errorf("there is no defect %q", name)
}

// runUnread runs a script as runAlone does, but takes whatever it prints: it fails
// only if a property breaks or a verb does.
func runUnread(t *testing.T, path string, s *script) string {
	t.Helper()
	return runBlocks(t, path, func(tb testing.TB, d *datadriven.TestData) string {
		d.Expected = s.block(tb, d)
		return d.Expected
	})
}

// runAlone runs a script apart from the test that asks, and returns how it
// failed, "" if it did not.
func runAlone(t *testing.T, path string, s *script) string {
	t.Helper()
	return runBlocks(t, path, s.block)
}

func runBlocks(t *testing.T, path string, block func(testing.TB, *datadriven.TestData) string) string {
	t.Helper()
	if rewrite := flag.Lookup("rewrite"); rewrite != nil && rewrite.Value.String() == "true" {
		t.Skip("nothing is compared while scripts are rewritten")
	}
	input, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	alone := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		datadriven.RunTestFromStringAny(alone, string(input), block)
	}()
	<-done
	if !alone.failed {
		return ""
	}
	return alone.log.String()
}

// recorder is a testing.TB whose failure is its own. It keeps what failed, not
// what led there.
type recorder struct {
	testing.TB
	failed bool
	log    strings.Builder
}

func (r *recorder) Helper()                   {}
func (r *recorder) Failed() bool              { return r.failed }
func (r *recorder) Fail()                     { r.failed = true }
func (r *recorder) FailNow()                  { r.failed = true; runtime.Goexit() }
func (r *recorder) Log(...any)                {}
func (r *recorder) Logf(string, ...any)       {}
func (r *recorder) Error(args ...any)         { fmt.Fprintln(&r.log, args...); r.Fail() }
func (r *recorder) Errorf(f string, a ...any) { fmt.Fprintf(&r.log, f+"\n", a...); r.Fail() }
func (r *recorder) Fatal(args ...any)         { r.Error(args...); r.FailNow() }
func (r *recorder) Fatalf(f string, a ...any) { r.Errorf(f, a...); r.FailNow() }
