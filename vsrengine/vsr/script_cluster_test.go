package vsr_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/diarchy/diarchy/vsrengine/vsr"
)

// class is a kind of line that a verb prints; each verb shows some of them.
type class uint8

const (
	showNet   class = 1 << iota // messages sent
	showGet                     // messages delivered, and those that are lost
	showDisk                    // writes and what becomes durable
	showApply                   // what is applied, reads, refusals
	showState                   // changes of view and phase
	showDrop                    // messages dropped on purpose

	showAll    = showNet | showGet | showDisk | showApply | showState | showDrop
	showEvents = showApply | showState
)

var classNames = map[string]class{
	"net": showNet, "get": showGet, "disk": showDisk, "apply": showApply, "state": showState, "drop": showDrop,
	"all": showAll, "events": showEvents, "nothing": 0,
}

// cluster is a whole group in one goroutine: nothing moves but by a verb.
type cluster struct {
	cfg       vsr.Config
	members   vsr.Membership
	auto      bool // writes are durable at once
	replicas  []*replica
	net       network
	props     *properties
	names     names
	shown     map[vsr.Note]bool // notes since the last "notes"
	everShown map[vsr.Note]bool // notes of the whole script
	proposed  int64
	tokens    []string
	decided   map[string]bool // reads that are answered

	out    strings.Builder
	show   class
	indent string
}

// replica is one replica with its disk and its machine.
type replica struct {
	id      vsr.ID
	core    *vsr.Replica // nil while it is down
	disk    disk
	machine []vsr.Header // applied; the machine's state
	boots   uint64
	notes   [vsr.NoteCount]uint64
	status  vsr.Status      // as last told
	before  vsr.Status      // before the present input
	slow    bool            // its writes are done by fsync alone
	unread  map[vsr.Op]bool // the next read of this body fails
}

func (n *replica) String() string { return letter(n.id) }

func newCluster(cfg vsr.Config, members vsr.Membership, auto bool) *cluster {
	ns := names{}
	c := &cluster{
		cfg: cfg, members: members, auto: auto, names: ns, props: newProperties(ns), shown: map[vsr.Note]bool{},
		decided: map[string]bool{}, show: showAll,
	}
	c.props.seed = cfg.Seed
	for _, m := range members.Members {
		c.add(m.ID, members)
	}
	return c
}

// add formats a disk for a new replica, which does not run yet.
func (c *cluster) add(id vsr.ID, members vsr.Membership) *replica {
	n := &replica{id: id, unread: map[vsr.Op]bool{}}
	n.disk.record = &vsr.Record{View: vsr.MakeView(members.Epoch, members.First), Members: members, Virgin: true}
	c.props.stamped(id, n.disk.record)
	c.replicas = append(c.replicas, n)
	return n
}

func (c *cluster) printf(cl class, format string, args ...any) {
	if c.show&cl != 0 {
		c.out.WriteString(c.indent)
		fmt.Fprintf(&c.out, format, args...)
		c.out.WriteByte('\n')
	}
}

// errText is an error as scripts print it.
func errText(err error) string { return strings.TrimPrefix(err.Error(), "vsr: ") }

// start runs a replica from what is durable on its disk.
func (c *cluster) start(n *replica) {
	cfg := c.cfg
	cfg.ID = n.id
	n.boots++
	n.machine, n.notes = nil, [vsr.NoteCount]uint64{}
	core, err := vsr.New(cfg, n.disk.state(vsr.Nonce{Hi: uint64(n.id), Lo: n.boots}))
	if err != nil {
		c.printf(showState, "%s does not start: %s", n, errText(err))
		return
	}
	n.core, n.status, n.before = core, vsr.Status{Members: n.disk.record.Members}, vsr.Status{} // no ID: nothing told yet
	c.props.restarted(n.id)
	for i := range n.disk.slots {
		if s := &n.disk.slots[i]; s.intact() {
			c.props.durable(n.id, s.Checksum)
		}
	}
	c.restore(n)
	c.settle(n)
}

// restore gives the machine the newest snapshot on the disk, as a restart does.
func (c *cluster) restore(n *replica) {
	for i := len(n.disk.snapshots) - 1; i >= 0; i-- {
		s := &n.disk.snapshots[i]
		if s.bad {
			continue
		}
		n.machine = c.machineOf(s)
		c.printf(showApply, "%s starts with snapshot %s [%s]", n, c.names.snapshot(&s.Snapshot), s.payload)
		return
	}
}

// machineOf is the state of a machine that has a snapshot's content.
func (c *cluster) machineOf(s *image) []vsr.Header {
	out := make([]vsr.Header, s.Header.Op)
	copy(out, c.props.history)
	return out
}

