package discovery

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/diarchy/diarchy/framework"
	"github.com/diarchy/diarchy/internal/hlog"
)

// Pool is this node's part in the gossip. Its methods are safe for concurrent
// use.
type Pool struct {
	cfg   Config
	log   *slog.Logger
	hints *hints
	list  *memberlist.Memberlist
	met   *metrics
	own   map[netip.AddrPort]bool
	ctx   context.Context
	stop  context.CancelFunc
	tasks tasks

	sources []Discoverer
	rejoin  rejoinFile
	search  search

	leave     sync.Mutex // one Leave or Close at a time
	left      bool
	closed    bool
	searching context.CancelFunc // ends the search, when the node leaves
}

// Start opens the gossip port and begins to search for others. It fails, with
// nothing left open, when the configuration is wrong or the port is taken;
// that nobody is found is no failure: the search never ends (see JoinStatus).
func Start(c Config) (*Pool, error) {
	p, err := prepare(c)
	if err != nil {
		return nil, err
	}
	if err := p.open(); err != nil {
		p.met.unregister()
		return nil, err
	}
	p.ctx, p.stop = context.WithCancel(context.Background())
	searching, end := context.WithCancel(p.ctx)
	p.searching = end
	p.tasks.run(p.tend)
	p.tasks.run(p.announce)
	p.tasks.run(func() { p.searchLoop(searching) })
	return p, nil
}

// tasks are the pool's goroutines. None begins once Close waits for them.
type tasks struct {
	mu    sync.Mutex
	ended bool
	wg    sync.WaitGroup
}

func (t *tasks) run(f func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.ended {
		t.wg.Go(f)
	}
	return !t.ended
}

func (t *tasks) end() {
	t.mu.Lock()
	t.ended = true
	t.mu.Unlock()
	t.wg.Wait()
}

// prepare checks what can be checked before a socket is open.
func prepare(c Config) (*Pool, error) {
	c.Timing = c.Timing.withDefaults()
	if c.Resolver == nil {
		c.Resolver = net.DefaultResolver
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	p := &Pool{cfg: c, log: c.Logger, rejoin: rejoinIn(c.DataDir)}
	for _, s := range c.Join {
		d, err := parseSource(s, c.Resolver)
		if err != nil {
			return nil, err
		}
		p.sources = append(p.sources, d)
	}
	var err error
	p.met, err = newMetrics(c.Metrics)
	return p, err
}

// open opens the sockets and starts memberlist on them.
func (p *Pool) open() error {
	ctx, cancel := context.WithTimeout(context.Background(), dnsTimeout)
	defer cancel()
	ip, port, err := resolveBind(ctx, p.cfg.Resolver, p.cfg.Bind)
	if err != nil {
		return err
	}
	filter := newLogFilter(hlog.New(p.log, "memberlist", slog.LevelDebug).StandardWriter(nil), p.met)
	logger := log.New(filter, "", 0)
	t, bound, err := listen(ip, port, logger, p.met.refused[refusedConnections])
	if err != nil {
		return err
	}
	if err := p.start(ctx, t, bound, logger); err != nil {
		_ = t.Shutdown()
		return err
	}
	return nil
}

func (p *Pool) start(ctx context.Context, t *transport, bound netip.AddrPort, logger *log.Logger) error {
	advertise, err := chooseAdvertise(ctx, p.cfg.Resolver, p.cfg.Advertise, bound)
	if err != nil {
		return err
	}
	p.own = ownAddrs(bound, advertise)
	meta, err := p.ownMeta(ctx, advertise.Addr())
	if err != nil {
		return err
	}
	p.hints, err = newHints(record{name: p.cfg.Name, addr: advertise, meta: meta}, p.cfg.Timing, p.met)
	if err != nil {
		return invalid("%v", err)
	}
	mc, err := p.cfg.memberlistConfig()
	if err != nil {
		return err
	}
	mc.Transport, mc.Logger = t, logger
	mc.BindAddr, mc.BindPort = bound.Addr().String(), int(bound.Port())
	mc.AdvertiseAddr, mc.AdvertisePort = advertise.Addr().String(), int(advertise.Port())
	mc.Delegate, mc.Events, mc.Alive, mc.Merge, mc.Conflict = p.hints, p.hints, p.hints, p.hints, p.hints
	p.list, err = memberlist.Create(mc)
	if err != nil {
		return fmt.Errorf("start gossip: %w", err)
	}
	p.log.Info("gossip runs", "name", p.cfg.Name, "node", p.cfg.ID, "bind", bound, "advertise", advertise,
		"label", p.cfg.Label, "encrypted", len(p.cfg.Keys) > 0)
	return nil
}

// ownMeta is what this node tells of itself.
func (p *Pool) ownMeta(ctx context.Context, advertise netip.Addr) (Meta, error) {
	id, err := framework.ParseUUID(string(p.cfg.ID))
	if err != nil {
		return Meta{}, err
	}
	m := Meta{ID: id, Cluster: p.cfg.Cluster, Run: rand.Uint64()}
	m.Version = p.cfg.Version[:min(len(p.cfg.Version), VersionBytesMax)]
	if m.Cluster != (framework.UUID{}) {
		m.Agreement = Agreement{Phase: PhaseFormed, Cluster: m.Cluster}
	}
	if p.cfg.ClientAddr != "" {
		if m.Client, err = completeAddr("client address", p.cfg.ClientAddr, advertise); err != nil {
			return Meta{}, err
		}
	}
	peer, err := completeAddr("peer address", p.cfg.PeerAddr, advertise)
	if err != nil {
		return Meta{}, err
	}
	host, port, err := splitAddr(peer, 0)
	if err != nil {
		return Meta{}, err
	}
	ips, err := lookup(ctx, p.cfg.Resolver, host)
	if err != nil || len(ips) == 0 {
		return Meta{}, invalid("peer address %q does not resolve: %v", p.cfg.PeerAddr, err)
	}
	m.Peer = netip.AddrPortFrom(ips[0], port)
	if m.Peer.Addr() == advertise {
		m.Peer = netip.AddrPortFrom(netip.Addr{}, port)
	}
	return m, nil
}

// Members gives all that is known, this node included, sorted by name. Nodes of
// another cluster are not in it.
func (p *Pool) Members() []Member {
	records := p.hints.snapshot()
	out := make([]Member, len(records))
	for i := range records {
		out[i] = p.memberOf(&records[i])
	}
	return out
}

func (p *Pool) memberOf(r *record) Member {
	return Member{
		ID: framework.NodeID(r.meta.ID.String()), Name: r.name,
		GossipAddr: r.addr.String(), PeerAddr: r.peerAddr(), ClientAddr: r.meta.Client,
		Status: r.status, Since: r.since, Version: r.meta.Version, Cluster: r.meta.Cluster,
		Self: r.name == p.cfg.Name, Meta: r.meta,
	}
}

func (r *record) peerAddr() string {
	if r.meta.Peer.Addr().IsValid() {
		return r.meta.Peer.String()
	}
	return netip.AddrPortFrom(r.addr.Addr(), r.meta.Peer.Port()).String()
}

// PeerAddr is a framework.Resolver: the peer address of a node that is alive,
// else the last known one of a node that has failed.
func (p *Pool) PeerAddr(id framework.NodeID) (string, bool) {
	u, err := framework.ParseUUID(string(id))
	if err != nil {
		return "", false
	}
	return p.hints.peerAddr(u)
}

func (h *hints) peerAddr(id framework.UUID) (addr string, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range h.members {
		if r.meta.ID != id || r.status == Left || h.otherCluster(r.meta.Cluster) {
			continue
		}
		if addr, ok = r.peerAddr(), true; r.status == Alive {
			break
		}
	}
	return addr, ok
}

// Changed returns a channel that is closed at the next change of Members, or at
// the end of the search's first round. To miss nothing: take the channel, then
// read.
func (p *Pool) Changed() <-chan struct{} { return p.hints.changedChan() }

// Conflicts lists who has been refused of late because of a name, an id or a
// cluster.
func (p *Pool) Conflicts() []Conflict {
	p.hints.mu.Lock()
	defer p.hints.mu.Unlock()
	return p.hints.conflicts.list()
}

// SetMeta changes what this node tells of itself. The id and the run are not
// its to change. On error nothing is changed.
func (p *Pool) SetMeta(change func(*Meta)) error {
	h := p.hints
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.self.meta
	change(&m)
	m.ID, m.Run = h.self.meta.ID, h.self.meta.Run
	return h.setMeta(m)
}

// announceTimeout is how long one announcement may wait to be sent once; it is
// queued all the same.
const announceTimeout = 500 * time.Millisecond

// announce publishes changed metadata.
func (p *Pool) announce() {
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-p.hints.publish:
			_ = p.list.UpdateNode(announceTimeout) // only ever that it took longer
		}
	}
}

