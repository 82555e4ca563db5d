// Package clientpb is the protocol between a node and its clients: the service
// in diarchy.proto, its generated code for protobuf and connect, and, by hand,
// the one table of errors (errors.go) that server, client, command line and
// docs/errors.md all read.
//
// It holds no behaviour. Read diarchy.proto first, then errors.go.
package clientpb

//go:generate protoc --proto_path=. --go_out=. --go_opt=paths=source_relative --connect-go_out=. --connect-go_opt=paths=source_relative,package_suffix,simple diarchy.proto
