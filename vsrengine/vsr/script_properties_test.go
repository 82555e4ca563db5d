package vsr_test

import (
	"fmt"
	"reflect"

	"github.com/diarchy/diarchy/vsrengine/vsr"
)

// properties are what must hold whatever a script does. They are observed over
// the script's whole life, crashes included, and each has one method that can be
// tried alone (TestPropertiesFire).
type properties struct {
	leads   map[vsr.View]vsr.ID     // who acted as primary
	minted  map[viewOp]vsr.Checksum // by the view in the header
	logs    map[viewOp]vsr.Checksum // by the view of the message
	linked  map[viewOp]vsr.Checksum // by log_view
	headers map[vsr.Checksum]vsr.Header
	history []vsr.Header // applied anywhere; history[i] is op i+1
	acked   []acked
	votes   map[voteOf]*vsr.Log
	status  map[vsr.ID]vsr.Status
	records map[vsr.ID]vsr.Record
	stamps  map[vsr.ID]vsr.View              // the highest view that was ever durable
	held    map[vsr.Checksum]map[vsr.ID]bool // who ever held an entry durably
	reads   map[uint64]vsr.Op                // the least answer
	seed    uint64
	ns      names

	broken []string
}

type viewOp struct {
	view vsr.View
	op   vsr.Op
}

type voteOf struct {
	id   vsr.ID
	view vsr.View
}

// acked is an entry applied by a primary, which answers its client then.
type acked struct {
	vsr.Header
	in vsr.View
}

func newProperties(ns names) *properties {
	return &properties{
		leads: map[vsr.View]vsr.ID{}, minted: map[viewOp]vsr.Checksum{}, logs: map[viewOp]vsr.Checksum{},
		linked: map[viewOp]vsr.Checksum{}, headers: map[vsr.Checksum]vsr.Header{}, votes: map[voteOf]*vsr.Log{},
		status: map[vsr.ID]vsr.Status{}, records: map[vsr.ID]vsr.Record{}, stamps: map[vsr.ID]vsr.View{},
		held: map[vsr.Checksum]map[vsr.ID]bool{}, reads: map[uint64]vsr.Op{}, ns: ns,
	}
}

func (p *properties) fail(property, format string, args ...any) {
	p.broken = append(p.broken, property+": "+fmt.Sprintf(format, args...))
}

// sender is what a message's sender is when the message leaves, and was before
// the input that the message answers: it may go on to a later view in the same
// step, after it has said what still belonged to the view before.
type sender struct {
	disk    *disk
	memory  bool
	was, is vsr.Status
}

// stands reports whether what is said in a view could be said in this status.
func (s *sender) stands(phase vsr.Phase, v vsr.View) bool {
	return s.is.Phase == phase && s.is.View == v || s.was.Phase == phase && s.was.View == v
}

// message sees a message at the moment in which it leaves.
func (p *properties) message(m *vsr.Message, s *sender) {
	for i := range m.Entries {
		p.header(&m.Entries[i].Header)
	}
	if m.Log != nil {
		for i := range m.Log.Headers {
			p.header(&m.Log.Headers[i])
		}
	}
	switch m.Kind {
	case vsr.Prepare, vsr.StartView, vsr.Commit, vsr.NewState:
		p.onePrimaryAView(m)
	}
	switch m.Kind {
	case vsr.Prepare, vsr.NewState:
		for i := range m.Entries {
			p.appendOnly(m.View, &m.Entries[i].Header)
		}
	case vsr.StartView:
		for i := range m.Log.Headers {
			p.appendOnly(m.View, &m.Log.Headers[i])
		}
		p.acknowledgedSurvives(m)
		p.beginsByQuorum(m, s)
	case vsr.DoViewChange:
		p.sameDoViewChange(m)
		p.oneLogAView(m)
	}
	p.promiseAfterPersist(m, s)
	if s.memory {
		p.holdsInMemory(m)
	}
}

// holdsInMemory: without a disk, to hold an entry is to have it. A primary has
// what it prepares, a backup what it acknowledges and all before it.
func (p *properties) holdsInMemory(m *vsr.Message) {
	switch m.Kind {
	case vsr.Prepare:
		p.durable(m.From, m.Entries[0].Checksum)
	case vsr.PrepareOK:
		for h, ok := p.headers[m.Checksum]; ok && !p.held[h.Checksum][m.From]; h, ok = p.headers[h.Parent] {
			p.durable(m.From, h.Checksum)
		}
	}
}

