//go:build unix

package plugins_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/diarchy/diarchy/fsm"
	"github.com/diarchy/diarchy/plugins"
	"github.com/diarchy/diarchy/plugins/fsmpb"
)

func TestAPluginIsAMachine(t *testing.T) {
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
	if o.Name != "probe" || o.Version != "7" || o.Capabilities != (fsm.Capabilities{Ticks: true}) || string(o.Host) != "host bytes" {
		t.Errorf("opened %+v", o)
	}
	results := make([]fsm.Result, 2)
	b := fsm.Batch{Entries: []fsm.Entry{{Index: 5, Time: 50, Data: []byte("one")}, {Index: 6, Time: 60, Data: []byte("refuse no\xff")}}, Time: 70}
	if err := m.Apply(t.Context(), b, results); err != nil {
		t.Fatal(err)
	}
	if string(results[0].Value) != "5@50: one" || results[1].Err != "no\xff" || results[1].Due != 71 {
		t.Errorf("results %+v", results)
	}
	tick := make([]fsm.Result, 1)
	if err := m.Apply(t.Context(), fsm.Batch{Time: 100}, tick); err != nil || tick[0].Due != 101 {
		t.Errorf("tick: %+v, %v", tick, err)
	}
	if _, err := m.Query(t.Context(), fsm.Query{Data: []byte("what")}); err == nil || err.Error() != `unknown query "what"` {
		t.Errorf("query's own error: %v", err)
	}
	if _, err := m.Digest(t.Context()); !errors.Is(err, fsm.ErrUnsupported) {
		t.Errorf("digest: %v, want ErrUnsupported", err)
	}
	st := h.Status()
	if len(st) != 1 || strconv.Itoa(st[0].PID) != query(t, m, "pid") || st[0].Machine == nil || st[0].Machine.Version != "7" || len(st[0].SHA256) != 64 {
		t.Errorf("status %+v", st)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if !gone(st[0].PID) || len(h.Status()) != 0 {
		t.Error("the process is still there after Close")
	}
	if _, err := apply(m, "x"); !errors.Is(err, fsm.ErrLost) {
		t.Errorf("apply after close: %v", err)
	}
}

func TestAKilledPluginIsALostMachine(t *testing.T) {
	h, f := factoryOf(t, role(t, "probe"))
	before := descriptors(t)
	m := open(t, f)
	pid, _ := strconv.Atoi(query(t, m, "pid"))
	lost := make(chan error, 1)
	go func() { _, err := apply(m, "hang"); lost <- err }()
	eventually(t, 10*time.Second, "the command is under way", func() bool { return query(t, m, "applied") == "1" })
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	err := <-lost
	if !errors.Is(err, fsm.ErrLost) || !strings.Contains(err.Error(), "signal: killed") || !strings.Contains(err.Error(), strconv.Itoa(pid)) {
		t.Errorf("apply: %v, want ErrLost with the pid and the signal", err)
	}
	for call, err := range map[string]error{
		"apply":    second(apply(m, "x")),
		"query":    second(m.Query(t.Context(), fsm.Query{Data: []byte("pid")})),
		"snapshot": second(m.Snapshot(t.Context())),
		"restore":  m.Restore(t.Context(), fsm.SnapshotInfo{}, strings.NewReader("x")),
		"digest":   second(m.Digest(t.Context())),
	} {
		if !errors.Is(err, fsm.ErrLost) {
			t.Errorf("%s after that: %v, want ErrLost", call, err)
		}
	}
	if st := h.Status(); len(st) != 0 {
		t.Errorf("status lists the dead: %+v", st)
	}
	if err := m.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	again := open(t, f)
	if r, err := apply(again, "x"); err != nil || string(r.Value) != "1@2: x" {
		t.Errorf("the next machine: %+v, %v", r, err)
	}
	again.Close()
	eventually(t, 5*time.Second, "as many descriptors as before", func() bool { return descriptors(t) <= before })
}

func second[T any](_ T, err error) error { return err }

// descriptors counts what this process has open.
func descriptors(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc here")
	}
	return len(entries)
}

func TestTheReasonOfADeathIsTold(t *testing.T) {
	for command, want := range map[string]string{
		"exit 7":                 "exit status 7; its last words: leaving in an orderly way",
		"panic broken invariant": "panic: broken invariant",
		"fail disk on fire":      "disk on fire",
	} {
		t.Run(command, func(t *testing.T) {
			log := &logs{}
			h := newHost(t, plugins.Options{Specs: []plugins.Spec{role(t, "probe")}, Logger: slog.New(slog.NewJSONHandler(log, nil))})
			f, err := h.FactoryFor("probe", "orders")
			if err != nil {
				t.Fatal(err)
			}
			m := open(t, f)
			_, err = apply(m, command)
			if !errors.Is(err, fsm.ErrLost) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want ErrLost, one line with %q", err, want)
			}
			m.Close()
			if !log.has(`"level":"INFO"`, `"msg":"opened, on standard output"`, `"plugin":"probe"`, `"group":"orders"`, `"stream":"stdout"`) {
				t.Errorf("no line of standard output in the log:\n%s", log)
			}
			if !log.has(`"level":"WARN"`, `"msg":"opened"`, `"where":"standard error"`) {
				t.Errorf("no record of standard error in the log:\n%s", log)
			}
			if strings.HasPrefix(command, "panic") && !log.has(`"level":"ERROR"`, `(*probe).Apply(`) {
				t.Errorf("no stack in the log:\n%s", log)
			}
		})
	}
}

