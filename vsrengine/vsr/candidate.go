package vsr

import "math"

// The new primary's part of a view change: from DoViewChanges to StartView.

func onDoViewChange(r *Replica, m *Message, p *peer) {
	if m.View < r.view {
		r.drop(NoteEarlierView)
		r.helpIntoView(m)
		return
	}
	if m.View > r.view {
		r.join(m, p)
		if m.View != r.view {
			return
		}
		p = r.peer(m.From)
	}
	switch {
	case r.phase == Normal:
		r.drop(NoteUnwanted)
		r.helpIntoView(m)
	case p == nil || p.Role != Voter:
		r.drop(NoteNotMember)
	case !r.isPrimary():
		r.drop(NoteConflict) // never: all agree on who leads a view
	case p.log != nil:
		r.drop(NoteDuplicateLog)
		r.decide()
	default:
		p.log = m.Log
		r.decide()
	}
}

// choice is what a quorum of logs comes to.
type choice struct {
	logs     [VotersMax]*Log
	from     [VotersMax]ID
	n        int
	view     View // the highest log_view
	begin    Op   // what lies above was first prepared in it
	head     Op
	commit   Op
	headers  []Header // of the last ops up to head; a zero Checksum is not known
	unproven Op       // neither held by one who spoke nor denied by enough
}

// decide begins the view if what the quorum said is enough for it.
func (r *Replica) decide() {
	if r.phase != ViewChange || !r.isPrimary() || r.recordTicket > r.durable && !r.volatileView() {
		return
	}
	c := choice{}
	c.add(r.id, r.vc.log)
	for i := range r.peers {
		if p := &r.peers[i]; p.log != nil && p.Role == Voter {
			c.add(p.ID, p.log)
		}
	}
	if c.n < quorum(r.voters) {
		return
	}
	c.choose(r)
	if c.unproven != 0 || c.head < max(c.commit, r.applied) {
		return // wait for more replicas to speak
	}
	if r.tooFar(c.head, c.best()) || !r.findHead(&c) || r.forfeits(&c) {
		return
	}
	r.beginView(&c)
}

func (c *choice) add(id ID, l *Log) {
	c.logs[c.n], c.from[c.n] = l, id
	c.n++
}

// best is who holds most.
func (c *choice) best() ID {
	id, most := c.from[0], c.logs[0].Contiguous
	for i, l := range c.logs[:c.n] {
		if l.Contiguous > most {
			id, most = c.from[i], l.Contiguous
		}
	}
	return id
}

// choose takes the log of the highest log_view, and cuts what a nack quorum
// says was never acknowledged (D8).
func (c *choice) choose(r *Replica) {
	for _, l := range c.logs[:c.n] {
		c.view = max(c.view, l.LogView)
	}
	c.begin = math.MaxUint64
	p := Op(r.cfg.PipelineMax)
	for _, l := range c.logs[:c.n] {
		if l.LogView == c.view {
			c.head = max(c.head, l.Head)
			c.begin = min(c.begin, l.Begin)
		}
		// An op is prepared when the one P below it is committed, in every view: a log
		// of an earlier one that is longer knows more, too.
		c.commit = max(c.commit, l.Commit, l.Snapshot, l.Head-min(l.Head, p))
	}
	if c.head < c.commit {
		return
	}
	low := max(c.head-min(c.head, p), 1)
	if c.head == 0 {
		return
	}
	c.headers = make([]Header, c.head-low+1)
	var above Checksum
	for i := len(c.headers) - 1; i >= 0; i-- {
		op := low + Op(i)
		c.headers[i] = c.canonical(op, above)
		above = c.headers[i].Parent
	}
	c.cut(r, low)
}

// canonical is the header of an op in the chosen log: named by one of the
// highest log_view, by anyone if the chain from above names it, or by one who has
// applied it.
func (c *choice) canonical(op Op, want Checksum) Header {
	for _, l := range c.logs[:c.n] {
		if l.LogView != c.view {
			continue
		}
		if h, claim := l.at(op); h != nil && claim&Linked != 0 && (want == 0 || h.Checksum == want) {
			return *h
		}
	}
	for _, l := range c.logs[:c.n] {
		if h, claim := l.at(op); h != nil && (want != 0 && h.Checksum == want || want == 0 && claim&Linked != 0 && op <= l.Applied) {
			return *h
		}
	}
	return Header{Op: op}
}

