package dev

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// homePattern names the directories of runs that keep nothing.
const homePattern = "diarchy-dev-"

// Home is the directory of one run, locked while it lasts.
type Home struct {
	Dir string
	// Kept: the directory is the user's and stays.
	Kept bool
	lock *os.File
}

// OpenHome takes dir for a run, or a new directory under the system's temporary
// one when dir is "".
func OpenHome(dir string) (*Home, error) {
	h := &Home{Dir: dir, Kept: dir != ""}
	var err error
	if h.Kept {
		h.Dir, err = filepath.Abs(dir)
		if err == nil {
			err = os.MkdirAll(h.Dir, 0o700)
		}
	} else {
		h.Dir, err = os.MkdirTemp("", homePattern)
	}
	if err != nil {
		return nil, fmt.Errorf("make the directory of this run: %w", err)
	}
	h.lock, err = lockFile(filepath.Join(h.Dir, "lock"))
	if errors.Is(err, errLocked) {
		return nil, fmt.Errorf("%s is in use by another run: end that one, or give another directory", h.Dir)
	}
	if err != nil {
		return nil, fmt.Errorf("lock the directory of this run: %w", err)
	}
	return h, nil
}

// Close gives the directory free, and removes it unless it is kept.
func (h *Home) Close() error {
	defer h.lock.Close()
	if h.Kept {
		return nil
	}
	return os.RemoveAll(h.Dir)
}

// Leftovers are the directories of earlier runs that were killed.
func Leftovers() []string {
	found, _ := filepath.Glob(filepath.Join(os.TempDir(), homePattern+"*"))
	var out []string
	for _, dir := range found {
		path := filepath.Join(dir, "lock")
		if _, err := os.Stat(path); err != nil {
			continue
		}
		if f, err := lockFile(path); err == nil {
			out = append(out, dir)
			_ = f.Close()
		}
	}
	return out
}

var errLocked = errors.New("another process has the lock")

// lockFile takes a lock that ends with this process.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lock(f); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}