// logs gathers a log's lines.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// has says that one line holds all of these.
func (l *logs) has(parts ...string) bool {
lines:
	for line := range strings.Lines(l.String()) {
		for _, p := range parts {
			if !strings.Contains(line, p) {
				continue lines
			}
		}
		return true
	}
	return false
}

func TestNoPluginOutlivesAKilledHost(t *testing.T) {
	// "raw" watches neither its standard input nor the host's call: what ends
	// it is the signal that the kernel sends.
	for _, hosted := range []string{"probe", "raw"} {
		t.Run(hosted, func(t *testing.T) {
			if hosted == "raw" && runtime.GOOS != "linux" {
				t.Skip("only Linux has a signal for a parent's end")
			}
			host, pid := startHost(t, hosted)
			if gone(pid) {
				t.Fatal("the plugin is gone before its host")
			}
			if err := host.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = host.Wait()
			eventually(t, 5*time.Second, "the plugin is gone", func() bool { return gone(pid) })
		})
	}
}

func TestWhatAKilledHostLeavesIsRemoved(t *testing.T) {
	run := runDir(t)
	alive := newHost(t, plugins.Options{RunDir: run, Specs: []plugins.Spec{role(t, "kv")}})
	if _, err := alive.Factory("kv"); err != nil {
		t.Fatal(err)
	}
	abandoned := filepath.Join(run, "p7")
	if err := os.MkdirAll(filepath.Join(abandoned, "s0"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(abandoned, "lock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	newHost(t, plugins.Options{RunDir: run, Specs: []plugins.Spec{role(t, "kv")}})
	if _, err := os.Stat(abandoned); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was abandoned is still there: %v", err)
	}
	if found, _ := filepath.Glob(filepath.Join(run, "p0", "*", "*")); len(found) != 1 {
		t.Errorf("the living host's copy is gone: %v", found)
	}
	if err := alive.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(run, "p0")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a closed host has left its directory: %v", err)
	}
}

func TestTheGroupOfAPluginEndsWithIt(t *testing.T) {
	_, f := factoryOf(t, role(t, "probe"))
	for name, end := range map[string]func(m fsm.Machine, pid int){
		"closed": func(m fsm.Machine, _ int) { m.Close() },
		"killed": func(m fsm.Machine, pid int) { _ = syscall.Kill(pid, syscall.SIGKILL) },
	} {
		t.Run(name, func(t *testing.T) {
			m := open(t, f)
			r, err := apply(m, "spawn")
			if err != nil {
				t.Fatal(err)
			}
			grandchild, _ := strconv.Atoi(string(r.Value))
			pid, _ := strconv.Atoi(query(t, m, "pid"))
			end(m, pid)
			eventually(t, 5*time.Second, "the plugin's own child is gone", func() bool { return gone(grandchild) })
		})
	}
}

func TestAnInterruptIsLeftToTheHost(t *testing.T) {
	_, f := factoryOf(t, role(t, "probe"))
	m := open(t, f)
	pid, _ := strconv.Atoi(query(t, m, "pid"))
	for range 3 {
		if err := syscall.Kill(pid, syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := apply(m, "x"); err != nil || len(r.Value) == 0 {
		t.Errorf("after SIGINT: %+v, %v", r, err)
	}
	if pgid, err := syscall.Getpgid(pid); err != nil || pgid != pid {
		t.Errorf("process group %d, %v; want its own, %d", pgid, err, pid)
	}
}

func TestNothingOfTheHostIsInherited(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("looks into /proc")
	}
	t.Setenv("HOST_SECRET", "hunter2")
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// As if the host had been started with it: not marked close-on-exec.
	fd, err := syscall.Open(secret, syscall.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	s := role(t, "probe")
	s.Env = append(s.Env, "GIVEN=yes", fsmpb.CookieKey+"=wrong")
	_, f := factoryOf(t, s)
	m := open(t, f)
	env := query(t, m, "env")
	if strings.Contains(env, "hunter2") || strings.Contains(env, "PATH=") || !strings.Contains(env, "GIVEN=yes") {
		t.Errorf("environment:\n%s", env)
	}
	files := query(t, m, "files")
	if strings.Contains(files, secret) {
		t.Errorf("the plugin has the host's file open:\n%s", files)
	}
	for line := range strings.Lines(files) {
		_, target, _ := strings.Cut(strings.TrimSpace(line), " ")
		if strings.HasPrefix(target, "/") && !strings.HasPrefix(target, "/proc/") && !strings.HasPrefix(target, "/sys/") {
			t.Errorf("the plugin has a file open: %s", line)
		}
	}
}

func TestApplyGivenUpLosesTheMachine(t *testing.T) {
	h, f := factoryOf(t, role(t, "probe"))
	m := open(t, f)
	pid, _ := strconv.Atoi(query(t, m, "pid"))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for query(t, m, "applied") != "1" {
			runtime.Gosched()
		}
		cancel()
	}()
	err := m.Apply(ctx, fsm.Batch{Entries: []fsm.Entry{{Data: []byte("hang")}}}, make([]fsm.Result, 1))
	if !errors.Is(err, fsm.ErrLost) || !errors.Is(err, context.Canceled) {
		t.Errorf("apply: %v, want ErrLost and Canceled", err)
	}
	if !gone(pid) || len(h.Status()) != 0 {
		t.Error("the process runs on")
	}
}

func TestCloseEndsWhatHangs(t *testing.T) {
	_, f := factoryOf(t, role(t, "probe"))
	m := open(t, f)
	lost := make(chan error, 2)
	go func() { _, err := apply(m, "hang"); lost <- err }()
	go func() { _, err := m.Query(context.Background(), fsm.Query{Data: []byte("wait")}); lost <- err }()
	eventually(t, 10*time.Second, "the command is under way", func() bool { return query(t, m, "applied") == "1" })
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := <-lost; !errors.Is(err, fsm.ErrLost) {
			t.Errorf("a call under way: %v, want ErrLost", err)
		}
	}
}

func TestClosingTheHostEndsEverything(t *testing.T) {
	h, f := factoryOf(t, role(t, "probe"))
	var pids []int
	for range 3 {
		pid, _ := strconv.Atoi(query(t, open(t, f), "pid"))
		pids = append(pids, pid)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		if !gone(pid) {
			t.Errorf("process %d is still there", pid)
		}
	}
	if _, err := f(t.Context()); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("a closed host started a plugin: %v", err)
	}
}

