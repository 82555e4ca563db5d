package sdk

import (
	"io"
	"os"
	"time"
)

// exit is how a process without a host ends. There is nobody to tell.
func exit() { os.Exit(0) }

// parentPoll is how often the parent is looked at. It is the last of three
// ways to notice that the host is gone (the others are the Attend call and
// standard input), for a host whose connections another process keeps open.
const parentPoll = time.Second

// exitWithHost ends the process when its host ends.
func exitWithHost() {
	if info, err := os.Stdin.Stat(); err == nil && info.Mode()&os.ModeNamedPipe != 0 {
		go func() {
			// The host writes nothing. The read returns when it has closed its
			// end, or the kernel has, after it was killed.
			_, _ = io.Copy(io.Discard, os.Stdin)
			exit()
		}()
	}
	parent := os.Getppid()
	go func() {
		for range time.Tick(parentPoll) {
			if os.Getppid() != parent {
				exit()
			}
		}
	}()
}
