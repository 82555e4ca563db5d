package framework

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/diarchy/diarchy/fsm"
)

// replica is one group's replica on this node, from the moment that it is wanted
// here: it is opened, and opened again while that fails, until it is stopped.
type replica struct {
	n    *Node
	id   UUID
	stop chan struct{} // closed by halt
	done chan struct{} // closed when run has ended
	once sync.Once
	// live is group while it takes requests.
	live atomic.Pointer[Group]

	mu      sync.Mutex
	record  groupRecord
	group   *Group
	err     error // why it is not running
	halted  bool
	closing context.Context // what Close may take
	metrics *scopedMetrics  // of group; run's alone
}

func (n *Node) newReplica(record groupRecord) *replica {
	return &replica{n: n, id: record.Group.ID, record: record, stop: make(chan struct{}), done: make(chan struct{})}
}

// running returns the group; while it is not open, why.
func (r *replica) running() (*Group, error) {
	if g := r.live.Load(); g != nil {
		return g, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.halted:
		return nil, ErrStopped.Because("this node's replica of group %q is being stopped", r.record.Group.Name)
	case r.err != nil:
		return nil, ErrStopped.Because("this node's replica of group %q cannot start: %s", r.record.Group.Name, r.err)
	}
	return nil, ErrStopped.Because("this node's replica of group %q is starting", r.record.Group.Name)
}

func (r *replica) info() GroupInfo {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.record.Group
}

// run opens the replica and keeps it until halt.
func (r *replica) run(ctx context.Context) {
	defer close(r.done)
	pause := r.n.cfg.Tick / 2
	for {
		g, err := r.open(ctx)
		if err == nil {
			r.n.changed.raise()
			<-r.stop
			r.close(g)
			return
		}
		r.n.log.Error("replica cannot start; it will be tried again", "group", r.info().Name, "err", err, "pause", pause)
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-r.stop:
			t.Stop()
			return
		}
		pause = min(2*pause, 30*time.Second)
	}
}

