package vsr_test

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/cockroachdb/datadriven"
	"github.com/diarchy/diarchy/vsrengine/vsr"
)

// given lays out a replica's disk by hand, so that a scenario can begin where it
// becomes interesting:
//
//	given B view=2 log_view=1 commit=1 log=(1:a@0 2:b@0- 3:c@1~) dead=(2:q@0)
//
// log is the log that counts, from op 1 on; 2:b@0 is op 2, body b, first prepared
// in view 0. A "-" after it means that it is not on this disk, "~" that its body
// is damaged, "~~" its header too. dead are entries that were superseded; each
// follows the entry below it in dead or, if there is none, in log. head= is the
// last op that the view record lists (the rest was appended after it), headers=
// how many it lists (log_view began with the last one of an earlier view), snapshots=(1 3) are snapshots at those ops, first= the first
// op that was not trimmed, unplaced a damaged record whose op is not known,
// virgin a disk that was formatted and never used.
func verbGiven(c *cluster, d *datadriven.TestData) error {
	ns, err := c.subjects(d)
	if err != nil {
		return err
	}
	for _, n := range ns {
		if n.core != nil {
			return fmt.Errorf("%s runs: make the cluster stopped", n)
		}
		if err := c.lay(n, d); err != nil {
			return err
		}
	}
	return nil
}

func (c *cluster) lay(n *replica, d *datadriven.TestData) error {
	log, err := c.notation(list(d, "log"), nil)
	if err != nil {
		return err
	}
	dead, err := c.notation(list(d, "dead"), log)
	if err != nil {
		return err
	}
	g := given{d: d, log: log}
	n.disk = disk{unplaced: d.HasArg("unplaced")}
	first := g.number("first", 1)
	for _, w := range append(dead, log...) {
		if !w.missing && int(w.Op) >= first {
			n.disk.slots = append(n.disk.slots, slot{Entry: w.Entry, bodyBad: w.bodyBad, headerBad: w.headerBad})
		}
	}
	if first > 1 {
		n.disk.trimmed = vsr.Op(first)
	}
	n.disk.record = &vsr.Record{View: g.view("view"), Members: c.members, Virgin: d.HasArg("virgin"), Log: g.record(c.cfg.PipelineMax + 1)}
	for _, op := range list(d, "snapshots") {
		at, err := strconv.Atoi(op)
		if err != nil || at < 1 || at > len(log) {
			return fmt.Errorf("snapshots=%s: no such op in log", op)
		}
		n.disk.snapshots = append(n.disk.snapshots, c.image(log[:at]))
		for i := len(c.props.history); i < at; i++ {
			c.props.history = append(c.props.history, log[i].Header) // a snapshot holds what is committed
		}
	}
	if g.err == nil {
		c.props.recordMoves(n.id, n.disk.record)
		c.props.stamped(n.id, n.disk.record)
	}
	return g.err
}

// written is an entry of the notation.
type written struct {
	vsr.Entry
	missing, bodyBad, headerBad bool
}

var entryNotation = regexp.MustCompile(`^(\d+):([^@]+)@(?:(\d+)/)?(\d+)(-|~~|~)?$`)

// notation reads entries such as 2:b@0-; base is the log that the first ones of
// a list follow.
func (c *cluster) notation(texts []string, base []written) ([]written, error) {
	var out []written
	for _, text := range texts {
		m := entryNotation.FindStringSubmatch(text)
		if m == nil {
			return nil, fmt.Errorf("%q is not an entry such as 2:b@0", text)
		}
		op, _ := strconv.Atoi(m[1])
		epoch, _ := strconv.Atoi(m[3])
		counter, _ := strconv.Atoi(m[4])
		body := []byte(m[2])
		w := written{missing: m[5] == "-", bodyBad: m[5] == "~", headerBad: m[5] == "~~"}
		w.Entry = vsr.Entry{Header: vsr.Header{
			View: vsr.MakeView(uint64(epoch), uint64(counter)), Op: vsr.Op(op), First: 1, Count: 1,
			Size: uint32(len(body)), Kind: vsr.KindUser, BodyChecksum: vsr.BodySum(body),
		}, Body: body}
		if m[2] == "noop" {
			w.Kind, w.Count, w.Size, w.Body, w.BodyChecksum = vsr.KindNoop, 0, 0, nil, vsr.BodySum(nil)
		}
		if parent := before(op, out, base); parent != nil {
			w.Parent, w.First = parent.Checksum, parent.Next()
		} else if op > 1 {
			return nil, fmt.Errorf("%q follows nothing", text)
		} else {
			w.Parent = vsr.Checksum(c.cfg.Seed)
		}
		w.Checksum = w.Sum(c.cfg.Seed)
		c.names.learn(&w.Entry)
		out = append(out, w)
	}
	return out, nil
}

