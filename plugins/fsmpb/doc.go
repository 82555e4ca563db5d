// Package fsmpb is the plugin protocol: fsm.proto, the code generated from it,
// and the constants that the generated code cannot hold. It knows nothing of
// hosts, machines or processes. Read fsm.proto first.
//
// A plugin is started by go-plugin's handshake (version 1 of its core protocol,
// network unix, protocol grpc, certificates exchanged by AutoMTLS), with
// [CookieKey] in its environment and [ProtocolVersion] among the versions
// offered. Its standard input is a pipe that carries nothing and ends with the
// host: a plugin that sees it end must exit. What it prints on standard output
// after the handshake line, and on standard error, goes to the host's log.
//
// Limits. The host takes messages of [ReplyBytesMax], unless it is configured
// otherwise; a plugin that sends a longer one on Apply is broken and is killed.
// A plugin must take messages of [RequestBytesMax].
package fsmpb

//go:generate sh -c "cd ../.. && protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative plugins/fsmpb/fsm.proto"

// The generated files come from protoc 3.21.12 (Debian: protobuf-compiler) with
//
//	go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
//	go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2
//
// on the PATH, by `go generate ./plugins/fsmpb`.

// The handshake. The cookie tells a plugin from a program started by mistake;
// it is no secret.
const (
	ProtocolVersion = 1
	CookieKey       = "DIARCHY_PLUGIN"
	CookieValue     = "d1a7c4b9-replicated-state-machine"
	// PluginName is the name that the machine is dispensed under.
	PluginName = "machine"
)

const (
	// ChunkBytes is what one message of a batch, a snapshot or a restore is
	// kept to, one entry or result that is longer by itself excepted.
	ChunkBytes = 1 << 20

	// ResultBytesMax bounds a result (value and error together) and the answer
	// to a query. It belongs to the protocol and is not configurable, since a
	// longer result becomes an application error that every replica must give
	// alike.
	ResultBytesMax = 4 << 20

	// EntryBytesMax bounds a command and a query.
	EntryBytesMax = 64 << 20

	// ReplyBytesMax and RequestBytesMax bound a whole message towards the host
	// and towards the plugin: the longest single item and room for the frame
	// around it.
	ReplyBytesMax   = ResultBytesMax + 64<<10
	RequestBytesMax = EntryBytesMax + 64<<10
)
