//go:build unix

package sdk

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/diarchy/diarchy/fsm"
	"github.com/diarchy/diarchy/plugins/fsmpb"
	"github.com/diarchy/diarchy/plugins/internal/wire"
)

const roleKey = "TEST_SDK"

func TestMain(m *testing.M) {
	switch os.Getenv(roleKey) {
	case "plugin":
		Serve(idle{})
	case "parent":
		beParent()
	}
	os.Exit(m.Run())
}

// idle is a machine with nothing to do.
type idle struct{ fsm.Base }

func (idle) Apply(_ context.Context, _ fsm.Batch, _ []fsm.Result) error { return nil }

// beParent starts a plugin that shares nothing with it but the kinship.
func beParent() {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(pluginEnv(), "PLUGIN_UNIX_SOCKET_DIR="+os.Getenv("DIR"))
	if err := cmd.Start(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(cmd.Process.Pid)
	_ = cmd.Wait()
}

func pluginEnv() []string {
	return []string{
		roleKey + "=plugin", fsmpb.CookieKey + "=" + fsmpb.CookieValue,
		fmt.Sprintf("PLUGIN_PROTOCOL_VERSIONS=%d", fsmpb.ProtocolVersion),
	}
}

// start runs a plugin and returns the address that it listens on.
func start(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sdk")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(pluginEnv(), "PLUGIN_UNIX_SOCKET_DIR="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		os.RemoveAll(dir)
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	parts := strings.Split(line, "|")
	if err != nil || len(parts) < 5 || parts[1] != strconv.Itoa(fsmpb.ProtocolVersion) || parts[4] != "grpc" {
		t.Fatalf("handshake %q, %v", line, err)
	}
	return parts[3]
}

// ends waits for a process's end and fails when it does not come.
func ends(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the plugin runs on without its host")
	}
}

func TestAPluginEndsWithItsStandardInput(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	host, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	start(t, cmd)
	if err := cmd.Process.Signal(syscall.Signal(0)); err != nil {
		t.Fatalf("it ended before: %v", err)
	}
	if err := host.Close(); err != nil {
		t.Fatal(err)
	}
	ends(t, cmd)
}

func TestAPluginEndsWithTheHostsCall(t *testing.T) {
	cmd := exec.Command(os.Args[0]) // standard input is /dev/null, which is no host's end
	addr := start(t, cmd)
	conn, err := grpc.NewClient("unix:"+addr, append(wire.DialOptions(0), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	m, err := wire.NewClient(t.Context(), conn, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := m.Apply(t.Context(), fsm.Batch{Time: 1}, make([]fsm.Result, 1)); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	ends(t, cmd)
}

func TestAPluginEndsWithItsParent(t *testing.T) {
	dir := t.TempDir()
	parent := exec.Command(os.Args[0])
	parent.Env = []string{roleKey + "=parent", "DIR=" + dir}
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	// A test that fails leaves no process either.
	t.Cleanup(func() {
		_ = parent.Process.Kill()
		_ = parent.Wait()
		if pid > 0 && !gone(pid) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	line, _ := bufio.NewReader(out).ReadString('\n')
	pid, err = strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatalf("the parent said %q", line)
	}
	// Once it listens it has looked who its parent is.
	if !awaits(func() bool { found, _ := filepath.Glob(filepath.Join(dir, "*")); return len(found) > 0 }) {
		t.Fatal("the plugin did not come up")
	}
	_ = parent.Process.Kill()
	_ = parent.Wait()
	if !awaits(func() bool { return gone(pid) }) {
		t.Error("the plugin runs on without its parent")
	}
}

func awaits(holds func() bool) bool {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if holds() {
			return true
		}
	}
	return false
}

func gone(pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return true
	}
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	_, rest, _ := strings.Cut(string(stat), ") ")
	return err == nil && strings.HasPrefix(rest, "Z") // nobody there to bury it
}
