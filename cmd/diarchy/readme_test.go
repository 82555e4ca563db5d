//go:build unix

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

func readme(t *testing.T) string {
	t.Helper()
	return readAll(t, "../../README.md")
}

// TestReadmeCommands: every command line that is printed there is one.
func TestReadmeCommands(t *testing.T) {
	lines := regexp.MustCompile(`(?m)^    (diarchy .*?)(?: +#.*)?$`).FindAllStringSubmatch(readme(t), -1)
	if len(lines) < 8 {
		t.Errorf("%d command lines: are they printed in another way now?", len(lines))
	}
	for _, l := range lines {
		checkExample(t, l[1])
	}
	ci := readAll(t, "../../.ci/run")
	if !strings.Contains(readme(t), "\n    make test\n") || !strings.Contains(ci, "make test") {
		t.Error("the test command of the README is not what .ci/run calls")
	}
}

// TestReadmeConfiguration: the node that is printed there is valid, but for the
// files that it names.
func TestReadmeConfiguration(t *testing.T) {
	dir := tempHere(t)
	_, text, _ := strings.Cut(readme(t), "```hcl\n")
	text, _, _ = strings.Cut(text, "```")
	text = strings.ReplaceAll(text, "/etc/diarchy", dir)
	for _, f := range []string{"gossip.key", "token", "ca.pem", "n1.pem", "n1-key.pem"} {
		write(t, filepath.Join(dir, f), "x")
	}
	if out := must(t, "validate", write(t, dir+"/node.hcl", text)); out != "the configuration is valid\n" {
		t.Error(out)
	}
}

// TestReadmePlugin is the first five minutes of who writes a machine.
func TestReadmePlugin(t *testing.T) {
	t.Parallel()
	dir := tempHere(t)
	build := exec.Command("go", "build", "-o", dir+"/counter", "../../examples/counter")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	d := start(t, []string{"TMPDIR=" + dir}, "dev", "--any-ports", "--plugin", dir+"/counter")
	addr := d.await(t, `DIARCHY_ADDR=(\S+)`, time.Minute)[1]
	if got := must(t, "propose", "counter", `{"name":"apples","by":3}`, "--addr", addr); !strings.Contains(got, `"total":3`) {
		t.Errorf("propose gave %q", got)
	}
	if got := must(t, "query", "counter", "apples", "--addr", addr); !strings.Contains(got, `"total":3`) {
		t.Errorf("query gave %q", got)
	}
	if out, code := diarchy(t, "kv", "put", "a", "b", "--group", "counter", "--addr", addr); code != 2 || !strings.Contains(out, "not the key-value machine") {
		t.Errorf("a key-value command to another machine: exit code %d\n%s", code, out)
	}
	if got := must(t, "plugin", "info", "counter", "--addr", addr); !regexp.MustCompile(`counter +\d+ +running`).MatchString(got) {
		t.Errorf("plugin info:\n%s", got)
	}
	_ = d.cmd.Process.Signal(syscall.SIGINT)
	d.wait(t, 20*time.Second)
	if _, err := os.Stat(dir + "/counter"); err != nil {
		t.Error(err)
	}
}
