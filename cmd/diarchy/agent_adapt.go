package main

import (
	"context"
	"sync"

	pb "github.com/diarchy/diarchy/client/clientpb"
	"github.com/diarchy/diarchy/discovery"
	"github.com/diarchy/diarchy/framework"
	"github.com/diarchy/diarchy/plugins"
	"github.com/diarchy/diarchy/plugins/fsmpb"
)

// lateGossip is the pool for those who need it before it runs: the pool starts
// last, as it must know the node's cluster.
type lateGossip struct {
	mu      sync.Mutex
	pool    *discovery.Pool
	started chan struct{}
}

func newLateGossip() *lateGossip { return &lateGossip{started: make(chan struct{})} }

func (l *lateGossip) set(p *discovery.Pool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pool = p
	close(l.started)
}

func (l *lateGossip) get() *discovery.Pool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pool
}

// resolve is a framework.Resolver.
func (l *lateGossip) resolve(id framework.NodeID) (string, bool) {
	if p := l.get(); p != nil {
		return p.PeerAddr(id)
	}
	return "", false
}

// members is framework.NodeConfig.Members.
func (l *lateGossip) members() []framework.NodeInfo {
	p := l.get()
	if p == nil {
		return nil
	}
	var out []framework.NodeInfo
	for _, m := range p.Members() {
		out = append(out, framework.NodeInfo{
			ID: m.ID, Name: m.Name, Status: m.Status.String(), PeerAddr: m.PeerAddr, ClientAddr: m.ClientAddr,
			GossipAddr: m.GossipAddr, Version: m.Version, Self: m.Self, Cluster: m.Cluster,
		})
	}
	return out
}

// changed is framework.NodeConfig.MembersChanged.
func (l *lateGossip) changed() <-chan struct{} {
	if p := l.get(); p != nil {
		return p.Changed()
	}
	return l.started
}

// nameOf is framework.StreamsConfig.NameOf.
func (l *lateGossip) nameOf(id framework.NodeID) (string, bool) {
	for _, m := range l.members() {
		if m.ID == id {
			return m.Name, true
		}
	}
	return "", false
}

// gossipFace is the pool as the server sees it.
type gossipFace struct {
	pool    *lateGossip
	service framework.Service
	// leave asks the process to end in order.
	leave func()
}

var errNoPool = framework.ErrUnsupported.Because("this node's gossip does not run yet")

func (g *gossipFace) Members(ctx context.Context) ([]*pb.PoolMember, error) {
	groups := map[framework.NodeID][]string{}
	if nodes, err := g.service.Nodes(ctx); err == nil {
		for _, n := range nodes {
			groups[n.ID] = n.Groups
		}
	}
	out := []*pb.PoolMember{}
	for _, m := range g.pool.members() {
		out = append(out, &pb.PoolMember{
			Name: m.Name, Id: string(m.ID), Addr: m.GossipAddr, Status: m.Status, Version: m.Version, Groups: groups[m.ID],
		})
	}
	return out, nil
}

func (g *gossipFace) Join(ctx context.Context, addrs []string) (int, error) {
	p := g.pool.get()
	if p == nil {
		return 0, errNoPool
	}
	n, err := p.Join(ctx, addrs)
	if err != nil && framework.AsError(err).Code == framework.CodeInternal {
		err = framework.ErrInvalid.Because("%s", err)
	}
	return n, err
}

func (g *gossipFace) Leave(context.Context) error {
	g.leave()
	return nil
}

func (g *gossipFace) ForceLeave(ctx context.Context, node string) error {
	p := g.pool.get()
	if p == nil {
		return errNoPool
	}
	return p.ForceLeave(ctx, node)
}

// pluginFace is the plugin host as the server sees it.
type pluginFace struct{ host *plugins.Host }

func (f *pluginFace) List(context.Context) ([]*pb.Plugin, error) {
	out := []*pb.Plugin{}
	for _, i := range f.host.List() {
		out = append(out, pluginOf(i))
	}
	return out, nil
}

func (f *pluginFace) Info(_ context.Context, name string) (*pb.Plugin, error) {
	for _, i := range f.host.List() {
		if i.Name == name {
			return pluginOf(i), nil
		}
	}
	return nil, framework.ErrInvalid.Because("this node has no plugin %q; 'diarchy plugin list' shows those it has", name)
}

func pluginOf(i plugins.Info) *pb.Plugin {
	p := &pb.Plugin{
		Name: i.Name, Path: i.Path, Sha256: i.SHA256, Version: i.Version, Problem: i.Problem,
		Protocols: []uint32{fsmpb.ProtocolVersion},
	}
	for _, r := range i.Running {
		state := "starting"
		if r.Machine != nil {
			state = "running"
		}
		p.Processes = append(p.Processes, &pb.PluginProcess{Group: r.Group, Pid: int64(r.PID), State: state, Since: r.Started.UnixNano()})
	}
	return p
}
