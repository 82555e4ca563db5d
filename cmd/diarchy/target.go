package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/diarchy/diarchy/client"
	pb "github.com/diarchy/diarchy/client/clientpb"
	"github.com/diarchy/diarchy/internal/certs"
	"github.com/diarchy/diarchy/internal/config"
)

// clientVariables say where the node is that a command talks to.
var clientVariables = []string{
	"DIARCHY_ADDR", "DIARCHY_TOKEN", "DIARCHY_TOKEN_FILE", "DIARCHY_CA_FILE", "DIARCHY_CERT_FILE", "DIARCHY_KEY_FILE",
}

// targetFlags adds the flags that say where the node is.
func targetFlags(cmd *cobra.Command) *cobra.Command {
	f := cmd.PersistentFlags()
	f.String("addr", "", "client address of a node (DIARCHY_ADDR; default "+config.DefaultClient+")")
	f.String("token-file", "", "file with the token to show (DIARCHY_TOKEN_FILE; DIARCHY_TOKEN is the token itself)")
	f.String("ca-file", "", "authority of the node's certificate: turns TLS on (DIARCHY_CA_FILE)")
	f.String("cert-file", "", "certificate to show (DIARCHY_CERT_FILE)")
	f.String("key-file", "", "its key (DIARCHY_KEY_FILE)")
	f.Duration("timeout", 30*time.Second, "give up after this long")
	return cmd
}

// target is the node that a command talks to.
type target struct {
	*client.Client
	addr    string
	timeout time.Duration
}

// setting is a flag's value, or the variable's where the flag is not given.
func setting(cmd *cobra.Command, flag, variable string) string {
	if v, _ := cmd.Flags().GetString(flag); v != "" {
		return v
	}
	return os.Getenv(variable)
}

// targetOf reads flags and environment. It does not connect.
func targetOf(cmd *cobra.Command) (*target, error) {
	t := &target{addr: setting(cmd, "addr", "DIARCHY_ADDR")}
	if t.addr == "" {
		t.addr = config.DefaultClient
	}
	if _, _, err := net.SplitHostPort(t.addr); err != nil || strings.Contains(t.addr, "/") {
		return nil, usagef("address %q: expected HOST:PORT (flag --addr or DIARCHY_ADDR)", t.addr)
	}
	t.timeout, _ = cmd.Flags().GetDuration("timeout")
	if t.timeout <= 0 {
		return nil, usagef("--timeout %s: expected more than 0", t.timeout)
	}
	token, err := tokenOf(cmd)
	if err != nil {
		return nil, err
	}
	security, err := tlsOf(cmd)
	if err != nil {
		return nil, err
	}
	t.Client, err = client.New(client.Config{Addresses: []string{t.addr}, Token: token, TLS: security})
	return t, err
}

func tokenOf(cmd *cobra.Command) (string, error) {
	file, _ := cmd.Flags().GetString("token-file")
	if token := os.Getenv("DIARCHY_TOKEN"); file == "" && token != "" {
		return token, nil
	}
	if file == "" {
		file = os.Getenv("DIARCHY_TOKEN_FILE")
	}
	if file == "" {
		return "", nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read the token: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

func tlsOf(cmd *cobra.Command) (*tls.Config, error) {
	files := certs.Files{
		CA:   setting(cmd, "ca-file", "DIARCHY_CA_FILE"),
		Cert: setting(cmd, "cert-file", "DIARCHY_CERT_FILE"),
		Key:  setting(cmd, "key-file", "DIARCHY_KEY_FILE"),
	}
	if files == (certs.Files{}) {
		return nil, nil
	}
	if files.CA == "" {
		return nil, usagef("TLS needs --ca-file (or DIARCHY_CA_FILE), the authority of the node's certificate")
	}
	source, err := certs.Load(files, nil)
	if err != nil {
		return nil, err
	}
	return source.Client(), nil
}

// reach fails at once when nobody listens at the address: the client library
// would go on trying until the time is up.
func (t *target) reach(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, min(t.timeout, 5*time.Second))
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", t.addr)
	if err == nil {
		return conn.Close()
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	return &client.Error{Code: pb.CodeUnavailable, Message: fmt.Sprintf("no node answers at %s (%v)", t.addr, err)}
}

// call runs f against the target until it is done, the time is up, or Ctrl-C.
func call(cmd *cobra.Command, f func(ctx context.Context, t *target) error) error {
	return follow(cmd, func(ctx context.Context, t *target) error {
		ctx, cancel := context.WithTimeout(ctx, t.timeout)
		defer cancel()
		return f(ctx, t)
	})
}

// follow is call without a time limit.
func follow(cmd *cobra.Command, f func(ctx context.Context, t *target) error) error {
	t, err := targetOf(cmd)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := t.reach(ctx); err != nil {
		return err
	}
	return errors.Join(f(ctx, t), t.Close())
}

// nextStep adds to a node's own words what to do with this program.
func nextStep(err error) string {
	switch client.CodeOf(err) {
	case pb.CodeUnavailable:
		return "; start a node with 'diarchy dev' or 'diarchy agent', or name another with --addr or DIARCHY_ADDR"
	case pb.CodeNoQuorum, pb.CodeMachineDown, pb.CodeNotLeader:
		return "; 'diarchy group status GROUP' says what is wrong"
	}
	if client.CodeOf(err) != "" && client.HappenedOf(err) == client.Maybe {
		return "; look before you repeat it: it may have happened"
	}
	return ""
}

// errorJSON is the form of an error under -o json.
func errorJSON(err error) any {
	out := struct {
		Error    string `json:"error"`
		Code     string `json:"code,omitempty"`
		Happened string `json:"happened,omitempty"`
		Leader   string `json:"leader,omitempty"`
	}{Error: err.Error(), Code: client.CodeOf(err)}
	var e *client.Error
	if errors.As(err, &e) {
		out.Happened, out.Leader = e.Happened.String(), e.LeaderAddr
	}
	return out
}
