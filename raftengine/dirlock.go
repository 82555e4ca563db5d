package raftengine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/diarchy/diarchy/framework"
)

// dirLock keeps two replicas out of one directory. Its file names the holder.
type dirLock struct{ f *os.File }

const lockFile = "LOCK"

var errLocked = errors.New("locked")

func lockDir(dir string, self framework.NodeID) (*dirLock, error) {
	path := filepath.Join(dir, lockFile)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the replica's directory: %w", err)
	}
	if err := lockExclusive(f); err != nil {
		defer f.Close()
		if !errors.Is(err, errLocked) {
			return nil, fmt.Errorf("lock the replica's directory: %s: %w", path, err)
		}
		holder, _ := os.ReadFile(path) // only to name it
		return nil, fmt.Errorf("the replica's directory %s is in use by %s: one process at a time", dir, strings.TrimSpace(string(holder)))
	}
	_ = f.Truncate(0) // what is written here is only for the message above
	_, _ = f.WriteAt(fmt.Appendf(nil, "node %s (process %d)\n", self, os.Getpid()), 0)
	return &dirLock{f}, nil
}

// unlock of a nil lock does nothing.
func (l *dirLock) unlock() {
	if l != nil {
		_ = l.f.Close() // gives the lock back
	}
}
