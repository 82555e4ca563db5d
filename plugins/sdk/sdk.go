// Package sdk is the author's side of a plugin: [Serve] makes a process a
// machine that a Diarchy node can run. It is not needed to write a machine
// (package fsm) nor to test one (fsm/fsmtest, plugins/plugintest).
//
// Read sdk.go first; attend.go ends the process when its host has ended.
package sdk

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/diarchy/diarchy/fsm"
	"github.com/diarchy/diarchy/plugins/fsmpb"
	"github.com/diarchy/diarchy/plugins/internal/wire"
)

// Serve serves m to the node that started this process, and is all that a
// plugin's main has to do. It does not return: the process ends with its host,
// or when the host has closed the machine. A process that no node has started
// says what it is for and exits with status 2.
//
// Nothing may be printed on standard output before Serve is called. From then
// on what the process prints, on standard output and standard error, goes to
// the node's log line by line; JSON lines as log/slog writes them keep their
// level and attributes. A panic ends the process, with its stack in that log.
//
// Interrupts are left to the host: go-plugin takes them and does nothing.
func Serve(m fsm.Machine) {
	if os.Getenv(fsmpb.CookieKey) != fsmpb.CookieValue {
		byHand(os.Stderr)
		os.Exit(2)
	}
	exitWithHost()
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: plugin.HandshakeConfig{
			MagicCookieKey:   fsmpb.CookieKey,
			MagicCookieValue: fsmpb.CookieValue,
		},
		VersionedPlugins: map[int]plugin.PluginSet{
			fsmpb.ProtocolVersion: {fsmpb.PluginName: &served{machine: m, stdout: os.Stdout, stderr: os.Stderr}},
		},
		GRPCServer: func(options []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(options, wire.ServerOptions()...)...)
		},
		Logger: hclog.New(&hclog.LoggerOptions{Name: "go-plugin", Level: hclog.Warn, Output: os.Stderr, JSONFormat: true}),
	})
	os.Exit(0)
}

// served is the machine in go-plugin's terms.
type served struct {
	plugin.NetRPCUnsupportedPlugin
	machine        fsm.Machine
	stdout, stderr *os.File
}

// GRPCServer implements plugin.GRPCPlugin.
func (s *served) GRPCServer(_ *plugin.GRPCBroker, server *grpc.Server) error {
	wire.Register(server, s.machine, wire.Events{
		// go-plugin has put pipes of its own in the place of standard output
		// and error, whose last lines are lost when a process dies. The host
		// reads the real ones.
		Opening:  func() { os.Stdout, os.Stderr = s.stdout, s.stderr },
		HostGone: exit,
	})
	return nil
}

// GRPCClient implements plugin.GRPCPlugin. This process is never the host.
func (s *served) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, errors.ErrUnsupported
}

const byHandText = `This is a Diarchy plugin: a replicated state machine that a node starts and runs.
By itself it does nothing. To try it:

  diarchy dev --plugin %[1]s

To run it, name it in the configuration of every node that is to have a replica:

  plugin %[2]q {
    path   = %[1]q
    sha256 = %[3]q
  }
  group %[2]q {
    machine = "plugin:%[2]s"
  }
`

// byHand tells somebody who has started the process what to do with it.
func byHand(w io.Writer) {
	path, sum := os.Args[0], "its SHA-256"
	if p, err := os.Executable(); err == nil {
		path = p
		if s, err := hashFile(p); err == nil {
			sum = s
		}
	}
	fmt.Fprintf(w, byHandText, path, filepath.Base(path), sum)
}

func hashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}
