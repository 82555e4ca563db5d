package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/diarchy/diarchy/discovery"
	"github.com/diarchy/diarchy/framework"
	"github.com/diarchy/diarchy/internal/certs"
	"github.com/diarchy/diarchy/internal/config"
	"github.com/diarchy/diarchy/plugins"
	"github.com/diarchy/diarchy/server"
)

// agent is one node, put together. What is opened is closed in the opposite
// order, also when a later part cannot be opened.
type agent struct {
	c       *config.Config
	log     *slog.Logger
	metrics *prometheus.Registry
	id      framework.NodeID
	certs   *certs.Source // nil without TLS
	// forceNew forgets a promise to form a cluster.
	forceNew bool

	gossip  *lateGossip
	host    *plugins.Host
	streams *framework.StreamNet
	// node and boot are asked by others while the agent is still being opened.
	node   atomic.Pointer[framework.Node]
	boot   atomic.Pointer[discovery.Bootstrapper]
	server *server.Server
	// served gets the server's end.
	served chan error
	// leaving is closed when a client asks the node to leave.
	leaving   chan struct{}
	leaveOnce atomic.Bool
	// failed gets what makes it pointless to go on.
	failed chan error
	// unsettled are the configured groups that are not there yet, and why.
	unsettled sync.Map

	// undo closes what is open, newest last.
	undo []func(context.Context) error
}

// closeWithin bounds an orderly end.
const closeWithin = 30 * time.Second

// closeGrace is what an end that has overrun gets to come to its end.
const closeGrace = 5 * time.Second

// leaveWithin bounds the goodbye to the pool, which others that end at the same
// moment do not answer.
const leaveWithin = 2 * time.Second

// openAgent starts a node. Either all of it runs, or nothing is left.
func openAgent(ctx context.Context, c *config.Config, log *slog.Logger, forceNew bool) (*agent, error) {
	a := &agent{
		c: c, log: log, forceNew: forceNew, gossip: newLateGossip(), served: make(chan error, 1), leaving: make(chan struct{}),
		failed: make(chan error, 1),
	}
	for _, g := range c.Groups {
		a.unsettled.Store(g.Name, "it waits for a cluster")
	}
	for _, part := range []func(context.Context) error{
		a.openIdentity, a.openMetrics, a.openPlugins, a.openStreams, a.openNode, a.openServer, a.openGossip,
	} {
		if err := part(ctx); err != nil {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeWithin)
			defer cancel()
			return nil, errors.Join(err, a.close(ctx))
		}
	}
	return a, nil
}

func (a *agent) onClose(f func(context.Context) error) { a.undo = append(a.undo, f) }

// close ends everything in order: no new requests, leadership handed over and
// what was accepted finished, then the pool left.
func (a *agent) close(ctx context.Context) error {
	var errs []error
	for i := len(a.undo) - 1; i >= 0; i-- {
		errs = append(errs, a.undo[i](ctx))
	}
	a.undo = nil
	return errors.Join(errs...)
}

func (a *agent) openIdentity(context.Context) (err error) {
	if a.id, err = framework.LoadNodeID(a.c.DataDir); err != nil {
		return err
	}
	if !a.c.TLS.Enabled() {
		return nil
	}
	t := a.c.TLS
	a.certs, err = certs.LoadNode(certs.Files{CA: t.CAFile, Cert: t.CertFile, Key: t.KeyFile}, a.log)
	if err != nil {
		return err
	}
	if is := a.certs.Identity().Name; is != a.c.Name {
		return fmt.Errorf("%s is the certificate of node %q and this node is %q: make one with 'diarchy tls cert create %s'", t.CertFile, is, a.c.Name, a.c.Name)
	}
	return nil
}

func (a *agent) openMetrics(context.Context) (err error) {
	ctx, cancel := context.WithCancel(context.Background())
	a.onClose(func(context.Context) error { cancel(); return nil })
	a.metrics, err = newMetrics(ctx)
	return err
}

