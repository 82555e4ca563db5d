package discovery

import (
	"bytes"
	"cmp"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/diarchy/diarchy/framework"
)

// Status is what gossip holds of a member.
type Status uint8

// Statuses. A member that is suspected is alive until it is called failed.
const (
	Alive Status = iota
	Failed
	Left
)

func (s Status) String() string { return [...]string{"alive", "failed", "left"}[s] }

// Member is one node as gossip tells of it.
type Member struct {
	ID   framework.NodeID
	Name string
	// GossipAddr, PeerAddr and ClientAddr are "address:port"; ClientAddr may be
	// empty or have a host name.
	GossipAddr, PeerAddr, ClientAddr string
	Status                           Status
	// Since is when this node saw the status change.
	Since   time.Time
	Version string
	Cluster framework.UUID
	Self    bool
	Meta    Meta
}

// record is a member in the table.
type record struct {
	name   string
	addr   netip.AddrPort
	meta   Meta
	status Status
	since  time.Time
}

// hints is what memberlist's callbacks write and the pool reads. memberlist
// calls with its node lock held, so a callback only marks here and leaves: it
// calls nothing of memberlist's, logs nothing, and waits for nothing but mu,
// which nobody holds while doing more than that.
//
// Invariants, under mu: members has one record a name; a record of status Alive
// whose id is also on another record was accepted after that one was no longer
// alive; encoded is self.meta's encoding.
type hints struct {
	mu        sync.Mutex
	self      record
	encoded   []byte
	leaving   bool
	members   map[string]*record
	gone      departures
	conflicts conflicts
	changed   chan struct{}

	dirty   chan struct{} // capacity 1: there is something to tend to
	publish chan struct{} // capacity 1: the metadata of this node has changed
	// echoes counts exchanges in which this node answered itself.
	echoes atomic.Uint64
	count  atomic.Int64 // members, for memberlist's queue
	outbox *memberlist.TransmitLimitedQueue
	met    *metrics
	now    func() time.Time
}

func newHints(self record, t Timing, met *metrics) (*hints, error) {
	h := &hints{
		self: self, members: map[string]*record{},
		gone:      departures{byRun: map[runKey]departure{}, kept: t.FailedKept},
		conflicts: conflicts{kept: max(time.Minute, 3*t.PushPullInterval)},
		changed:   make(chan struct{}), dirty: make(chan struct{}, 1), publish: make(chan struct{}, 1),
		met: met, now: time.Now,
	}
	h.outbox = &memberlist.TransmitLimitedQueue{
		NumNodes: func() int { return int(h.count.Load()) }, RetransmitMult: memberlist.DefaultLANConfig().RetransmitMult,
	}
	var err error
	h.encoded, err = h.self.meta.encode()
	return h, err
}

func mark(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// touch says that Members has changed. mu is held.
func (h *hints) touch() {
	close(h.changed)
	h.changed = make(chan struct{})
	h.count.Store(int64(len(h.members)))
	mark(h.dirty)
}

func recordOf(n *memberlist.Node) (record, error) {
	meta, err := decodeMeta(n.Meta)
	if err != nil {
		return record{}, err
	}
	ip, ok := netip.AddrFromSlice(n.Addr)
	if ip = ip.Unmap(); !ok || ip.IsUnspecified() || n.Port == 0 {
		return record{}, errMeta
	}
	if err := checkName(n.Name); err != nil {
		return record{}, err
	}
	return record{name: n.Name, addr: netip.AddrPortFrom(ip, n.Port), meta: meta}, nil
}

// NotifyJoin: a member is alive that was not. NotifyAlive has let it in.
func (h *hints) NotifyJoin(n *memberlist.Node) { h.put(n, true) }

// NotifyUpdate: a member tells something else of itself.
func (h *hints) NotifyUpdate(n *memberlist.Node) { h.put(n, false) }

func (h *hints) put(n *memberlist.Node, came bool) {
	r, err := recordOf(n)
	if err != nil {
		return // NotifyAlive refuses these
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	r.since = h.now()
	if old := h.members[n.Name]; old != nil && old.status == Alive && !came {
		r.since = old.since
	}
	if came {
		h.met.changes.WithLabelValues(Alive.String()).Inc()
	}
	h.members[n.Name] = &r
	h.conflicts.resolve(&r)
	h.touch()
}

// NotifyLeave: a member is gone; departures say whether it left or failed.
func (h *hints) NotifyLeave(n *memberlist.Node) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.members[n.Name]
	if r == nil {
		return
	}
	status := Failed
	if h.gone.has(r.meta.ID, r.meta.Run) || n.Name == h.self.name {
		status = Left
	}
	h.setStatus(r, status)
}

// setStatus replaces the record: snapshots may share the old one. mu is held.
func (h *hints) setStatus(r *record, s Status) {
	next := *r
	next.status, next.since = s, h.now()
	h.members[r.name] = &next
	h.met.changes.WithLabelValues(s.String()).Inc()
	h.touch()
}

// NodeMeta gives this node's record.
func (h *hints) NodeMeta(int) []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.encoded
}