// header: one primary a view, and it gives an op once, hence one entry for each
// view and op; the same entry has the same predecessor everywhere.
func (p *properties) header(h *vsr.Header) {
	if h.Checksum == 0 {
		return
	}
	p.mintedOnce(h)
	p.logMatching(h)
	p.nothingFollows(h)
}

// onePrimaryAView: whoever acts as primary of a view is the only one ever.
func (p *properties) onePrimaryAView(m *vsr.Message) {
	if was, ok := p.leads[m.View]; ok && was != m.From {
		p.fail("one primary a view", "%s sends %s in view %s, which %s leads", letter(m.From), m.Kind, m.View, letter(was))
		return
	}
	p.leads[m.View] = m.From
}

// mintedOnce: in one view an op is prepared for the first time once.
func (p *properties) mintedOnce(h *vsr.Header) {
	at := viewOp{h.View, h.Op}
	if was, ok := p.minted[at]; ok && was != h.Checksum {
		p.fail("minted once", "op %d of view %s is both %s and %s", h.Op, h.View, p.ns.body(was), p.ns.body(h.Checksum))
		return
	}
	p.minted[at] = h.Checksum
}

// appendOnly: the log of one view only grows.
func (p *properties) appendOnly(v vsr.View, h *vsr.Header) {
	if h.Checksum == 0 {
		return
	}
	at := viewOp{v, h.Op}
	if was, ok := p.logs[at]; ok && was != h.Checksum {
		p.fail("append only", "in view %s op %d was %s and is %s", v, h.Op, p.ns.body(was), p.ns.body(h.Checksum))
		return
	}
	p.logs[at] = h.Checksum
}

// logMatching: two logs with the same entry agree on all before it.
func (p *properties) logMatching(h *vsr.Header) {
	if h.Sum(p.seed) != h.Checksum {
		p.fail("log matching", "%s does not carry its own checksum", p.ns.of(h))
		return
	}
	p.headers[h.Checksum] = *h
	if parent, ok := p.headers[h.Parent]; ok {
		if parent.Op+1 != h.Op || parent.Next() != h.First {
			p.fail("log matching", "%s at position %d follows %s, which ends at %d", p.ns.of(h), h.First, p.ns.of(&parent), parent.Next())
		}
	}
}

// nothingFollows: a Reconfigure is the last op of its epoch.
func (p *properties) nothingFollows(h *vsr.Header) {
	if parent, ok := p.headers[h.Parent]; ok && parent.Kind == vsr.KindConfig && h.View.Epoch() <= parent.View.Epoch() {
		p.fail("a Reconfigure ends its epoch", "%s is prepared after %s", p.ns.of(h), p.ns.of(&parent))
	}
}

// beginsByQuorum: a view begins once a majority of the voters of its epoch is in
// it for good, or in a later one.
func (p *properties) beginsByQuorum(m *vsr.Message, s *sender) {
	members := s.is.Members
	switch {
	case m.Members != nil:
		members = *m.Members
	case members.Epoch != m.View.Epoch():
		members = s.was.Members
	}
	n := 0
	for _, x := range members.Members {
		if at, ok := p.stamps[x.ID]; ok && x.Role == vsr.Voter && at >= m.View {
			n++
		}
	}
	if voters := members.Voters(); n < voters/2+1 {
		p.fail("a view begins by a quorum", "%s begins view %s, which is durable on %d of %d voters", letter(m.From), m.View, n, voters)
	}
}

// oneLogAView: DoViewChanges of one log_view agree on every op of that log.
func (p *properties) oneLogAView(m *vsr.Message) {
	for i := range m.Log.Headers {
		h := &m.Log.Headers[i]
		if h.Checksum == 0 || m.Log.Claims[i]&vsr.Linked == 0 {
			continue
		}
		at := viewOp{m.Log.LogView, h.Op}
		if was, ok := p.linked[at]; ok && was != h.Checksum {
			p.fail("one log a view", "%s says that op %d of log_view %s is %s, others say %s", letter(m.From), h.Op, m.Log.LogView, p.ns.body(h.Checksum), p.ns.body(was))
			continue
		}
		p.linked[at] = h.Checksum
	}
}

// acknowledgedSurvives: what was acknowledged is in the log of every later view.
// Who begins a view may not know all headers, but knows the last.
func (p *properties) acknowledgedSurvives(m *vsr.Message) {
	for i := range p.acked {
		a := &p.acked[i]
		if a.in >= m.View {
			continue
		}
		if a.Op > m.Log.Head {
			p.fail("acknowledged survives", "view %s begins without %s", m.View, p.ns.of(&a.Header))
		} else if a.Op >= m.Log.Low() {
			h := &m.Log.Headers[a.Op-m.Log.Low()]
			if known := h.Checksum != 0 || a.Op == m.Log.Head; known && h.Checksum != a.Checksum {
				p.fail("acknowledged survives", "view %s begins with %s for %s", m.View, p.ns.of(h), p.ns.of(&a.Header))
			}
		}
	}
}

