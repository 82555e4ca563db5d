package vsrsim

import (
	"slices"

	"github.com/diarchy/diarchy/vsrengine/vsr"
)

// holding is what a replica's disk has, as far as a promise speaks of it.
type holding interface {
	holds(op vsr.Op, sum vsr.Checksum) bool
	header(op vsr.Op, sum vsr.Checksum) *vsr.Header
}

// promise: what a message states when it leaves is durable; one primary a view;
// one log a view; nothing acknowledged is missing from a view that begins. It is
// called for every message that leaves. was is where the replica was before the
// input that the message answers, st where it is after it.
func (c *checker) promise(i int, m *vsr.Message, rec *vsr.Record, h holding, was, st *vsr.Where, memory bool) {
	switch m.Kind {
	case vsr.DoViewChange, vsr.Notice, vsr.StartView, vsr.PrepareOK, vsr.Proof, vsr.RecoveryResponse:
	default:
		return
	}
	if m.Kind == vsr.Notice && m.Members != nil && m.Members.Role(m.From) != vsr.Voter {
		return // one who leaves announces an epoch in which it has no voice
	}
	if st.Phase >= vsr.RecoveringHead && was.Phase >= vsr.RecoveringHead {
		c.fail("promise", "replica %d sends %s while %s", m.From, m.Kind, st.Phase)
	}
	if m.View != st.View && m.View != was.View {
		c.fail("promise", "replica %d sends %s of view %s; it is in view %s", m.From, m.Kind, m.View, st.View)
	}
	if binds := m.Kind == vsr.DoViewChange || m.Kind == vsr.Notice; m.View > rec.View && (binds || !memory) {
		c.fail("promise", "replica %d sends %s of view %s; its disk is in view %s", m.From, m.Kind, m.View, rec.View)
	}
	switch m.Kind {
	case vsr.DoViewChange:
		c.oneLog(i, m)
	case vsr.StartView:
		c.viewBegins(m)
	}
	if !memory && m.Kind != vsr.DoViewChange && m.Kind != vsr.Notice {
		if rec.Log == nil && m.View != 0 || rec.Log != nil && rec.Log.LogView != m.View {
			c.fail("promise", "replica %d sends %s of view %s; the log on its disk is of another", m.From, m.Kind, m.View)
		}
		if m.Kind == vsr.PrepareOK {
			c.held(m, h, st)
		}
	}
}

// held: what a PrepareOK acknowledges is on the disk, or known to be committed.
func (c *checker) held(m *vsr.Message, h holding, st *vsr.Where) {
	sum := m.Checksum
	for op := m.Op; op > st.Commit; op-- {
		hd := h.header(op, sum)
		if hd == nil {
			c.fail("promise", "replica %d acknowledges op %d; op %d is not on its disk (commit %d)", m.From, m.Op, op, st.Commit)
			return
		}
		sum = hd.Parent
	}
}

// oneLog: all DoViewChanges of one replica for one view say the same.
func (c *checker) oneLog(i int, m *vsr.Message) {
	s := &c.replicas[i]
	if s.saidIn == m.View && s.said != nil && s.said != m.Log && !sameLog(s.said, m.Log) {
		c.fail("two logs", "replica %d says two things in DoViewChange of view %s", m.From, m.View)
	}
	s.said, s.saidIn = m.Log, m.View
}

func sameLog(a, b *vsr.Log) bool {
	return a.LogView == b.LogView && a.Head == b.Head && slices.Equal(a.Headers, b.Headers) && slices.Equal(a.Claims, b.Claims)
}

// viewBegins: one primary a view, and acknowledged commands survive.
func (c *checker) viewBegins(m *vsr.Message) {
	i, found := slices.BinarySearchFunc(c.begun, m.View, func(b begun, v vsr.View) int { return compareViews(b.view, v) })
	if found && c.begun[i].id != m.From {
		c.fail("two primaries", "view %s has the primaries %d and %d", m.View, c.begun[i].id, m.From)
	}
	if !found {
		c.begun = slices.Insert(c.begun, i, begun{m.View, m.From})
	}
	if acked := c.ackedBefore(m.View); m.Log.Head < acked {
		c.fail("survival", "view %s begins with head %d; op %d was acknowledged before it", m.View, m.Log.Head, acked)
	}
	acked := c.ackedBefore(m.View)
	for j := range m.Log.Headers {
		h := &m.Log.Headers[j]
		if h.Checksum != 0 && m.Log.Claims[j]&vsr.Linked == 0 {
			c.fail("uncertain", "view %s begins and names an op %d that may be of another log", m.View, h.Op)
		}
		if h.Checksum != 0 && m.Log.Claims[j]&vsr.Linked != 0 && h.Op <= acked && h.Checksum != c.history[h.Op-1] {
			c.fail("survival", "view %s begins with another op %d than was acknowledged", m.View, h.Op)
		}
	}
}

