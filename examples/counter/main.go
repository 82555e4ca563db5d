// Counter is a plugin: a replicated state machine of its author's own, in a
// process of its own. It counts things by name. The machine is in counter.go;
// here is all that makes it a plugin. README.md says how to run it.
package main

import "github.com/diarchy/diarchy/plugins/sdk"

func main() { sdk.Serve(NewCounter()) }
