package framework

import (
	"context"
	"path/filepath"
	"slices"
	"time"
)

// Form makes this node one of those that form a cluster. It is called with the
// same arguments on each of them, once they have agreed (discovery's business);
// cluster is ClusterID(nodes). The first SystemReplicas of them, by id, vote in
// the system group. Calling it again does nothing; another cluster is refused.
func (n *Node) Form(ctx context.Context, cluster UUID, nodes []NodeID) error {
	nodes = sortedIDs(nodes)
	if !slices.Contains(nodes, n.cfg.ID) {
		return ErrInvalid.Because("node %s is not among those that form the cluster", n.cfg.ID)
	}
	if want := ClusterID(nodes); cluster != want {
		return ErrInvalid.Because("cluster %s is not the one that these %d nodes form (%s)", cluster, len(nodes), want)
	}
	return n.adopt(ctx, cluster, nodes[:min(len(nodes), n.cfg.SystemReplicas)])
}

// Join makes this node part of a cluster that others have formed. It registers
// itself as soon as it reaches one of them (see AwaitRegistered).
func (n *Node) Join(ctx context.Context, cluster UUID) error {
	if cluster == (UUID{}) {
		return ErrInvalid.Because("join names no cluster")
	}
	return n.adopt(ctx, cluster, nil)
}

// adopt writes down which cluster this is, before anything is done in its name.
func (n *Node) adopt(ctx context.Context, cluster UUID, system []NodeID) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return ErrDeadline
	case n.closing:
		return ErrStopped
	case n.record.Cluster == cluster:
		return nil
	case n.record.Cluster != (UUID{}):
		return ErrConflict.Because("this node belongs to cluster %s and cannot become part of %s: give it an empty data_dir for that", n.record.Cluster, cluster)
	}
	r := n.record
	r.Cluster, r.System = cluster, system
	if n.cfg.DataDir != "" {
		if err := writeJSON(filepath.Join(n.cfg.DataDir, nodeFile), r); err != nil {
			return err
		}
	}
	n.record = r
	n.changed.raise()
	return nil
}

// systemRecord is the replica of the system group that this node founds, when
// it is one of its first members.
func (n *Node) systemRecord() (groupRecord, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.record.Cluster == (UUID{}) || !slices.Contains(n.record.System, n.cfg.ID) {
		return groupRecord{}, false
	}
	spec := n.systemSpec(len(n.record.System))
	return groupRecord{
		Group: GroupInfo{
			GroupSpec: spec, ID: SystemGroupID(n.record.Cluster),
			Placed: slices.Clone(n.record.System), System: true,
		},
		Founders: slices.Clone(n.record.System),
	}, true
}

func (n *Node) systemSpec(replicas int) GroupSpec {
	s := GroupSpec{Name: SystemGroup, Engine: n.cfg.SystemEngine, Machine: CatalogueMachine, Replicas: replicas, Options: n.cfg.SystemOptions}
	return s.normal()
}

// AwaitRegistered waits until the catalogue has this node, or has refused it
// (another node has its name), or ctx ends.
func (n *Node) AwaitRegistered(ctx context.Context) error {
	for {
		changed := n.changed.wait()
		n.mu.Lock()
		err := n.registered
		n.mu.Unlock()
		if err == nil || AsError(err).Code == CodeConflict {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return err
		case <-n.ctx.Done():
			return ErrStopped
		}
	}
}

func (n *Node) setRegistered(err error) {
	n.mu.Lock()
	same := (err == nil) == (n.registered == nil) && (err == nil || err.Error() == n.registered.Error())
	n.registered = err
	n.mu.Unlock()
	if same {
		return
	}
	if err != nil {
		n.log.Warn("not registered in the catalogue", "err", err)
	}
	n.changed.raise()
}

// register makes the catalogue know this node by its name. silent is since when
// the name's present owner has not been heard of: a node whose data directory is
// new takes the name over from the one that it replaces, and never from one that
// lives.
func (n *Node) register(ctx context.Context, silent *time.Time) {
	v := n.views.get()
	if n.Cluster() == (UUID{}) || v.state.Cluster == (UUID{}) {
		return
	}
	if have := v.nodes[n.cfg.ID]; have != nil && have.Name == n.cfg.Name && have.Version == n.cfg.Version {
		n.setRegistered(nil)
		return
	}
	takeover := false
	if owner := v.state.nodeNamed(n.cfg.Name); owner != nil && owner.ID != n.cfg.ID {
		if n.isAlive(ctx, owner.ID) {
			*silent = time.Time{}
			n.setRegistered(nameTaken(n.cfg.Name, owner.ID))
			return
		}
		if silent.IsZero() {
			*silent = time.Now()
		}
		if time.Since(*silent) < takeoverTicks*n.cfg.Tick {
			return
		}
		takeover = true
		n.warnOfPredecessor(v, owner.ID)
	}
	self := catalogueNode{ID: n.cfg.ID, Name: n.cfg.Name, Version: n.cfg.Version}
	if _, err := n.proposeCatalogue(ctx, catalogueCommand{Op: opRegister, Node: &self, Takeover: takeover}, nil); err != nil {
		n.setRegistered(err)
		return
	}
	*silent = time.Time{}
	n.renewView(ctx) // then the next look finds this node in it
}

// takeoverTicks is for how many ticks the owner of a name must have been silent
// before another node may have it.
const takeoverTicks = 5

// isAlive reports whether a node is there: gossip says so, or it answers.
func (n *Node) isAlive(ctx context.Context, id NodeID) bool {
	for _, m := range n.members() {
		if m.ID == id && (m.Status == "alive" || m.Status == "suspect") {
			return true
		}
	}
	ctx, cancel := context.WithTimeout(ctx, n.cfg.CallTimeout)
	defer cancel()
	_, err := n.askStatus(ctx, id, nil)
	return err == nil
}

// warnOfPredecessor says what a node with a new disk cannot do.
func (n *Node) warnOfPredecessor(v *catalogueView, old NodeID) {
	for _, g := range v.state.Groups {
		if slices.Contains(g.Placed, old) {
			n.log.Warn("this node's data directory is new: it cannot vote in the place that its predecessor had; replace that one",
				"group", g.Name, "predecessor", old, "do", "diarchy group replace "+g.Name+" "+n.cfg.Name+" "+n.cfg.Name)
		}
	}
}

// proposeCatalogue has a command of the catalogue executed, wherever its leader
// is. into takes the answer and may be nil.
func (n *Node) proposeCatalogue(ctx context.Context, c catalogueCommand, into any) (Receipt, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 2*n.cfg.CallTimeout)
		defer cancel()
	}
	for pause := n.cfg.Tick / 16; ; pause = min(2*pause, n.cfg.Tick) {
		r, err := n.tryCatalogue(ctx, c)
		if err == nil {
			return r, catalogueAnswer(r, into)
		}
		// Its commands are idempotent, so what may have happened can be sent again.
		if HappenedOf(err) != Maybe && !elsewhere(err) && !isUnreachable(err) {
			return r, err
		}
		n.sleep(ctx, pause)
		if ctx.Err() != nil {
			return r, err
		}
	}
}

func (n *Node) tryCatalogue(ctx context.Context, c catalogueCommand) (Receipt, error) {
	t, err := n.target(n.systemID(), SystemGroup)
	if err != nil {
		return Receipt{}, err
	}
	return n.propose(ctx, t, Command{Data: c.encode()})
}
