//go:build unix

package plugins_test

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/diarchy/diarchy/plugins"
)

func TestManyHostsStartAtOnce(t *testing.T) {
	// In one run directory, each copying a program while others fork: a copy
	// that a fork still holds open for writing cannot be executed.
	run := runDir(t)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			h, err := plugins.New(plugins.Options{RunDir: run, Specs: []plugins.Spec{role(t, "probe")}})
			if err != nil {
				t.Error(err)
				return
			}
			defer h.Close()
			f, err := h.Factory("probe")
			if err != nil {
				t.Error(err)
				return
			}
			m, err := f(context.Background())
			if err != nil {
				t.Error(err)
				return
			}
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if left, _ := os.ReadDir(run); len(left) > 0 {
		t.Errorf("left in the run directory: %v", left)
	}
}

func TestACopyStillOpenForWritingIsWaitedFor(t *testing.T) {
	run := runDir(t)
	h := newHost(t, plugins.Options{RunDir: run, Specs: []plugins.Spec{role(t, "probe")}})
	f, err := h.Factory("probe")
	if err != nil {
		t.Fatal(err)
	}
	copies, _ := filepath.Glob(filepath.Join(run, "p0", "*", "*"))
	if len(copies) != 1 {
		t.Fatalf("copies: %v", copies)
	}
	if err := os.Chmod(copies[0], 0o700); err != nil {
		t.Fatal(err)
	}
	held, err := os.OpenFile(copies[0], os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(200*time.Millisecond, func() { held.Close() })
	open(t, f)
}

func TestAnIdleMachineSaysThatItsProcessEnded(t *testing.T) {
	h, f := factoryOf(t, role(t, "probe"))
	m, err := f(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	o, err := m.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-o.Lost:
		t.Fatal("lost while its process runs")
	default:
	}
	if err := syscall.Kill(h.Status()[0].PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case <-o.Lost:
	case <-time.After(10 * time.Second):
		t.Error("nobody was told")
	}
}
