package vsr_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/diarchy/diarchy/vsrengine/vsr"
)

// The scripts in testdata run a whole group by hand: one verb a line, what it did
// below it. They are written to be read; script_verbs_test.go lists the verbs,
// script_format_test.go says how things are printed. After every block the
// properties of script_properties_test.go must hold over the script's whole life.
// go test ./vsrengine/vsr -run TestScripts -rewrite writes what happens into them.

// A block is a verb, more verbs on the lines below it, and what they print.
func TestScripts(t *testing.T) {
	for _, path := range scriptFiles(t) {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			s := &script{}
			datadriven.RunTestAny(t, path, s.block)
		})
	}
}

// TestEveryNoteIsShown: a message dropped on purpose is shown by some script.
func TestEveryNoteIsShown(t *testing.T) {
	shown := map[vsr.Note]bool{}
	for _, path := range scriptFiles(t) {
		s := &script{}
		runAlone(t, path, s)
		maps.Copy(shown, s.notes)
	}
	for note := vsr.Note(0); int(note) < vsr.NoteCount; note++ {
		if !shown[note] {
			t.Errorf("no script shows a message dropped because: %s", note)
		}
	}
}

// TestScriptsSayWhatTheyShow: a script begins with a sentence.
func TestScriptsSayWhatTheyShow(t *testing.T) {
	for _, path := range scriptFiles(t) {
		if opening := opening(t, path); !regexp.MustCompile(`(?s)^[A-Z].{40,}\.$`).MatchString(opening) {
			t.Errorf("%s does not begin with a sentence that says what it shows: %q", path, opening)
		}
	}
}

func scriptFiles(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	return slices.DeleteFunc(paths, func(p string) bool { return p == scenarioList })
}

// opening is the comment that a script begins with.
func opening(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		text, ok := strings.CutPrefix(strings.TrimSpace(line), "#")
		if !ok {
			break
		}
		out = append(out, strings.TrimSpace(text))
	}
	return strings.TrimSpace(strings.Join(out, " "))
}

// script runs the blocks of one file.
type script struct {
	defect  vsr.Defect // put back for the whole script
	cluster *cluster
	notes   map[vsr.Note]bool
}

// block runs a verb and those on the lines below it.
func (s *script) block(t testing.TB, d *datadriven.TestData) string {
	var out strings.Builder
	lines := []*datadriven.TestData{d}
	for line := range strings.Lines(d.Input) {
		cmd, args, err := datadriven.ParseLine(line)
		if err != nil {
			t.Fatalf("%s: %v", d.Pos, err)
		}
		if cmd != "" {
			lines = append(lines, &datadriven.TestData{Pos: d.Pos, Cmd: cmd, CmdArgs: args})
		}
	}
	for _, line := range lines {
		text, err := s.line(line)
		out.WriteString(text)
		if err != nil {
			t.Fatalf("%s: %s: %v\nafter\n%s", d.Pos, line.Cmd, err, out.String())
		}
		if s.cluster != nil && len(s.cluster.props.broken) > 0 {
			t.Fatalf("%s: %s: %s\nafter\n%s", d.Pos, line.Cmd, strings.Join(s.cluster.props.broken, "\n"), out.String())
		}
	}
	return out.String()
}

// line runs one verb. A panic of the core is an error like any other.
func (s *script) line(d *datadriven.TestData) (text string, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
		if c := s.cluster; c != nil {
			text = c.out.String()
			c.out.Reset()
			c.indent = ""
		}
	}()
	if d.Cmd == "cluster" {
		return "", s.makeCluster(d)
	}
	v, ok := verbs[d.Cmd]
	if !ok {
		return "", fmt.Errorf("there is no such verb")
	}
	if s.cluster == nil {
		return "", fmt.Errorf("there is no cluster yet")
	}
	if err := known(d, v.args); err != nil {
		return "", err
	}
	if s.cluster.show, err = showing(d, v.show); err != nil {
		return "", err
	}
	return "", v.run(s.cluster, d)
}

// makeCluster reads the cluster verb:
//
//	cluster n=3 [learners=1] [pipeline=4] [memory] [fsync=auto] [stopped] [ticks and bounds by name]
//
// stopped leaves the replicas down, for given. Ticks are few, so that scripts are
// short: a heartbeat every 2, suspicion after 10, a copy every 4.
func (s *script) makeCluster(d *datadriven.TestData) error {
	cfg := vsr.DefaultConfig()
	cfg.Seed = vsr.Seed([16]byte{1}, [16]byte{2})
	cfg.Memory, cfg.Defect = d.HasArg("memory"), s.defect
	cfg.PipelineMax, cfg.SuspectTicksMax, cfg.Jitter = 4, 10, 1
	var jitter, n, learners int
	numbers := map[string]*int{
		"n": &n, "learners": &learners, "jitter": &jitter,
		"pipeline": &cfg.PipelineMax, "batch": &cfg.BatchBytesMax, "heartbeat": &cfg.HeartbeatTicks,
		"suspect": &cfg.SuspectTicksMin, "suspect_max": &cfg.SuspectTicksMax, "resend": &cfg.ResendTicks,
		"view_change": &cfg.ViewChangeTicks, "sync": &cfg.SyncTicksMax, "stall": &cfg.StallTicksMax,
		"repair": &cfg.RepairBytesMax, "chunk": &cfg.ChunkBytes, "reads": &cfg.ReadsMax, "lag": &cfg.LagOpsMax, "pin": &cfg.PinOpsMax,
	}
	for _, a := range d.CmdArgs {
		switch {
		case a.Key == "memory" || a.Key == "stopped":
		case a.Key == "fsync" && value(d, "fsync") == "auto":
		case a.Key == "defect":
			defect, err := defectNamed(value(d, "defect"))
			if err != nil {
				return err
			}
			cfg.Defect = defect
		case numbers[a.Key] != nil:
			var err error
			if *numbers[a.Key], err = number(d, a.Key, 0); err != nil {
				return err
			}
		default:
			return fmt.Errorf("cluster does not know %s", a)
		}
	}
	cfg.SuspectTicksMax = max(cfg.SuspectTicksMax, cfg.SuspectTicksMin)
	cfg.Jitter += uint64(jitter)
	var members []vsr.Member
	for i := range n + learners {
		m := vsr.Member{ID: vsr.ID(i + 1), Role: vsr.Voter}
		if i >= n {
			m.Role = vsr.Learner
		}
		members = append(members, m)
	}
	if s.notes == nil {
		s.notes = map[vsr.Note]bool{}
	}
	s.cluster = newCluster(cfg, vsr.NewMembership(members...), value(d, "fsync") == "auto")
	s.cluster.everShown = s.notes
	if d.HasArg("stopped") {
		return nil
	}
	// A script begins when every replica has written that it runs, and the first
	// view has begun everywhere.
	c := s.cluster
	c.show = 0
	for _, r := range c.replicas {
		c.start(r)
	}
	return c.stabilize(10)
}
