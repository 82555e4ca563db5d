package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	pb "github.com/diarchy/diarchy/client/clientpb"
)

// Config is what a client is made from. Zero fields take the defaults given.
type Config struct {
	// Addresses are client ports of some nodes, "host:port"; one is enough, the
	// others are found. "https://host:port" is taken too and needs TLS.
	Addresses []string
	// Token goes with every request.
	Token string
	// TLS, when set, is how nodes are spoken to.
	TLS *tls.Config

	// SessionWindow is how many commands of one session may be in flight: 256.
	// SessionsMax bounds the sessions that Group.Propose opens by itself: 8.
	SessionWindow, SessionsMax int
	// InFlightMax and InFlightBytes bound what waits for answers on one node's
	// stream; calls above that wait for room: 8192 and 32 MiB.
	InFlightMax, InFlightBytes int

	// DialTimeout bounds one connection attempt: 5 s. DeadAfter is how long a
	// node may be silent while answers are due before its stream is given up:
	// 3 s.
	DialTimeout, DeadAfter time.Duration
	// PauseMin and PauseMax bound the pause between two tries, which doubles
	// and is drawn at random below that: 5 ms and 500 ms.
	PauseMin, PauseMax time.Duration

	// Dial makes connections; nil takes a net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Logger may be nil.
	Logger *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	if len(c.Addresses) == 0 {
		return c, errors.New("client: no address given; expected at least one node's client port, host:port")
	}
	c.Addresses = slices.Clone(c.Addresses)
	for i, a := range c.Addresses {
		addr, err := hostPort(a, c.TLS != nil)
		if err != nil {
			return c, err
		}
		c.Addresses[i] = addr
	}
	setInt(&c.SessionWindow, 256)
	setInt(&c.SessionsMax, 8)
	setInt(&c.InFlightMax, 8192)
	setInt(&c.InFlightBytes, 32<<20)
	setDuration(&c.DialTimeout, 5*time.Second)
	setDuration(&c.DeadAfter, 3*time.Second)
	setDuration(&c.PauseMin, 5*time.Millisecond)
	setDuration(&c.PauseMax, 500*time.Millisecond)
	if c.Dial == nil {
		c.Dial = new(net.Dialer).DialContext
	}
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

// hostPort takes an address apart: "host:port", or a URL of http or https.
func hostPort(a string, hasTLS bool) (string, error) {
	if scheme, _, ok := strings.Cut(a, "://"); ok {
		u, err := url.Parse(a)
		if err != nil {
			return "", fmt.Errorf("client: address %q: %w", a, err)
		}
		if scheme != "http" && scheme != "https" || u.Path != "" && u.Path != "/" {
			return "", fmt.Errorf("client: address %q: expected host:port or http(s)://host:port", a)
		}
		if (scheme == "https") != hasTLS {
			return "", fmt.Errorf("client: address %q: https goes with Config.TLS, http without", a)
		}
		a = u.Host
	}
	if _, port, err := net.SplitHostPort(a); err != nil || port == "" {
		return "", fmt.Errorf("client: address %q: expected host:port", a)
	}
	return a, nil
}

// learntMax bounds the nodes known beside Config.Addresses.
const learntMax = 64

// Client is safe for concurrent use. Close it.
type Client struct {
	cfg    Config
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	begin  atomic.Uint32 // where the next call without a leader starts

	mu       sync.Mutex
	nodes    map[string]*node // by address; nil once closed
	learnt   []string         // known beside Config.Addresses, oldest first
	groups   map[string]*Group
	lookedAt time.Time // when the nodes were last asked who else there is
	closed   bool
	wg       sync.WaitGroup
}

// New makes a client. It connects when it is first used.
func New(cfg Config) (*Client, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	c := &Client{cfg: cfg, nodes: map[string]*node{}, groups: map[string]*Group{}}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.begin.Store(rand.Uint32N(1 << 16))
	return c, nil
}

// closeFor bounds the goodbyes of Close.
const closeFor = 2 * time.Second

// Close ends the sessions that the client opened by itself, as far as a node
// can be told so, and all connections. Calls under way fail.
func (c *Client) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	groups := make([]*Group, 0, len(c.groups))
	for _, g := range c.groups {
		groups = append(groups, g)
	}
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(c.ctx, closeFor)
	var wg sync.WaitGroup
	for _, g := range groups {
		wg.Go(func() { g.closeSessions(ctx) })
	}
	wg.Wait()
	cancel()
	c.cancel()
	c.mu.Lock()
	nodes := c.nodes
	c.nodes = nil
	c.mu.Unlock()
	for _, n := range nodes {
		n.close(errClosed)
	}
	c.wg.Wait()
	return nil
}

// Group is a handle on the group of that name; the same one each time.
func (c *Client) Group(name string) *Group {
	c.mu.Lock()
	defer c.mu.Unlock()
	g := c.groups[name]
	if g == nil {
		g = newGroup(c, name)
		c.groups[name] = g
	}
	return g
}

// seed is the i-th of the nodes known. Where to begin is drawn at the start, so
// that many clients spread.
func (c *Client) seed(i uint32) (*node, error) {
	c.mu.Lock()
	k := int(i) % (len(c.cfg.Addresses) + len(c.learnt))
	addr := ""
	if k < len(c.cfg.Addresses) {
		addr = c.cfg.Addresses[k]
	} else {
		addr = c.learnt[k-len(c.cfg.Addresses)]
	}
	c.mu.Unlock()
	return c.node(addr)
}

// node finds or makes the node at addr.
func (c *Client) node(addr string) (*node, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.nodes == nil {
		return nil, errClosed
	}
	c.learnLocked(addr)
	n := c.nodes[addr]
	if n == nil {
		n = newNode(c, addr)
		c.nodes[addr] = n
	}
	return n, nil
}

func (c *Client) learnLocked(addr string) {
	if slices.Contains(c.cfg.Addresses, addr) || slices.Contains(c.learnt, addr) {
		return
	}
	c.learnt = append(c.learnt, addr)
	if len(c.learnt) <= learntMax {
		return
	}
	old := c.nodes[c.learnt[0]]
	delete(c.nodes, c.learnt[0])
	c.learnt = slices.Delete(c.learnt, 0, 1)
	if old != nil {
		c.wg.Go(func() { old.close(errForgotten) })
	}
}

// lookEvery is how often the nodes are asked who else there is.
const lookEvery = 30 * time.Second

// lookAround learns the other nodes from one that has just been reached, so that
// one configured address is enough even when that node goes away later.
func (c *Client) lookAround(n *node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.nodes == nil || time.Since(c.lookedAt) < lookEvery {
		return
	}
	c.lookedAt = time.Now()
	c.wg.Go(func() {
		ctx, cancel := context.WithTimeout(c.ctx, c.cfg.DialTimeout)
		defer cancel()
		res, err := n.rpc.ListNodes(ctx, &pb.ListNodesRequest{})
		if err != nil {
			return // it is a hint; the next connection asks again
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, m := range res.Nodes {
			if _, err := hostPort(m.ClientAddr, c.cfg.TLS != nil); err == nil && c.nodes != nil {
				c.learnLocked(m.ClientAddr)
			}
		}
	})
}
