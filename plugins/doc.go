// Package plugins is the host's side of machines that run in processes of their
// own: it finds, checks, copies, starts, watches and ends them, and hands each
// out as an fsm.Machine from an fsm.Factory. It knows neither engines nor
// groups; when to start a machine again, and how often, is decided above.
//
// A plugin is never run from where it lies. It is copied into a directory of
// this host's own while it is hashed, the hash is compared with the pinned one,
// and the copy is what runs, now and at every restart. It gets an environment
// that holds only what its [Spec] lists, a process group of its own, a pipe for
// standard input that ends with the host, no other descriptor of the host's,
// and on Linux a signal that kills it when the host ends. What it prints goes
// to the host's log.
//
// To keep descriptors back, New marks every one that the host has inherited
// itself as close-on-exec, which holds for all that the host starts.
//
// Read spec.go and host.go first; process.go is the life of one process,
// child.go what the operating system has to do for it, stage.go the checking
// and copying. The protocol is plugins/fsmpb's.
package plugins