// before is the last entry written for the op below.
func before(op int, lists ...[]written) *vsr.Header {
	for _, l := range lists {
		for i := len(l) - 1; i >= 0; i-- {
			if int(l[i].Op) == op-1 {
				return &l[i].Header
			}
		}
	}
	return nil
}

// given collects the numbers of one line.
type given struct {
	d   *datadriven.TestData
	log []written
	err error
}

func (g *given) number(key string, otherwise int) int {
	n, err := number(g.d, key, otherwise)
	if err != nil {
		g.err = err
	}
	return n
}

func (g *given) view(key string) vsr.View {
	text := value(g.d, key)
	if text == "" {
		return 0
	}
	v, err := parseView(text)
	if err != nil {
		g.err = fmt.Errorf("%s: %w", key, err)
	}
	return v
}

func parseView(text string) (vsr.View, error) {
	epoch, counter, ok := strings.Cut(text, "/")
	if !ok {
		epoch, counter = "0", text
	}
	e, err := strconv.ParseUint(epoch, 10, 24)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(counter, 10, 40)
	return vsr.MakeView(e, n), err
}

// record is what the view record says of the log.
func (g *given) record(most int) *vsr.Log {
	head := g.number("head", len(g.log))
	count := min(g.number("headers", most), head)
	first := vsr.Op(g.number("first", 1))
	l := &vsr.Log{LogView: g.view("log_view"), Head: vsr.Op(head), First: first, Commit: vsr.Op(g.number("commit", 0)), Intact: !g.d.HasArg("unplaced")}
	for _, op := range list(g.d, "snapshots") {
		n, _ := strconv.Atoi(op)
		l.Snapshot = vsr.Op(n)
	}
	l.Contiguous = l.Snapshot
	for i := range g.log[:head] {
		w := &g.log[i]
		if w.View < l.LogView {
			l.Begin = w.Op // log_view began with it
		}
		if w.Op == l.Contiguous+1 && !w.missing && !w.bodyBad && !w.headerBad {
			l.Contiguous = w.Op
		}
		if i < head-count {
			continue
		}
		claim := vsr.Linked
		if !w.missing {
			claim |= vsr.Present
		}
		l.Headers = append(l.Headers, w.Header)
		l.Claims = append(l.Claims, claim)
	}
	return l
}

// image is a snapshot at the last entry of log.
func (c *cluster) image(log []written) image {
	var bodies []string
	for i := range log {
		bodies = append(bodies, c.names.body(log[i].Checksum))
	}
	payload := []byte(strings.Join(bodies, " "))
	last := log[len(log)-1].Header
	return image{
		Snapshot: vsr.Snapshot{Header: last, Next: last.Next(), Members: c.members, Size: uint64(len(payload)), Sum: vsr.BodySum(payload)},
		payload:  payload,
	}
}

// list is the blank-separated values of an argument in parentheses.
func list(d *datadriven.TestData, key string) []string {
	var out []string
	for _, a := range d.CmdArgs {
		if a.Key == key {
			for _, v := range a.Vals {
				out = append(out, strings.Fields(v)...)
			}
		}
	}
	return out
}

// verbJoin makes a new replica with a freshly formatted disk and starts it. Its
// format names the members that a running replica knows, which must name it too.
func verbJoin(c *cluster, d *datadriven.TestData) error {
	for _, name := range words(d) {
		members := c.members
		id := vsr.ID(name[0] - 'A' + 1)
		for _, n := range c.replicas {
			if n.core == nil {
				continue
			}
			if m := n.core.Status().Members; m.Role(id) != 0 && m.Op >= members.Op {
				members = m
			}
		}
		c.start(c.add(id, members))
	}
	return nil
}

// verbRot damages what is durable: rot A op=3 [header] [which=dead], or
// snapshot=5; unplaced hides which op the record was of.
func verbRot(c *cluster, d *datadriven.TestData) error {
	ns, err := c.subjects(d)
	if err != nil {
		return err
	}
	n := ns[0]
	if at := value(d, "snapshot"); at != "" {
		for i := range n.disk.snapshots {
			if fmt.Sprint(n.disk.snapshots[i].Header.Op) == at {
				n.disk.snapshots[i].bad = true
				return nil
			}
		}
		return fmt.Errorf("%s has no snapshot %s", n, at)
	}
	var of []int
	for i := range n.disk.slots {
		if fmt.Sprint(n.disk.slots[i].Op) == value(d, "op") {
			of = append(of, i)
		}
	}
	if len(of) == 0 {
		return fmt.Errorf("%s has no op %s on disk", n, value(d, "op"))
	}
	at := of[len(of)-1]
	if value(d, "which") == "dead" {
		at = of[0]
	}
	switch {
	case d.HasArg("unplaced"):
		n.disk.slots = slices.Delete(n.disk.slots, at, at+1)
		n.disk.unplaced = true
	case d.HasArg("header"):
		n.disk.slots[at].headerBad = true
	default:
		n.disk.slots[at].bodyBad = true
	}
	return nil
}

