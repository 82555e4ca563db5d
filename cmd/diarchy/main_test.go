package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
)

// binary is this program, built once for all tests that start processes: nodes
// run it again as agent and as plugin.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "diarchy-test-")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "diarchy")
	build := exec.Command("go", "build", "-o", binary, ".")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		os.Exit(1)
	}
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "DIARCHY_") {
			_ = os.Unsetenv(name)
		}
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", filepath.Dir(binary)+string(os.PathListSeparator)+e.Getenv("PATH"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
	})
}

// exits runs a command and wants its exit code: exits 2 diarchy frob.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND [ARG…]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var e *exec.ExitError
		if !errors.As(err, &e) {
			ts.Fatalf("%v", err)
		}
		got = e.ExitCode()
	}
	if got != want {
		ts.Fatalf("%v exited with %d, expected %d", args[1:], got, want)
	}
}

// TestEveryCommandHasHelp: a sentence and an example on each, and each example
// is one that the command takes.
func TestEveryCommandHasHelp(t *testing.T) {
	count := 0
	var visit func(*cobra.Command)
	visit = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			visit(sub)
		}
		if c.Name() == "help" || c.Name() == "completion" || c.Parent() != nil && c.Parent().Name() == "completion" || c.Hidden {
			return
		}
		count++
		if c.Short == "" || c.Example == "" {
			t.Errorf("%s has no sentence or no example", c.CommandPath())
		}
		for _, line := range strings.Split(c.Example, "\n") {
			checkExample(t, line)
		}
	}
	root := newRoot(stdio{in: strings.NewReader(""), out: &bytes.Buffer{}, err: &bytes.Buffer{}})
	root.InitDefaultHelpCmd()
	visit(root)
	if count < 40 {
		t.Errorf("%d commands: some are missing", count)
	}
}

// checkExample parses an example's words as the shell would, and sees that the
// command exists, and takes the flags and that many arguments.
func checkExample(t *testing.T, line string) {
	t.Helper()
	words, err := shellWords(line)
	if err != nil || len(words) == 0 || words[0] != "diarchy" {
		t.Errorf("example %q is no command line (%v)", line, err)
		return
	}
	root := newRoot(stdio{in: strings.NewReader(""), out: &bytes.Buffer{}, err: &bytes.Buffer{}})
	cmd, rest, err := root.Find(twoDashes(root, words[1:]))
	if err != nil {
		t.Errorf("example %q: %v", line, err)
		return
	}
	if err := cmd.ParseFlags(rest); err != nil {
		t.Errorf("example %q: %v", line, err)
		return
	}
	if cmd.Args != nil {
		if err := cmd.Args(cmd, cmd.Flags().Args()); err != nil {
			t.Errorf("example %q: %v", line, err)
		}
	}
}

// shellWords splits at spaces outside quotes, and ends at > or &&.
func shellWords(line string) ([]string, error) {
	var out []string
	var word strings.Builder
	var quote rune
	in := false
	for _, r := range strings.TrimSpace(line) {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote == 0 && (r == '\'' || r == '"'):
			quote, in = r, true
		case quote == 0 && r == ' ':
			if in {
				out = append(out, word.String())
			}
			word.Reset()
			in = false
		default:
			word.WriteRune(r)
			in = true
		}
	}
	if quote != 0 {
		return nil, errors.New("an open quote")
	}
	out = append(out, word.String())
	for i, w := range out {
		if w == ">" || w == "&&" {
			return out[:i], nil
		}
	}
	return out, nil
}

func TestOneDashIsEnough(t *testing.T) {
	root := newRoot(stdio{in: strings.NewReader(""), out: &bytes.Buffer{}, err: &bytes.Buffer{}})
	for in, want := range map[string]string{
		"agent -dev":                   "agent --dev",
		"agent -config-file=x -c y":    "agent --config-file=x -c y",
		"kv put k -5":                  "kv put k -5",
		"kv put -ttl 30s a b":          "kv put --ttl 30s a b",
		"members -o json":              "members -o json",
		"kv put -- -ttl x":             "kv put -- -ttl x",
		"group destroy g -confirm=g":   "group destroy g --confirm=g",
		"kv get k --consistency stale": "kv get k --consistency stale",
	} {
		if got := strings.Join(twoDashes(root, strings.Fields(in)), " "); got != want {
			t.Errorf("%q became %q, expected %q", in, got, want)
		}
	}
}