// tendEvery is how often the table is looked through without cause.
const tendEvery = 5 * time.Second

// tend does for the callbacks what they must not: log, write, count.
func (p *Pool) tend() {
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	told := map[string]Status{}
	for {
		p.hints.reap(p.cfg.Timing)
		p.logConflicts()
		records := p.hints.snapshot()
		p.logChanges(told, records)
		p.gauge(records)
		p.saveRejoin(records)
		select {
		case <-p.ctx.Done():
			return
		case <-p.hints.dirty:
		case <-tick.C:
		}
	}
}

func (p *Pool) logConflicts() {
	h := p.hints
	h.mu.Lock()
	now := h.now()
	h.conflicts.expire(now)
	list := h.conflicts.toLog(now)
	h.mu.Unlock()
	for _, c := range list {
		// At first it may be a node that was restarted elsewhere.
		level := slog.LevelWarn
		if c.Kind == SameName || c.Last.Sub(c.First) > conflictLogEvery/2 {
			level = slog.LevelError
		}
		p.log.Log(context.Background(), level, "gossip refused a node: "+c.Text, "conflict", c.Kind, "count", c.Count)
	}
}

func (p *Pool) logChanges(told map[string]Status, records []record) {
	for i := range records {
		r := &records[i]
		if was, known := told[r.name]; r.name == p.cfg.Name || known && was == r.status {
			continue
		}
		told[r.name] = r.status
		p.log.Info("member "+r.status.String(), "member", r.name, "id", r.meta.ID, "gossip", r.addr)
	}
	if len(told) > 2*len(records)+16 {
		clear(told) // names that come and go
	}
}

func (p *Pool) gauge(records []record) {
	var n [Left + 1]int
	for i := range records {
		n[records[i].status]++
	}
	for s := Alive; s <= Left; s++ {
		p.met.members.WithLabelValues(s.String()).Set(float64(n[s]))
	}
}

// Close ends the pool's part in the gossip. Without Leave before it others see
// the node as failed. After it nothing of the pool runs.
func (p *Pool) Close() error {
	p.leave.Lock()
	defer p.leave.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	p.stop()
	err := p.list.Shutdown()
	p.tasks.end()
	p.saveRejoin(p.hints.snapshot())
	p.met.unregister()
	return err
}
