package plugins

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/diarchy/diarchy/fsm"
	"github.com/diarchy/diarchy/plugins/fsmpb"
	"github.com/diarchy/diarchy/plugins/internal/wire"
)

const (
	// closeGrace is how long a process that has closed its machine may take to
	// end by itself.
	closeGrace = 2 * time.Second
	// deathGrace is how long a process whose connection has broken is waited
	// for, so that its own reason can be told.
	deathGrace = 2 * time.Second
)

// A process is one plugin process from its start to its end, and the machine
// in it. Starting a plugin again makes a new process of all of it: go-plugin's
// client does not survive a second start.
type process struct {
	host    *Host
	spec    Spec
	group   string
	sha256  string
	dir     string
	log     *slog.Logger
	child   *child
	client  *plugin.Client
	machine *wire.Client
	started time.Time

	opened   atomic.Pointer[fsm.Opened]
	stopping atomic.Bool
	stopOnce sync.Once
}

// newProcess prepares a process; dir is its own, for its socket.
func newProcess(h *Host, s Spec, group string, program staged, dir string) *process {
	p := &process{host: h, spec: s, group: group, sha256: program.sha256, dir: dir}
	p.log = h.log.With("plugin", s.ID())
	if group != "" {
		p.log = p.log.With("group", group)
	}
	out := &output{log: p.log}
	p.child = newChild(s, program, dir, out)
	p.client = plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig: plugin.HandshakeConfig{
			MagicCookieKey:   fsmpb.CookieKey,
			MagicCookieValue: fsmpb.CookieValue,
		},
		VersionedPlugins: map[int]plugin.PluginSet{fsmpb.ProtocolVersion: {fsmpb.PluginName: dispenser{}}},
		RunnerFunc:       p.runner,
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		AutoMTLS:         true,
		SkipHostEnv:      true,
		StartTimeout:     h.options.StartTimeout + time.Minute, // ours comes first
		UnixSocketConfig: &plugin.UnixSocketConfig{TempDir: dir},
		GRPCDialOptions:  wire.DialOptions(h.options.ReplyBytesMax),
		SyncStdout:       &lineWriter{take: out.stdout},
		SyncStderr:       &lineWriter{take: out.stderr},
		// What go-plugin has to say is returned as errors; its log repeats it,
		// and calls every end of a process an error.
		Logger: hclog.NewNullLogger(),
	})
	return p
}

func (p *process) runner(_ hclog.Logger, spec *exec.Cmd, _ string) (runner.Runner, error) {
	p.child.setEnv(spec.Env)
	return p.child, nil
}

// dispenser hands out the bare connection: the machine is made of it here.
type dispenser struct{ plugin.NetRPCUnsupportedPlugin }

func (dispenser) GRPCServer(*plugin.GRPCBroker, *grpc.Server) error { return errors.ErrUnsupported }
func (dispenser) GRPCClient(_ context.Context, _ *plugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return conn, nil
}

// start starts the process and connects to it, or leaves nothing of it.
func (p *process) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.host.options.StartTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, p.child.kill)
	defer stop()
	p.started = time.Now()
	err := p.connect(ctx)
	if err == nil && stop() {
		p.log.Info("plugin started", "pid", p.child.ID(), "sha256", p.sha256)
		go p.watch()
		return nil
	}
	if p.stopping.Swap(true) {
		err = errHostClosed
	}
	p.child.end()
	err = p.startError(ctx, err)
	p.stop(false)
	return &Error{Plugin: p.spec.ID(), Path: p.spec.Path, Err: err}
}

func (p *process) connect(ctx context.Context) error {
	protocol, err := p.client.Client()
	if err != nil {
		return err
	}
	raw, err := protocol.Dispense(fsmpb.PluginName)
	if err != nil {
		return err
	}
	conn, ok := raw.(*grpc.ClientConn)
	if !ok {
		return fmt.Errorf("go-plugin dispensed %T", raw)
	}
	p.machine, err = wire.NewClient(ctx, conn, p.explain)
	return err
}

