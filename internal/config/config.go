// Package config turns a node's configuration (HCL, or JSON of the same shape,
// several files, the environment, flags) into checked values. Every complaint
// carries the place it came from (file and line, variable or flag) and says
// what was expected.
//
// It starts nothing and knows no engine: what engines and machines there are is
// handed to Check. Read settings.go for every key there is, load.go for how
// sources are merged, check.go for what is refused.
package config

import (
	"slices"
	"time"
)

// Config is a node's configuration.
type Config struct {
	// Name is a label, unique in the pool; DataDir holds all that lasts.
	Name    string
	DataDir string
	// Insecure permits ports beyond loopback without TLS and a token.
	Insecure  bool
	Gossip    Gossip
	Peer      Listener
	Client    Client
	TLS       TLS
	Log       Log
	Timing    Timing
	Snapshots Snapshots
	Plugins   []Plugin
	Groups    []Group

	where map[string]Place
}

// Gossip is how the node finds others.
type Gossip struct {
	Listener
	// Join lists addresses and sources (dns+srv://, file://, exec://) that are
	// tried for ever.
	Join []string
	// BootstrapExpect is how many nodes form a new cluster; 0 waits to be
	// taken into one.
	BootstrapExpect int
	// EncryptFile holds the pool's key; Label keeps pools apart.
	EncryptFile string
	Label       string
	// Timing is lan, wan or local.
	Timing string
}

// Listener is a port of the node. Advertise is the address that others use;
// empty: Bind.
type Listener struct {
	Bind, Advertise string
}

// Client is the port that clients and the web page use.
type Client struct {
	Listener
	TokenFile, ReadonlyTokenFile string
	// Pprof serves net/http/pprof to administrators.
	Pprof bool
}

// TLS names the files that turn on mutual TLS between nodes and TLS for
// clients: all three or none.
type TLS struct {
	CAFile, CertFile, KeyFile string
}

// Enabled says whether TLS is configured.
func (t TLS) Enabled() bool { return t.CAFile != "" || t.CertFile != "" || t.KeyFile != "" }

// Log is how the node logs: Level is debug, info, warn or error, Format text or
// json.
type Log struct {
	Level, Format string
}

// Plugin is a machine that this node may run in a process of its own.
type Plugin struct {
	Name string
	Path string
	// SHA256 pins the executable, in hexadecimal.
	SHA256  string
	Version string
	Args    []string
	Env     map[string]string
	at      Place
	where   map[string]Place
}

// Group is "create if absent": the catalogue decides, once there is one.
type Group struct {
	Name       string
	Engine     string
	Machine    string
	Replicas   int
	Durability string
	// Options are the engine's own.
	Options map[string]string
	Limits  Limits
	at      Place
	where   map[string]Place
}

// Limits influence apply and are recorded in the catalogue. Zero fields take
// the framework's defaults.
type Limits struct {
	CommandBytes, ResultBytes int
	Sessions, SessionWindow   int
	SessionResultBytes        int
}

// Timing is that of this node's replicas. Zero fields take defaults.
type Timing struct {
	Heartbeat, Election           time.Duration
	StallAfter, MachineStallAfter time.Duration
}

// Snapshots says when this node's replicas snapshot by themselves.
type Snapshots struct {
	Entries, Bytes, BytesPerSec int64
}

// Defaults for what is left out.
const (
	DefaultGossip = "127.0.0.1:7946"
	DefaultPeer   = "127.0.0.1:7950"
	DefaultClient = "127.0.0.1:7960"
)

// New returns a configuration that holds the defaults alone.
func New() *Config {
	return &Config{
		Gossip: Gossip{Listener: Listener{Bind: DefaultGossip}, Timing: "lan"},
		Peer:   Listener{Bind: DefaultPeer},
		Client: Client{Listener: Listener{Bind: DefaultClient}},
		Log:    Log{Level: "info", Format: "text"},
		where:  map[string]Place{},
	}
}

// Plugin finds a plugin block by name.
func (c *Config) Plugin(name string) (Plugin, bool) {
	i := slices.IndexFunc(c.Plugins, func(p Plugin) bool { return p.Name == name })
	if i < 0 {
		return Plugin{}, false
	}
	return c.Plugins[i], true
}

// Group finds a group block by name.
func (c *Config) Group(name string) (Group, bool) {
	i := slices.IndexFunc(c.Groups, func(g Group) bool { return g.Name == name })
	if i < 0 {
		return Group{}, false
	}
	return c.Groups[i], true
}