// joined: a view begins when a quorum of its voters has written that it takes part
// in no earlier one. in has a bit for each replica whose disk says so.
func (c *checker) joined(m *vsr.Message, members *vsr.Membership, in uint64) {
	n, all := 0, 0
	for _, x := range members.Members {
		if x.Role == vsr.Voter {
			all++
			n += int(in >> x.ID & 1)
		}
	}
	if members.Epoch != m.View.Epoch() || n <= all/2 {
		c.fail("alone", "view %s begins; of %d voters only %d have joined it", m.View, all, n)
	}
}

// recovered: nobody comes back once no quorum is left that remembers.
func (c *checker) recovered(id vsr.ID) {
	if c.lost {
		c.fail("amnesia", "replica %d takes part again after too many restarted empty", id)
	}
}

// record: view, log_view, commit and epoch on a disk never go back.
func (c *checker) record(i int, id vsr.ID, rec *vsr.Record) {
	s := &c.replicas[i]
	old := s.record
	s.record = rec
	if old == nil || old == rec {
		return
	}
	if rec.View < old.View || rec.Members.Epoch < old.Members.Epoch || rec.Members.Epoch == old.Members.Epoch && rec.Members.Op < old.Members.Op {
		c.fail("monotone", "replica %d: the durable view goes from %s to %s (membership of op %d, %d)", id, old.View, rec.View, old.Members.Op, rec.Members.Op)
	}
	if rec.View.Epoch() != rec.Members.Epoch {
		c.fail("monotone", "replica %d: a record of view %s with the membership of epoch %d", id, rec.View, rec.Members.Epoch)
	}
	if rec.Virgin {
		c.fail("monotone", "replica %d writes that it was never started", id)
	}
	if old.Log == nil || rec.Log == nil {
		return
	}
	if rec.Log.LogView < old.Log.LogView || rec.Log.LogView > rec.View {
		c.fail("monotone", "replica %d: the durable log_view goes from %s to %s in view %s", id, old.Log.LogView, rec.Log.LogView, rec.View)
	}
	if rec.View == old.View && rec.View > rec.Log.LogView && rec.Log.LogView == old.Log.LogView && !sameLog(old.Log, rec.Log) {
		c.fail("two logs", "replica %d writes another log for its DoViewChange of view %s", id, rec.View)
	}
	if rec.Log.Commit < old.Log.Commit {
		c.fail("monotone", "replica %d: the durable commit goes from %d to %d", id, old.Log.Commit, rec.Log.Commit)
	}
}

// where: within one life commit never goes back, and nobody halts.
func (c *checker) where(i int, id vsr.ID, life uint32, st *vsr.Where) {
	s := &c.replicas[i]
	if s.life != life || st.Phase == vsr.Recovering {
		s.life, s.commit = life, 0
	}
	if st.Commit < s.commit {
		c.fail("monotone", "replica %d: commit goes from %d to %d", id, s.commit, st.Commit)
	}
	s.commit = st.Commit
	if st.Phase == vsr.Halted {
		c.fail("halted", "replica %d halts, as if its disk had been rolled back", id)
	}
}

// bounds: no message is larger than the configuration allows.
func (c *checker) bounds(m *vsr.Message) {
	size := 0
	for i := range m.Entries {
		size += len(m.Entries[i].Body)
	}
	if len(m.Entries) > 1 && size > c.limits.entryBytes || len(m.Entries) > 256 {
		c.fail("bounds", "%s with %d entries of %d bytes", m.Kind, len(m.Entries), size)
	}
	if m.Log != nil && (len(m.Log.Headers) > c.limits.headers || len(m.Log.Headers) != len(m.Log.Claims)) {
		c.fail("bounds", "%s with %d headers and %d claims", m.Kind, len(m.Log.Headers), len(m.Log.Claims))
	}
	if len(m.Data) > c.limits.chunkBytes {
		c.fail("bounds", "%s with %d bytes", m.Kind, len(m.Data))
	}
}

// waiting: queues are bounded.
func (c *checker) waiting(id vsr.ID, what string, n int) {
	if n > c.limits.queue {
		c.fail("bounds", "replica %d: %d %s wait", id, n, what)
	}
}
