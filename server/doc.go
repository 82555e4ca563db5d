// Package server is a node's network face: one port that speaks gRPC, gRPC-Web,
// JSON and plain HTTP to clients, and serves health, metrics and profiles to
// those who run the node. docs/http-api.md describes it from outside.
//
// It decides nothing about groups: every request becomes a call of
// framework.Service. It knows no engine, no plugin host, no gossip library and
// no client; what it needs of gossip and plugins it reaches through the
// interfaces in config.go.
//
// Read config.go first, then server.go (the port and its limits), routes.go
// (who may call what), rpc.go (the service) and batch.go (the data path).
package server