// cut walks up the uncommitted ops: each must be held by one who spoke, or it
// and all above go if a nack quorum never had it.
func (c *choice) cut(r *Replica, low Op) {
	nackNeed := nackQuorum(r.voters)
	if r.cfg.Defect == DefectNackTooFew {
		nackNeed = 1
	}
	for op := max(c.commit+1, low); op <= c.head; op++ {
		want := c.headers[op-low].Checksum
		if want == 0 && op < c.head {
			want = c.headers[op-low+1].Parent
		}
		nacks, held := 0, false
		if x := c.likely(op, low); want == 0 && x != nil && c.deniers(op) >= nackNeed {
			c.headers[op-low] = *x // it is this one, or one that could be cut: keeping is safe in both cases
			continue
		}
		for _, l := range c.logs[:c.n] {
			if l.nacks(op, want, r.cfg.Defect) || want == 0 && op > c.begin && l.holdsOlder(op, c.view) {
				nacks++
			}
			held = held || want != 0 && l.holds(op, want)
		}
		switch {
		case nacks >= nackNeed:
			c.head = op - 1
			c.headers = c.headers[:op-low]
			return
		case !held:
			c.unproven = op
			return
		}
	}
}

// nacks reports whether the log is evidence that its sender never acknowledged
// the entry. A damaged journal is evidence of nothing (8.1, D8).
func (l *Log) nacks(op Op, want Checksum, d Defect) bool {
	if op <= l.Snapshot {
		return false
	}
	h, claim := l.at(op)
	other := h != nil && claim&Present != 0 && (want != 0 && h.Checksum != want)
	if !l.Intact {
		return d == DefectNackBesideDamage && other
	}
	switch {
	case op > l.Head:
		return true
	case h == nil:
		return false
	case claim&Present == 0:
		return true
	}
	return other
}

// likely is the only entry that anybody who spoke holds at an op of which the
// chosen log's checksum is not known, if it chains to the chosen op below.
func (c *choice) likely(op, low Op) *Header {
	if op == low || c.headers[op-1-low].Checksum == 0 {
		return nil
	}
	var x *Header
	for _, l := range c.logs[:c.n] {
		h, claim := l.at(op)
		if h == nil || claim&Present == 0 {
			continue
		}
		if x != nil && x.Checksum != h.Checksum {
			return nil
		}
		x = h
	}
	if x == nil || x.Parent != c.headers[op-1-low].Checksum {
		return nil
	}
	return x
}

// deniers counts those who hold nothing but the likely entry at an op, on an
// intact journal: none of them acknowledged another.
func (c *choice) deniers(op Op) int {
	n := 0
	for _, l := range c.logs[:c.n] {
		if h, _ := l.at(op); l.Intact && op > l.Snapshot && (h != nil || op > l.Head) {
			n++
		}
	}
	return n
}

// holdsOlder reports whether the sender, on an intact journal, has an entry of an
// earlier view where one of this view must be: whichever that is, it is not this
// (A24).
func (l *Log) holdsOlder(op Op, view View) bool {
	h, claim := l.at(op)
	return l.Intact && op > l.Snapshot && h != nil && claim&Present != 0 && h.View != view
}

// findHead makes sure that the head's header is known: StartView carries it, and
// the next op needs it.
func (r *Replica) findHead(c *choice) bool {
	if c.head == 0 {
		return true
	}
	n := len(c.headers)
	if n > 0 && c.headers[n-1].Checksum != 0 {
		return true
	}
	want := Checksum(0)
	if full := c.headers[:cap(c.headers)]; n < len(full) {
		want = full[n].Parent
	}
	var found *Header
	switch s := r.log.find(c.head); {
	case r.vc.need.got != nil && r.vc.need.op == c.head && (want == 0 || r.vc.need.got.Checksum == want):
		found = r.vc.need.got
	case s != nil && want != 0 && s.Checksum == want:
		found = &s.Header
	default:
		found = r.header(c.head)
	}
	if found == nil {
		if n := &r.vc.need; n.op != c.head || n.sum != want {
			r.vc.need = need{op: c.head, sum: want, ask: r.nonce()}
		}
		return false
	}
	if n == 0 {
		c.headers = []Header{*found}
	} else {
		c.headers[n-1] = *found
	}
	return true
}

