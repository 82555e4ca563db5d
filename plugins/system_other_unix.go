//go:build unix && !linux

package plugins

import (
	"os/exec"
	"syscall"
)

// isolate puts a child into a process group of its own. That it ends with the
// host is left to the pipe on its standard input and to the SDK.
func isolate(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// awaitEnd cannot wait without reaping here; exec.Cmd's Wait follows.
func awaitEnd(int) {}

func closeOnExec() {}
