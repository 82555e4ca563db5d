package vsr_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/cockroachdb/datadriven"
	"github.com/diarchy/diarchy/vsrengine/vsr"
)

// verb does one line of a script. What it prints goes to c.out; an error fails
// the script.
type verb func(c *cluster, d *datadriven.TestData) error

// verbs are all but cluster, which makes what the others work on: what runs, what
// it shows when the line does not say (show=net|get|disk|apply|state|drop|all|
// events|nothing, or quiet), and the named arguments that it takes.
var verbs = map[string]struct {
	run  verb
	show class
	args string
}{
	"given": {verbGiven, showAll, "view log_view commit log dead head headers snapshots first"},
	"start": {verbRestart, showAll, ""}, "restart": {verbRestart, showAll, ""}, "join": {verbJoin, showAll, ""},
	"crash": {verbCrash, showAll, "torn"}, "wipe": {verbWipe, showAll, ""},

	"tick": {verbTick, showAll, ""}, "run": {verbRun, showEvents, "ticks"},
	"until":     {verbUntil, showEvents, "ticks on primary applied phase view snapshot members read"},
	"stabilize": {verbStabilize, showAll &^ showNet, "max"},

	"propose": {verbPropose, showAll, "kind"}, "read": {verbRead, showAll, ""}, "transfer": {verbTransfer, showAll, "to"},
	"change": {verbChange, showAll, "add promote remove"}, "hold": {verbHold, showAll, ""}, "release": {verbRelease, showAll, ""},

	"net": {verbNet, showAll, ""}, "deliver": {verbDeliver, showAll, filterArgs}, "drop": {verbDrop, showAll, filterArgs},
	"keep": {verbKeep, showAll, filterArgs + " name"}, "send": {verbSend, showAll, ""}, "dup": {verbDup, showAll, filterArgs},
	"partition": {verbPartition, showAll, ""}, "cut": {verbCut, showAll, ""}, "block": {verbBlock, showAll, filterArgs},
	"heal": {verbHeal, showAll, ""}, "forge": {verbForge, showAll, "at from to kind view to_view op entries"},

	"fsync": {verbFsync, showAll, "n"}, "rot": {verbRot, showAll, "op which snapshot"},
	"slow": {verbSlow, showAll, ""}, "fast": {verbSlow, showAll, ""},
	"readerror": {verbReadError, showAll, "op"}, "snapshot": {verbSnapshot, showAll, "op"},

	"disk": {verbDisk, showAll, ""}, "state": {verbState, showAll, ""}, "log": {verbLog, showAll, ""},
	"applied": {verbApplied, showAll, ""}, "expect": {verbExpect, showAll, "on"}, "notes": {verbNotes, showAll, ""},
}

// known refuses a named argument that the verb does not take: a misspelt filter
// would match everything.
func known(d *datadriven.TestData, args string) error {
	for _, a := range d.CmdArgs {
		if len(a.Vals) > 0 && a.Key != "show" && !slices.Contains(strings.Fields(args), a.Key) {
			return fmt.Errorf("it does not take %s=", a.Key)
		}
	}
	return nil
}

// value is what an argument says, "" if it is not there.
func value(d *datadriven.TestData, key string) string {
	for _, a := range d.CmdArgs {
		if a.Key == key && len(a.Vals) > 0 {
			return a.Vals[0]
		}
	}
	return ""
}

// joined is an argument with several values: on=A,B or on=(A,B).
func joined(d *datadriven.TestData, key string) string {
	for _, a := range d.CmdArgs {
		if a.Key == key {
			return strings.Join(a.Vals, ",")
		}
	}
	return ""
}

func number(d *datadriven.TestData, key string, otherwise int) (int, error) {
	v := value(d, key)
	if v == "" {
		return otherwise, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		return 0, fmt.Errorf("%s=%s is not a number", key, v)
	}
	return n, nil
}

// words are the arguments that have no value, but for what every verb knows.
func words(d *datadriven.TestData) []string {
	var out []string
	for _, a := range d.CmdArgs {
		if len(a.Vals) == 0 && a.Key != "quiet" {
			out = append(out, a.Key)
		}
	}
	return out
}

// subjects are the replicas that the first word names: A, all, or A,C.
func (c *cluster) subjects(d *datadriven.TestData) ([]*replica, error) {
	ws := words(d)
	if len(ws) == 0 {
		return nil, fmt.Errorf("%s: which replica?", d.Cmd)
	}
	return c.named(ws[0])
}

func (c *cluster) named(list string) ([]*replica, error) {
	if list == "all" || list == "" {
		return c.replicas, nil
	}
	var out []*replica
	for _, name := range strings.Split(list, ",") {
		n, err := c.find(name)
		if err != nil {
			return nil, err
		}
		out = append(out, n)
	}
	return out, nil
}

