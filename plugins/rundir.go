package plugins

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
)

// A runDir is this host's own directory below the configured one: "p0", "p1",
// … It holds the copies of programs and the sockets. Its lock is held as long
// as the process lives, so that what a killed host has left can be told from
// what another uses.
type runDir struct {
	path string
	lock *os.File
}

const (
	lockName   = "lock"
	runDirsMax = 1000
	// socketRest is the longest that follows the run directory in a socket's
	// path: our directory, the process's, and go-plugin's file.
	socketRest = len("/p999/s999999/plugin4294967295")
)

// socketPathMax is what sockaddr_un holds without its final NUL.
func socketPathMax() int {
	if runtime.GOOS == "linux" {
		return 107
	}
	return 103
}

// openRunDir makes a directory below base, after taking away those that no
// living host holds.
func openRunDir(base string) (*runDir, error) {
	base, err := filepath.Abs(base)
	if err != nil {
		return nil, fmt.Errorf("run directory: %w", err)
	}
	if n := len(base) + socketRest; n > socketPathMax() && runtime.GOOS != "windows" {
		return nil, fmt.Errorf("run directory %s: too long for the sockets in it: their paths would have %d bytes and the system allows %d; choose one of at most %d bytes (this has %d)",
			base, n, socketPathMax(), socketPathMax()-socketRest, len(base))
	}
	if err := os.MkdirAll(base, 0o700); err != nil {
		return nil, fmt.Errorf("run directory: %w", err)
	}
	info, err := os.Stat(base)
	if err != nil {
		return nil, fmt.Errorf("run directory: %w", err)
	}
	if info.Mode().Perm()&0o002 != 0 && info.Mode()&fs.ModeSticky == 0 && runtime.GOOS != "windows" {
		return nil, fmt.Errorf("run directory %s: writable by everybody (mode %s); chmod o-w closes it", base, info.Mode().Perm())
	}
	removeAbandoned(base)
	for i := range runDirsMax {
		d, err := makeRunDir(filepath.Join(base, "p"+strconv.Itoa(i)))
		if !errors.Is(err, fs.ErrExist) {
			return d, err
		}
	}
	return nil, fmt.Errorf("run directory %s: %d hosts use it", base, runDirsMax)
}

func makeRunDir(path string) (*runDir, error) {
	if err := os.Mkdir(path, 0o700); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(path, lockName), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("run directory: %w", err)
	}
	d := &runDir{path: path, lock: lock}
	switch err := lockFile(lock); {
	case errors.Is(err, errLocked) || err == nil && !d.stands():
		// Another host has taken it for abandoned before it was locked, and
		// removes it.
		return nil, errors.Join(fs.ErrExist, lock.Close())
	case err != nil:
		return nil, fmt.Errorf("run directory: lock %s: %w", lock.Name(), errors.Join(err, d.close()))
	}
	return d, nil
}

// stands says that the lock held is the one in the directory.
func (d *runDir) stands() bool {
	held, err := d.lock.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(d.lock.Name())
	return err == nil && os.SameFile(held, there)
}

// removeAbandoned removes what killed hosts have left: directories whose lock
// can be had. One without a lock is being made this moment, or was left within
// the instant before it had one; it is let be.
func removeAbandoned(base string) {
	found, _ := filepath.Glob(filepath.Join(base, "p[0-9]*", lockName))
	for _, name := range found {
		lock, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			continue
		}
		if lockFile(lock) == nil {
			_ = os.RemoveAll(filepath.Dir(name))
		}
		_ = lock.Close()
	}
}

// close removes everything.
func (d *runDir) close() error {
	return errors.Join(os.RemoveAll(d.path), d.lock.Close())
}
