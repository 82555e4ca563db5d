package dev

import (
	"runtime"
	"syscall"
)

// lockThread keeps the calling goroutine on its thread for good.
func lockThread() { runtime.LockOSThread() }

// attributes give a child a process group of its own, so that the terminal's
// Ctrl-C reaches this process alone, and the parent-death signal.
func attributes(deathSignal bool) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setpgid: true}
	if deathSignal {
		a.Pdeathsig = syscall.SIGKILL
	}
	return a
}
