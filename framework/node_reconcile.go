package framework

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// reconcile makes what this node does follow from what the catalogue says:
// level-triggered on the view, gossip and a timer, so that nothing depends on
// having seen an event.
func (n *Node) reconcile(ctx context.Context) {
	tick := time.NewTicker(n.cfg.Tick)
	defer tick.Stop()
	var silent time.Time
	var kept *catalogueView
	for {
		views, own, members := n.views.wait(), n.changed.wait(), n.membersChanged()
		v := n.views.get()
		if v != kept {
			if err := n.keepView(v); err != nil {
				n.log.Error("the catalogue could not be written down", "err", err)
			} else {
				kept = v
			}
		}
		n.reconcileReplicas(ctx, v)
		n.initCatalogue(ctx, v)
		n.register(ctx, &silent)
		select {
		case <-views:
		case <-own:
			// What changed may be what was just done; the timer bounds how often.
			n.sleep(ctx, n.cfg.Tick/20)
		case <-members:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (n *Node) membersChanged() <-chan struct{} {
	if n.cfg.MembersChanged == nil {
		return nil
	}
	return n.cfg.MembersChanged()
}

// reconcileReplicas starts what is placed here and stops what is not.
func (n *Node) reconcileReplicas(ctx context.Context, v *catalogueView) {
	n.startSystem(v)
	for i := range v.state.Groups {
		n.startPlaced(ctx, &v.state.Groups[i])
	}
	for _, r := range n.table.Load().byID {
		n.judge(ctx, v, r)
	}
	n.clean(ctx, v)
}

// startSystem starts the system group's first replicas, which no catalogue can
// place.
func (n *Node) startSystem(v *catalogueView) {
	record, ok := n.systemRecord()
	if !ok || n.replica(record.Group.ID) != nil || v.state.Cluster != (UUID{}) {
		return
	}
	if old, _ := n.groupRecord(record.Group.ID); old != nil {
		return // stopped on purpose
	}
	n.begin(record)
}

// startPlaced starts a replica that the catalogue puts here.
func (n *Node) startPlaced(ctx context.Context, g *catalogueGroup) {
	if !slices.Contains(g.Placed, n.cfg.ID) || n.replica(g.ID) != nil {
		return
	}
	old, err := n.groupRecord(g.ID)
	if err != nil {
		n.log.Error("a replica cannot start", "group", g.Name, "err", err)
		return
	}
	record := groupRecord{Group: g.GroupInfo}
	switch {
	case old == nil:
		if slices.Contains(g.Founders, n.cfg.ID) {
			record.Founders = g.Founders
		}
	case old.Group.Incarnation < g.Incarnation:
		// What is here is of before the group was recovered without this node.
		if err := n.setAside(old); err != nil {
			n.log.Error("a replica cannot start", "group", g.Name, "err", err)
			return
		}
	case old.Group.Incarnation > g.Incarnation:
		return // recovered here; the catalogue is about to hear of it
	default:
		record = *old
		record.Group, record.Removed = g.GroupInfo, false
	}
	n.begin(record)
}

// begin writes a replica down and starts it.
func (n *Node) begin(record groupRecord) {
	if n.cfg.DataDir != "" {
		if err := writeGroupRecord(n.cfg.DataDir, record); err != nil {
			n.log.Error("a replica cannot start", "group", record.Group.Name, "err", err)
			return
		}
	}
	n.log.Info("starting replica", "group", record.Group.Name, "id", record.Group.ID, "founds", len(record.Founders) > 0)
	n.start(record)
}

// groupRecord reads what is on disk of a group; nil when there is nothing.
func (n *Node) groupRecord(id UUID) (*groupRecord, error) {
	if n.cfg.DataDir == "" {
		return nil, nil
	}
	path := filepath.Join(groupPath(n.cfg.DataDir, id), groupFile)
	if _, err := os.Stat(path); os.IsNotExist(err) {
		return nil, nil
	}
	var r groupRecord
	if err := readJSON(path, &r); err != nil {
		return nil, err
	}
	return &r, nil
}

// setAside keeps the data of a replica that can never be used again.
func (n *Node) setAside(r *groupRecord) error {
	from := groupPath(n.cfg.DataDir, r.Group.ID)
	to := fmt.Sprintf("%s.incarnation-%d", from, r.Group.Incarnation)
	n.log.Warn("the group was recovered without this replica: its data is set aside", "group", r.Group.Name, "in", to)
	if err := os.Rename(from, to); err != nil {
		return fmt.Errorf("set the old data aside: %w", err)
	}
	return syncDir(filepath.Join(n.cfg.DataDir, groupsDir))
}

// judge stops a replica that should not run, and tells the catalogue of one that
// was recovered. A group that the catalogue does not know runs on: only a
// tombstone ends one.
func (n *Node) judge(ctx context.Context, v *catalogueView, r *replica) {
	if t := v.state.tombstone(r.id); t != nil {
		n.log.Info("the group was destroyed: its replica is removed", "group", t.Name)
		n.drop(ctx, r)
		return
	}
	g := v.byID[r.id]
	if g == nil {
		return
	}
	r.mu.Lock()
	record := r.record
	r.mu.Unlock()
	switch {
	case record.Group.Incarnation > g.Incarnation:
		n.announceRecovery(ctx, r, record)
	case record.Group.Incarnation < g.Incarnation || !slices.Contains(g.Placed, n.cfg.ID):
		n.log.Info("this node's replica is no longer a member: it is stopped and its data kept", "group", g.Name)
		n.drop(ctx, r)
		record.Removed = true
		if err := r.write(record); err != nil {
			n.log.Error("a removed replica could not be marked", "group", g.Name, "err", err)
		}
	case !slices.Equal(record.Group.Placed, g.Placed):
		record.Group = g.GroupInfo
		if err := r.write(record); err != nil {
			n.log.Error("the placement could not be written down", "group", g.Name, "err", err)
		}
	}
}

// dropTimeout bounds the stop of a replica that is not wanted any more.
const dropTimeout = 3 * time.Second

// drop stops a replica and waits until it has.
func (n *Node) drop(ctx context.Context, r *replica) {
	ctx, cancel := context.WithTimeout(ctx, dropTimeout)
	defer cancel()
	n.table.Store(n.table.Load().with(r, false))
	r.halt(ctx)
	<-r.done
	n.changed.raise()
}

// announceRecovery tells the catalogue which members a recovery left. The group
// must have a leader again for that to be true; for the system group it is the
// one that commits it.
func (n *Node) announceRecovery(ctx context.Context, r *replica, record groupRecord) {
	g, err := r.running()
	if err != nil || g.EngineStatus().Role != RoleLeader {
		return
	}
	members := record.Recovered
	if len(members) == 0 {
		members = record.Group.Placed
	}
	cmd := catalogueCommand{Op: opIncarnation, ID: r.id, Incarnation: record.Group.Incarnation, Nodes: members}
	if _, err := n.proposeCatalogue(ctx, cmd, nil); err != nil {
		n.log.Warn("the catalogue has not heard of the recovery yet", "group", record.Group.Name, "err", err)
	}
}

// clean removes the data of destroyed groups and says so.
func (n *Node) clean(ctx context.Context, v *catalogueView) {
	for _, t := range v.state.Destroyed {
		if !slices.Contains(t.Nodes, n.cfg.ID) || n.replica(t.ID) != nil {
			continue
		}
		if n.cfg.DataDir != "" {
			if err := os.RemoveAll(groupPath(n.cfg.DataDir, t.ID)); err != nil {
				n.log.Error("the data of a destroyed group could not be removed", "group", t.Name, "err", err)
				continue
			}
		}
		if _, err := n.proposeCatalogue(ctx, catalogueCommand{Op: opCleaned, ID: t.ID, Target: n.cfg.ID}, nil); err != nil {
			n.log.Debug("the catalogue has not heard of the removal yet", "group", t.Name, "err", err)
		}
	}
}

// initCatalogue gives a new catalogue its cluster. Every node of the system
// group may; the first one does.
func (n *Node) initCatalogue(ctx context.Context, v *catalogueView) {
	record, ok := n.systemRecord()
	if !ok || v.state.Cluster != (UUID{}) || !n.systemIsLive() {
		return
	}
	cmd := catalogueCommand{Op: opInit, Cluster: n.Cluster(), ID: record.Group.ID, Spec: &record.Group.GroupSpec, Nodes: record.Group.Placed}
	if _, err := n.proposeCatalogue(ctx, cmd, nil); err != nil {
		n.log.Warn("the catalogue could not be begun", "err", err)
	}
}
