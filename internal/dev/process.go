package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
)

// Spec is what a process is started from.
type Spec struct {
	Name string
	Path string
	Args []string
	// Env is the whole environment; nil inherits.
	Env []string
	Dir string
	// Log takes standard output and error; nil discards them.
	Log *os.File
}

// Tree is a set of child processes that end with this one. Safe for concurrent
// use.
type Tree struct {
	// spawn runs its functions on one thread that lives as long as the tree:
	// the parent-death signal is sent when the thread that forked ends.
	spawn chan func()
	done  chan struct{}
	once  sync.Once

	mu        sync.Mutex
	closed    bool
	processes []*Process

	// noDeathSignal leaves the signal out, so that a test sees what the pipe
	// does alone.
	noDeathSignal bool
}

// NewTree returns an empty tree. Close it.
func NewTree() *Tree {
	t := &Tree{spawn: make(chan func()), done: make(chan struct{})}
	go t.spawner()
	return t
}

// spawner is the thread that forks.
func (t *Tree) spawner() {
	lockThread()
	for f := range t.spawn {
		f()
	}
	close(t.done)
}

// Process is one child, running or ended.
type Process struct {
	spec Spec
	cmd  *exec.Cmd
	// alive is our end of the child's standard input.
	alive io.Closer
	done  chan struct{}
	err   error
}

var errClosed = errors.New("the process tree is closed")

// Start runs a process.
func (t *Tree) Start(spec Spec) (*Process, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, errClosed
	}
	p := &Process{spec: spec, done: make(chan struct{})}
	p.cmd = exec.Command(spec.Path, spec.Args...)
	p.cmd.Env, p.cmd.Dir = spec.Env, spec.Dir
	if spec.Log != nil {
		p.cmd.Stdout, p.cmd.Stderr = spec.Log, spec.Log
	}
	p.cmd.SysProcAttr = attributes(!t.noDeathSignal)
	alive, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Name, err)
	}
	p.alive = alive
	started := make(chan error)
	t.spawn <- func() { started <- p.cmd.Start() }
	if err := <-started; err != nil {
		_ = alive.Close()
		return nil, fmt.Errorf("start %s: %w", spec.Name, err)
	}
	t.processes = append(t.processes, p)
	go p.reap()
	return p, nil
}

func (p *Process) reap() {
	p.err = p.cmd.Wait()
	close(p.done)
}

// Restart runs the process again after it has ended.
func (t *Tree) Restart(p *Process) (*Process, error) {
	<-p.done
	return t.Start(p.spec)
}

// Close asks all processes to end (SIGTERM), waits, and kills what is left when
// ctx ends. After it none is left.
func (t *Tree) Close(ctx context.Context) error {
	all := t.close()
	defer t.release()
	for _, p := range all {
		_ = p.Signal(syscall.SIGTERM)
	}
	var err error
	for _, p := range all {
		select {
		case <-p.done:
		case <-ctx.Done():
			err = errors.Join(err, fmt.Errorf("%s did not end in time and was killed", p.spec.Name))
			p.Kill()
		}
	}
	return err
}

// Kill ends all processes at once, with SIGKILL.
func (t *Tree) Kill() {
	all := t.close()
	defer t.release()
	for _, p := range all {
		p.Kill()
	}
}

func (t *Tree) close() []*Process {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	return t.processes
}

// release ends the forking thread; not before the last process, or its death
// signal would kill what is still ending.
func (t *Tree) release() {
	t.once.Do(func() { close(t.spawn) })
	<-t.done
}

// Name is the one it was started under.
func (p *Process) Name() string { return p.spec.Name }

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err says how the process ended, nil for exit code 0. It waits for the end.
func (p *Process) Err() error {
	<-p.done
	return p.err
}

// Signal sends a signal; an ended process takes none.
func (p *Process) Signal(s os.Signal) error { return p.cmd.Process.Signal(s) }

// Kill sends SIGKILL and waits for the end.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// Stop sends SIGTERM and waits for the end, or kills when ctx ends first.
func (p *Process) Stop(ctx context.Context) error {
	_ = p.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		p.Kill()
		return ctx.Err()
	}
}

// WatchParent waits for the end of whoever started this process through a Tree
// and calls gone: standard input is a pipe that the parent never writes to.
func WatchParent(gone func()) {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		gone()
	}()
}
