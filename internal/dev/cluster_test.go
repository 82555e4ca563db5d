//go:build unix

package dev

import (
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/diarchy/diarchy/internal/config"
)

func newCluster(t *testing.T, c ClusterConfig) *Cluster {
	t.Helper()
	c.Binary = "unused"
	cl, err := NewCluster(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Kill)
	return cl
}

func TestConfigurationsAreWhatAnAgentTakes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), `a "b" ${c} %{d} \e`)
	cl := newCluster(t, ClusterConfig{Dir: dir, Nodes: 3, AnyPorts: true, BlocksOf: func(i int) string {
		return "group \"g\" {\n  engine = \"raft\"\n  machine = \"builtin:kv\"\n}\n"
	}})
	seen := map[string]bool{}
	for _, n := range cl.Nodes {
		c, problems := config.Load(config.Sources{Paths: []string{n.Config}})
		problems = append(problems, c.Check(config.Known{Engines: map[string]func(string, map[string]string) error{"raft": nil}, Builtins: []string{"kv"}})...)
		if len(problems) > 0 {
			t.Fatalf("%s: %v", n.Config, problems)
		}
		if c.DataDir != n.DataDir || c.Name != n.Name || c.Client.Bind != n.ClientAddr() {
			t.Errorf("read %q %q %q, expected %q %q %q", c.DataDir, c.Name, c.Client.Bind, n.DataDir, n.Name, n.ClientAddr())
		}
		if slices.Contains(c.Gossip.Join, c.Gossip.Bind) || len(c.Gossip.Join) != 2 {
			t.Errorf("%s joins %v", n.Name, c.Gossip.Join)
		}
		for _, addr := range []string{c.Gossip.Bind, c.Peer.Bind, c.Client.Bind} {
			if seen[addr] {
				t.Errorf("%s is given twice", addr)
			}
			seen[addr] = true
		}
	}
}

func TestPortsThatAreTaken(t *testing.T) {
	// Whether it is this listener or another program that has the port: it is
	// taken.
	if l, err := net.Listen("tcp", Loopback(clientPort)); err == nil {
		defer l.Close()
	}
	n := newCluster(t, ClusterConfig{Dir: t.TempDir(), Nodes: 1}).Nodes[0]
	if n.Client == clientPort {
		t.Errorf("port %d was given though it is taken", clientPort)
	}
	if !slices.ContainsFunc(n.Moved, func(s string) bool { return strings.HasPrefix(s, "client port 7960 is taken, using ") }) {
		t.Errorf("said %v", n.Moved)
	}
}

func TestStatusOfNobody(t *testing.T) {
	cl := newCluster(t, ClusterConfig{Dir: t.TempDir(), Nodes: 2, AnyPorts: true})
	if _, err := cl.Status(t.Context(), "g"); err == nil {
		t.Error("a cluster that does not run has a status")
	}
	if !cl.Nodes[0].Ended() || cl.Nodes[0].Process() != nil {
		t.Error("a node that was not started runs")
	}
}
