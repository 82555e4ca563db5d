package plugins

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/diarchy/diarchy/fsm"
)

// Options make a Host.
type Options struct {
	// RunDir is where the copies of programs and the sockets go. It is made
	// when it is not there; what hosts before have left in it is removed.
	RunDir string
	// Specs are the plugins that this node may run.
	Specs []Spec
	// Logger takes the plugins' output and the host's own word; nil for none.
	Logger *slog.Logger
	// StartTimeout bounds a start, from exec to a connection: 30 s when 0.
	StartTimeout time.Duration
	// ReplyBytesMax bounds a message from a plugin, fsmpb.ReplyBytesMax when 0.
	// A plugin that sends a longer one where results are due is killed.
	ReplyBytesMax int
}

const startTimeout = 30 * time.Second

// A Host runs plugins. Its methods are safe for concurrent use.
type Host struct {
	options Options
	log     *slog.Logger
	index   index
	dir     *runDir

	staging sync.Mutex // held while a program is copied

	mu      sync.Mutex
	staged  map[string]staged // by Spec.ID
	running map[*process]struct{}
	started int
	closed  bool
}

// New makes a host. It looks at the specs themselves and not yet at the files
// they name; [Verify] and [Host.Factory] do that.
func New(o Options) (*Host, error) {
	x, err := newIndex(slices.Clone(o.Specs))
	if err != nil {
		return nil, err
	}
	for i := range x.specs {
		if x.specs[i].Path, err = filepath.Abs(x.specs[i].Path); err != nil {
			return nil, &Error{Plugin: x.specs[i].ID(), Err: err}
		}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.StartTimeout = cmp.Or(o.StartTimeout, startTimeout)
	dir, err := openRunDir(o.RunDir)
	if err != nil {
		return nil, err
	}
	return &Host{
		options: o, log: o.Logger, index: x, dir: dir,
		staged: map[string]staged{}, running: map[*process]struct{}{},
	}, nil
}

// Factory is FactoryFor without a group.
func (h *Host) Factory(name string) (fsm.Factory, error) { return h.FactoryFor(name, "") }

// FactoryFor returns what makes machines of the plugin called name ("NAME" or
// "NAME@VERSION"), each in a process of its own. group is for logs and Status.
//
// The program is checked and copied here, so what is wrong with its file is
// told here, as an *Error. What can go wrong with running it is told by the
// factory, as an *Error too. After that a machine that is lost says why in an
// error that wraps fsm.ErrLost.
func (h *Host) FactoryFor(name, group string) (fsm.Factory, error) {
	s, err := h.index.find(name)
	if err != nil {
		return nil, err
	}
	if _, err := h.program(s); err != nil {
		return nil, err
	}
	return func(ctx context.Context) (fsm.Machine, error) { return h.start(ctx, s, group) }, nil
}

// program returns s's checked copy, made once.
func (h *Host) program(s Spec) (staged, error) {
	h.staging.Lock()
	defer h.staging.Unlock()
	h.mu.Lock()
	have, ok := h.staged[s.ID()]
	closed := h.closed
	h.mu.Unlock()
	if closed {
		return staged{}, &Error{Plugin: s.ID(), Err: errHostClosed}
	}
	if ok {
		if _, err := os.Lstat(have.path); err == nil {
			return have, nil
		}
	}
	made, err := stage(s, h.dir.path)
	if err != nil {
		return staged{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.staged[s.ID()] = made
	return made, nil
}

var errHostClosed = errors.New("the plugin host is closed")

func (h *Host) start(ctx context.Context, s Spec, group string) (fsm.Machine, error) {
	program, err := h.program(s)
	if err != nil {
		return nil, err
	}
	p, err := h.prepare(s, group, program)
	if err != nil {
		return nil, &Error{Plugin: s.ID(), Err: err}
	}
	if err := p.start(ctx); err != nil {
		return nil, err
	}
	return &instance{Client: p.machine, process: p}, nil
}

// prepare enters a process before it is started, so that Close finds it.
func (h *Host) prepare(s Spec, group string, program staged) (*process, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, errHostClosed
	}
	dir := filepath.Join(h.dir.path, "s"+strconv.Itoa(h.started))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	h.started++
	p := newProcess(h, s, group, program, dir)
	h.running[p] = struct{}{}
	return p, nil
}

func (h *Host) forget(p *process) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.running, p)
}

// A Process is a plugin process that runs.
type Process struct {
	// Name and Version are the Spec's; Group is what FactoryFor was given.
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	Group   string `json:"group,omitempty"`
	PID     int    `json:"pid"`
	// SHA256 is that of the copy that runs.
	SHA256  string    `json:"sha256"`
	Started time.Time `json:"started"`
	// Machine is what the machine said of itself, nil until it is open.
	Machine *fsm.Opened `json:"machine,omitempty"`
}

// Status lists the processes that run now, by name and then by age.
func (h *Host) Status() []Process {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := []Process{}
	for p := range h.running {
		pid, err := strconv.Atoi(p.child.ID())
		select {
		case <-p.child.ended:
			continue
		default:
		}
		if err != nil {
			continue // not started yet
		}
		list = append(list, Process{
			Name: p.spec.Name, Version: p.spec.Version, Group: p.group, PID: pid,
			SHA256: p.sha256, Started: p.started, Machine: p.opened.Load(),
		})
	}
	slices.SortFunc(list, func(a, b Process) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), a.Started.Compare(b.Started), cmp.Compare(a.PID, b.PID))
	})
	return list
}

// Info is a plugin that this node may run.
type Info struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	Path    string `json:"path"`
	// Pinned says that the configuration names the hash; SHA256 is that of the
	// copy that is or would be run, empty when Problem says why there is none.
	Pinned  bool      `json:"pinned"`
	SHA256  string    `json:"sha256,omitempty"`
	Problem string    `json:"problem,omitempty"`
	Running []Process `json:"running"`
}

// List tells of every plugin that is configured. One that has not been used
// yet is read and hashed for it.
func (h *Host) List() []Info {
	running := h.Status()
	list := []Info{}
	for _, s := range h.index.specs {
		i := Info{Name: s.Name, Version: s.Version, Path: s.Path, Pinned: s.SHA256 != "", Running: []Process{}}
		h.mu.Lock()
		i.SHA256 = h.staged[s.ID()].sha256
		h.mu.Unlock()
		if i.SHA256 == "" {
			sum, err := Verify(s)
			if i.SHA256 = sum; err != nil {
				i.Problem = err.Error()
			}
		}
		for _, p := range running {
			if p.Name == s.Name && p.Version == s.Version {
				i.Running = append(i.Running, p)
			}
		}
		list = append(list, i)
	}
	return list
}

// Close kills what runs, waits until it is gone, and removes the copies.
// Machines that are in use are lost; closing them first is kinder.
func (h *Host) Close() error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil
	}
	h.closed = true
	running := slices.Collect(maps.Keys(h.running))
	h.mu.Unlock()
	var all sync.WaitGroup
	for _, p := range running {
		all.Go(func() { p.stop(false) })
	}
	all.Wait()
	if err := h.dir.close(); err != nil {
		return fmt.Errorf("plugin host: %w", err)
	}
	return nil
}
