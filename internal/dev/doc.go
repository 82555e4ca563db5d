// Package dev runs trees of node processes on one machine: for `diarchy dev`,
// its --check, and tests.
//
// What it promises is that nothing stays behind. A process started here ends
// with the process that started it, even when that is killed with SIGKILL: the
// kernel sends it the parent-death signal (Linux), and it watches its standard
// input, whose other end closes with the parent (everywhere).
//
// It decides nothing about consensus: it starts, kills, pauses and restarts
// processes, picks ports, writes node configurations and drives a client.
// Read process.go first, then cluster.go, check.go.
package dev
