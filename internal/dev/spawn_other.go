//go:build unix && !linux

package dev

import "syscall"

// lockThread does nothing: there is no parent-death signal here, the pipe on
// standard input does its work alone.
func lockThread() {}

// attributes give a child a process group of its own, so that the terminal's
// Ctrl-C reaches this process alone.
func attributes(bool) *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