func (a *agent) openPlugins(context.Context) (err error) {
	specs := []plugins.Spec{}
	for _, p := range a.c.Plugins {
		specs = append(specs, specOf(p))
	}
	a.host, err = plugins.New(plugins.Options{RunDir: filepath.Join(a.c.DataDir, "run"), Specs: specs, Logger: a.log})
	if err != nil {
		return err
	}
	a.onClose(func(context.Context) error { return a.host.Close() })
	return nil
}

func (a *agent) openStreams(ctx context.Context) error {
	l, err := listen(ctx, "peer.bind", a.c.Peer.Bind)
	if err != nil {
		return err
	}
	s := framework.StreamsConfig{
		Self: a.id, Name: a.c.Name, Cluster: a.cluster, Listener: l, Resolve: a.gossip.resolve,
		NameOf: a.gossip.nameOf, Logger: a.log, Metrics: a.metrics,
	}
	if a.certs != nil {
		s.TLS = &framework.StreamTLS{Server: a.certs.PeerServer(), Client: a.certs.PeerClient()}
	}
	a.streams, err = framework.NewStreams(s)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	a.onClose(func(context.Context) error { return a.streams.Close() })
	return nil
}

// listen opens a TCP port and says what to do when it cannot.
func listen(ctx context.Context, setting, addr string) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: give it a free port of this machine, or end what uses it", setting, err)
	}
	return l, nil
}

// cluster is asked at each handshake, also while the node is being opened.
func (a *agent) cluster() framework.UUID {
	if n := a.node.Load(); n != nil {
		return n.Cluster()
	}
	return framework.UUID{}
}

func (a *agent) openNode(ctx context.Context) error {
	c := a.c
	node, err := framework.OpenNode(ctx, framework.NodeConfig{
		ID: a.id, Name: c.Name, DataDir: c.DataDir, Streams: a.streams, Engines: engines, Machines: machines(a.host),
		Members: a.gossip.members, MembersChanged: a.gossip.changed,
		PeerAddr: c.Peer.Advertise, ClientAddr: c.Client.Advertise, GossipAddr: c.Gossip.Advertise, Version: version,
		Heartbeat: c.Timing.Heartbeat, Election: c.Timing.Election,
		StallAfter: c.Timing.StallAfter, MachineStallAfter: c.Timing.MachineStallAfter,
		Snapshots: framework.SnapshotPolicy{Entries: c.Snapshots.Entries, Bytes: c.Snapshots.Bytes, BytesPerSec: c.Snapshots.BytesPerSec},
		Logger:    a.log, Metrics: a.metrics,
	})
	if err != nil {
		return err
	}
	a.node.Store(node)
	// The pool is left after the node has handed over, which needs to find the
	// others, and before the port closes.
	a.onClose(a.leavePool)
	a.onClose(node.Close)
	return nil
}

func (a *agent) openServer(ctx context.Context) error {
	admin, reader, err := tokensIn(a.c.Client)
	if err != nil {
		return err
	}
	l, err := listen(ctx, "client.bind", a.c.Client.Bind)
	if err != nil {
		return err
	}
	s := server.Config{
		Service: a.node.Load(), Gossip: &gossipFace{pool: a.gossip, service: a.node.Load(), leave: a.askToLeave},
		Plugins: &pluginFace{a.host}, AdminToken: admin, ReadToken: reader, Hosts: hostsOf(a.c.Client),
		Version: version, Commit: thisVersion().Commit, Gatherer: a.metrics, Metrics: a.metrics,
		Pprof: a.c.Client.Pprof, Missing: a.missing, Logger: a.log,
	}
	if a.certs != nil {
		s.TLS = a.certs.Server()
	}
	if a.server, err = server.New(s); err != nil {
		return errors.Join(err, l.Close())
	}
	go func() { a.served <- a.server.Serve(l) }()
	a.onClose(a.server.Close)
	return nil
}

func (a *agent) askToLeave() {
	if a.leaveOnce.CompareAndSwap(false, true) {
		close(a.leaving)
	}
}

// hostsOf are the names by which clients may call this node.
func hostsOf(c config.Client) []string {
	host, _, _ := net.SplitHostPort(c.Advertise)
	return []string{host}
}

