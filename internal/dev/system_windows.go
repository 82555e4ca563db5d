package dev

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/windows"
)

// lock takes the lock of a file, or says errLocked.
func lock(f *os.File) error {
	const whole = ^uint32(0)
	err := windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, whole, whole, new(windows.Overlapped))
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return errLocked
	}
	return err
}

// lockThread does nothing: there is no parent-death signal here.
func lockThread() {}

// attributes give a child a process group of its own, so that Ctrl-C reaches
// this process alone.
func attributes(bool) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{CreationFlags: windows.CREATE_NEW_PROCESS_GROUP}
}
