// Package peerpb is the service between nodes, peer.proto, and the code
// generated from it. It is not for clients, and holds no code by hand.
package peerpb

//go:generate sh -c "cd ../.. && protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative framework/peerpb/peer.proto"