// tokensIn reads the two tokens; "" for one that is not configured.
func tokensIn(c config.Client) (admin, reader string, err error) {
	admin, err = secretIn(c.TokenFile)
	if err == nil {
		reader, err = secretIn(c.ReadonlyTokenFile)
	}
	return admin, reader, err
}

// secretIn is the text of a file without space around it; "" without a file.
func secretIn(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	b, err := os.ReadFile(file)
	return strings.TrimSpace(string(b)), err
}

func (a *agent) leavePool(ctx context.Context) error {
	pool := a.gossip.get()
	if pool == nil {
		return nil
	}
	leave, cancel := context.WithTimeout(ctx, leaveWithin)
	defer cancel()
	if err := pool.Leave(leave); err != nil {
		a.log.Warn("left the pool, perhaps unheard", "err", err)
	}
	return pool.Close()
}

func (a *agent) openGossip(context.Context) error {
	g, node := a.c.Gossip, a.node.Load()
	keys, err := discovery.LoadKeys("", g.EncryptFile)
	if err != nil {
		return fmt.Errorf("gossip.%w", err)
	}
	pool, err := discovery.Start(discovery.Config{
		Name: a.c.Name, ID: a.id, Cluster: node.Cluster(), DataDir: a.c.DataDir,
		Bind: g.Bind, Advertise: g.Advertise, PeerAddr: a.c.Peer.Advertise, ClientAddr: a.c.Client.Advertise,
		Version: version, Label: g.Label, Keys: keys, Join: g.Join, Timing: timings[g.Timing](),
		Logger: a.log, Metrics: a.metrics,
	})
	if err != nil {
		return fmt.Errorf("gossip.bind: %w", err)
	}
	a.gossip.set(pool)
	boot, err := discovery.StartBootstrap(discovery.BootstrapConfig{
		Pool: pool, ID: a.id, Dir: a.c.DataDir, Expect: g.BootstrapExpect, Cluster: node.Cluster(), ForceNew: a.forceNew,
		Form: node.Form, Join: node.Join, Logger: a.log,
	})
	if err != nil {
		return err
	}
	a.boot.Store(boot)
	a.onClose(func(context.Context) error { boot.Close(); return nil })
	return nil
}

var timings = map[string]func() discovery.Timing{"lan": discovery.LAN, "wan": discovery.WAN, "local": discovery.Local}

// missing is what /readyz waits for beside the node's own.
func (a *agent) missing() []string {
	boot := a.boot.Load()
	if boot == nil {
		return []string{"gossip does not run yet"}
	}
	s := boot.Status()
	switch {
	case s.Phase == discovery.PhaseFormed:
		return a.missingGroups()
	case s.Complaint != "":
		return []string{s.Complaint}
	case s.Waiting != "":
		return []string{s.Waiting}
	}
	return []string{"no cluster has been formed yet"}
}

func (a *agent) missingGroups() []string {
	out := []string{}
	a.unsettled.Range(func(name, why any) bool {
		out = append(out, fmt.Sprintf("group %s: %s", name, why))
		return true
	})
	slices.Sort(out)
	return out
}

// settle waits for the cluster, then has the configured groups created where
// they are not there. One that is there and differs ends the node.
func (a *agent) settle(ctx context.Context) {
	select {
	case <-a.boot.Load().Done():
	case <-ctx.Done():
		return
	}
	for _, g := range a.c.Groups {
		if err := a.settleGroup(ctx, groupSpecOf(g)); err != nil {
			if ctx.Err() == nil {
				a.failed <- fmt.Errorf("group %q of the configuration: %w", g.Name, err)
			}
			return
		}
		a.unsettled.Delete(g.Name)
	}
}

// settleGroup tries for as long as what is missing may still come.
func (a *agent) settleGroup(ctx context.Context, spec framework.GroupSpec) error {
	for {
		try, cancel := context.WithTimeout(ctx, settleTry)
		_, err := a.node.Load().Ensure(try, spec)
		late := try.Err() != nil
		cancel()
		if err == nil || ctx.Err() != nil || !late {
			return err
		}
		a.unsettled.Store(spec.Name, err.Error())
	}
}

// settleTry is how often /readyz hears anew why a group is not there.
const settleTry = 2 * time.Second
