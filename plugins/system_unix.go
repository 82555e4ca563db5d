//go:build unix

package plugins

import (
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// killGroup kills a process group.
func killGroup(pid int) { _ = syscall.Kill(-pid, syscall.SIGKILL) }

// lockFile locks f for this process without waiting; closing f, or the end of
// the process, unlocks it.
func lockFile(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }

// errLocked is lockFile's answer when another holds the lock.
const errLocked = unix.EWOULDBLOCK

// ownedByUs tells files of this user and of root from those of others.
func ownedByUs(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && (st.Uid == 0 || int(st.Uid) == os.Geteuid())
}
