//go:build unix

package raftengine

import (
	"errors"
	"os"
	"syscall"
)

// lockExclusive answers errLocked when another open file has the lock.
func lockExclusive(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return errLocked
	}
	return err
}
