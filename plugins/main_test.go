//go:build unix

package plugins_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-plugin"
	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/diarchy/diarchy/fsm"
	"github.com/diarchy/diarchy/fsm/kv"
	"github.com/diarchy/diarchy/plugins"
	"github.com/diarchy/diarchy/plugins/fsmpb"
	"github.com/diarchy/diarchy/plugins/sdk"
)

// The test binary is the plugins too: TEST_PLUGIN says which one to be.
const roleKey = "TEST_PLUGIN"

var roles = map[string]func(){
	"kv":      func() { sdk.Serve(kv.New()) },
	"probe":   func() { sdk.Serve(&probe{}) },
	"pids":    func() { sdk.Serve(pids{}) },
	"host":    beHost,
	"exit0":   func() {},
	"exit3":   func() { fmt.Fprintln(os.Stderr, "no such table"); os.Exit(3) },
	"garbage": func() { fmt.Println("hello, world"); select {} },
	"flood":   func() { _, _ = io.Copy(os.Stdout, zeros{}) },
	"silent":  func() { time.Sleep(time.Hour) },
	"mute":    func() { os.Stdout.Close(); time.Sleep(time.Hour) },
	"future":  func() { serveRaw(map[int]plugin.PluginSet{99: {fsmpb.PluginName: raw{}}}, fsmpb.CookieValue) },
	"foreign": func() { serveRaw(map[int]plugin.PluginSet{1: {fsmpb.PluginName: raw{}}}, "another project's") },
	"plain": func() {
		os.Unsetenv("PLUGIN_CLIENT_CERT")
		serveRaw(map[int]plugin.PluginSet{1: {fsmpb.PluginName: raw{}}}, fsmpb.CookieValue)
	},
	"raw": func() { serveRaw(map[int]plugin.PluginSet{1: {fsmpb.PluginName: raw{}}}, fsmpb.CookieValue) },
}

func TestMain(m *testing.M) {
	if role, ok := os.LookupEnv(roleKey); ok {
		roles[role]()
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// pids answers the number of its process: deterministic within one.
type pids struct{ fsm.Base }

func (pids) Apply(_ context.Context, _ fsm.Batch, results []fsm.Result) error {
	for i := range results {
		results[i] = fsm.Result{Value: strconv.AppendInt(nil, int64(os.Getpid()), 10)}
	}
	return nil
}

// zeros is endless.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// probe is a machine that does what its commands say.
type probe struct {
	fsm.Base
	mu      sync.Mutex
	applied int
	state   []byte
}

func (p *probe) Open(context.Context) (fsm.Opened, error) {
	fmt.Println("opened, on standard output")
	fmt.Fprintln(os.Stderr, `{"time":"2026-01-01T00:00:00Z","level":"WARN","msg":"opened","where":"standard error"}`)
	return fsm.Opened{Name: "probe", Version: "7", Capabilities: fsm.Capabilities{Ticks: true}, Host: []byte("host bytes")}, nil
}

func (p *probe) Apply(_ context.Context, b fsm.Batch, results []fsm.Result) error {
	p.mu.Lock()
	p.applied += len(b.Entries)
	p.mu.Unlock()
	for i, e := range b.Entries {
		verb, arg, _ := strings.Cut(string(e.Data), " ")
		switch verb {
		case "hang":
			select {}
		case "exit":
			code, _ := strconv.Atoi(arg)
			fmt.Fprintln(os.Stderr, "leaving in an orderly way")
			os.Exit(code)
		case "panic":
			panic(arg)
		case "fail":
			return errors.New(arg)
		case "refuse":
			results[i].Err = arg
		case "spawn":
			// Something that outlives the plugin unless its group is killed.
			cmd := exec.Command("/bin/sleep", "1000")
			if err := cmd.Start(); err != nil {
				return err
			}
			results[i].Value = []byte(strconv.Itoa(cmd.Process.Pid))
		case "grow":
			n, _ := strconv.Atoi(arg)
			p.state = pattern(n)
		case "answer":
			n, _ := strconv.Atoi(arg)
			results[i].Value = make([]byte, n)
		default:
			results[i].Value = fmt.Appendf(nil, "%d@%d: %s", e.Index, e.Time, e.Data)
		}
	}
	results[len(results)-1].Due = b.Time + 1
	return nil
}

func (p *probe) Query(ctx context.Context, q fsm.Query) ([]byte, error) {
	verb, arg, _ := strings.Cut(string(q.Data), " ")
	switch verb {
	case "pid":
		return []byte(strconv.Itoa(os.Getpid())), nil
	case "applied":
		p.mu.Lock()
		defer p.mu.Unlock()
		return []byte(strconv.Itoa(p.applied)), nil
	case "env":
		return []byte(strings.Join(os.Environ(), "\n")), nil
	case "files":
		return openFiles()
	case "wait":
		<-ctx.Done()
		return nil, ctx.Err()
	case "answer":
		n, _ := strconv.Atoi(arg)
		return make([]byte, n), nil
	}
	return nil, fmt.Errorf("unknown query %q", q.Data)
}

func (p *probe) Snapshot(context.Context) (fsm.Snapshot, error) { return captured{p.state}, nil }

func (p *probe) Restore(_ context.Context, _ fsm.SnapshotInfo, r io.Reader) (err error) {
	p.state, err = io.ReadAll(r)
	return err
}

type captured struct{ b []byte }

func (c captured) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(c.b)
	return int64(n), err
}
func (captured) Release() {}

func pattern(n int) []byte {
	block := make([]byte, 65537) // no divisor of a chunk's size
	for i := range block {
		block[i] = byte(i * 7 >> 3)
	}
	return bytes.Repeat(block, n/len(block)+1)[:n]
}

// openFiles lists what the process's descriptors refer to.
func openFiles() ([]byte, error) {
	entries, err := os.ReadDir("/proc/self/fd")
	var out []byte
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			out = fmt.Appendln(out, e.Name(), target)
		}
	}
	return out, err
}

