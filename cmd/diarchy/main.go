// Command diarchy runs nodes and talks to them. It holds no decisions: flags,
// configuration, wiring and signals, and every name there is.
//
// Read root.go first (the command tree, exit codes), agent.go for how a node is
// put together, target.go for how the other commands reach one.
package main

import (
	"os"
)

func main() {
	os.Exit(run(os.Args[1:], stdio{in: os.Stdin, out: os.Stdout, err: os.Stderr}))
}
