// Package peerpb is the service between nodes, peer.proto, and the code
// generated from it. It is not for clients, and holds no code by hand.
package peerpb
