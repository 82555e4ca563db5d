package framework

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"

	"github.com/diarchy/diarchy/fsm"
)

// NodeConfig is what a node is opened with. ID, Name, Streams and Engines must
// be set; zero fields of the rest take what is said.
type NodeConfig struct {
	// ID is LoadNodeID(DataDir); random for a node without a directory.
	ID NodeID
	// Name is the node's label, unique in the cluster.
	Name string
	// DataDir is the node's own directory; "" keeps nothing on disk (tests).
	DataDir string
	// Streams carries everything between nodes. It is the caller's: Close
	// leaves it open.
	Streams Streams
	// Engines are the drivers by the name that GroupSpec.Engine uses.
	Engines map[string]EngineDriver
	// Machines makes the factory for GroupSpec.Machine of the group named.
	Machines func(group, machine string) (fsm.Factory, error)

	// Members is what is known of other nodes now (gossip's hints), and
	// MembersChanged a channel that is closed when that changes. Both may be nil.
	Members        func() []NodeInfo
	MembersChanged func() <-chan struct{}

	// SystemEngine is the system group's engine ("raft"), SystemOptions its
	// settings; SystemReplicas how many of the nodes that form a cluster vote in
	// it (5).
	SystemEngine   string
	SystemOptions  map[string]string
	SystemReplicas int

	// Addresses, for others to see.
	PeerAddr, ClientAddr, GossipAddr, Version string

	// Heartbeat and Election are the engines' timeouts; zero takes theirs.
	Heartbeat, Election           time.Duration
	StallAfter, MachineStallAfter time.Duration
	Snapshots                     SnapshotPolicy
	Queues                        QueueLimits
	// Tick is how often what is level-triggered is looked at all the same (1 s).
	Tick time.Duration
	// CallTimeout bounds short calls to other nodes (2 s).
	CallTimeout time.Duration
	// LeaderWait is how long a request waits for a group that has no leader (3 s).
	LeaderWait time.Duration

	// Now stamps commands; nil takes time.Now.
	Now     func() time.Time
	Logger  *slog.Logger
	Metrics prometheus.Registerer
}

