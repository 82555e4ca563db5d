package plugins

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-plugin"
)

const (
	// busyRetries and busyPause get over "text file busy": another goroutine's
	// fork holds the copy open for writing for a moment, until its exec.
	busyRetries = 100
	busyPause   = 10 * time.Millisecond

	// drainTimeout is how long output is read after the process has ended, for
	// the case that something that left its group holds the pipes open.
	drainTimeout = time.Second

	// handshakeBytesMax is more than any handshake has; go-plugin stops to read
	// at 64 KiB.
	handshakeBytesMax = 16 << 10
)

// A child is one process, never started twice. It is go-plugin's runner.
//
// Invariants: the process is in a group of its own; the group is killed only
// while the process's number is its own; the thread that started the process
// lives until it has ended; ended is closed once the process is reaped and all
// of its output is taken.
type child struct {
	staged    staged
	name      string // argv[0]
	args, env []string
	socketDir string
	output    *output

	// handshake carries the first line of standard output to go-plugin.
	handshake     *io.PipeReader
	handshakeLine *io.PipeWriter

	ended chan struct{}

	mu     sync.Mutex
	stdin  *os.File // our end; closing it tells the process to end
	pid    int
	first  string // what was printed before the handshake was over
	reaped bool
	killed bool // by us, while it was running
	state  *os.ProcessState
	failed error // why it could not be started
}

func newChild(s Spec, p staged, socketDir string, out *output) *child {
	c := &child{staged: p, name: s.Path, args: s.Args, env: s.Env, socketDir: socketDir, output: out, ended: make(chan struct{})}
	c.handshake, c.handshakeLine = io.Pipe()
	return c
}

// setEnv takes the environment that go-plugin has made; it comes last, so that
// the Spec's cannot change the handshake.
func (c *child) setEnv(protocol []string) {
	c.env = append(append([]string(nil), c.env...), protocol...)
	c.env = append(c.env, plugin.EnvUnixSocketDir+"="+c.socketDir)
}

// Start implements runner.Runner.
func (c *child) Start(context.Context) error {
	closeOnExec()
	stdin, stdinW, err := os.Pipe()
	if err != nil {
		return err
	}
	defer stdin.Close()
	stdout, stdoutW, err := os.Pipe()
	if err != nil {
		return errors.Join(err, stdinW.Close())
	}
	defer stdoutW.Close()
	stderr, stderrW, err := os.Pipe()
	if err != nil {
		return errors.Join(err, stdinW.Close(), stdout.Close())
	}
	defer stderrW.Close()

	started := make(chan error)
	reaped := make(chan struct{})
	go c.run(stdin, stdoutW, stderrW, started, reaped)
	if err := <-started; err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.failed = notRunnable(err, c.staged.path)
		return errors.Join(c.failed, stdinW.Close(), stdout.Close(), stderr.Close())
	}
	c.mu.Lock()
	c.stdin = stdinW
	c.mu.Unlock()
	go c.drain(stdout, stderr, reaped)
	return nil
}

// run starts the process and waits for its end, on one thread: the kernel ties
// the process's life to that thread.
func (c *child) run(stdin, stdout, stderr *os.File, started chan<- error, reaped chan<- struct{}) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd, err := c.exec(stdin, stdout, stderr)
	started <- err
	if err != nil {
		return
	}
	defer close(reaped)
	awaitEnd(cmd.Process.Pid)
	c.mu.Lock()
	defer c.mu.Unlock()
	killGroup(cmd.Process.Pid) // what it has started itself ends with it
	_ = cmd.Wait()             // the state says more than the error
	c.reaped, c.state = true, cmd.ProcessState
}

func (c *child) exec(stdin, stdout, stderr *os.File) (*exec.Cmd, error) {
	for try := 0; ; try++ {
		cmd := &exec.Cmd{
			Path: c.staged.path, Args: append([]string{c.name}, c.args...), Env: c.env,
			Stdin: stdin, Stdout: stdout, Stderr: stderr,
		}
		isolate(cmd)
		err := c.startUnlessKilled(cmd)
		if err == nil || !errors.Is(err, syscall.ETXTBSY) || try == busyRetries {
			return cmd, err
		}
		time.Sleep(busyPause)
	}
}

