package discovery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/diarchy/diarchy/framework"
)

func TestStartRefuses(t *testing.T) {
	taken := start(t, config("n0"))
	srv := nameServer(t, nil, nil, nil)
	for name, c := range map[string]struct {
		spoil func(*Config)
		says  string
	}{
		"no name":                 {func(c *Config) { c.Name = "" }, "name is empty"},
		"a long name":             {func(c *Config) { c.Name = strings.Repeat("n", 129) }, "129 bytes long, at most 128"},
		"a name with a slash":     {func(c *Config) { c.Name = "a/b" }, `holds '/'`},
		"no id":                   {func(c *Config) { c.ID = "n1" }, "not a UUID"},
		"a long label":            {func(c *Config) { c.Label = strings.Repeat("l", 256) }, "at most 255"},
		"a short key":             {func(c *Config) { c.Keys = [][]byte{{1}} }, "gossip key 1 of 1: 1 bytes"},
		"an unknown source":       {func(c *Config) { c.Join = []string{"gopher://x"} }, "gopher:// is not known"},
		"a bad bind":              {func(c *Config) { c.Bind = "1.2.3.4:x" }, "port must be a number"},
		"bind does not resolve":   {func(c *Config) { c.Bind = "nodes.example:1"; c.Resolver = srv }, "bind address \"nodes.example:1\" does not resolve"},
		"bind taken":              {func(c *Config) { c.Bind = taken.gossipAddr() }, "is in use by another program"},
		"bind elsewhere":          {func(c *Config) { c.Bind = "192.0.2.1:0" }, "does not belong to this machine"},
		"advertise everything":    {func(c *Config) { c.Advertise = "0.0.0.0:1" }, "not the unspecified one"},
		"advertise unresolvable":  {func(c *Config) { c.Advertise = "nodes.example:1"; c.Resolver = srv }, "advertise address \"nodes.example:1\" does not resolve"},
		"no peer address":         {func(c *Config) { c.PeerAddr = "" }, "peer address \"\": expected host:port"},
		"peer port 0":             {func(c *Config) { c.PeerAddr = "1.2.3.4:0" }, "a port other than 0"},
		"a long client host name": {func(c *Config) { c.ClientAddr = strings.Repeat("h", 200) + ":1" }, "at most 128"},
	} {
		conf := config("n1")
		conf.Metrics = prometheus.NewRegistry()
		c.spoil(&conf)
		p, err := Start(conf)
		if err == nil {
			p.Close()
		}
		if !errors.Is(err, framework.ErrInvalid) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v; expected %q", name, err, c.says)
		}
		if all, _ := conf.Metrics.(*prometheus.Registry).Gather(); len(all) != 0 {
			t.Errorf("%s: metrics stay registered", name)
		}
	}
}

// A start that fails late leaves no port open: the next one can have it.
func TestStartLeavesNothingOpen(t *testing.T) {
	conf := config("n1")
	conf.Bind = fmt.Sprintf("127.0.0.1:%d", freePort(t))
	bad := conf
	bad.PeerAddr = "x"
	for range 3 {
		if _, err := Start(bad); !errors.Is(err, framework.ErrInvalid) {
			t.Fatal(err)
		}
	}
	start(t, conf)
}

func withInterfaces(t *testing.T, cidrs ...string) {
	t.Helper()
	old := interfaceAddrs
	t.Cleanup(func() { interfaceAddrs = old })
	interfaceAddrs = func() (out []net.Addr, err error) {
		for _, c := range cidrs {
			ip, n, err := net.ParseCIDR(c)
			if err != nil {
				return nil, err
			}
			out = append(out, &net.IPNet{IP: ip, Mask: n.Mask})
		}
		return out, nil
	}
}

func TestAdvertiseAddress(t *testing.T) {
	any4, any6 := netip.MustParseAddrPort("0.0.0.0:7946"), netip.MustParseAddrPort("[::]:7946")
	r := nameServer(t, []string{"10.1.1.1"}, []string{"2001:db8::7"}, nil)
	for name, c := range map[string]struct {
		ifs        []string
		advertise  string
		bound      netip.AddrPort
		want, says string
	}{
		"bound to one address":       {nil, "", netip.MustParseAddrPort("10.2.2.2:5"), "10.2.2.2:5", ""},
		"all interfaces, a private":  {[]string{"127.0.0.1/8", "8.8.8.8/32", "192.168.1.5/24"}, "", any4, "192.168.1.5:7946", ""},
		"IPv6, IPv4 first":           {[]string{"fd00::5/64", "10.0.0.9/8"}, "", any6, "10.0.0.9:7946", ""},
		"IPv6 alone":                 {[]string{"::1/128", "fe80::1/64", "fd00::5/64"}, "", any6, "[fd00::5]:7946", ""},
		"IPv4 bound, IPv6 is no use": {[]string{"fd00::5/64"}, "", any4, "", "set gossip.advertise"},
		"no private address":         {[]string{"127.0.0.1/8", "8.8.8.8/32"}, "", any4, "", "has no private address to tell others"},
		"given":                      {nil, "203.0.113.5", any4, "203.0.113.5:7946", ""},
		"given with port":            {nil, "203.0.113.5:99", any4, "203.0.113.5:99", ""},
		"given, IPv6":                {nil, "[2001:db8::1]:99", any6, "[2001:db8::1]:99", ""},
		"given as name, IPv4 bound":  {nil, "n.example:99", any4, "10.1.1.1:99", ""},
		"given as name, IPv6 bound":  {nil, "n.example", any6, "[2001:db8::7]:7946", ""},
		"given, unspecified":         {nil, "[::]:9", any6, "", "not the unspecified one"},
	} {
		t.Run(name, func(t *testing.T) {
			withInterfaces(t, c.ifs...)
			got, err := chooseAdvertise(context.Background(), r, c.advertise, c.bound)
			if c.says != "" {
				if err == nil || !strings.Contains(err.Error(), c.says) {
					t.Errorf("%v, %v; expected %q", got, err, c.says)
				}
			} else if err != nil || got.String() != c.want {
				t.Errorf("%v, %v; expected %s", got, err, c.want)
			}
		})
	}
}

