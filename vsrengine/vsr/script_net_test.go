package vsr_test

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cockroachdb/datadriven"
	"github.com/diarchy/diarchy/vsrengine/vsr"
)

// network is the messages in flight. They move when a verb says so, and are lost
// at delivery if the way is cut then.
type network struct {
	flight []flying
	kept   map[string][]flying
	cuts   map[[2]string]bool
	blocks []filter
}

type flying struct {
	vsr.Message
	text string // as it was when it left
}

func (f *flying) String() string {
	return fmt.Sprintf("%s -> %s %s", letter(f.From), letter(f.To), f.text)
}

func (w *network) put(m *vsr.Message, text string) {
	w.flight = append(w.flight, flying{*m, text})
}

// filter chooses messages; what is not named is not asked.
type filter struct {
	from, to, kind, view, op []string
	count                    int
}

const filterArgs = "from to kind view op n"

// takeFilter reads from= to= kind= op= view= n= out of a verb's arguments.
func takeFilter(d *datadriven.TestData) (f filter, err error) {
	f.count = -1
	for _, a := range d.CmdArgs {
		for i, v := range a.Vals {
			a.Vals[i] = strings.TrimSpace(v)
		}
		if len(a.Vals) == 1 {
			a.Vals = strings.Split(a.Vals[0], ",")
		}
		switch a.Key {
		case "from":
			f.from = a.Vals
		case "to":
			f.to = a.Vals
		case "kind":
			f.kind = a.Vals
		case "view":
			f.view = a.Vals
		case "op":
			f.op = a.Vals
		case "n":
			if _, err := fmt.Sscan(a.Vals[0], &f.count); err != nil {
				return f, fmt.Errorf("n=%s: %w", a.Vals[0], err)
			}
		}
	}
	for _, k := range f.kind {
		if !slices.ContainsFunc(allKinds(), func(x vsr.Kind) bool { return x.String() == k }) {
			return f, fmt.Errorf("there is no message kind %q", k)
		}
	}
	return f, nil
}

func allKinds() []vsr.Kind {
	var out []vsr.Kind
	for k := vsr.Kind(1); !strings.HasPrefix(k.String(), "Kind("); k++ {
		out = append(out, k)
	}
	return out
}

func (f *filter) match(m *flying) bool {
	in := func(list []string, s string) bool { return len(list) == 0 || slices.Contains(list, s) }
	ops := []vsr.Op{m.Op}
	for i := range m.Entries {
		ops = append(ops, m.Entries[i].Op)
	}
	return in(f.from, letter(m.From)) && in(f.to, letter(m.To)) && in(f.kind, m.Kind.String()) && in(f.view, m.View.String()) &&
		slices.ContainsFunc(ops, func(op vsr.Op) bool { return in(f.op, fmt.Sprint(op)) })
}

// take removes and returns the messages in flight that match.
func (w *network) take(f filter) []flying {
	var taken, left []flying
	for _, m := range w.flight {
		if (f.count < 0 || len(taken) < f.count) && f.match(&m) {
			taken = append(taken, m)
		} else {
			left = append(left, m)
		}
	}
	w.flight = left
	return taken
}

// lost says why a message does not arrive, "" if it does.
func (c *cluster) lost(m *flying) string {
	if c.net.cuts[[2]string{letter(m.From), letter(m.To)}] {
		return "cut"
	}
	if slices.ContainsFunc(c.net.blocks, func(f filter) bool { return f.match(m) }) {
		return "blocked"
	}
	if n, err := c.find(letter(m.To)); err != nil || n.core == nil {
		return letter(m.To) + " is down"
	}
	return ""
}

// deliver hands messages to their receivers, in order.
func (c *cluster) deliver(ms []flying) {
	for i := range ms {
		m := &ms[i]
		if now := c.names.message(&m.Message); now != m.text {
			c.props.fail("messages do not change in flight", "%s became %s", m, now)
		}
		if why := c.lost(m); why != "" {
			c.printf(showGet, "%s: lost, %s", m, why)
			continue
		}
		n, _ := c.find(letter(m.To))
		c.printf(showGet, "%s <- %s %s", n, letter(m.From), m.text)
		indent := c.indent
		if c.show&showGet != 0 {
			c.indent += "  "
		}
		msg := m.Message
		n.core.Step(&msg)
		c.settle(n)
		c.indent = indent
	}
}

// stormMessages is more than any script has in flight unless answers multiply.
const stormMessages = 2000

// stabilize completes every write and delivers every message until all is quiet.
func (c *cluster) stabilize(rounds int) error {
	for range rounds {
		moved := false
		for _, n := range c.replicas {
			for !n.slow && c.fsync(n, -1) {
				moved = true
				c.settle(n)
			}
		}
		ms := c.net.take(filter{count: -1})
		if len(ms) > stormMessages {
			return fmt.Errorf("%d messages answer one another without end, such as %s and %s", len(ms), &ms[0], &ms[len(ms)/2])
		}
		c.deliver(ms)
		if !moved && len(ms) == 0 {
			return nil
		}
	}
	return fmt.Errorf("not quiet after %d rounds", rounds)
}

func verbNet(c *cluster, _ *datadriven.TestData) error {
	for i := range c.net.flight {
		fmt.Fprintf(&c.out, "%d: %s\n", i+1, &c.net.flight[i])
	}
	if len(c.net.flight) == 0 {
		c.out.WriteString("nothing\n")
	}
	return nil
}