// sameDoViewChange: a replica says one thing of its log in one view, through
// restarts too. An installed snapshot and what is known committed may still rise.
func (p *properties) sameDoViewChange(m *vsr.Message) {
	key := voteOf{m.From, m.View}
	was, ok := p.votes[key]
	if !ok {
		p.votes[key] = m.Log
		return
	}
	if !sameLog(was, m.Log) {
		p.fail("same DoViewChange", "%s said %s and now says %s", letter(m.From), p.ns.log(was), p.ns.log(m.Log))
	}
}

func sameLog(a, b *vsr.Log) bool {
	return a.LogView == b.LogView && a.Head == b.Head && a.Intact == b.Intact &&
		reflect.DeepEqual(a.Headers, b.Headers) && reflect.DeepEqual(a.Claims, b.Claims)
}

// promiseAfterPersist: what a message states durable is durable, and what it
// says of the sender's view is so.
func (p *properties) promiseAfterPersist(m *vsr.Message, s *sender) {
	const name = "promise after persist"
	d, st := s.disk, &s.is
	var view, logView vsr.View
	if d.record != nil {
		view = d.record.View
		if d.record.Log != nil {
			logView = d.record.Log.LogView
		}
	}
	switch m.Kind {
	case vsr.PrepareOK, vsr.Proof:
		if m.Kind == vsr.PrepareOK && !s.stands(vsr.Normal, m.View) {
			p.fail(name, "%s sends %s in view %s and is %s in %s", letter(m.From), m.Kind, m.View, st.Phase, st.View)
		}
		if s.memory {
			return
		}
		if m.Kind == vsr.PrepareOK && logView != m.View {
			p.fail(name, "%s sends %s in view %s, but log_view %s is durable", letter(m.From), m.Kind, m.View, logView)
		}
		p.durableThrough(name, m, d, st.Commit)
	case vsr.DoViewChange:
		if !s.stands(vsr.ViewChange, m.View) {
			p.fail(name, "%s sends DoViewChange of view %s and is %s in %s", letter(m.From), m.View, st.Phase, st.View)
		}
		if view != m.View {
			p.fail(name, "%s sends DoViewChange of view %s, but view %s is durable", letter(m.From), m.View, view)
		} else if !s.memory && (d.record.Log == nil || !sameLog(d.record.Log, m.Log)) {
			p.fail(name, "%s sends another DoViewChange than is durable: %s", letter(m.From), p.ns.log(d.record.Log))
		}
	case vsr.StartView:
		if !s.memory && logView != m.View {
			p.fail(name, "%s sends StartView of view %s, but log_view %s is durable", letter(m.From), m.View, logView)
		}
	}
}

// durableThrough follows the chain down from an acknowledged entry to the newest
// snapshot. What the sender knows committed may be acknowledged without being
// durable here: a quorum has it.
func (p *properties) durableThrough(name string, m *vsr.Message, d *disk, commit vsr.Op) {
	base := d.snapshotOp()
	if m.Kind == vsr.PrepareOK {
		base = max(base, commit)
	}
	sum := m.Checksum
	if sum == 0 && m.Op > 0 && m.Op <= vsr.Op(len(p.history)) {
		sum = p.history[m.Op-1].Checksum // a Proof names the op alone
	}
	for op := m.Op; op > base; op-- {
		s := d.find(op, sum)
		if s == nil {
			p.fail(name, "%s sends %s of %d:%s, but %d:%s is not durable", letter(m.From), m.Kind, m.Op, p.ns.body(m.Checksum), op, p.ns.body(sum))
			return
		}
		sum = s.Parent
	}
}

// durable notes that a replica holds an entry as durably as its mode asks for.
func (p *properties) durable(id vsr.ID, sum vsr.Checksum) {
	if p.held[sum] == nil {
		p.held[sum] = map[vsr.ID]bool{}
	}
	p.held[sum][id] = true
}

// applied: the applied histories are prefixes of one another, without gaps, and
// what is applied first rests on a quorum. st is what the replica said before.
func (p *properties) applied(id vsr.ID, before vsr.Op, h *vsr.Header, st *vsr.Status) {
	const name = "applied histories are prefixes"
	if h.Op != before+1 {
		p.fail(name, "%s applies %s after op %d", letter(id), p.ns.of(h), before)
	}
	switch n := vsr.Op(len(p.history)); {
	case h.Op <= n:
		if was := &p.history[h.Op-1]; was.Checksum != h.Checksum {
			p.fail(name, "%s applies %s where another applied %s", letter(id), p.ns.of(h), p.ns.of(was))
		}
	case h.Op == n+1:
		p.history = append(p.history, *h)
		p.restsOnQuorum(h, st)
	}
}