func TestClosingTheHostEndsAStart(t *testing.T) {
	h, f := factoryOf(t, role(t, "silent"))
	started := make(chan error, 1)
	go func() { started <- second(f(context.Background())) }()
	for len(h.Status()) == 0 {
		runtime.Gosched()
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	if err := <-started; err == nil || !strings.Contains(err.Error(), "given up") {
		t.Errorf("the start: %v", err)
	}
}

func TestLargeSnapshotsStream(t *testing.T) {
	const size = 64 << 20
	_, f := factoryOf(t, role(t, "probe"))
	m, other := open(t, f), open(t, f)
	if _, err := apply(m, "grow "+strconv.Itoa(size)); err != nil {
		t.Fatal(err)
	}
	snap, err := m.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Release()
	// The state is captured: what is applied now is not in it.
	if _, err := apply(m, "grow 5"); err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	go func() {
		_, err := snap.WriteTo(w)
		w.CloseWithError(err)
	}()
	if err := other.Restore(t.Context(), fsm.SnapshotInfo{Index: 1, Size: size}, r); err != nil {
		t.Fatal(err)
	}
	copied, err := other.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer copied.Release()
	var got bytes.Buffer
	if n, err := copied.WriteTo(&got); err != nil || n != size {
		t.Fatalf("%d bytes, %v", n, err)
	}
	if !bytes.Equal(got.Bytes(), pattern(size)) {
		t.Error("the state that arrived is another")
	}
}

func TestADamagedSnapshotIsRefused(t *testing.T) {
	_, f := factoryOf(t, role(t, "probe"))
	for name, damage := range map[string]error{"damaged": errors.New("checksum of chunk 3"), "cut short": io.ErrUnexpectedEOF} {
		t.Run(name, func(t *testing.T) {
			m := open(t, f)
			r := io.MultiReader(bytes.NewReader(pattern(1<<20)), failing{damage})
			if err := m.Restore(t.Context(), fsm.SnapshotInfo{}, r); !errors.Is(err, damage) {
				t.Errorf("restore: %v, want %v", err, damage)
			}
		})
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestASnapshotThatIsNotReadDoesNoHarm(t *testing.T) {
	_, f := factoryOf(t, role(t, "probe"))
	m := open(t, f)
	if _, err := apply(m, "grow 67108864"); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		snap, err := m.Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		snap.Release()
	}
	full := errors.New("disk full")
	snap, err := m.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := snap.WriteTo(fullDisk{full}); !errors.Is(err, full) {
		t.Errorf("WriteTo: %v", err)
	}
	snap.Release()
	if _, err := apply(m, "x"); err != nil {
		t.Error(err)
	}
}

type fullDisk struct{ err error }

func (f fullDisk) Write([]byte) (int, error) { return 0, f.err }
