package framework

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/diarchy/diarchy/framework/peerpb"
)

// catalogueView is the catalogue as this node knows it: perhaps behind, never
// changed. Later is what has the higher incarnation of the system group, then
// the higher number: after a recovery that lost commands the numbers may be
// lower, and are newer all the same.
type catalogueView struct {
	incarnation uint32
	state       *catalogueState
	byID        map[UUID]*catalogueGroup
	byName      map[string]*catalogueGroup
	nodes       map[NodeID]*catalogueNode
}

func newCatalogueView(incarnation uint32, s *catalogueState) *catalogueView {
	v := &catalogueView{
		incarnation: incarnation, state: s, byID: map[UUID]*catalogueGroup{},
		byName: map[string]*catalogueGroup{}, nodes: map[NodeID]*catalogueNode{},
	}
	for i := range s.Groups {
		g := &s.Groups[i]
		v.byID[g.ID], v.byName[g.Name] = g, g
	}
	for i := range s.Nodes {
		v.nodes[s.Nodes[i].ID] = &s.Nodes[i]
	}
	return v
}

func (v *catalogueView) newerThan(incarnation uint32, number uint64) bool {
	if v.incarnation != incarnation {
		return v.incarnation > incarnation
	}
	return v.state.Number > number
}

// nodeName is what to call a node in messages.
func (v *catalogueView) nodeName(id NodeID) string {
	if n := v.nodes[id]; n != nil {
		return n.Name
	}
	return string(id)
}

// views holds the newest view; get costs no lock.
type views struct {
	now     atomic.Pointer[catalogueView]
	mu      sync.Mutex
	changed *signal
}

func newViews() *views {
	v := &views{changed: newSignal()}
	v.now.Store(newCatalogueView(0, &catalogueState{Format: catalogueFormat}))
	return v
}

func (vs *views) get() *catalogueView   { return vs.now.Load() }
func (vs *views) wait() <-chan struct{} { return vs.changed.wait() }

// offer puts a view in place if it is newer.
func (vs *views) offer(incarnation uint32, s *catalogueState) bool {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	if have := vs.get(); incarnation < have.incarnation || incarnation == have.incarnation && s.Number <= have.state.Number {
		return false
	}
	vs.now.Store(newCatalogueView(incarnation, s))
	vs.changed.raise()
	return true
}

// awaitView waits until the view is as the caller wants it.
func (n *Node) awaitView(ctx context.Context, want func(*catalogueView) bool) bool {
	for {
		changed := n.views.wait()
		if want(n.views.get()) {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		case <-n.ctx.Done():
			return false
		}
	}
}

// viewRecord is catalogue.json.
type viewRecord struct {
	Format      int             `json:"format"`
	Incarnation uint32          `json:"incarnation"`
	State       json.RawMessage `json:"state"`
}

// loadView reads the view kept on disk. It is a cache: what cannot be read is
// as if it were not there.
func (n *Node) loadView() {
	if n.cfg.DataDir == "" {
		return
	}
	var r viewRecord
	if err := readJSON(filepath.Join(n.cfg.DataDir, catalogueFile), &r); err != nil || r.Format != dirFormat {
		return
	}
	s, err := decodeCatalogue(r.State)
	if err != nil || s.Cluster != (UUID{}) && s.Cluster != n.Cluster() {
		n.log.Warn("the kept catalogue is not used", "err", err)
		return
	}
	n.views.offer(r.Incarnation, s)
}

// keepView writes the view down, once for any number of changes.
func (n *Node) keepView(v *catalogueView) error {
	if n.cfg.DataDir == "" {
		return nil
	}
	b, err := json.Marshal(v.state)
	if err != nil {
		return fmt.Errorf("encode the catalogue: %w", err)
	}
	return writeJSON(filepath.Join(n.cfg.DataDir, catalogueFile), viewRecord{Format: dirFormat, Incarnation: v.incarnation, State: b})
}

const viewWait = 20 * time.Second

// followCatalogue asks other nodes for newer views, for as long as this node has
// no replica of the system group that hears from a leader: then its own machine
// says what is new.
func (n *Node) followCatalogue(ctx context.Context) {
	pause := n.cfg.Tick / 4
	for ctx.Err() == nil {
		if n.Cluster() == (UUID{}) || n.systemIsLive() {
			n.sleep(ctx, n.cfg.Tick)
			continue
		}
		heard := false
		for _, id := range n.catalogueSources() {
			if ctx.Err() != nil {
				return
			}
			if n.askCatalogue(ctx, id, n.catalogueWait()) {
				heard = true
				break
			}
		}
		if heard {
			pause = n.cfg.Tick / 4
			continue
		}
		n.sleep(ctx, pause)
		pause = min(2*pause, 4*n.cfg.Tick)
	}
}

// catalogueWait is how long another node may wait before it answers that there
// is nothing new: not long where this node's own replica may come back.
func (n *Node) catalogueWait() time.Duration {
	if n.replica(n.systemID()) != nil {
		return 2 * n.cfg.Tick
	}
	return viewWait
}

// systemIsLive reports whether this node's replica of the system group hears
// from a leader.
func (n *Node) systemIsLive() bool {
	r := n.replica(n.systemID())
	if r == nil {
		return false
	}
	g, err := r.running()
	if err != nil {
		return false
	}
	s := g.EngineStatus()
	_, member := s.Membership.Find(n.cfg.ID)
	return s.Leader != "" && s.Err == nil && member
}

// catalogueSources are the nodes to ask, those of the system group first.
func (n *Node) catalogueSources() []NodeID {
	var ids []NodeID
	if sys := n.views.get().byID[n.systemID()]; sys != nil {
		ids = append(ids, sys.Placed...)
	} else {
		n.mu.Lock()
		ids = append(ids, n.record.System...)
		n.mu.Unlock()
	}
	first := len(ids)
	for _, m := range n.members() {
		if m.Cluster == n.Cluster() && !slices.Contains(ids, m.ID) {
			ids = append(ids, m.ID)
		}
	}
	// Whom it begins with changes, so that one node that hangs is not asked first
	// for ever.
	if turn := int(n.viewTurn.Add(1)); first > 1 {
		turn %= first
		ids = slices.Concat(ids[turn:first], ids[:turn], ids[first:])
	}
	return slices.DeleteFunc(ids, func(id NodeID) bool { return id == n.cfg.ID })
}

// askCatalogue asks one node and reports whether it answered.
func (n *Node) askCatalogue(ctx context.Context, id NodeID, wait time.Duration) bool {
	p, err := n.peers.get(id)
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, wait+n.cfg.CallTimeout)
	defer cancel()
	have := n.views.get()
	reply, err := p.Catalogue(ctx, &peerpb.CatalogueRequest{Incarnation: have.incarnation, Number: have.state.Number, WaitNs: int64(wait)})
	if err != nil {
		return false
	}
	if len(reply.State) == 0 {
		return true
	}
	s, err := decodeCatalogue(reply.State)
	if err != nil {
		n.log.Warn("a catalogue from another node is not used", "from", id, "err", err)
		return false
	}
	if s.Cluster != (UUID{}) && s.Cluster != n.Cluster() {
		n.log.Warn("a catalogue of another cluster is not used", "from", id, "cluster", s.Cluster)
		return false
	}
	n.views.offer(reply.Incarnation, s)
	return true
}

func (n *Node) sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