// verbWipe empties a disk, the format mark too.
func verbWipe(c *cluster, d *datadriven.TestData) error {
	ns, err := c.subjects(d)
	if err != nil {
		return err
	}
	for _, n := range ns {
		if n.core != nil {
			return fmt.Errorf("%s runs: crash it first", n)
		}
		n.disk = disk{}
	}
	return nil
}

// verbReadError makes the next read of a body fail: readerror A op=3.
func verbReadError(c *cluster, d *datadriven.TestData) error {
	n, err := c.subject(d)
	if err != nil {
		return err
	}
	op, err := number(d, "op", 0)
	n.unread[vsr.Op(op)] = true
	return err
}

// verbSnapshot takes a snapshot of what the machine was at op, and makes it
// durable.
func verbSnapshot(c *cluster, d *datadriven.TestData) error {
	n, err := c.subject(d)
	if err != nil {
		return err
	}
	op, err := number(d, "op", len(n.machine))
	if err != nil {
		return err
	}
	s, ok := n.core.SnapshotAt(vsr.Op(op))
	if !ok || op > len(n.machine) {
		c.printf(showDisk, "%s cannot take a snapshot at %d", n, op)
		return nil
	}
	payload := c.payload(n.machine[:op])
	s.Size, s.Sum = uint64(len(payload)), vsr.BodySum(payload)
	n.disk.snapshots = append(n.disk.snapshots, image{Snapshot: s, payload: payload})
	c.printf(showDisk, "%s has snapshot %s [%s] durable", n, c.names.snapshot(&s), payload)
	n.core.Snapshotted(s)
	c.settle(n)
	return nil
}

func verbState(c *cluster, d *datadriven.TestData) error {
	ns, err := c.named(strings.Join(words(d), ","))
	if err != nil {
		return err
	}
	for _, n := range ns {
		if n.core == nil {
			fmt.Fprintf(&c.out, "%s down\n", n)
			continue
		}
		st := n.core.Status()
		fmt.Fprintf(&c.out, "%s %s: log_view=%s head=%d commit=%d applied=%d", n, statusText(&st), st.LogView, st.Head, st.Commit, st.Applied)
		if st.Snapshot > 0 {
			fmt.Fprintf(&c.out, " snapshot=%d first=%d", st.Snapshot, st.First)
		}
		if st.Damaged {
			c.out.WriteString(" damaged")
		}
		if st.Members.Op > 0 {
			fmt.Fprintf(&c.out, " members=%s", membersText(&st.Members))
		}
		fmt.Fprintf(&c.out, " [%s]\n", c.logText(n))
		if st.Trouble != "" {
			fmt.Fprintf(&c.out, "  %s: %s\n", n, st.Trouble)
		}
	}
	return nil
}

// logText is the log as the replica has it. After an entry, "-" means that its
// body is not here, "~" that it is damaged, "?" that it is not known to belong to
// this log; 3:_ is an op of which nothing is known.
func (c *cluster) logText(n *replica) string {
	st := n.core.Status()
	var out []string
	for op := st.First; op <= st.Head; op++ {
		h, linked, present, damaged := n.core.LogAt(op)
		text := c.names.of(&h)
		switch {
		case h.Checksum == 0:
		case damaged:
			text += "~"
		case !present:
			text += "-"
		}
		if !linked && h.Checksum != 0 {
			text += "?"
		}
		out = append(out, text)
	}
	return strings.Join(out, " ")
}

func verbLog(c *cluster, d *datadriven.TestData) error {
	ns, err := c.subjects(d)
	if err != nil {
		return err
	}
	for _, n := range ns {
		if n.core != nil {
			fmt.Fprintf(&c.out, "%s %s\n", n, c.logText(n))
		}
	}
	return nil
}

func verbApplied(c *cluster, d *datadriven.TestData) error {
	ns, err := c.subjects(d)
	if err != nil {
		return err
	}
	for _, n := range ns {
		fmt.Fprintf(&c.out, "%s %s\n", n, c.payload(n.machine))
	}
	return nil
}
