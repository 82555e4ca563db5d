//go:build unix

package discovery

import (
	"os/exec"
	"syscall"
)

// ownProcessGroup lets the end of the time also reach what the command started.
func ownProcessGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
