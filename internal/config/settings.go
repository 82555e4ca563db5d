package config

import (
	"strings"
)

// A setting is one key: where it stands ("gossip.bind" is bind in block
// gossip), and what it sets. The type of what into points to says what is
// expected.
type setting[T any] struct {
	path string
	help string
	into func(*T) any
}

// size marks a count of bytes: a whole number, or text such as "64MiB".
type size struct{ to *int64 }

// sizeInt is size for an int.
type sizeInt struct{ to *int }

// Every key outside plugin and group blocks. Each is also an environment
// variable (DIARCHY_GOSSIP_BIND) and a flag of agent (--gossip-bind).
var nodeSettings = []setting[Config]{
	{"name", "this node's name, unique in the pool", func(c *Config) any { return &c.Name }},
	{"data_dir", "directory for all that lasts", func(c *Config) any { return &c.DataDir }},
	{"insecure", "permit ports beyond loopback without TLS and a token", func(c *Config) any { return &c.Insecure }},
	{"gossip.bind", "gossip address, HOST:PORT", func(c *Config) any { return &c.Gossip.Bind }},
	{"gossip.advertise", "gossip address that others use", func(c *Config) any { return &c.Gossip.Advertise }},
	{"gossip.join", "who to find others by (addresses, dns+srv://, file://, exec://)", func(c *Config) any { return &c.Gossip.Join }},
	{"gossip.bootstrap_expect", "how many nodes form a new cluster", func(c *Config) any { return &c.Gossip.BootstrapExpect }},
	{"gossip.encrypt_file", "file with the pool's key (diarchy keygen)", func(c *Config) any { return &c.Gossip.EncryptFile }},
	{"gossip.label", "keeps pools apart", func(c *Config) any { return &c.Gossip.Label }},
	{"gossip.timing", "lan, wan or local", func(c *Config) any { return &c.Gossip.Timing }},
	{"peer.bind", "replication address, HOST:PORT", func(c *Config) any { return &c.Peer.Bind }},
	{"peer.advertise", "replication address that others use", func(c *Config) any { return &c.Peer.Advertise }},
	{"client.bind", "address for clients, HOST:PORT", func(c *Config) any { return &c.Client.Bind }},
	{"client.advertise", "client address that others are told", func(c *Config) any { return &c.Client.Advertise }},
	{"client.token_file", "file with the administrator's token", func(c *Config) any { return &c.Client.TokenFile }},
	{"client.readonly_token_file", "file with the token that may only read", func(c *Config) any { return &c.Client.ReadonlyTokenFile }},
	{"client.pprof", "serve profiles at /debug/pprof", func(c *Config) any { return &c.Client.Pprof }},
	{"tls.ca_file", "certificate authority (PEM)", func(c *Config) any { return &c.TLS.CAFile }},
	{"tls.cert_file", "this node's certificate (PEM)", func(c *Config) any { return &c.TLS.CertFile }},
	{"tls.key_file", "its key (PEM)", func(c *Config) any { return &c.TLS.KeyFile }},
	{"log.level", "debug, info, warn or error", func(c *Config) any { return &c.Log.Level }},
	{"log.format", "text or json", func(c *Config) any { return &c.Log.Format }},
	{"timing.heartbeat", "how often engines say that they live (default: the engine's)", func(c *Config) any { return &c.Timing.Heartbeat }},
	{"timing.election", "silence after which another leader is sought (default: the engine's)", func(c *Config) any { return &c.Timing.Election }},
	{"timing.stall_after", "longest disk call before a replica steps back (default 2s)", func(c *Config) any { return &c.Timing.StallAfter }},
	{"timing.machine_stall_after", "longest call into a machine before it counts as stalled (default 5s)", func(c *Config) any { return &c.Timing.MachineStallAfter }},
	{"snapshot.entries", "snapshot after so many entries (default 100000)", func(c *Config) any { return &c.Snapshots.Entries }},
	{"snapshot.bytes", "snapshot after so many bytes of commands (default 64MiB)", func(c *Config) any { return size{&c.Snapshots.Bytes} }},
	{"snapshot.bytes_per_sec", "write snapshots no faster (default: unlimited)", func(c *Config) any { return size{&c.Snapshots.BytesPerSec} }},
}

// Every key of a plugin block.
var pluginSettings = []setting[Plugin]{
	{"path", "", func(p *Plugin) any { return &p.Path }},
	{"sha256", "", func(p *Plugin) any { return &p.SHA256 }},
	{"version", "", func(p *Plugin) any { return &p.Version }},
	{"args", "", func(p *Plugin) any { return &p.Args }},
	{"env", "", func(p *Plugin) any { return &p.Env }},
}

// Every key of a group block.
var groupSettings = []setting[Group]{
	{"engine", "", func(g *Group) any { return &g.Engine }},
	{"machine", "", func(g *Group) any { return &g.Machine }},
	{"replicas", "", func(g *Group) any { return &g.Replicas }},
	{"durability", "", func(g *Group) any { return &g.Durability }},
	{"options", "", func(g *Group) any { return &g.Options }},
	{"limits.command_bytes", "", func(g *Group) any { return sizeInt{&g.Limits.CommandBytes} }},
	{"limits.result_bytes", "", func(g *Group) any { return sizeInt{&g.Limits.ResultBytes} }},
	{"limits.sessions", "", func(g *Group) any { return &g.Limits.Sessions }},
	{"limits.session_window", "", func(g *Group) any { return &g.Limits.SessionWindow }},
	{"limits.session_result_bytes", "", func(g *Group) any { return sizeInt{&g.Limits.SessionResultBytes} }},
}

// Flag describes a node setting as a command line flag.
type Flag struct {
	Name, Help string
	// Bool: the flag needs no value.
	Bool bool
}

// Flags lists the node settings as flags of the command line.
func Flags() []Flag {
	out := make([]Flag, 0, len(nodeSettings))
	for _, s := range nodeSettings {
		_, isBool := s.into(&Config{}).(*bool)
		out = append(out, Flag{Name: flagName(s.path), Help: s.help, Bool: isBool})
	}
	return out
}

func flagName(path string) string { return strings.NewReplacer(".", "-", "_", "-").Replace(path) }

func variableName(path string) string {
	return "DIARCHY_" + strings.ToUpper(strings.ReplaceAll(path, ".", "_"))
}
