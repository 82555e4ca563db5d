// Package wire is the plugin protocol in use: [Client] makes an fsm.Machine of
// a gRPC connection, for the host; [Server] makes a gRPC service of an
// fsm.Machine, for the plugin. It starts no process and knows of none; the two
// halves meet as well in one process (plugins/plugintest).
//
// Read client.go and server.go side by side. codec.go and frame.go hold what is
// on the path of every command: batches and results are put into and taken out
// of protobuf's wire format by hand, straight from and to fsm's types, because
// generated code would allocate for each command. What they write is what
// plugins/fsmpb/fsm.proto says, and the tests hold them against generated code.
package wire

import (
	"google.golang.org/grpc"

	"github.com/diarchy/diarchy/plugins/fsmpb"
)

// Windows of flow control: enough for some batches in flight and for a snapshot
// beside them; they bound what either side holds unread.
const (
	streamWindowBytes     = 4 << 20
	connectionWindowBytes = 16 << 20
	headerBytesMax        = 64 << 10
)

// DialOptions are those of a connection to a plugin. replyBytesMax bounds the
// messages it may send; 0 stands for fsmpb.ReplyBytesMax.
func DialOptions(replyBytesMax int) []grpc.DialOption {
	if replyBytesMax == 0 {
		replyBytesMax = fsmpb.ReplyBytesMax
	}
	return []grpc.DialOption{
		grpc.WithDefaultCallOptions(
			grpc.ForceCodecV2(newCodec()),
			grpc.MaxCallRecvMsgSize(replyBytesMax),
			grpc.MaxCallSendMsgSize(fsmpb.RequestBytesMax),
		),
		grpc.WithInitialWindowSize(streamWindowBytes),
		grpc.WithInitialConnWindowSize(connectionWindowBytes),
		grpc.WithMaxHeaderListSize(headerBytesMax),
		grpc.WithDisableRetry(),
	}
}

// ServerOptions are those of a plugin's gRPC server.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(newCodec()),
		grpc.MaxRecvMsgSize(fsmpb.RequestBytesMax),
		grpc.MaxSendMsgSize(fsmpb.ReplyBytesMax),
		grpc.InitialWindowSize(streamWindowBytes),
		grpc.InitialConnWindowSize(connectionWindowBytes),
		grpc.MaxHeaderListSize(headerBytesMax),
	}
}