func TestBoundToAllInterfaces(t *testing.T) {
	withInterfaces(t, "127.0.0.1/8")
	conf := config("n1")
	conf.Bind = "0.0.0.0:0"
	if p, err := Start(conf); err == nil || !strings.Contains(err.Error(), "set gossip.advertise") {
		if err == nil {
			p.Close()
		}
		t.Fatalf("no address to tell others: %v", err)
	}
	conf.Advertise = "127.0.0.1"
	conf.PeerAddr, conf.ClientAddr = "0.0.0.0:7950", "[::]:7960"
	a := start(t, conf)
	m := member(t, a, "n1")
	if !m.Self || m.PeerAddr != "127.0.0.1:7950" || m.ClientAddr != "127.0.0.1:7960" {
		t.Errorf("it tells of itself %+v", m)
	}
	b := start(t, config("n2", a))
	sees(t, b, "n1=alive n2=alive")
	if m := member(t, b, "n1"); m.PeerAddr != "127.0.0.1:7950" || m.ClientAddr != "127.0.0.1:7960" {
		t.Errorf("n2 has of n1 %+v", m)
	}
}

func TestIPv6(t *testing.T) {
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skip("no IPv6 here")
	}
	l.Close()
	conf := config("n1")
	conf.Bind, conf.PeerAddr = "[::1]:0", "[::1]:7950"
	a := start(t, conf)
	conf = config("n2", a)
	conf.Bind, conf.PeerAddr = "[::1]:0", "10.9.8.7:7950"
	b := start(t, conf)
	sees(t, a, "n1=alive n2=alive")
	sees(t, b, "n1=alive n2=alive")
	if m := member(t, a, "n2"); m.PeerAddr != "10.9.8.7:7950" {
		t.Errorf("n2's peer address is %s", m.PeerAddr)
	}
	if addr, _ := b.PeerAddr(a.cfg.ID); addr != "[::1]:7950" {
		t.Errorf("n1's peer address is %s", addr)
	}
}

func TestBindByName(t *testing.T) {
	conf := config("n1")
	conf.Bind = "localhost:0"
	a := start(t, conf)
	if ip := a.hints.self.addr.Addr(); !ip.IsLoopback() {
		t.Errorf("bound to %s", ip)
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	conf := config("n1")
	conf.Metrics = reg
	a := start(t, conf)
	if p, err := Start(Config{Name: "n2", ID: newID(), Bind: "127.0.0.1:0", PeerAddr: ":1", Metrics: reg}); err == nil {
		p.Close()
		t.Error("two pools share a registerer")
	}
	b := start(t, config("n2", a))
	sees(t, a, "n1=alive n2=alive")
	eventually(t, "the gauge shows both", func() (bool, string) {
		v := figure(t, a.met.members.WithLabelValues("alive"))
		return v == 2, fmt.Sprint(v)
	})
	eventually(t, "the join is counted", func() (bool, string) { v := figure(t, b.met.joins); return v >= 1, fmt.Sprint(v) })
	a.Close()
	start(t, conf) // the registerer is free again
}

func TestSetMeta(t *testing.T) {
	a := start(t, config("n1"))
	long := config("n2", a)
	long.Version = "v" + strings.Repeat("9", 100)
	b := start(t, long)
	sees(t, b, "n1=alive n2=alive")
	if v := member(t, b, "n2").Version; len(v) != VersionBytesMax {
		t.Errorf("a long version became %q", v)
	}
	changed := b.Changed()
	id := newID()
	if err := a.SetMeta(func(m *Meta) { m.Client, m.Expect, m.ID, m.Run = "10.0.0.1:80", 3, framework.UUID{7}, 1 }); err != nil {
		t.Fatal(err)
	}
	<-changed
	eventually(t, "n2 has the new address", func() (bool, string) {
		m := member(t, b, "n1")
		return m.ClientAddr == "10.0.0.1:80" && m.Meta.Expect == 3 && m.ID == a.cfg.ID && m.Meta.Run != 1, fmt.Sprintf("%+v", m)
	})
	if err := a.SetMeta(func(m *Meta) { m.Client = strings.Repeat("x", 500) }); err == nil {
		t.Error("a client address of 500 bytes is taken")
	}
	if m := member(t, a, "n1"); m.ClientAddr != "10.0.0.1:80" {
		t.Errorf("after an error it has %q (%s)", m.ClientAddr, id)
	}
}

func TestReap(t *testing.T) {
	timing := fast()
	met, _ := newMetrics(nil)
	h, err := newHints(record{name: "n1", addr: netip.MustParseAddrPort("10.0.0.1:1"), meta: Meta{ID: testID(1)}}, timing, met)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1e9, 0)
	h.now = func() time.Time { return now }
	for name, s := range map[string]Status{"n1": Alive, "alive": Alive, "failed": Failed, "left": Left} {
		h.members[name] = &record{name: name, status: s, since: now}
	}
	h.reap(timing)
	if len(h.members) != 4 {
		t.Fatalf("dropped at once: %v", h.members)
	}
	now = now.Add(timing.FailedKept + time.Second)
	h.reap(timing)
	if len(h.members) != 2 || h.members["alive"] == nil || h.members["n1"] == nil {
		t.Errorf("kept: %v", h.members)
	}
}