func (c *cluster) crash(n *replica, torn int) {
	n.disk.crash(torn, c.cfg.Memory)
	if n.disk.record != nil {
		c.props.records[n.id] = *cloneRecord(n.disk.record)
		c.props.stamped(n.id, n.disk.record)
	}
	n.core = nil
	clear(n.unread)
}

// settle obeys a replica's outputs until it has none, and tells what changed.
func (c *cluster) settle(n *replica) {
	for steps := 0; n.core != nil; steps++ {
		if steps == 10000 {
			panic("a replica answers its own effects for ever")
		}
		out := n.core.Take()
		if !c.perform(n, out) && !(c.auto && !n.slow && c.fsync(n, -1)) {
			break
		}
	}
	if n.core == nil {
		return
	}
	c.tellNotes(n)
	c.tellStatus(n)
}

// perform obeys one Output in its order; false if it was empty.
func (c *cluster) perform(n *replica, out *vsr.Output) bool {
	did := len(out.Send)+len(out.Persist)+len(out.Promise)+len(out.Apply)+len(out.Reads) > 0 || out.Install != nil
	c.send(n, out.Send, "->")
	for i := range out.Persist {
		c.persist(n, &out.Persist[i])
	}
	c.send(n, out.Promise, "=>")
	// The list is of the Output that asks for it: Damaged may not change it.
	apply, reads := slices.Clone(out.Apply), slices.Clone(out.Reads)
	if out.Install != nil {
		c.install(n, out.Install)
	}
	c.apply(n, apply)
	for _, r := range reads {
		c.answer(n, r)
	}
	n.before = n.core.Status()
	return did
}

func (c *cluster) persist(n *replica, w *vsr.Write) {
	if w.Kind == vsr.WriteEntry {
		c.names.learn(&w.Entry)
		c.props.header(&w.Entry.Header)
	}
	if w.Kind == vsr.WriteRecord {
		c.props.recordMoves(n.id, w.Record)
	}
	c.printf(showDisk, "%s writes %d: %s", n, w.Ticket, c.names.write(w))
	n.disk.pending = append(n.disk.pending, *w)
}

// fsync completes the next writes of a replica, all that pend now if count is
// negative, and says so once, as a group commit does.
func (c *cluster) fsync(n *replica, count int) bool {
	if count < 0 || count > len(n.disk.pending) {
		count = len(n.disk.pending)
	}
	if count == 0 || n.core == nil {
		return false
	}
	var last vsr.Write
	for ; count > 0; count-- {
		w, sealed := n.disk.complete()
		last = w
		switch {
		case w.Kind == vsr.WriteEntry:
			c.props.durable(n.id, w.Entry.Checksum)
		case w.Kind == vsr.WriteRecord:
			c.props.stamped(n.id, w.Record)
		case w.Kind == vsr.WriteSeal && !sealed:
			c.printf(showDisk, "%s finds that snapshot %s does not fit its checksum", n, c.names.snapshot(w.Snapshot))
			n.core.SealFailed()
		}
	}
	if !c.auto {
		c.printf(showDisk, "%s has %d durable", n, last.Ticket)
	}
	n.core.Persisted(last.Ticket)
	return true
}

// send puts messages on the network, filled from the sender's disk.
func (c *cluster) send(n *replica, ms []vsr.Message, arrow string) {
	var to []string
	for i := range ms {
		m := ms[i]
		if !c.fill(n, &m) {
			continue
		}
		c.props.message(&m, &sender{disk: &n.disk, memory: c.cfg.Memory, was: n.before, is: n.core.Status()})
		text := c.names.message(&m)
		c.net.put(&m, text)
		to = append(to, letter(m.To))
		// Copies of one message to several replicas are one line.
		if i+1 == len(ms) || c.names.message(&ms[i+1]) != c.names.message(&ms[i]) || ms[i+1].Kind == vsr.Chunk {
			c.printf(showNet, "%s %s %s %s", n, arrow, strings.Join(to, ","), text)
			to = nil
		}
	}
}

// fill reads the bodies and bytes that a message stands for from the disk.
func (c *cluster) fill(n *replica, m *vsr.Message) bool {
	if m.Kind == vsr.Chunk && m.Data == nil {
		payload, ok := n.disk.payload(m.Snapshot)
		if !ok {
			c.printf(showDisk, "%s cannot read its snapshot %s", n, c.names.snapshot(m.Snapshot))
			n.core.SnapshotLost(m.Snapshot.Header.Op)
			return false
		}
		from := min(m.Seq, uint64(len(payload)))
		m.Data = payload[from:min(from+uint64(c.cfg.ChunkBytes), uint64(len(payload)))]
	}
	m.Entries = slices.Clone(m.Entries)
	for i := range m.Entries {
		if !c.fillBody(n, &m.Entries[i]) {
			return false
		}
	}
	return true
}

