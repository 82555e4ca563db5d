package raftengine

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// lockExclusive answers errLocked when another open file has the lock. The byte
// locked lies far behind the text, which stays readable.
func lockExclusive(f *os.File) error {
	const flags = windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY
	err := windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, &windows.Overlapped{Offset: 1 << 20})
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return errLocked
	}
	return err
}
