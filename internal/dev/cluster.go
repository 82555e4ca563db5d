package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	pb "github.com/diarchy/diarchy/client/clientpb"
)

// Preferred ports of the first node; the next nodes prefer the ports after.
const (
	gossipPort = 7946
	peerPort   = 7950
	clientPort = 7960
)

// ClusterConfig says what cluster to run.
type ClusterConfig struct {
	// Binary is the diarchy program.
	Binary string
	// Dir holds a directory for each node.
	Dir   string
	Nodes int
	// Blocks is put into every node's configuration: plugins and groups.
	// BlocksOf, when set, replaces it for a node, counted from 0.
	Blocks   string
	BlocksOf func(i int) string
	// AnyPorts takes free ports without trying the usual ones first.
	AnyPorts bool
	LogLevel string
}

// Cluster is nodes on this machine, each a process of its own.
type Cluster struct {
	Nodes []*Node
	tree  *Tree
	c     ClusterConfig
}

// Node is one of them.
type Node struct {
	Name string
	// Dir holds Config (HCL), DataDir and Log.
	Dir, Config, DataDir, Log string
	// Gossip, Peer and Client are ports of 127.0.0.1. Moved names those of them
	// that are not the usual ones, because others have these.
	Gossip, Peer, Client int
	Moved                []string

	process *Process
	tree    *Tree
	spec    Spec
	rpcOnce sync.Once
	rpc     pb.DiarchyClient
	http    *http.Transport
}

// ClientAddr is where the node serves clients.
func (n *Node) ClientAddr() string { return Loopback(n.Client) }

// NewCluster picks ports and writes the configurations. Nothing runs yet.
func NewCluster(c ClusterConfig) (*Cluster, error) {
	if c.LogLevel == "" {
		c.LogLevel = "info"
	}
	if err := sameNodes(c.Dir, c.Nodes); err != nil {
		return nil, err
	}
	cl := &Cluster{c: c, tree: NewTree()}
	taken := map[int]bool{}
	for i := range c.Nodes {
		n, err := newNode(c, i, taken)
		if err != nil {
			cl.tree.Kill()
			return nil, err
		}
		n.tree = cl.tree
		cl.Nodes = append(cl.Nodes, n)
	}
	for i, n := range cl.Nodes {
		if err := cl.writeConfig(i, n); err != nil {
			cl.tree.Kill()
			return nil, err
		}
	}
	return cl, nil
}

// sameNodes refuses to go on from a directory with another number of nodes.
func sameNodes(dir string, want int) error {
	found, _ := filepath.Glob(filepath.Join(dir, "n*", "data"))
	if have := len(found); have > 0 && have != want {
		return fmt.Errorf("%s holds %d nodes, not %d: give --nodes %d, or another directory", dir, have, want, have)
	}
	return nil
}

func newNode(c ClusterConfig, i int, taken map[int]bool) (*Node, error) {
	name := "n" + strconv.Itoa(i+1)
	dir := filepath.Join(c.Dir, name)
	n := &Node{
		Name: name, Dir: dir,
		Config: filepath.Join(dir, "node.hcl"), DataDir: filepath.Join(dir, "data"), Log: filepath.Join(dir, "node.log"),
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of node %s: %w", name, err)
	}
	for _, p := range []struct {
		to        *int
		what      string
		preferred int
	}{{&n.Gossip, "gossip", gossipPort + i}, {&n.Peer, "peer", peerPort + i}, {&n.Client, "client", clientPort + i}} {
		if c.AnyPorts {
			p.preferred = 0
		}
		port, err := Port(p.preferred, taken)
		if err != nil {
			return nil, err
		}
		if *p.to = port; p.preferred != 0 && port != p.preferred {
			n.Moved = append(n.Moved, fmt.Sprintf("%s port %d is taken, using %d", p.what, p.preferred, port))
		}
	}
	n.spec = Spec{
		Name: name, Path: c.Binary, Args: []string{"agent", "--config-file", n.Config, "--parent-pipe"}, Env: plainEnvironment(),
	}
	return n, nil
}

// plainEnvironment is this process's without what would override a node's
// configuration.
func plainEnvironment() []string {
	var out []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "DIARCHY_") {
			out = append(out, v)
		}
	}
	return out
}

