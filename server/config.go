package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	pb "github.com/diarchy/diarchy/client/clientpb"
	"github.com/diarchy/diarchy/framework"
)

// Gossip is what the server needs of the gossip pool. Errors that are no
// *framework.Error are told as internal.
type Gossip interface {
	// Members lists everybody that this node has heard of, itself too.
	Members(ctx context.Context) ([]*pb.PoolMember, error)
	// Join asks the addresses and says how many answered.
	Join(ctx context.Context, addrs []string) (int, error)
	// Leave begins this node's graceful end and returns: the answer must still
	// get out.
	Leave(ctx context.Context) error
	// ForceLeave declares a failed member gone.
	ForceLeave(ctx context.Context, node string) error
}

// Plugins is what the server needs of the plugin host.
type Plugins interface {
	List(ctx context.Context) ([]*pb.Plugin, error)
	// Info answers framework.ErrInvalid for a name it does not know.
	Info(ctx context.Context, name string) (*pb.Plugin, error)
}

// Config is what a server is made from. Zero fields take the defaults given.
type Config struct {
	Service framework.Service
	// Gossip and Plugins may be nil: their methods answer ErrUnsupported.
	Gossip  Gossip
	Plugins Plugins

	// TLS, when set, is what the port speaks.
	TLS *tls.Config
	// AdminToken allows everything, ReadToken what changes nothing. Without
	// either everybody may do everything.
	AdminToken, ReadToken string
	// Hosts are names that this node is reached by beside addresses and
	// localhost. On loopback without a token a request for any other name is
	// refused: it comes from a page whose name was bent to this machine.
	Hosts []string

	// Version and Commit are what Version answers.
	Version, Commit string
	// Gatherer is what /metrics shows; nil leaves the route out.
	Gatherer prometheus.Gatherer
	// Metrics takes the server's own; may be nil.
	Metrics prometheus.Registerer
	// Pprof serves /debug/pprof/, to the administrator.
	Pprof bool
	// Missing adds to what /readyz waits for; may be nil.
	Missing func() []string

	// CommandBytesMax bounds a command or query before it reaches its group,
	// which has its own limit: 1 MiB.
	CommandBytesMax int
	// ConnsMax bounds connections: 4096. One more is closed at once.
	ConnsMax int
	// StreamCallsMax and StreamBytesMax bound what one Stream has in flight
	// before it is read no further: 16,384 and 64 MiB.
	StreamCallsMax, StreamBytesMax int

	// HeaderTimeout bounds the arrival of a request's headers and the TLS
	// handshake: 10 s. IdleTimeout is how long a connection may do nothing:
	// 30 s. StallTimeout is how long one read of a body or one write of an
	// answer may wait for the other side: 30 s. RequestTimeout is for requests
	// that name none: 10 s.
	HeaderTimeout, IdleTimeout, StallTimeout, RequestTimeout time.Duration

	Logger *slog.Logger
}

var (
	errReadTokenAlone = errors.New("server: a read-only token without an administrator token would let nobody change anything")
	errSameTokens     = errors.New("server: the read-only token is the administrator token")
)

// waitMax bounds what a client may ask to wait for.
const waitMax = 10 * time.Minute

func (c Config) withDefaults() (Config, error) {
	if c.Service == nil {
		return c, errors.New("server: Config.Service is nil")
	}
	if c.AdminToken == "" && c.ReadToken != "" {
		return c, errReadTokenAlone
	}
	if c.AdminToken != "" && c.AdminToken == c.ReadToken {
		return c, errSameTokens
	}
	setInt(&c.CommandBytesMax, 1<<20)
	setInt(&c.ConnsMax, 4096)
	setInt(&c.StreamCallsMax, 16<<10)
	setInt(&c.StreamBytesMax, 64<<20)
	setDuration(&c.HeaderTimeout, 10*time.Second)
	setDuration(&c.IdleTimeout, 30*time.Second)
	setDuration(&c.StallTimeout, 30*time.Second)
	setDuration(&c.RequestTimeout, 10*time.Second)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

func setInt(p *int, d int) {
	if *p <= 0 {
		*p = d
	}
}

func setDuration(p *time.Duration, d time.Duration) {
	if *p <= 0 {
		*p = d
	}
}

// CheckExposure says whether a port may be bound at addr ("host:port"): beyond
// loopback only with TLS and a token, or with insecure, which the caller is to
// log at each start.
func CheckExposure(addr string, hasTLS, hasToken, insecure bool) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("address %q: %w; expected host:port", addr, err)
	}
	if insecure || isLoopbackHost(host) || hasTLS && hasToken {
		return nil
	}
	var lack []string
	if !hasTLS {
		lack = append(lack, "TLS")
	}
	if !hasToken {
		lack = append(lack, "a token")
	}
	return fmt.Errorf("address %q can be reached from other machines and has no %s: "+
		"bind it to 127.0.0.1, configure what is missing, or set insecure = true to accept the risk",
		addr, strings.Join(lack, " and no "))
}

// isLoopbackHost is false for a name other than localhost: what it stands for
// may change.
func isLoopbackHost(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}