// raw is a plugin without the SDK: it watches no host, and breaks the protocol.
type raw struct {
	plugin.NetRPCUnsupportedPlugin
	fsmpb.UnimplementedMachineServer
}

func (r raw) GRPCServer(_ *plugin.GRPCBroker, s *grpc.Server) error {
	fsmpb.RegisterMachineServer(s, r)
	return nil
}
func (raw) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, errors.ErrUnsupported
}
func (raw) Attend(_ *fsmpb.AttendRequest, s grpc.ServerStreamingServer[fsmpb.AttendReply]) error {
	_ = s.Send(&fsmpb.AttendReply{})
	select {}
}
func (raw) Open(context.Context, *fsmpb.OpenRequest) (*fsmpb.OpenReply, error) {
	return &fsmpb.OpenReply{Name: "raw"}, nil
}
func (raw) Query(_ context.Context, q *fsmpb.QueryRequest) (*fsmpb.QueryReply, error) {
	n, _ := strconv.Atoi(string(q.GetData()))
	return &fsmpb.QueryReply{Value: make([]byte, n)}, nil
}

// Apply answers as the first command says, and not as the protocol does.
func (raw) Apply(s grpc.BidiStreamingServer[fsmpb.ApplyRequest, fsmpb.ApplyReply]) error {
	for {
		m, err := s.Recv()
		if err != nil {
			return err
		}
		verb, arg, _ := strings.Cut(string(m.GetEntries()[0].GetData()), " ")
		reply := &fsmpb.ApplyReply{Batch: m.GetBatch(), Last: true}
		switch verb {
		case "answer":
			n, _ := strconv.Atoi(arg)
			reply.Results = []*fsmpb.Result{{Value: make([]byte, n)}}
		case "nothing":
		case "twice":
			reply.Results = []*fsmpb.Result{{}, {}}
		case "other":
			reply.Batch += 5
		}
		if err := s.Send(reply); err != nil {
			return err
		}
	}
}