const nodeConfig = `# Written by 'diarchy dev'. The same file works with 'diarchy agent -c'.
name     = %s
data_dir = %s

gossip {
  bind             = %s
  join             = [%s]
  bootstrap_expect = %d
  timing           = "local"
}
peer   { bind = %s }
client { bind = %s }
log    { level = %s }
timing {
  heartbeat = "500ms"
  election  = "500ms"
}

%s`

func (cl *Cluster) writeConfig(i int, n *Node) error {
	var join []string
	for _, other := range cl.Nodes {
		if other != n {
			join = append(join, Quote(Loopback(other.Gossip)))
		}
	}
	blocks := cl.c.Blocks
	if cl.c.BlocksOf != nil {
		blocks = cl.c.BlocksOf(i)
	}
	text := fmt.Sprintf(nodeConfig, Quote(n.Name), Quote(n.DataDir),
		Quote(Loopback(n.Gossip)), strings.Join(join, ", "), cl.c.Nodes,
		Quote(Loopback(n.Peer)), Quote(n.ClientAddr()), Quote(cl.c.LogLevel), blocks)
	if err := os.WriteFile(n.Config, []byte(text), 0o600); err != nil {
		return fmt.Errorf("write the configuration of node %s: %w", n.Name, err)
	}
	return nil
}

// Quote makes text an HCL string.
func Quote(s string) string {
	return strings.NewReplacer("${", "$${", "%{", "%%{").Replace(strconv.Quote(s))
}

// Start starts every node and waits until all are ready.
func (cl *Cluster) Start(ctx context.Context) error {
	for _, n := range cl.Nodes {
		if err := n.Start(); err != nil {
			return err
		}
	}
	for _, n := range cl.Nodes {
		if err := n.WaitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Close ends the nodes in order; what does not end before ctx does is killed.
func (cl *Cluster) Close(ctx context.Context) error {
	cl.hangUp()
	return cl.tree.Close(ctx)
}

// Kill ends all nodes at once.
func (cl *Cluster) Kill() {
	cl.hangUp()
	cl.tree.Kill()
}

func (cl *Cluster) hangUp() {
	for _, n := range cl.Nodes {
		n.RPC()
		n.http.CloseIdleConnections()
	}
}

// Start starts the node's process, or starts it again.
func (n *Node) Start() error {
	log, err := os.OpenFile(n.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the log of node %s: %w", n.Name, err)
	}
	defer log.Close()
	spec := n.spec
	spec.Log = log
	n.process, err = n.tree.Start(spec)
	return err
}

// AddConfig has the node read another file after its own.
func (n *Node) AddConfig(path string) { n.spec.Args = append(n.spec.Args, "--config-file", path) }

// Process is the node's present process; nil before the first Start.
func (n *Node) Process() *Process { return n.process }

// Ended says that no process of the node runs.
func (n *Node) Ended() bool {
	if n.process == nil {
		return true
	}
	select {
	case <-n.process.Done():
		return true
	default:
		return false
	}
}

// WaitReady waits until the node says that it is ready, and says why it is not
// when it ends or when ctx does.
func (n *Node) WaitReady(ctx context.Context) error {
	last := errors.New("it did not answer")
	for {
		if last = n.ready(ctx, last); last == nil {
			return nil
		}
		select {
		case <-n.process.Done():
			return fmt.Errorf("node %s ended (%v); its log %s ends with:\n%s", n.Name, n.process.Err(), n.Log, n.LastLines(8))
		case <-ctx.Done():
			return fmt.Errorf("node %s is not ready: %w (its log: %s)", n.Name, last, n.Log)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// ready asks once. What the node said stays known when a later try is cut off.
func (n *Node) ready(ctx context.Context, last error) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.ClientAddr()+"/readyz", nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return last
	}
	defer answer.Body.Close()
	if answer.StatusCode == http.StatusOK {
		return nil
	}
	text, _ := io.ReadAll(io.LimitReader(answer.Body, 4096))
	return errors.New(strings.TrimSpace(string(text)))
}

// LastLines are the newest lines of the node's log, indented.
func (n *Node) LastLines(count int) string {
	text, err := os.ReadFile(n.Log)
	if err != nil {
		return "    " + err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return "    " + strings.Join(lines[max(0, len(lines)-count):], "\n    ")
}