// subject is the one replica that the first word names, which must run.
func (c *cluster) subject(d *datadriven.TestData) (*replica, error) {
	ns, err := c.subjects(d)
	if err != nil {
		return nil, err
	}
	if len(ns) != 1 || ns[0].core == nil {
		return nil, fmt.Errorf("%s: one replica that runs", d.Cmd)
	}
	return ns[0], nil
}

// showing is the class that a line asks for.
func showing(d *datadriven.TestData, otherwise class) (class, error) {
	for _, a := range d.CmdArgs {
		switch {
		case a.Key == "quiet" && len(a.Vals) == 0:
			return 0, nil
		case a.Key == "show":
			sum := class(0)
			for _, v := range a.Vals {
				cl, ok := classNames[v]
				if !ok {
					return 0, fmt.Errorf("show=%s is not known", v)
				}
				sum |= cl
			}
			return sum, nil
		}
	}
	return otherwise, nil
}

func verbTick(c *cluster, d *datadriven.TestData) error {
	ns, err := c.subjects(d)
	if err != nil {
		return err
	}
	count := 1
	if ws := words(d); len(ws) > 1 {
		if count, err = strconv.Atoi(ws[1]); err != nil {
			return err
		}
	}
	for range count {
		for _, n := range ns {
			if n.core != nil {
				n.core.Tick()
				c.settle(n)
			}
		}
	}
	return nil
}

// beat is one tick of everything, and all that follows from it.
func (c *cluster) beat() error {
	for _, n := range c.replicas {
		if n.core != nil {
			n.core.Tick()
			c.settle(n)
		}
	}
	return c.stabilize(500)
}

func verbRun(c *cluster, d *datadriven.TestData) error {
	ticks, err := number(d, "ticks", 1)
	if err != nil {
		return err
	}
	for range ticks {
		if err := c.beat(); err != nil {
			return err
		}
	}
	return nil
}

// verbUntil runs until a condition holds: primary=B, applied=x, phase=normal,
// view=2, snapshot=5, members=ABCD or read=token, on=all or on=A,B.
func verbUntil(c *cluster, d *datadriven.TestData) error {
	ticks, err := number(d, "ticks", 500)
	if err != nil {
		return err
	}
	for range ticks {
		ok, err := c.holds(d)
		if err != nil {
			return err
		}
		if ok {
			return nil
		}
		if err := c.beat(); err != nil {
			return err
		}
	}
	return fmt.Errorf("not so after %d ticks", ticks)
}

func (c *cluster) holds(d *datadriven.TestData) (bool, error) {
	on := joined(d, "on")
	for _, a := range d.CmdArgs {
		if len(a.Vals) == 0 || a.Key == "on" || a.Key == "ticks" || a.Key == "show" {
			continue
		}
		where := on
		if a.Key == "primary" {
			where = a.Vals[0]
		}
		ns, err := c.named(where)
		if err != nil {
			return false, err
		}
		if a.Key == "read" {
			if !c.decided[a.Vals[0]] {
				return false, nil
			}
			continue
		}
		for _, n := range ns {
			ok, err := c.is(n, a.Key, a.Vals[0])
			if err != nil || !ok {
				return false, err
			}
		}
	}
	return true, nil
}

func (c *cluster) is(n *replica, what, want string) (bool, error) {
	if n.core == nil {
		return what != "primary" && what != "phase", nil // of those that are up
	}
	st := n.core.Status()
	switch what {
	case "primary":
		return st.Serving, nil
	case "applied":
		return slices.ContainsFunc(n.machine, func(h vsr.Header) bool { return c.names.body(h.Checksum) == want }), nil
	case "phase":
		return st.Phase.String() == want, nil
	case "view":
		return st.View.String() == want, nil
	case "snapshot":
		return fmt.Sprint(st.Snapshot) == want, nil
	case "members":
		return membersText(&st.Members) == want, nil
	}
	return false, fmt.Errorf("until does not know %q", what)
}

func verbStabilize(c *cluster, d *datadriven.TestData) error {
	most, err := number(d, "max", 500)
	if err != nil {
		return err
	}
	return c.stabilize(most)
}

// verbPropose proposes a batch for each word: propose A x y.
func verbPropose(c *cluster, d *datadriven.TestData) error {
	n, err := c.subject(d)
	if err != nil {
		return err
	}
	for _, body := range words(d)[1:] {
		c.proposed++
		b := vsr.Batch{Kind: vsr.KindUser, Count: 1, Time: c.proposed, Body: []byte(body)}
		if value(d, "kind") == "noop" {
			b = vsr.Batch{Kind: vsr.KindNoop, Time: c.proposed}
		}
		if _, err := n.core.Propose(b); err != nil {
			c.printf(showApply, "%s refuses %s: %s", n, body, errText(err))
		}
		c.settle(n)
	}
	return nil
}