func verbDeliver(c *cluster, d *datadriven.TestData) error {
	f, err := takeFilter(d)
	if err != nil {
		return err
	}
	ms := c.net.take(f)
	if len(ms) == 0 {
		return fmt.Errorf("no such message is in flight")
	}
	c.deliver(ms)
	return nil
}

func verbDrop(c *cluster, d *datadriven.TestData) error {
	f, err := takeFilter(d)
	if err != nil {
		return err
	}
	ms := c.net.take(f)
	for i := range ms {
		c.printf(showGet, "%s: lost", &ms[i])
	}
	if len(ms) == 0 {
		c.printf(showGet, "nothing")
	}
	return nil
}

// verbKeep sets messages aside under a name, past whatever comes.
func verbKeep(c *cluster, d *datadriven.TestData) error {
	name := value(d, "name")
	f, err := takeFilter(d)
	if err != nil {
		return err
	}
	ms := c.net.take(f)
	if len(ms) == 0 || name == "" {
		return fmt.Errorf("no such message is in flight, or no name is given")
	}
	if c.net.kept == nil {
		c.net.kept = map[string][]flying{}
	}
	c.net.kept[name] = append(c.net.kept[name], ms...)
	for i := range ms {
		c.printf(showGet, "%s: kept as %s", &ms[i], name)
	}
	return nil
}

// verbSend delivers what was kept; with "again" it stays kept.
func verbSend(c *cluster, d *datadriven.TestData) error {
	name := d.CmdArgs[0].Key
	ms := c.net.kept[name]
	if len(ms) == 0 {
		return fmt.Errorf("nothing is kept as %q", name)
	}
	if !d.HasArg("again") {
		delete(c.net.kept, name)
	}
	c.deliver(slices.Clone(ms))
	return nil
}

func verbDup(c *cluster, d *datadriven.TestData) error {
	f, err := takeFilter(d)
	if err != nil {
		return err
	}
	n := len(c.net.flight)
	for i := range n {
		if m := c.net.flight[i]; f.match(&m) {
			c.net.flight = append(c.net.flight, m)
			c.printf(showGet, "%s: twice in flight", &m)
		}
	}
	return nil
}

// verbPartition cuts every way between the groups named: partition A | B C.
func verbPartition(c *cluster, d *datadriven.TestData) error {
	side := map[string]int{}
	group := 0
	for _, a := range d.CmdArgs {
		if a.Key == "|" {
			group++
			continue
		}
		side[a.Key] = group
	}
	c.net.cuts = map[[2]string]bool{}
	for _, x := range c.replicas {
		for _, y := range c.replicas {
			if side[x.String()] != side[y.String()] {
				c.net.cuts[[2]string{x.String(), y.String()}] = true
			}
		}
	}
	return nil
}

// verbCut cuts single ways: cut A->B B->C.
func verbCut(c *cluster, d *datadriven.TestData) error {
	if c.net.cuts == nil {
		c.net.cuts = map[[2]string]bool{}
	}
	for _, a := range d.CmdArgs {
		from, to, ok := strings.Cut(a.Key, "->")
		if !ok {
			return fmt.Errorf("%q is not a way such as A->B", a.Key)
		}
		c.net.cuts[[2]string{from, to}] = true
	}
	return nil
}

func verbHeal(c *cluster, _ *datadriven.TestData) error {
	c.net.cuts, c.net.blocks = nil, nil
	return nil
}

// verbBlock loses messages that match from now on, until heal.
func verbBlock(c *cluster, d *datadriven.TestData) error {
	f, err := takeFilter(d)
	if err != nil {
		return err
	}
	c.net.blocks = append(c.net.blocks, f)
	return nil
}

// verbForge hands a replica a message that no correct one sends, or one that is
// long on its way: forge at=B from=C to=B kind=Prepare view=0. With log it
// describes an empty log; with entries=(1:a@0 2:b@0), as in given, it carries the
// last of them.
func verbForge(c *cluster, d *datadriven.TestData) error {
	n, err := c.find(value(d, "at"))
	if err != nil || n.core == nil {
		return fmt.Errorf("at= is no replica that runs: %v", err)
	}
	m := vsr.Message{From: idOf(value(d, "from")), To: idOf(value(d, "to"))}
	for _, k := range allKinds() {
		if k.String() == value(d, "kind") {
			m.Kind = k
		}
	}
	if m.View, err = parseView(value(d, "view")); err != nil {
		return err
	}
	if t := value(d, "to_view"); t != "" {
		if m.Target, err = parseView(t); err != nil {
			return err
		}
	}
	op, err := number(d, "op", 0)
	if err != nil {
		return err
	}
	m.Op = vsr.Op(op)
	if d.HasArg("log") {
		m.Log = &vsr.Log{First: 1, Intact: true}
	}
	chain, err := c.notation(list(d, "entries"), nil)
	if err != nil {
		return err
	}
	if len(chain) > 0 {
		m.Entries = []vsr.Entry{chain[len(chain)-1].Entry}
	}
	c.printf(showGet, "%s <- %s %s", n, letter(m.From), c.names.message(&m))
	n.core.Step(&m)
	c.settle(n)
	return nil
}

func idOf(name string) vsr.ID {
	if len(name) != 1 {
		return 0
	}
	return vsr.ID(name[0]-'A') + 1
}