var errGivenUp = errors.New("given up before it was started")

func (c *child) startUnlessKilled(cmd *exec.Cmd) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.killed {
		return errGivenUp
	}
	err := cmd.Start()
	if err == nil {
		c.pid = cmd.Process.Pid
	}
	return err
}

// drain takes all output, and closes ended when there is no more.
func (c *child) drain(stdout, stderr *os.File, reaped <-chan struct{}) {
	var readers sync.WaitGroup
	readers.Go(func() { c.readStdout(stdout) })
	readers.Go(func() { readLines(stderr, c.output.stderr) })
	<-reaped
	deadline := time.Now().Add(drainTimeout)
	_ = stdout.SetReadDeadline(deadline)
	_ = stderr.SetReadDeadline(deadline)
	readers.Wait()
	_ = stdout.Close()
	_ = stderr.Close()
	c.closeStdin()
	close(c.ended)
}

// readStdout passes the first line on to go-plugin and the others to the log.
func (c *child) readStdout(stdout *os.File) {
	defer c.handshakeLine.Close()
	first := true
	readLines(stdout, func(line []byte) {
		if !first {
			c.output.stdout(line)
			return
		}
		first = false
		line = line[:min(len(line), handshakeBytesMax)]
		c.mu.Lock()
		c.first = string(line)
		c.mu.Unlock()
		_, _ = c.handshakeLine.Write(append(line[:len(line):len(line)], '\n'))
	})
}

func (c *child) closeStdin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stdin != nil {
		_ = c.stdin.Close()
		c.stdin = nil
	}
}

// kill ends the process and all of its group, or keeps it from being started.
func (c *child) kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reaped {
		return
	}
	c.killed = true
	if c.pid != 0 {
		killGroup(c.pid)
	}
}

// end kills the process and waits until it is gone. One that was not started
// yet never will be.
func (c *child) end() {
	c.kill()
	if c.ID() != "" {
		<-c.ended
	}
}

// exit says how the process has ended; ended must be closed.
func (c *child) exit() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := "ended"
	if c.state != nil {
		s = "ended: " + c.state.String()
	}
	if words := c.output.lastWords(); words != "" {
		s += "; its last words: " + words
	}
	return s
}

// endedItself says that it was not us who ended it; ended must be closed.
func (c *child) endedItself() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.killed || c.state != nil && c.state.Exited()
}

// Wait implements runner.Runner.
func (c *child) Wait(context.Context) error {
	<-c.ended
	return nil
}

// Kill implements runner.Runner.
func (c *child) Kill(context.Context) error {
	c.kill()
	return nil
}

// ID implements runner.Runner.
func (c *child) ID() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pid == 0 {
		return ""
	}
	return strconv.Itoa(c.pid)
}

// Name implements runner.Runner.
func (c *child) Name() string { return c.name }

// Stdout implements runner.Runner: the handshake, then nothing until the end.
func (c *child) Stdout() io.ReadCloser { return c.handshake }

// Stderr implements runner.Runner. The host reads standard error itself.
func (c *child) Stderr() io.ReadCloser { return io.NopCloser(strings.NewReader("")) }

// Diagnose implements runner.Runner. process.go says what is wrong.
func (c *child) Diagnose(context.Context) string { return "" }

// PluginToHost implements runner.Runner. A plugin has no say in where the host
// connects to.
func (c *child) PluginToHost(network, addr string) (string, string, error) {
	if runtime.GOOS == "windows" {
		return network, addr, nil
	}
	if network != "unix" || filepath.Dir(addr) != c.socketDir {
		return "", "", fmt.Errorf("listens on %s %q; expected a unix socket in the directory that %s names", network, addr, plugin.EnvUnixSocketDir)
	}
	return network, addr, nil
}

// HostToPlugin implements runner.Runner.
func (c *child) HostToPlugin(network, addr string) (string, string, error) {
	return network, addr, nil
}