func verbRead(c *cluster, d *datadriven.TestData) error {
	n, err := c.subject(d)
	if err != nil {
		return err
	}
	for _, name := range words(d)[1:] {
		c.tokens = append(c.tokens, name)
		token := uint64(len(c.tokens))
		c.props.asked(token)
		if err := n.core.ReadIndex(token); err != nil {
			c.printf(showApply, "%s refuses read %s: %s", n, name, errText(err))
			c.decided[name] = true
		}
		c.settle(n)
	}
	return nil
}

func verbTransfer(c *cluster, d *datadriven.TestData) error {
	n, err := c.subject(d)
	if err != nil {
		return err
	}
	to, err := c.find(value(d, "to"))
	if err != nil {
		return err
	}
	if err := n.core.Transfer(to.id); err != nil {
		c.printf(showApply, "%s refuses the transfer: %s", n, errText(err))
	}
	c.settle(n)
	return nil
}

// verbChange asks for one change of membership: change A add=D|promote=D|remove=B.
// With stale it is based on another membership than the present one.
func verbChange(c *cluster, d *datadriven.TestData) error {
	n, err := c.subject(d)
	if err != nil {
		return err
	}
	roles := map[string]vsr.Role{"add": vsr.Learner, "promote": vsr.Voter, "remove": 0}
	for what, role := range roles {
		name := value(d, what)
		if name == "" {
			continue
		}
		st := n.core.Status()
		based := st.Members.Lineage
		if d.HasArg("stale") {
			based++
		}
		if err := n.core.Change(vsr.ID(name[0]-'A'+1), role, based); err != nil {
			c.printf(showApply, "%s refuses to %s %s: %s", n, what, name, errText(err))
		}
		c.settle(n)
	}
	return nil
}

func verbHold(c *cluster, d *datadriven.TestData) error    { return c.setHold(d, true) }
func verbRelease(c *cluster, d *datadriven.TestData) error { return c.setHold(d, false) }

func (c *cluster) setHold(d *datadriven.TestData, on bool) error {
	n, err := c.subject(d)
	if err != nil {
		return err
	}
	n.core.Hold(on)
	c.settle(n)
	return nil
}

// verbFsync completes writes: all that pend, or n=1 the next one.
func verbFsync(c *cluster, d *datadriven.TestData) error {
	ns, err := c.subjects(d)
	if err != nil {
		return err
	}
	count, err := number(d, "n", -1)
	if err != nil {
		return err
	}
	for _, n := range ns {
		if c.fsync(n, count) {
			c.settle(n)
		}
	}
	return nil
}

// verbSlow makes a disk hang: until fast, its writes are done by fsync alone.
func verbSlow(c *cluster, d *datadriven.TestData) error {
	ns, err := c.subjects(d)
	for _, n := range ns {
		n.slow = d.Cmd == "slow"
	}
	return err
}

func verbDisk(c *cluster, d *datadriven.TestData) error {
	ns, err := c.subjects(d)
	if err != nil {
		return err
	}
	for _, n := range ns {
		if len(ns) > 1 {
			fmt.Fprintf(&c.out, "%s:\n", n)
		}
		c.out.WriteString(n.disk.text(c.names))
	}
	return nil
}

// verbCrash stops replicas. torn=2 keeps the first two pending writes.
func verbCrash(c *cluster, d *datadriven.TestData) error {
	ns, err := c.subjects(d)
	if err != nil {
		return err
	}
	torn, err := number(d, "torn", 0)
	if err != nil {
		return err
	}
	for _, n := range ns {
		c.crash(n, torn)
	}
	return nil
}

func verbRestart(c *cluster, d *datadriven.TestData) error {
	ns, err := c.subjects(d)
	if err != nil {
		return err
	}
	for _, n := range ns {
		if n.core != nil && d.Cmd == "restart" {
			c.crash(n, 0)
		}
		if n.core == nil {
			c.start(n)
			c.hello(n)
		}
	}
	return nil
}

// hello is what connections begin with: every peer in reach tells a replica what
// it remembers of it (D18).
func (c *cluster) hello(n *replica) {
	for _, other := range c.replicas {
		if other == n || other.core == nil || n.core == nil || c.net.cuts[[2]string{other.String(), n.String()}] {
			continue
		}
		n.core.Confirm(other.core.Witnessed(n.id))
		c.settle(n)
	}
}

func verbExpect(c *cluster, d *datadriven.TestData) error {
	ws := words(d)
	if len(ws) == 0 || ws[0] != "applied" {
		return fmt.Errorf("expect applied on=A,B x y z")
	}
	ns, err := c.named(joined(d, "on"))
	if err != nil {
		return err
	}
	for _, n := range ns {
		if got := string(c.payload(n.machine)); got != strings.Join(ws[1:], " ") {
			return fmt.Errorf("%s has applied [%s]", n, got)
		}
	}
	return nil
}

func verbNotes(c *cluster, _ *datadriven.TestData) error {
	var out []string
	for note := range c.shown {
		out = append(out, note.String())
	}
	slices.Sort(out)
	clear(c.shown)
	for _, s := range out {
		fmt.Fprintln(&c.out, s)
	}
	return nil
}