// NotifyMsg takes a broadcast.
func (h *hints) NotifyMsg(b []byte) {
	cluster, d, err := decodeMessage(b)
	if err != nil {
		h.met.refused[refusedMalformed].Inc()
		return
	}
	if h.foreign(cluster) {
		h.met.refused[refusedCluster].Inc()
		return
	}
	if h.depart(d) {
		h.tell(d)
	}
}

func (h *hints) foreign(cluster framework.UUID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.otherCluster(cluster)
}

// otherCluster: both belong to a cluster, and not to the same. mu is held.
func (h *hints) otherCluster(c framework.UUID) bool {
	none := framework.UUID{}
	return c != none && h.self.meta.Cluster != none && c != h.self.meta.Cluster
}

// tell queues a departure for everybody.
func (h *hints) tell(d departure) {
	h.mu.Lock()
	msg := encodeDeparture(h.self.meta.Cluster, d)
	h.mu.Unlock()
	h.outbox.QueueBroadcast(broadcast(msg))
}

// broadcast is one queued message. The queue is short: a departure is queued
// once by each node that had not heard of it, and departures bounds those.
type broadcast []byte

func (b broadcast) Invalidates(o memberlist.Broadcast) bool {
	x, ok := o.(broadcast)
	return ok && bytes.Equal(b, x)
}
func (b broadcast) Message() []byte { return b }
func (b broadcast) Finished()       {}

// GetBroadcasts gives what is to go out with the next packet.
func (h *hints) GetBroadcasts(overhead, limit int) [][]byte {
	return h.outbox.GetBroadcasts(overhead, limit)
}

// LocalState is this node's part of a full exchange.
func (h *hints) LocalState(bool) []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := gossipState{Cluster: h.self.meta.Cluster, Sender: h.self.meta.ID, Run: h.self.meta.Run, Departures: h.gone.all()}
	return s.encode()
}

// MergeRemoteState takes the other's part. What is news in it is not broadcast:
// the next exchanges carry it.
func (h *hints) MergeRemoteState(b []byte, _ bool) {
	s, err := decodeState(b)
	if err != nil {
		h.met.refused[refusedMalformed].Inc()
		return
	}
	h.mu.Lock()
	echo := s.Sender == h.self.meta.ID && s.Run == h.self.meta.Run
	foreign := h.otherCluster(s.Cluster)
	h.mu.Unlock()
	switch {
	case echo:
		h.echoes.Add(1)
	case foreign:
		h.met.refused[refusedCluster].Inc()
	default:
		for _, d := range s.Departures {
			h.depart(d)
		}
	}
}

// depart takes a departure to heart and reports whether it was news.
func (h *hints) depart(d departure) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d.ID == h.self.meta.ID && d.Run == h.self.meta.Run && !h.leaving {
		h.newRun() // somebody takes this node for gone: be another run
		return false
	}
	if !h.gone.add(d, h.now()) {
		return false
	}
	for _, r := range h.members {
		if r.status == Failed && r.meta.ID == d.ID && r.meta.Run == d.Run {
			h.setStatus(r, Left)
		}
	}
	return true
}

// newRun draws a run number and has it published. mu is held.
func (h *hints) newRun() {
	m := h.self.meta
	m.Run = rand.Uint64()
	_ = h.setMeta(m) // as long as before, so it is encoded
}

// setMeta replaces this node's metadata. mu is held.
func (h *hints) setMeta(m Meta) error {
	b, err := m.encode()
	if err != nil {
		return err
	}
	if bytes.Equal(b, h.encoded) {
		return nil
	}
	h.self.meta, h.encoded = m, b
	h.touch()
	mark(h.publish)
	return nil
}

// snapshot copies the table, sorted by name; members of another cluster, let in
// before this node had one, are not shown.
func (h *hints) snapshot() []record {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]record, 0, len(h.members))
	for _, r := range h.members {
		if r.name == h.self.name {
			own := *r
			own.meta = h.self.meta // ahead of what memberlist was told
			out = append(out, own)
		} else if !h.otherCluster(r.meta.Cluster) {
			out = append(out, *r)
		}
	}
	slices.SortFunc(out, func(a, b record) int { return cmp.Compare(a.name, b.name) })
	return out
}

func (h *hints) changedChan() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changed
}

// reap drops who has been failed or left for long.
func (h *hints) reap(t Timing) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.now()
	for name, r := range h.members {
		age := now.Sub(r.since)
		if name != h.self.name && (r.status == Failed && age > t.FailedKept || r.status == Left && age > t.LeftKept) {
			delete(h.members, name)
			h.touch()
		}
	}
	h.gone.expire(now)
}
