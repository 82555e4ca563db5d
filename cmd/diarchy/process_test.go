//go:build unix

package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/diarchy/diarchy/internal/dev"
)

// started is a diarchy process whose output is kept.
type started struct {
	cmd  *exec.Cmd
	done chan error
	mu   sync.Mutex
	out  bytes.Buffer
}

func (s *started) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.Write(b)
}

func (s *started) output() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.String()
}

// start runs the binary in a process group of its own.
func start(t *testing.T, env []string, args ...string) *started {
	t.Helper()
	s := &started{cmd: exec.Command(binary, args...), done: make(chan error, 1)}
	s.cmd.Stdout, s.cmd.Stderr = s, s
	s.cmd.Env = append(os.Environ(), env...)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { s.done <- s.cmd.Wait() }()
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		if t.Failed() {
			t.Logf("output of %v:\n%s", args, s.output())
		}
	})
	return s
}

// wait waits for the end and returns the exit code.
func (s *started) wait(t *testing.T, within time.Duration) int {
	t.Helper()
	select {
	case <-s.done:
		return s.cmd.ProcessState.ExitCode()
	case <-time.After(within):
		t.Fatalf("still runs after %s:\n%s", within, s.output())
		return -1
	}
}

// await waits until the output holds a pattern, and returns its submatches.
func (s *started) await(t *testing.T, pattern string, within time.Duration) []string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	var found []string
	eventually(t, within, "output matches "+pattern, func() bool {
		found = re.FindStringSubmatch(s.output())
		return found != nil
	})
	return found
}

// eventually polls: other processes have nothing to wait on.
func eventually(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", within, what)
		}
	}
}

// diarchy runs one command to its end.
func diarchy(t *testing.T, args ...string) (out string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	b, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatalf("%v: %v", args, err)
	}
	return string(b), cmd.ProcessState.ExitCode()
}

func must(t *testing.T, args ...string) string {
	t.Helper()
	out, code := diarchy(t, args...)
	if code != 0 {
		t.Fatalf("diarchy %v exited with %d:\n%s", args, code, out)
	}
	return out
}

