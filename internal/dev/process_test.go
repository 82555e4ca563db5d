//go:build unix

package dev

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// roleVar makes the test binary play a part in a process tree.
const roleVar = "DEV_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleVar) {
	case "":
		goleak.VerifyTestMain(m)
	case "sleeper": // ignores SIGTERM and its standard input
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("ready")
		time.Sleep(time.Hour)
	case "watcher": // ends when its parent does
		gone := make(chan struct{})
		WatchParent(func() { close(gone) })
		<-gone
	case "polite":
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM)
		fmt.Println("ready")
		<-c
		fmt.Println("bye")
	case "parent sleeper", "parent watcher":
		parent(strings.TrimPrefix(os.Getenv(roleVar), "parent "))
	}
}

// parent starts a child of the given role, prints its id and waits.
func parent(role string) {
	tree := NewTree()
	tree.noDeathSignal = role == "watcher"
	p, err := tree.Start(self(role))
	if err != nil {
		panic(err)
	}
	fmt.Println(p.PID())
	time.Sleep(time.Hour)
}

func self(role string) Spec {
	path, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return Spec{Name: role, Path: path, Env: append(os.Environ(), roleVar+"="+role)}
}

// eventually polls, as there is nothing to wait on in another process.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

// state is a process's state letter; "" when it is gone.
func state(pid int) string {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	_, rest, _ := bytes.Cut(b, []byte(") "))
	if len(rest) == 0 || rest[0] == 'Z' {
		return ""
	}
	return string(rest[:1])
}

func logFile(t *testing.T) *os.File {
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func logged(t *testing.T, f *os.File, text string) {
	t.Helper()
	eventually(t, "log holds "+text, func() bool {
		b, _ := os.ReadFile(f.Name())
		return strings.Contains(string(b), text)
	})
}

func TestCloseAsksFirst(t *testing.T) {
	tree := NewTree()
	spec := self("polite")
	spec.Log = logFile(t)
	p, err := tree.Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	logged(t, spec.Log, "ready")
	if err := tree.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	logged(t, spec.Log, "bye")
	if p.Err() != nil {
		t.Fatalf("ended with %v", p.Err())
	}
	if _, err := tree.Start(spec); !errors.Is(err, errClosed) {
		t.Fatalf("a closed tree starts processes: %v", err)
	}
}

func TestCloseKillsWhoDoesNotListen(t *testing.T) {
	tree := NewTree()
	spec := self("sleeper")
	spec.Log = logFile(t)
	p, err := tree.Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	logged(t, spec.Log, "ready")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := tree.Close(ctx); err == nil {
		t.Fatal("a process that ignores SIGTERM was not reported")
	}
	if s := state(p.PID()); s != "" {
		t.Fatalf("process is left in state %s", s)
	}
}

func TestPauseResumeKillRestart(t *testing.T) {
	tree := NewTree()
	defer tree.Kill()
	p, err := tree.Start(self("sleeper"))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Pause(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "paused", func() bool { return state(p.PID()) == "T" })
	if err := p.Resume(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "resumed", func() bool { return state(p.PID()) != "T" })
	p.Kill()
	if p.Err() == nil || state(p.PID()) != "" {
		t.Fatal("killed, but ended well or still there")
	}
	again, err := tree.Restart(p)
	if err != nil {
		t.Fatal(err)
	}
	if again.PID() == p.PID() || state(again.PID()) == "" {
		t.Fatal("not restarted")
	}
}

func TestStartFails(t *testing.T) {
	tree := NewTree()
	defer tree.Kill()
	if _, err := tree.Start(Spec{Name: "n1", Path: "/nonexistent/diarchy"}); err == nil || !strings.Contains(err.Error(), "start n1") {
		t.Fatalf("said %v", err)
	}
}

// TestNothingOutlivesItsParent kills the parent with SIGKILL. The sleeper never
// looks at its standard input: the death signal alone ends it. The watcher is
// started without the signal: the pipe alone ends it.
func TestNothingOutlivesItsParent(t *testing.T) {
	for _, role := range []string{"sleeper", "watcher"} {
		t.Run(role, func(t *testing.T) {
			if _, err := os.Stat("/proc/self/stat"); err != nil {
				t.Skip("needs /proc and the parent-death signal of Linux")
			}
			spec := self("parent " + role)
			cmd := exec.Command(spec.Path)
			cmd.Env = spec.Env
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			line := make([]byte, 32)
			n, err := io.ReadAtLeast(out, line, 2)
			if err != nil {
				t.Fatal(err)
			}
			child, err := strconv.Atoi(strings.TrimSpace(string(line[:n])))
			if err != nil {
				t.Fatal(err)
			}
			if state(child) == "" {
				t.Fatal("the child does not run")
			}
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			eventually(t, "the child is gone", func() bool { return state(child) == "" })
		})
	}
}

func TestPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	used := l.Addr().(*net.TCPAddr).Port
	taken := map[int]bool{}
	a, err := Port(used, taken)
	if err != nil || a == used {
		t.Fatalf("a port in use was given: %d, %v", a, err)
	}
	b, err := Port(a, taken)
	if err != nil || a == b {
		t.Fatalf("one port was given twice: %d, %v", b, err)
	}
	delete(taken, a)
	if c, err := Port(a, taken); err != nil || c != a {
		t.Fatalf("preferred %d, given %d, %v", a, c, err)
	}
	u, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	if c, err := Port(u.LocalAddr().(*net.UDPAddr).Port, taken); err != nil || c == u.LocalAddr().(*net.UDPAddr).Port {
		t.Fatalf("a UDP port in use was given: %d, %v", c, err)
	}
}

func TestHome(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	h, err := OpenHome("")
	if err != nil {
		t.Fatal(err)
	}
	if left := Leftovers(); len(left) != 0 {
		t.Fatalf("a run that goes on counts as left over: %v", left)
	}
	if _, err := OpenHome(h.Dir); err == nil || !strings.Contains(err.Error(), "in use by another run") {
		t.Fatalf("two runs in one directory: %v", err)
	}
	_ = h.lock.Close() // as SIGKILL does
	if left := Leftovers(); len(left) != 1 || left[0] != h.Dir {
		t.Fatalf("left over: %v, expected %s", left, h.Dir)
	}
	kept, err := OpenHome(h.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := kept.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(h.Dir); err != nil {
		t.Fatalf("a directory given by the user is gone: %v", err)
	}
	fresh, err := OpenHome("")
	if err != nil {
		t.Fatal(err)
	}
	if err := fresh.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(fresh.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("a temporary directory stays: %v", err)
	}
}