func serveRaw(versions map[int]plugin.PluginSet, cookie string) {
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig:  plugin.HandshakeConfig{MagicCookieKey: fsmpb.CookieKey, MagicCookieValue: cookie},
		VersionedPlugins: versions,
		GRPCServer: func(o []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(o, grpc.MaxSendMsgSize(1<<30))...)
		},
	})
}

// beHost is a host process: it starts the plugin that HOSTED names, says its
// pid, and waits to be killed.
func beHost() {
	h, err := plugins.New(plugins.Options{RunDir: os.Getenv("RUN"), Specs: []plugins.Spec{{
		Name: "p", Path: os.Args[0], AllowUnpinned: true, Env: []string{roleKey + "=" + os.Getenv("HOSTED")},
	}}})
	exitIf(err)
	factory, err := h.Factory("p")
	exitIf(err)
	m, err := factory(context.Background())
	exitIf(err)
	_, err = m.Open(context.Background())
	exitIf(err)
	fmt.Println(h.Status()[0].PID)
	select {}
}

func exitIf(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// runDir is short: t.TempDir's names are long for sockets.
func runDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func self(t testing.TB) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// role is a spec of this test binary as one of the roles.
func role(t testing.TB, name string) plugins.Spec {
	// The race detector's runtime would sleep for a second at each exit.
	env := []string{roleKey + "=" + name, "GORACE=atexit_sleep_ms=0"}
	return plugins.Spec{Name: name, Path: self(t), AllowUnpinned: true, Env: env}
}

// newHost makes a host that the test's end closes.
func newHost(t testing.TB, o plugins.Options) *plugins.Host {
	t.Helper()
	if o.RunDir == "" {
		o.RunDir = runDir(t)
	}
	h, err := plugins.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		if left := h.Status(); len(left) > 0 {
			t.Errorf("still there after Close: %v", left)
		}
	})
	return h
}

func factoryOf(t testing.TB, s plugins.Spec) (*plugins.Host, fsm.Factory) {
	t.Helper()
	h := newHost(t, plugins.Options{Specs: []plugins.Spec{s}})
	f, err := h.Factory(s.Name)
	if err != nil {
		t.Fatal(err)
	}
	return h, f
}

// open starts a plugin and opens its machine, which the test's end closes.
func open(t testing.TB, f fsm.Factory) fsm.Machine {
	t.Helper()
	m, err := f(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	if _, err := m.Open(context.Background()); err != nil {
		t.Fatal(err)
	}
	return m
}

func query(t testing.TB, m fsm.Machine, q string) string {
	t.Helper()
	v, err := m.Query(context.Background(), fsm.Query{Data: []byte(q)})
	if err != nil {
		t.Fatalf("query %s: %v", q, err)
	}
	return string(v)
}

// apply gives a machine one command.
func apply(m fsm.Machine, command string) (fsm.Result, error) {
	var results [1]fsm.Result
	err := m.Apply(context.Background(), fsm.Batch{Entries: []fsm.Entry{{Index: 1, Time: 2, Data: []byte(command)}}, Time: 2}, results[:])
	return results[0], err
}

// gone says that a process has ended. In a container without an init one whose
// parent is dead stays a zombie.
func gone(pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return true
	}
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return true
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(rest, "Z") || strings.HasPrefix(rest, "X")
}

// eventually polls until a condition holds.
func eventually(t testing.TB, within time.Duration, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(within)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", within, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// startHost runs a host process with one plugin and returns both pids.
func startHost(t *testing.T, hosted string) (host *exec.Cmd, pid int) {
	t.Helper()
	host = exec.Command(self(t))
	host.Env = []string{roleKey + "=host", "HOSTED=" + hosted, "RUN=" + runDir(t)}
	out, err := host.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	// A test that fails leaves no process either.
	t.Cleanup(func() {
		_ = host.Process.Kill()
		_ = host.Wait()
		if pid > 0 && !gone(pid) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	line, _ := bufio.NewReader(out).ReadString('\n')
	if pid, err = strconv.Atoi(strings.TrimSpace(line)); err != nil {
		t.Fatalf("the host process said %q, expected a pid", line)
	}
	return host, pid
}
