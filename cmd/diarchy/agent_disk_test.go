//go:build unix

package main

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// onSmallDisk starts a node that sees a small disk at dir, which nobody else
// sees.
func onSmallDisk(t *testing.T, options, dir string, args []string) *started {
	t.Helper()
	script := "mount -t tmpfs -o " + options + ` x "$0" && `
	if out, err := exec.Command("unshare", "-rm", "sh", "-c", script+"true", dir).CombinedOutput(); err != nil {
		t.Skipf("no file system of our own can be mounted here: %v %s", err, out)
	}
	s := &started{cmd: exec.Command("unshare", append([]string{"-rm", "sh", "-c", script + `exec "$@"`, dir, binary}, args...)...), done: make(chan error, 1)}
	s.cmd.Stdout, s.cmd.Stderr = s, s
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { s.done <- s.cmd.Wait() }()
	t.Cleanup(func() { _ = s.cmd.Process.Kill() })
	return s
}

func TestDataDirOnAReadOnlyDisk(t *testing.T) {
	t.Parallel()
	dir := tempHere(t)
	flags, _ := soloFlags(t, dir+"/n1")
	p := onSmallDisk(t, "size=64k,ro", dir, flags)
	if code := p.wait(t, 20*time.Second); code != 1 || !strings.Contains(p.output(), "read-only file system") {
		t.Errorf("exit code %d, expected 1:\n%s", code, p.output())
	}
}

// TestAFullDisk: there is no room for a log. The node says so, tries again, and
// still ends in order.
func TestAFullDisk(t *testing.T) {
	t.Parallel()
	dir := tempHere(t)
	flags, _ := soloFlags(t, dir+"/n1")
	p := onSmallDisk(t, "size=64k", dir, flags)
	p.await(t, `replica cannot start.*no space left on device`, 30*time.Second)
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	if code := p.wait(t, 20*time.Second); code != 0 {
		t.Errorf("SIGTERM: exit code %d\n%s", code, p.output())
	}
}

// TestSIGTERMDuringRestore: what has not arrived whole is as if it never came.
func TestSIGTERMDuringRestore(t *testing.T) {
	t.Parallel()
	dir := tempHere(t)
	flags, addr := soloFlags(t, dir+"/n1")
	file := write(t, dir+"/groups.hcl", "group \"g\" {\n  engine = \"raft\"\n  machine = \"builtin:kv\"\n  replicas = 1\n}\n")
	flags = append(flags, "-c", file)
	p := start(t, nil, flags...)
	ready(t, addr)
	at := []string{"--addr", addr, "--group", "g"}
	must(t, append([]string{"kv", "put", "a", "old"}, at...)...)
	must(t, "group", "snapshot", "save", "g", dir+"/whole", "--addr", addr)
	must(t, append([]string{"kv", "put", "a", "new"}, at...)...)

	whole, err := os.ReadFile(dir + "/whole")
	if err != nil {
		t.Fatal(err)
	}
	body, in := io.Pipe() // what is written has been read by the client
	req, err := http.NewRequest("PUT", "http://"+addr+"/v1/groups/g/snapshot", body)
	if err != nil {
		t.Fatal(err)
	}
	answer := make(chan int, 1)
	go func() {
		code := 0 // no answer
		if r, err := http.DefaultClient.Do(req); err == nil {
			code = r.StatusCode
			_ = r.Body.Close()
		}
		answer <- code
	}()
	if _, err := in.Write(whole[:len(whole)/2]); err != nil {
		t.Fatal(err)
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	p.await(t, "ending in order", 10*time.Second)
	_ = in.CloseWithError(io.ErrUnexpectedEOF)
	if code := <-answer; code == http.StatusOK {
		t.Error("half a backup was restored")
	}
	if code := p.wait(t, 40*time.Second); code != 0 {
		t.Errorf("SIGTERM: exit code %d\n%s", code, p.output())
	}
	p = start(t, nil, flags...)
	ready(t, addr)
	if got := must(t, append([]string{"kv", "get", "a"}, at...)...); got != "new\n" {
		t.Errorf("after it: %q", got)
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	p.wait(t, 20*time.Second)
}

// TestTheEndHasABound: what heeds nothing, such as a disk that hangs, keeps no
// process alive.
func TestTheEndHasABound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hung := make(chan struct{})
		a := &agent{log: slog.New(slog.DiscardHandler)}
		a.onClose(func(context.Context) error { <-hung; return nil })
		begun := time.Now()
		err := closeAgent(a, make(chan os.Signal))
		if took := time.Since(begun); err == nil || took != closeWithin+closeGrace {
			t.Errorf("ended after %v: %v", took, err)
		}
		close(hung)
	})
}