// forfeits gives the view up to a replica with a much better log, or, if that
// was tried and came to nothing, gets a snapshot first (D9).
func (r *Replica) forfeits(c *choice) bool {
	mine := r.contiguous()
	if mine >= c.head {
		return false
	}
	best, bestID := mine, ID(0)
	for i, l := range c.logs[:c.n] {
		if l.Contiguous > best {
			best, bestID = l.Contiguous, c.from[i]
		}
	}
	whole := c.reach(r.id, mine, (*Log).contiguous) >= c.commit
	if whole && best <= mine+Op(r.cfg.LagOpsMax) {
		return false
	}
	if bestID != 0 && r.vc.forfeits == 0 {
		r.vc.forfeits++
		r.handOver(r.viewOf(bestID))
		return true
	}
	if whole || c.reach(r.id, mine, (*Log).head) >= c.commit {
		return false // together they may have it: holes are filled after the start
	}
	for _, l := range c.logs[:c.n] {
		r.vc.installing = r.vc.installing || l.Snapshot > mine
	}
	return r.vc.installing
}

// reach is how far a replica that holds everything up to an op can get with what
// the logs of the others who spoke still hold, each of them up to its end.
func (c *choice) reach(id ID, op Op, end func(*Log) Op) Op {
	for range c.n {
		for i, l := range c.logs[:c.n] {
			if c.from[i] != id && l.First <= op+1 {
				op = max(op, end(l))
			}
		}
	}
	return op
}

func (l *Log) contiguous() Op { return l.Contiguous }
func (l *Log) head() Op       { return l.Head }

// tickCandidate repeats the candidate's own questions, and asks the others for
// patience while it gets on.
func (r *Replica) tickCandidate() {
	if !r.isPrimary() {
		return
	}
	if n := &r.vc.need; n.op != 0 && n.got == nil {
		r.askAll(Message{Kind: GetEntries, View: r.view, Op: n.op, Checksum: n.sum, Seq: 1, Nonce: n.ask})
	}
	if r.vc.installing && r.fetch.snapshot == nil {
		r.askAll(Message{Kind: GetSnapshot, View: r.view, Op: r.applied})
	}
	got := r.contiguous() + Op(r.fetch.offset>>10)
	if got > r.vc.contiguous {
		if r.vc.contiguous != 0 {
			r.vc.since = r.now
			r.askAll(Message{Kind: Progress, View: r.view, Op: got})
		}
		r.vc.contiguous = got
	}
}

func onProgress(r *Replica, m *Message, _ *peer) {
	if m.View != r.view || m.From != r.members.Primary(r.view) {
		r.drop(NoteEarlierView)
		return
	}
	if m.Op <= r.vc.contiguous {
		r.drop(NoteUnwanted)
		return
	}
	r.vc.contiguous = m.Op
	r.vc.since = r.now
}

// beginView makes the chosen log this view's, and says so once that is durable
// (D3 b). Bodies may still be missing.
func (r *Replica) beginView(c *choice) {
	r.leaveView()
	r.vc.failed, r.vc.forfeits = 0, 0
	r.commit = max(r.commit, c.commit)
	r.adopt(c.headers, c.head)
	r.prim.suffix, r.begun = c.head, c.head
	r.enterNormal()
	if r.started() {
		r.begin()
	}
}

// enterNormal makes view the view of the log, with a record that names its
// beginning.
func (r *Replica) enterNormal() {
	r.phase = Normal
	r.logView = r.view
	r.ack = min(r.commit, r.log.head)
	r.backup.heardAt = r.now
	r.backup.limit = r.suspectTicks()
	if !r.cfg.Memory || r.recordEpoch != r.members.Epoch {
		r.writeRecord(r.describe())
		switch r.cfg.Defect {
		case DefectLogViewVolatile:
			r.unwriteRecord()
		case DefectLogViewEarly:
			r.recordWithoutLog()
		}
	}
	r.applyCommitted()
}

// begin tells everybody that the view has begun.
func (r *Replica) begin() {
	r.prim.begun = true
	r.prim.stalledAt = r.now
	for i := range r.peers {
		r.sendStartView(r.peers[i].ID, Nonce{})
	}
	r.prim.beatAt = r.now
	r.advance()
}