// fillBody reads an entry's body; if it cannot, the replica is told.
func (c *cluster) fillBody(n *replica, e *vsr.Entry) bool {
	if e.Body != nil || e.Size == 0 {
		c.names.learn(e)
		return true
	}
	body, ok := n.disk.body(e.Op, e.Checksum)
	if n.unread[e.Op] {
		delete(n.unread, e.Op)
		ok = false
	}
	if !ok {
		c.printf(showDisk, "%s cannot read %s", n, c.names.of(&e.Header))
		n.core.Damaged(e.Op, e.Checksum)
		return false
	}
	e.Body = body
	c.names.learn(e)
	return true
}

func (c *cluster) apply(n *replica, es []vsr.Entry) {
	var done []vsr.Entry
	for _, e := range es {
		if !c.fillBody(n, &e) {
			n.core.Reapply(e.Op)
			break
		}
		c.props.header(&e.Header)
		if c.cfg.Memory {
			c.props.durable(n.id, e.Checksum) // without a disk, to have it is to hold it
		}
		c.props.applied(n.id, vsr.Op(len(n.machine)), &e.Header, &n.status)
		if st := n.core.Status(); st.Phase == vsr.Normal && st.Primary == n.id {
			c.props.acknowledged(&e.Header, st.View)
		}
		n.machine = append(n.machine, e.Header)
		done = append(done, e)
	}
	if len(done) > 0 {
		c.printf(showApply, "%s applies %s", n, c.names.entries(done))
	}
}

// install replaces the machine's state by a snapshot from the disk.
func (c *cluster) install(n *replica, s *vsr.Snapshot) {
	payload, ok := n.disk.payload(s)
	if !ok {
		c.props.fail("promise after persist", "%s is to install snapshot %s, which is not on its disk", n, c.names.snapshot(s))
		return
	}
	c.props.installed(n.id, s)
	n.machine = slices.Clone(c.props.history[:min(int(s.Header.Op), len(c.props.history))])
	c.printf(showApply, "%s installs snapshot %s [%s]", n, c.names.snapshot(s), payload)
	if want := c.payload(n.machine); !bytes.Equal(want, payload) {
		c.props.fail("applied histories are prefixes", "snapshot %s of %s holds [%s], the history is [%s]", c.names.snapshot(s), n, payload, want)
	}
}

// payload is a machine's state as the content of a snapshot.
func (c *cluster) payload(machine []vsr.Header) []byte {
	out := make([]string, len(machine))
	for i := range machine {
		out[i] = c.names.body(machine[i].Checksum)
	}
	return []byte(strings.Join(out, " "))
}

func (c *cluster) answer(n *replica, r vsr.Read) {
	token := c.tokens[r.Token-1]
	c.decided[token] = true
	c.props.answered(r)
	if r.Err != nil {
		c.printf(showApply, "%s refuses read %s: %s", n, token, errText(r.Err))
	} else {
		c.printf(showApply, "%s answers read %s once it has applied %d", n, token, r.Op)
	}
}

func (c *cluster) tellNotes(n *replica) {
	counts := n.core.Notes()
	if counts == nil {
		return
	}
	for i, count := range counts {
		if count > n.notes[i] {
			c.shown[vsr.Note(i)], c.everShown[vsr.Note(i)] = true, true
			c.printf(showDrop, "%s dropped: %s", n, vsr.Note(i))
		}
	}
	n.notes = *counts
}

func (c *cluster) tellStatus(n *replica) {
	st := n.core.Status()
	was := n.status
	n.status = st
	c.props.statusMoves(st)
	if was.ID != 0 && was.Phase == st.Phase && was.View == st.View && was.Serving == st.Serving && was.Held == st.Held && was.Role == st.Role {
		return
	}
	if was.ID == 0 && st.Phase == vsr.Normal && st.View == 0 && !st.Serving {
		return // the beginning of a script says nothing new
	}
	c.printf(showState, "%s: %s", n, statusText(&st))
}

// statusText is what a replica is doing, in a few words.
func statusText(st *vsr.Status) string {
	s := fmt.Sprintf("%s in view %s", st.Phase, st.View)
	switch {
	case st.Role == vsr.Learner:
		s += ", learner"
	case st.Serving:
		s += ", serves"
	case st.Primary == st.ID && st.Phase == vsr.Normal:
		s += ", primary"
	}
	if st.Held {
		s += ", held"
	}
	return s
}

// find is the replica with this letter.
func (c *cluster) find(name string) (*replica, error) {
	if c == nil {
		return nil, errors.New("there is no cluster yet")
	}
	for _, n := range c.replicas {
		if n.String() == name {
			return n, nil
		}
	}
	return nil, fmt.Errorf("there is no replica %q", name)
}
