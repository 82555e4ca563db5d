package discovery

import (
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/diarchy/diarchy/framework"
)

// DefaultPort is taken where an address has no port.
const DefaultPort = 7946

// NameBytesMax bounds a node's name: it travels in every gossip packet.
const NameBytesMax = 128

// Config is what a Pool is started with.
type Config struct {
	// Name is the node's label, unique in the pool: letters, digits, '.', '-'
	// and '_'. ID is the node itself.
	Name string
	ID   framework.NodeID
	// Cluster is the cluster this node belongs to; zero while it has none.
	Cluster framework.UUID
	// DataDir holds the rejoin file; empty keeps none. It exists.
	DataDir string
	// Bind is the "host:port" to listen on, UDP and TCP. Port 0 takes a free one.
	Bind string
	// Advertise is what others are told, "host" or "host:port". Needed when Bind
	// is the unspecified address and the machine has no private address.
	Advertise string
	// PeerAddr is where the node takes connections of other nodes: "host:port";
	// without a host, or with the unspecified one, the gossip address's.
	PeerAddr string
	// ClientAddr is where it serves clients; completed like PeerAddr. May be
	// empty. A host name stays a name.
	ClientAddr string
	// Version is the program's, for people; cut after VersionBytesMax.
	Version string
	// Label keeps pools apart that share a network: packets with another label
	// are dropped. At most 255 bytes.
	Label string
	// Keys encrypt the gossip: 16, 24 or 32 bytes each. The first encrypts, all
	// decrypt. None: anyone who reaches the port can speak. See LoadKeys.
	Keys [][]byte
	// Join are sources of addresses to join: see ParseSource.
	Join []string
	// Timing is LAN() when zero.
	Timing Timing
	// Resolver looks up names; nil takes the system's.
	Resolver *net.Resolver
	// Logger and Metrics may be nil.
	Logger  *slog.Logger
	Metrics prometheus.Registerer
}

// Timing says how fast a pool notices and how patiently it searches. Zero
// fields take LAN's.
type Timing struct {
	// ProbeInterval and ProbeTimeout: how often a member is probed, and how long
	// an answer may take. SuspicionMult times the interval is about how long a
	// silent member may still speak up before it is called failed.
	ProbeInterval, ProbeTimeout time.Duration
	SuspicionMult               int
	// GossipInterval is the pause between packets of news, PushPullInterval that
	// between full exchanges with one member.
	GossipInterval, PushPullInterval time.Duration
	// GossipToTheDead is how long a failed member is still told that it is
	// called so.
	GossipToTheDead time.Duration
	// StreamTimeout bounds each TCP exchange.
	StreamTimeout time.Duration
	// JoinMin and JoinMax bound the pause between rounds of the search while
	// nobody is found; JoinSteady is the pause once somebody is.
	JoinMin, JoinMax, JoinSteady time.Duration
	// FailedKept and LeftKept say how long such members stay listed.
	FailedKept, LeftKept time.Duration
}

// LAN is for nodes of one data centre: a failure is noticed in about 5 to 10 s.
func LAN() Timing { return timingOf(memberlist.DefaultLANConfig()) }

// WAN is for nodes far apart.
func WAN() Timing { return timingOf(memberlist.DefaultWANConfig()) }

// Local is for several nodes on one machine.
func Local() Timing {
	t := timingOf(memberlist.DefaultLocalConfig())
	t.ProbeInterval, t.ProbeTimeout = 500*time.Millisecond, 250*time.Millisecond
	t.GossipInterval, t.PushPullInterval = 50*time.Millisecond, 5*time.Second
	t.JoinMin, t.JoinMax, t.JoinSteady = 100*time.Millisecond, 2*time.Second, 5*time.Second
	return t
}

func timingOf(c *memberlist.Config) Timing {
	return Timing{
		ProbeInterval: c.ProbeInterval, ProbeTimeout: c.ProbeTimeout, SuspicionMult: c.SuspicionMult,
		GossipInterval: c.GossipInterval, PushPullInterval: c.PushPullInterval,
		GossipToTheDead: c.GossipToTheDeadTime, StreamTimeout: c.TCPTimeout,
		JoinMin: time.Second, JoinMax: 30 * time.Second, JoinSteady: 30 * time.Second,
		FailedKept: 72 * time.Hour, LeftKept: time.Hour,
	}
}