// restsOnQuorum: an op is committed once a majority of the voters holds it
// durably.
func (p *properties) restsOnQuorum(h *vsr.Header, st *vsr.Status) {
	n := 0
	for _, m := range st.Members.Members {
		if m.Role == vsr.Voter && p.held[h.Checksum][m.ID] {
			n++
		}
	}
	if voters := st.Members.Voters(); n < voters/2+1 {
		p.fail("committed rests on a quorum", "%s is applied and %d of %d voters ever held it", p.ns.of(h), n, voters)
	}
}

// acknowledged notes what a primary has applied: its client has the answer.
func (p *properties) acknowledged(h *vsr.Header, in vsr.View) {
	p.acked = append(p.acked, acked{*h, in})
}

// installed: a snapshot's content is the history up to its op.
func (p *properties) installed(id vsr.ID, s *vsr.Snapshot) {
	n := vsr.Op(len(p.history))
	if s.Header.Op > n || p.history[s.Header.Op-1].Checksum != s.Header.Checksum {
		p.fail("applied histories are prefixes", "%s installs a snapshot at %s, which nobody applied", letter(id), p.ns.of(&s.Header))
	}
}

// statusMoves: within one life, view, log_view and commit never go back.
func (p *properties) statusMoves(st vsr.Status) {
	if was, ok := p.status[st.ID]; ok {
		if st.Commit < was.Commit {
			p.fail("commit never goes back", "%s knew %d committed and now %d", letter(st.ID), was.Commit, st.Commit)
		}
		if st.View < was.View || st.LogView < was.LogView {
			p.fail("views never go back", "%s was in view %s with log_view %s and is in %s with %s", letter(st.ID), was.View, was.LogView, st.View, st.LogView)
		}
	}
	p.status[st.ID] = st
	for _, other := range p.status {
		if other.ID != st.ID && other.Serving && st.Serving && other.View == st.View {
			p.fail("one primary a view", "%s and %s both serve view %s", letter(st.ID), letter(other.ID), st.View)
		}
	}
}

// restarted: what is volatile may go back then.
func (p *properties) restarted(id vsr.ID) { delete(p.status, id) }

// recordMoves: what is durable of view, log_view and commit never goes back, and
// while the view changes the record says what the DoViewChange says.
func (p *properties) recordMoves(id vsr.ID, r *vsr.Record) {
	was, ok := p.records[id]
	p.records[id] = *cloneRecord(r)
	if !ok {
		return
	}
	if r.View < was.View || r.Members.Epoch < was.Members.Epoch {
		p.fail("views never go back", "%s writes view %s over %s", letter(id), r.View, was.View)
	}
	if r.Log != nil && was.Log != nil && r.Log.LogView < was.Log.LogView {
		p.fail("views never go back", "%s writes log_view %s over %s", letter(id), r.Log.LogView, was.Log.LogView)
	}
	if r.Log != nil && was.Log != nil && r.View == was.View && r.View > r.Log.LogView && r.View > was.Log.LogView && !sameLog(r.Log, was.Log) {
		p.fail("the record keeps what was said", "%s writes %s over %s in view %s", letter(id), p.ns.log(r.Log), p.ns.log(was.Log), r.View)
	}
	if r.Log != nil && was.Log != nil && r.Log.Commit < was.Log.Commit {
		p.fail("commit never goes back", "%s writes commit %d over %d", letter(id), r.Log.Commit, was.Log.Commit)
	}
}

// stamped notes a view that is durable. A disk that is formatted for a group that
// runs has been in no view yet.
func (p *properties) stamped(id vsr.ID, r *vsr.Record) {
	if !r.Virgin || r.View == 0 {
		p.stamps[id] = max(p.stamps[id], r.View)
	}
}

// asked notes what a linearizable read must see: all that was acknowledged.
func (p *properties) asked(token uint64) {
	p.reads[token] = 0
	for i := range p.acked {
		p.reads[token] = max(p.reads[token], p.acked[i].Op)
	}
}

// answered: a read sees everything acknowledged before it was asked.
func (p *properties) answered(r vsr.Read) {
	if least := p.reads[r.Token]; r.Err == nil && r.Op < least {
		p.fail("reads are linearizable", "a read is answered at %d, but %d was acknowledged before it was asked", r.Op, least)
	}
}