func (c *NodeConfig) withDefaults() error {
	if _, err := ParseUUID(string(c.ID)); err != nil {
		return fmt.Errorf("node id: %w", err)
	}
	if err := ValidName(c.Name); err != nil {
		return fmt.Errorf("node name: %w", err)
	}
	if c.Streams == nil || len(c.Engines) == 0 {
		return errors.New("a node needs Streams and Engines")
	}
	if c.Machines == nil {
		c.Machines = func(_, m string) (fsm.Factory, error) { return nil, fmt.Errorf("no machine is called %q", m) }
	}
	if c.SystemEngine == "" {
		c.SystemEngine = "raft"
	}
	if c.SystemReplicas <= 0 {
		c.SystemReplicas = 5
	}
	for p, d := range map[*time.Duration]time.Duration{&c.Tick: time.Second, &c.CallTimeout: 2 * time.Second, &c.LeaderWait: 3 * time.Second} {
		if *p <= 0 {
			*p = d
		}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Node is a process's part in a cluster: its replicas of any number of groups,
// and the way to all others. It implements Service. Start with this file; what
// it does by itself is in node_form.go, node_view.go and node_reconcile.go, what
// it does when asked in node_route.go, node_admin.go, node_members.go,
// node_status.go and node_backup.go.
//
// Invariants:
//   - what DataDir holds belongs to cfg.ID and, once record.Cluster is set, to
//     that cluster alone;
//   - table is replaced, never changed, and by reconcile alone (before it runs,
//     by OpenNode);
//   - a replica in table is running, being opened, or waiting to be opened again.
type Node struct {
	cfg     NodeConfig
	log     *slog.Logger
	lock    *dataLock
	peers   *peers
	server  *peerServer
	views   *views
	changed *signal // replicas, cluster, registration
	polled  *polled
	hints   sync.Map // UUID -> NodeID: who led a group that is not hosted here
	table   atomic.Pointer[replicaTable]

	viewTurn  atomic.Uint32
	refreshes refreshGate
	searches  singleflight.Group

	ctx    context.Context // ends when Close begins
	cancel context.CancelFunc
	loops  sync.WaitGroup
	// serving ends when every replica has been closed: until then the answers to
	// what was accepted still go out.
	serving     context.Context
	stopServing context.CancelFunc

	mu         sync.Mutex
	record     nodeRecord
	registered error // nil once registered; why not
	closed     chan struct{}
	closing    bool
}

var _ Service = (*Node)(nil)

// replicaTable is the replicas of this node.
type replicaTable struct {
	byID   map[UUID]*replica
	byName map[string]*replica
}

// with returns a copy with or without one replica.
func (t *replicaTable) with(r *replica, in bool) *replicaTable {
	c := &replicaTable{byID: map[UUID]*replica{}, byName: map[string]*replica{}}
	for id, x := range t.byID {
		if id != r.id {
			c.byID[id] = x
		}
	}
	if in {
		c.byID[r.id] = r
	}
	for _, x := range c.byID {
		c.byName[x.info().Name] = x
	}
	return c
}

// OpenNode starts a node: the replicas that its directory holds run at once,
// whatever has become of the system group.
func OpenNode(ctx context.Context, c NodeConfig) (*Node, error) {
	if err := c.withDefaults(); err != nil {
		return nil, fmt.Errorf("open node: %w", err)
	}
	n := &Node{
		cfg: c, log: c.Logger.With("node", c.Name), views: newViews(), changed: newSignal(), polled: newPolled(),
		registered: ErrNoQuorum.Because("this node has not been registered in the catalogue yet"), closed: make(chan struct{}),
	}
	n.table.Store(&replicaTable{})
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.serving, n.stopServing = context.WithCancel(context.Background())
	limits := GroupConfig{Queues: c.Queues}
	limits.withDefaults()
	n.peers = newPeers(c.Streams, laneLimits{ops: limits.Queues.Proposals, bytes: limits.Queues.ProposalBytes})
	records, err := n.openDataDir()
	if err == nil {
		n.server, err = servePeers(c.Streams, peerService{n: n}, n.log)
	}
	if err != nil {
		n.cancel()
		n.stopServing()
		n.peers.close()
		n.lock.release()
		return nil, fmt.Errorf("open node %q: %w", c.Name, err)
	}
	for _, r := range records {
		if !r.Removed {
			n.start(r)
		}
	}
	for _, loop := range []func(context.Context){n.followCatalogue, n.reconcile, n.pollPeers} {
		n.loops.Add(1)
		go func() { defer n.loops.Done(); loop(n.ctx) }()
	}
	return n, nil
}

// openDataDir takes the directory, settles whose it is and returns what
// replicas it has.
func (n *Node) openDataDir() ([]groupRecord, error) {
	n.record = nodeRecord{Format: dirFormat, ID: n.cfg.ID, Name: n.cfg.Name}
	dir := n.cfg.DataDir
	if dir == "" {
		return nil, nil
	}
	var err error
	if n.lock, err = lockDataDir(dir); err != nil {
		return nil, err
	}
	r, err := loadNodeRecord(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		r = nodeRecord{Format: dirFormat, ID: n.cfg.ID}
	case err != nil:
		return nil, err
	case r.ID != n.cfg.ID:
		return nil, ErrConflict.Because("data directory %s belongs to node %s, and this is node %s: give each node a directory of its own", dir, r.ID, n.cfg.ID)
	case r.Name != "" && r.Name != n.cfg.Name:
		return nil, ErrConflict.Because("data directory %s belongs to node %q, and this node is configured as %q: set name = %q, or give this node a directory of its own",
			dir, r.Name, n.cfg.Name, r.Name)
	}
	if r.Name == "" {
		r.Name = n.cfg.Name
		if err := writeJSON(filepath.Join(dir, nodeFile), r); err != nil {
			return nil, err
		}
	}
	n.record = r
	n.loadView()
	return loadGroupRecords(dir)
}

// ID is the node's id.
func (n *Node) ID() NodeID { return n.cfg.ID }

// Cluster is the cluster that the node belongs to; zero while it has neither
// formed nor joined one.
func (n *Node) Cluster() UUID {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.record.Cluster
}

func (n *Node) systemID() UUID { return SystemGroupID(n.Cluster()) }

// Self implements Service.
func (n *Node) Self() NodeInfo {
	info := NodeInfo{
		ID: n.cfg.ID, Name: n.cfg.Name, Status: "alive", PeerAddr: n.cfg.PeerAddr, ClientAddr: n.cfg.ClientAddr,
		GossipAddr: n.cfg.GossipAddr, Version: n.cfg.Version, Self: true, Cluster: n.Cluster(), Groups: []string{},
	}
	for name := range n.table.Load().byName {
		info.Groups = append(info.Groups, name)
	}
	slices.Sort(info.Groups)
	return info
}

// Changed is closed at the next change of what this node hosts, of its cluster
// or its registration.
func (n *Node) Changed() <-chan struct{} { return n.changed.wait() }

func (n *Node) members() []NodeInfo {
	if n.cfg.Members == nil {
		return nil
	}
	return n.cfg.Members()
}

func (n *Node) replica(id UUID) *replica { return n.table.Load().byID[id] }

// start puts a replica in the table and runs it.
func (n *Node) start(record groupRecord) *replica {
	r := n.newReplica(record)
	n.table.Store(n.table.Load().with(r, true))
	go r.run(n.ctx)
	n.changed.raise()
	return r
}

// Close stops everything: leaders hand over, what was accepted is finished.
// When ctx ends first the rest is stopped at once. A second call waits for the
// first.
func (n *Node) Close(ctx context.Context) error {
	n.mu.Lock()
	if n.closing {
		n.mu.Unlock()
		<-n.closed
		return nil
	}
	n.closing = true
	n.mu.Unlock()
	defer close(n.closed)
	n.cancel()
	n.loops.Wait()
	replicas := n.table.Load().byID
	for _, r := range replicas {
		r.halt(ctx)
	}
	for _, r := range replicas {
		<-r.done
	}
	n.stopServing()
	n.server.stop(ctx)
	n.peers.close()
	n.lock.release()
	return nil
}