func (t Timing) withDefaults() Timing {
	d := LAN()
	if t.SuspicionMult == 0 {
		t.SuspicionMult = d.SuspicionMult
	}
	for _, f := range []struct{ v, d *time.Duration }{
		{&t.ProbeInterval, &d.ProbeInterval}, {&t.ProbeTimeout, &d.ProbeTimeout},
		{&t.GossipInterval, &d.GossipInterval}, {&t.PushPullInterval, &d.PushPullInterval},
		{&t.GossipToTheDead, &d.GossipToTheDead}, {&t.StreamTimeout, &d.StreamTimeout},
		{&t.JoinMin, &d.JoinMin}, {&t.JoinMax, &d.JoinMax}, {&t.JoinSteady, &d.JoinSteady},
		{&t.FailedKept, &d.FailedKept}, {&t.LeftKept, &d.LeftKept},
	} {
		if *f.v == 0 {
			*f.v = *f.d
		}
	}
	return t
}

// checkName says what is wrong with a node's name. The same rule holds for
// names heard from others, so none of them can garble a log or a table.
func checkName(name string) error {
	switch {
	case name == "":
		return invalid("the node's name is empty: give each node a unique name of letters, digits, '.', '-' and '_'")
	case len(name) > NameBytesMax:
		return invalid("the node's name is %d bytes long, at most %d are allowed: set a shorter name", len(name), NameBytesMax)
	}
	for _, r := range name {
		ok := r == '.' || r == '-' || r == '_' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
		if !ok {
			return invalid("the node's name %q holds %q: only letters, digits, '.', '-' and '_' are allowed", name, r)
		}
	}
	return nil
}

func invalid(format string, args ...any) error {
	return framework.ErrInvalid.Because(format, args...)
}

// check validates what needs no network.
func (c *Config) check() error {
	if err := checkName(c.Name); err != nil {
		return err
	}
	if _, err := framework.ParseUUID(string(c.ID)); err != nil {
		return invalid("the node's id is %v", err)
	}
	if len(c.Label) > memberlist.LabelMaxSize {
		return invalid("the gossip label is %d bytes long, at most %d are allowed", len(c.Label), memberlist.LabelMaxSize)
	}
	for i, k := range c.Keys {
		if err := checkKey(k); err != nil {
			return invalid("gossip key %d of %d: %v", i+1, len(c.Keys), err)
		}
	}
	return nil
}

// memberlistConfig is everything of memberlist's that does not depend on the
// sockets.
func (c *Config) memberlistConfig() (*memberlist.Config, error) {
	t := c.Timing
	m := memberlist.DefaultLANConfig()
	m.Name, m.Label = c.Name, c.Label
	m.ProbeInterval, m.ProbeTimeout, m.SuspicionMult = t.ProbeInterval, t.ProbeTimeout, t.SuspicionMult
	m.GossipInterval, m.PushPullInterval = t.GossipInterval, t.PushPullInterval
	m.GossipToTheDeadTime, m.TCPTimeout = t.GossipToTheDead, t.StreamTimeout
	// A name whose node is dead may be taken over at once by its next run at
	// another address; admit.go decides who may. Zero would mean never.
	m.DeadNodeReclaimTime = time.Millisecond
	// Members that do not speak our metadata are refused by memberlist itself.
	m.DelegateProtocolMin, m.DelegateProtocolMax, m.DelegateProtocolVersion = 1, 1, 1
	m.GossipVerifyIncoming, m.GossipVerifyOutgoing = true, true
	if len(c.Keys) > 0 {
		ring, err := memberlist.NewKeyring(c.Keys[1:], c.Keys[0])
		if err != nil {
			return nil, invalid("gossip keys: %v", err)
		}
		m.Keyring = ring
	}
	return m, nil
}

// completeAddr fills an absent or unspecified host with ip.
func completeAddr(what, addr string, ip netip.Addr) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || port == "" || port == "0" {
		return "", invalid("%s %q: expected host:port with a port other than 0", what, addr)
	}
	if host == "" || isUnspecified(host) {
		host = ip.String()
	}
	return net.JoinHostPort(host, port), nil
}

func isUnspecified(host string) bool {
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && ip.IsUnspecified()
}
