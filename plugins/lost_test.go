//go:build unix

package plugins_test

import (
	"strconv"
	"syscall"
	"testing"
	"time"
)

// TestTheEndOfAnIdlePluginIsTold: nothing calls the machine when its process is
// killed, and its host is told all the same.
func TestTheEndOfAnIdlePluginIsTold(t *testing.T) {
	_, f := factoryOf(t, role(t, "probe"))
	m, err := f(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	opened, err := m.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pid, _ := strconv.Atoi(query(t, m, "pid"))
	select {
	case <-opened.Lost:
		t.Fatal("a machine that runs is called lost")
	default:
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case <-opened.Lost:
	case <-time.After(10 * time.Second):
		t.Fatal("nobody was told that the process has ended")
	}
}
