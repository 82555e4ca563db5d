// Package vsr is Viewstamped Replication as a value: inputs in, outputs out.
//
// A [Replica] is one member of one group. Its owner feeds it what happened (a
// message came, a tick passed, a batch was proposed, a ticket became durable)
// and obeys the [Output] that it takes afterwards. The package has no clock, no
// goroutine, no lock, no I/O, no map and no randomness but a seeded generator for
// jitter: the same inputs give the same outputs, byte for byte. What runs it
// against real disks, sockets and time is vsrengine, what runs whole clusters of
// it against invented ones is vsrengine/vsrsim.
//
// It agrees on an order of batches and nothing more: it has no client table (the
// framework's applier has), never looks into a batch, and never calls a machine.
//
// Words are the paper's (Liskov and Cowling, Viewstamped Replication Revisited,
// 2012): view, op, primary, backup, Prepare, PrepareOK, StartViewChange,
// DoViewChange, StartView. References such as D5 or A17 are to the decisions and
// the scenarios listed in vsrengine/DESIGN.md.
//
// Read output.go first (what comes out, and in which order it must be obeyed),
// then message.go, then replica.go (the state and its invariants) and handlers.go
// (the protocol on one page). normal.go, viewchange.go, candidate.go, repair.go,
// install.go, recovery.go, reconfig.go, read.go and handover.go are its parts.
package vsr