func (r *replica) open(ctx context.Context) (*Group, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // halt also ends a start that takes long
		select {
		case <-r.stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	g, err := r.tryOpen(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.group, r.err = g, err
	if !r.halted {
		r.live.Store(g)
	}
	return g, err
}

func (r *replica) tryOpen(ctx context.Context) (*Group, error) {
	n := r.n
	r.mu.Lock()
	record := r.record
	r.mu.Unlock()
	dir, err := r.prepare(record)
	if err != nil {
		return nil, err
	}
	c, err := r.config(record, dir)
	if err != nil {
		return nil, err
	}
	metrics := newScopedMetrics(n.cfg.Metrics, record.Group.Name)
	c.Metrics = metrics.registerer()
	g, err := OpenGroup(ctx, c)
	if err != nil {
		metrics.unregister()
		return nil, err
	}
	r.metrics = metrics
	if !record.Started && dir != "" {
		record.Started = true
		if err := r.write(record); err != nil {
			err = errors.Join(err, g.Close(ctx))
			metrics.unregister()
			return nil, err
		}
	}
	return g, nil
}

// prepare makes the replica's directory. One that has run before and whose data
// is gone must not begin anew under the same name: it has forgotten its votes.
func (r *replica) prepare(record groupRecord) (string, error) {
	if r.n.cfg.DataDir == "" {
		return "", nil
	}
	dir := filepath.Join(groupPath(r.n.cfg.DataDir, r.id), replicaDir)
	if record.Started {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("read the replica's directory: %w", err)
		}
		if len(entries) == 0 {
			return "", fmt.Errorf("its data in %s is gone: it cannot vote in its old place; give the node an empty data_dir and run 'diarchy group replace %s OLD NEW'",
				dir, record.Group.Name)
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make the replica's directory: %w", err)
	}
	return dir, nil
}

func (r *replica) config(record groupRecord, dir string) (GroupConfig, error) {
	n, info := r.n, record.Group
	driver, ok := n.cfg.Engines[info.Engine]
	if !ok {
		return GroupConfig{}, n.unknownEngine(info.Name, info.Engine)
	}
	machine, err := n.machine(info)
	if err != nil {
		return GroupConfig{}, fmt.Errorf("machine %s: %w", info.Machine, err)
	}
	var bootstrap []Member
	if !record.Started {
		for _, id := range record.Founders {
			bootstrap = append(bootstrap, Member{ID: id, Suffrage: Voter})
		}
	}
	id := r.id
	return GroupConfig{
		Identity: GroupIdentity{ID: id, Incarnation: info.Incarnation, Name: info.Name},
		Self:     n.cfg.ID, Dir: dir, Bootstrap: bootstrap,
		Engine: driver, EngineOptions: info.Options,
		Machine: machine, MachineName: info.Machine, Limits: info.Limits, Streams: n.cfg.Streams,
		Heartbeat: n.cfg.Heartbeat, Election: n.cfg.Election, Snapshots: n.cfg.Snapshots, Queues: n.cfg.Queues,
		StallAfter: n.cfg.StallAfter, MachineStallAfter: n.cfg.MachineStallAfter, Now: n.cfg.Now,
		PeerState:    func(peer NodeID) (ReplicaStatus, bool) { return n.polled.get(id, peer) },
		FetchPayload: n.fetcher(id),
		Logger:       n.log,
	}, nil
}

// machine makes the factory for a group's machine.
func (n *Node) machine(info GroupInfo) (fsm.Factory, error) {
	if !info.System {
		if info.Machine == CatalogueMachine {
			return nil, errors.New("it is the system group's alone")
		}
		return n.cfg.Machines(info.Name, info.Machine)
	}
	incarnation := info.Incarnation
	return func(context.Context) (fsm.Machine, error) {
		return newCatalogue(func(s *catalogueState) { n.views.offer(incarnation, s) }), nil
	}, nil
}

// write replaces group.json, and what is known of it here.
func (r *replica) write(record groupRecord) error {
	if r.n.cfg.DataDir != "" {
		if err := writeGroupRecord(r.n.cfg.DataDir, record); err != nil {
			return err
		}
	}
	r.mu.Lock()
	r.record = record
	r.mu.Unlock()
	return nil
}

func (r *replica) close(g *Group) {
	r.mu.Lock()
	ctx := r.closing
	r.mu.Unlock()
	if err := g.Close(ctx); err != nil {
		r.n.log.Warn("close replica", "group", r.info().Name, "err", err)
	}
	r.metrics.unregister()
}

// halt begins to stop the replica; ctx bounds what that may take. <-r.done says
// when it has.
func (r *replica) halt(ctx context.Context) {
	r.once.Do(func() {
		r.mu.Lock()
		r.halted, r.closing = true, ctx
		r.live.Store(nil)
		r.mu.Unlock()
		close(r.stop)
	})
}

// replicaReport is what a replica says of itself to other nodes.
type replicaReport struct {
	Status      ReplicaStatus  `json:"status"`
	Incarnation uint32         `json:"incarnation"`
	Membership  Membership     `json:"membership"`
	Peers       []PeerProgress `json:"peers,omitempty"`
}

// report is cheap and never blocks.
func (r *replica) report() replicaReport {
	r.mu.Lock()
	g, err, info := r.group, r.err, r.record.Group
	r.mu.Unlock()
	rep := replicaReport{Incarnation: info.Incarnation}
	if g != nil {
		es := g.EngineStatus()
		rep.Status, rep.Membership, rep.Peers = g.Status(), es.Membership, es.Peers
	} else {
		rep.Status = ReplicaStatus{
			Node: r.n.cfg.ID, Reachable: true, Role: RoleStopped.String(), Suffrage: "none", Lag: -1, SnapshotProgress: -1,
			Machine: MachineStatus{State: "starting"},
		}
		if err != nil {
			rep.Status.Machine.State, rep.Status.Err = "stopped", err.Error()
		}
	}
	rep.Status.Name = r.n.cfg.Name
	return rep
}