// startError makes one line that says what was wrong of what is known: the
// system's answer to exec, the first line of output, how the process ended.
func (p *process) startError(ctx context.Context, err error) error {
	c := p.child
	c.mu.Lock()
	failed, first := c.failed, c.first
	c.mu.Unlock()
	core, app, certificate := handshakeFields(first)
	switch {
	case errors.Is(err, errHostClosed):
		return fmt.Errorf("its start was given up: %w", err)
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("no handshake within the start timeout of %s; it was killed%s", p.host.options.StartTimeout, p.quoted())
	case ctx.Err() != nil || errors.Is(failed, errGivenUp):
		return fmt.Errorf("its start was given up: %w", errors.Join(context.Cause(ctx), failed))
	case failed != nil:
		return failed
	case first == "" && c.endedItself():
		return fmt.Errorf("it is no Diarchy plugin, whose main calls sdk.Serve: before any handshake it %s", c.exit())
	case first == "":
		return fmt.Errorf("it closed its standard output before any handshake; it was killed%s", p.quoted())
	case core != strconv.Itoa(plugin.CoreProtocolVersion) || app == "":
		return fmt.Errorf("its first line of output is %q, not a handshake; a Diarchy plugin calls sdk.Serve and prints nothing before", clip(first, quoteBytes))
	case app != strconv.Itoa(fsmpb.ProtocolVersion):
		return fmt.Errorf("it speaks version %s of the plugin protocol, this node speaks version %d; build it with the SDK of this release", clip(app, quoteBytes), fsmpb.ProtocolVersion)
	case certificate == "":
		return errors.New("its handshake has no certificate; this node connects by go-plugin's AutoMTLS only")
	}
	return fmt.Errorf("%s%s", oneLine(err), p.quoted())
}

// handshakeFields takes what is checked here out of go-plugin's line:
// core|app|network|address|protocol|certificate.
func handshakeFields(line string) (core, app, certificate string) {
	fields := strings.Split(line, "|")
	fields = append(fields, make([]string, 6)...)
	return fields[0], fields[1], fields[5]
}

// quoted is what the process has said, as the end of a sentence.
func (p *process) quoted() string {
	if words := p.child.output.lastWords(); words != "" {
		return "; its last words: " + words
	}
	return ""
}

func oneLine(err error) string {
	return strings.Join(strings.Fields(fmt.Sprint(err)), " ")
}

// explain finds out why the machine is lost: it waits a moment for a process
// that is dying, and kills one that is not.
func (p *process) explain(cause error) error {
	if status.Code(cause) == codes.Unavailable { // as a process's end gives it
		timer := time.NewTimer(deathGrace)
		defer timer.Stop()
		select {
		case <-p.child.ended:
			return fmt.Errorf("plugin %s (pid %s) %s", p.spec.ID(), p.child.ID(), p.child.exit())
		case <-timer.C:
		}
	}
	p.stopping.Store(true)
	p.child.end()
	if p.child.endedItself() {
		return fmt.Errorf("plugin %s (pid %s) %s", p.spec.ID(), p.child.ID(), p.child.exit())
	}
	p.log.Error("plugin killed", "pid", p.child.ID(), "because", cause)
	return fmt.Errorf("plugin %s (pid %s) was killed: %w", p.spec.ID(), p.child.ID(), cause)
}

// watch tells the log of an end that nobody has asked for.
func (p *process) watch() {
	<-p.child.ended
	if !p.stopping.Load() {
		p.log.Error("plugin process ended", "pid", p.child.ID(), "reason", p.child.exit())
	}
}

// stop ends the process, kindly when its machine has been closed, and frees
// everything that was taken for it.
func (p *process) stop(closed bool) {
	p.stopping.Store(true)
	p.stopOnce.Do(func() {
		p.child.closeStdin()
		if closed {
			timer := time.NewTimer(closeGrace)
			select {
			case <-p.child.ended:
			case <-timer.C:
			}
			timer.Stop()
		}
		p.child.end()
		p.client.Kill()
		_ = os.RemoveAll(p.dir)
		p.host.forget(p)
	})
}

// instance is a process's machine as the host's caller has it.
type instance struct {
	*wire.Client
	process *process
}

// Open implements fsm.Machine.
func (m *instance) Open(ctx context.Context) (fsm.Opened, error) {
	o, err := m.Client.Open(ctx)
	if err == nil {
		o.Lost = m.process.child.ended
		m.process.opened.Store(&o)
	}
	return o, err
}

// Close implements fsm.Machine: the machine is closed and its process ends.
func (m *instance) Close() error {
	err := m.Client.Close()
	m.process.stop(err == nil)
	return err
}