// processesOf are the living processes whose command line holds a text.
func processesOf(text string) []int {
	var out []int
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range all {
		line, err := os.ReadFile(path)
		if err != nil || !strings.Contains(strings.ReplaceAll(string(line), "\x00", " "), text) {
			continue
		}
		stat, err := os.ReadFile(filepath.Join(filepath.Dir(path), "stat"))
		if _, after, ok := strings.Cut(string(stat), ") "); err != nil || !ok || after[0] == 'Z' {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		out = append(out, pid)
	}
	return out
}

func needProc(t *testing.T) {
	if _, err := os.Stat("/proc/self/cmdline"); err != nil {
		t.Skip("looks for processes in /proc")
	}
}

// tempHere makes the system's temporary directory a short one of the test's own,
// so that every file left in it is seen.
func tempHere(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "dt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func TestDevFromStartToCtrlC(t *testing.T) {
	t.Parallel()
	needProc(t)
	tmp := tempHere(t)
	d := start(t, []string{"TMPDIR=" + tmp}, "dev", "--any-ports")
	d.await(t, "Ctrl-C ends it", time.Minute)
	out := d.output()
	home := regexp.MustCompile(`logs +(\S+)/n\*`).FindStringSubmatch(out)[1]
	if n := len(processesOf(home + "/n")); n != 3 {
		t.Errorf("%d node processes, expected 3", n)
	}
	plugins := regexp.MustCompile(`(?m)^n\d +\d+ +(\d+) `).FindAllStringSubmatch(out, -1)
	if len(plugins) != 3 {
		t.Errorf("plugin processes: %v, expected 3", plugins)
	}
	// The printed lines, as a shell would run them.
	_, script, _ := strings.Cut(out, "In another shell:")
	script, _, _ = strings.Cut(script, "Ctrl-C")
	shell := exec.Command("sh", "-ec", script)
	said, err := shell.CombinedOutput()
	if err != nil {
		t.Fatalf("the printed commands: %v\n%s\n%s", err, script, said)
	}
	if want := "revision 1\nhello\nKEY       VALUE  REVISION\ngreeting  hello  1\n"; string(said) != want {
		t.Errorf("the printed commands gave\n%s\nexpected\n%s", said, want)
	}
	if err := syscall.Kill(-d.cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := d.wait(t, 20*time.Second); code != 0 {
		t.Errorf("Ctrl-C: exit code %d", code)
	}
	eventually(t, 2*time.Second, "no process is left", func() bool { return len(processesOf(tmp)) == 0 })
	for _, p := range plugins {
		pid, _ := strconv.Atoi(p[1])
		eventually(t, 2*time.Second, "plugin process "+p[1]+" is gone", func() bool { return !alive(pid) })
	}
	if left, _ := filepath.Glob(tmp + "/*"); len(left) > 0 {
		t.Errorf("files are left: %v", left)
	}
}

func alive(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	_, after, _ := strings.Cut(string(stat), ") ")
	return err == nil && !strings.HasPrefix(after, "Z")
}

func TestDevSecondCtrlCKillsAtOnce(t *testing.T) {
	t.Parallel()
	needProc(t)
	tmp := tempHere(t)
	d := start(t, nil, "dev", "--any-ports", "--data-dir", tmp+"/d")
	pids := d.await(t, `(?s)n1 +(\d+) +(\d+) .*n2 +(\d+) +(\d+) .*n3 +(\d+) +(\d+) .*Ctrl-C ends`, time.Minute)[1:]
	// Nodes that are stopped cannot end in order.
	for _, pid := range processesOf(tmp + "/d/n") {
		_ = syscall.Kill(pid, syscall.SIGSTOP)
	}
	_ = d.cmd.Process.Signal(syscall.SIGINT)
	d.await(t, "once more ends at once", 5*time.Second)
	time.Sleep(400 * time.Millisecond) // what comes sooner counts as the same Ctrl-C
	_ = d.cmd.Process.Signal(syscall.SIGINT)
	if code := d.wait(t, 5*time.Second); code != 1 {
		t.Errorf("exit code %d, expected 1", code)
	}
	eventually(t, 2*time.Second, "no process is left", func() bool { return len(processesOf(tmp)) == 0 })
	for _, p := range pids {
		pid, _ := strconv.Atoi(p)
		eventually(t, 2*time.Second, "process "+p+" is gone", func() bool { return !alive(pid) })
	}
}

// TestDevKilled: SIGKILL of dev itself. Its nodes and plugins must be gone within
// 5 s; the directory stays and the next dev names it.
func TestDevKilled(t *testing.T) {
	t.Parallel()
	needProc(t)
	tmp := tempHere(t)
	d := start(t, []string{"TMPDIR=" + tmp}, "dev", "--any-ports")
	pids := d.await(t, `(?s)n1 +(\d+) +(\d+) .*n2 +(\d+) +(\d+) .*n3 +(\d+) +(\d+) .*Ctrl-C ends`, time.Minute)[1:]
	if err := d.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	for _, p := range pids {
		pid, _ := strconv.Atoi(p)
		eventually(t, 5*time.Second-time.Since(killed), "process "+p+" is gone", func() bool { return !alive(pid) })
	}
	t.Logf("all six processes were gone %s after SIGKILL", time.Since(killed).Round(time.Millisecond))
	left, _ := filepath.Glob(tmp + "/diarchy-dev-*")
	if len(left) != 1 {
		t.Fatalf("left over: %v, expected one directory", left)
	}
	next := start(t, []string{"TMPDIR=" + tmp}, "dev", "--any-ports")
	next.await(t, regexp.QuoteMeta("left over from a dev that was killed: "+left[0]), 10*time.Second)
	_ = next.cmd.Process.Signal(syscall.SIGINT)
	next.wait(t, 20*time.Second)
}

// TestDevWithoutGoTool: what 'go run' builds ends when the go tool is killed.
func TestDevEndsWithGoRun(t *testing.T) {
	t.Parallel()
	needProc(t)
	tmp := tempHere(t)
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	s := &started{cmd: exec.Command("go", "run", "./cmd/diarchy", "dev", "--any-ports"), done: make(chan error, 1)}
	s.cmd.Dir, s.cmd.Stdout, s.cmd.Stderr = root, s, s
	s.cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { s.done <- s.cmd.Wait() }()
	defer func() { _ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL) }()
	pids := s.await(t, `(?s)n1 +(\d+) +(\d+) .*n2 +(\d+) +(\d+) .*n3 +(\d+) +(\d+) .*Ctrl-C ends`, 2*time.Minute)[1:]
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	for _, p := range pids {
		pid, _ := strconv.Atoi(p)
		eventually(t, 5*time.Second-time.Since(killed), "process "+p+" is gone", func() bool { return !alive(pid) })
	}
	t.Logf("all six processes were gone %s after SIGKILL of the go tool", time.Since(killed).Round(time.Millisecond))
}

func TestDevGoesOnFromItsDirectory(t *testing.T) {
	t.Parallel()
	tmp := tempHere(t)
	for i, want := range []string{"revision 1\n", "revision 2\n"} {
		d := start(t, nil, "dev", "--any-ports", "--data-dir", tmp+"/d")
		addr := d.await(t, `DIARCHY_ADDR=(\S+)`, time.Minute)[1]
		d.await(t, "Ctrl-C ends it", 10*time.Second)
		if i == 1 {
			if got := must(t, "kv", "get", "kept", "--addr", addr); got != "first\n" {
				t.Errorf("after a restart the key holds %q", got)
			}
		}
		if got := must(t, "kv", "put", "kept", "first", "--addr", addr); got != want {
			t.Errorf("put gave %q, expected %q", got, want)
		}
		if i == 0 {
			second := start(t, nil, "dev", "--any-ports", "--data-dir", tmp+"/d")
			if code := second.wait(t, 10*time.Second); code != 1 || !strings.Contains(second.output(), "in use by another run") {
				t.Errorf("two runs in one directory: exit code %d\n%s", code, second.output())
			}
		}
		_ = d.cmd.Process.Signal(syscall.SIGTERM)
		if code := d.wait(t, 30*time.Second); code != 0 {
			t.Errorf("SIGTERM: exit code %d", code)
		}
	}
	if out, code := diarchy(t, "dev", "--nodes", "5", "--data-dir", tmp+"/d"); code != 1 || !strings.Contains(out, "holds 3 nodes, not 5") {
		t.Errorf("another number of nodes: exit code %d\n%s", code, out)
	}
}

func TestDevCheck(t *testing.T) {
	t.Parallel()
	c := start(t, []string{"TMPDIR=" + tempHere(t)}, "dev", "--check", "--any-ports")
	if code := c.wait(t, time.Minute); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	t.Logf("\n%s", c.output())
	for _, want := range []string{
		"3 nodes are up", "wrote 1000 keys", "read 1000 keys linearizably", "killed the leader", "wrote on without it",
		"back and caught up", "killed the plugin", "compared the state of 3 replicas", "all is well",
	} {
		if !strings.Contains(c.output(), want) {
			t.Errorf("%q is not said", want)
		}
	}
}

// TestDevCheckFindsWhatIsBroken: each sabotage must be found, for its own reason.
func TestDevCheckFindsWhatIsBroken(t *testing.T) {
	t.Parallel()
	want := map[string]string{
		"skip-write":    `read: 1 of 1000 reads are wrong: key check/first/\d+ was acknowledged and is not there`,
		"stale-read":    `read everything: \d+ of 1201 reads are wrong: key \S+ holds "\S+", acknowledged was "\S+"`,
		"lose-replica":  `restart it: node n\d has not come back`,
		"corrupt-state": `(compare: the replicas differ at command \d+|reads are wrong: key \S+ holds)`,
		"no-leader":     `write without it: no write was acknowledged in the \d+s since the leader was killed`,
	}
	for _, how := range dev.Breaks {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			c := start(t, []string{"TMPDIR=" + tempHere(t)}, "dev", "--any-ports", "--break", how)
			if code := c.wait(t, 90*time.Second); code != 1 {
				t.Errorf("exit code %d, expected 1", code)
			}
			if !regexp.MustCompile("check failed: .*" + want[how]).MatchString(c.output()) {
				t.Errorf("expected the reason %s; said:\n%s", want[how], c.output())
			}
		})
	}
}
