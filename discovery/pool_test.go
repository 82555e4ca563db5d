package discovery

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/diarchy/diarchy/framework"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// fast is for tests: a node that is killed is noticed in about a second.
func fast() Timing {
	return Timing{
		ProbeInterval: 200 * time.Millisecond, ProbeTimeout: 150 * time.Millisecond, SuspicionMult: 3,
		GossipInterval: 20 * time.Millisecond, PushPullInterval: 400 * time.Millisecond,
		GossipToTheDead: time.Minute, StreamTimeout: 2 * time.Second,
		JoinMin: 50 * time.Millisecond, JoinMax: 400 * time.Millisecond, JoinSteady: 500 * time.Millisecond,
		FailedKept: time.Hour, LeftKept: time.Hour,
	}
}

func newID() framework.NodeID {
	var u framework.UUID
	rand.Read(u[:])
	return framework.NodeID(u.String())
}

// config is a node on loopback that joins the others by address.
func config(name string, join ...*Pool) Config {
	c := Config{Name: name, ID: newID(), Bind: "127.0.0.1:0", PeerAddr: ":7950", ClientAddr: "127.0.0.1:7960", Version: "test", Timing: fast()}
	for _, p := range join {
		c.Join = append(c.Join, p.gossipAddr())
	}
	return c
}

func (p *Pool) gossipAddr() string { return p.hints.self.addr.String() }

func start(t *testing.T, c Config) *Pool {
	t.Helper()
	p, err := Start(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// eventually waits for a condition; its text tells what is there instead.
func eventually(t *testing.T, what string, ok func() (bool, string)) {
	t.Helper()
	deadline := time.Now().Add(45 * time.Second)
	for {
		is, state := ok()
		if is {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("never: %s; it is: %s", what, state)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// view is what a pool says of its members, "name=status" sorted.
func view(p *Pool) string {
	var out []string
	for _, m := range p.Members() {
		out = append(out, m.Name+"="+m.Status.String())
	}
	return strings.Join(out, " ")
}

func sees(t *testing.T, p *Pool, want string) {
	t.Helper()
	eventually(t, p.cfg.Name+" sees "+want, func() (bool, string) { v := view(p); return v == want, v })
}

func member(t *testing.T, p *Pool, name string) Member {
	t.Helper()
	all := p.Members()
	i := slices.IndexFunc(all, func(m Member) bool { return m.Name == name })
	if i < 0 {
		t.Fatalf("%s does not know %s: %v", p.cfg.Name, name, view(p))
	}
	return all[i]
}

func hasConflict(t *testing.T, p *Pool, kind ConflictKind, inText ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s has a conflict of kind %s with %q", p.cfg.Name, kind, inText), func() (bool, string) {
		all := p.Conflicts()
		return slices.ContainsFunc(all, func(c Conflict) bool {
			if c.Kind != kind {
				return false
			}
			for _, s := range inText {
				if !strings.Contains(c.Text, s) {
					return false
				}
			}
			return true
		}), fmt.Sprintf("%+v", all)
	})
}

func TestThreeNodesMeetOneCrashesOneLeaves(t *testing.T) {
	a := start(t, config("n1"))
	b := start(t, config("n2", a))
	c := start(t, config("n3", b))
	for _, p := range []*Pool{a, b, c} {
		sees(t, p, "n1=alive n2=alive n3=alive")
		eventually(t, "joined", func() (bool, string) { s := p.JoinStatus(); return s.Joined && s.Rounds > 0, fmt.Sprintf("%+v", s) })
	}
	m := member(t, a, "n3")
	if m.ID != c.cfg.ID || m.GossipAddr != c.gossipAddr() || m.PeerAddr != "127.0.0.1:7950" || m.ClientAddr != "127.0.0.1:7960" || m.Version != "test" || m.Self {
		t.Errorf("n1 has of n3: %+v", m)
	}
	if addr, ok := a.PeerAddr(c.cfg.ID); !ok || addr != "127.0.0.1:7950" {
		t.Errorf("PeerAddr(n3) = %q, %v", addr, ok)
	}
	if _, ok := a.PeerAddr(newID()); ok {
		t.Error("PeerAddr knows a node that is not there")
	}

	changed := a.Changed()
	c.Close() // as a crash: nobody is told
	<-changed
	sees(t, a, "n1=alive n2=alive n3=failed")
	sees(t, b, "n1=alive n2=alive n3=failed")

	if err := b.Leave(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := b.Leave(context.Background()); err != nil {
		t.Errorf("a second Leave: %v", err)
	}
	sees(t, a, "n1=alive n2=left n3=failed")
	if addr, ok := a.PeerAddr(b.cfg.ID); ok {
		t.Errorf("PeerAddr of a node that left is %q", addr)
	}
	b.Close()
	if err := b.Leave(context.Background()); !errors.Is(err, framework.ErrStopped) {
		t.Errorf("Leave after Close: %v", err)
	}
	if _, err := b.Join(context.Background(), []string{a.gossipAddr()}); !errors.Is(err, framework.ErrStopped) {
		t.Errorf("Join after Leave: %v", err)
	}

	back := b.cfg
	back.Join = []string{a.gossipAddr()}
	start(t, back)
	sees(t, a, "n1=alive n2=alive n3=failed") // it comes back as if nothing had been
}

func TestForceLeave(t *testing.T) {
	a := start(t, config("n1"))
	b := start(t, config("n2", a))
	c := start(t, config("n3", a))
	sees(t, a, "n1=alive n2=alive n3=alive")
	sees(t, b, "n1=alive n2=alive n3=alive")
	for who, want := range map[string]*framework.Error{"n3": framework.ErrConflict, "n1": framework.ErrConflict, "nobody": framework.ErrNoSuchNode} {
		if err := a.ForceLeave(context.Background(), who); !errors.Is(err, want) {
			t.Errorf("ForceLeave(%s) = %v, expected %s", who, err, want.Code)
		}
	}
	c.Close()
	sees(t, a, "n1=alive n2=alive n3=failed")
	sees(t, b, "n1=alive n2=alive n3=failed")
	if err := a.ForceLeave(context.Background(), string(c.cfg.ID)); err != nil {
		t.Fatal(err)
	}
	sees(t, a, "n1=alive n2=alive n3=left")
	sees(t, b, "n1=alive n2=alive n3=left")
	if err := a.ForceLeave(context.Background(), "n3"); err != nil {
		t.Errorf("a second ForceLeave: %v", err)
	}

	// A node that comes later is told too, by the exchange of its join and not by
	// what is still on its way; and the node itself may come back.
	for _, p := range []*Pool{a, b} {
		eventually(t, "nothing is on its way", func() (bool, string) {
			n := p.hints.outbox.NumQueued()
			return n == 0, fmt.Sprint(n)
		})
	}
	d := start(t, config("n4", b))
	eventually(t, "n4 has heard of the departure", func() (bool, string) {
		d.hints.mu.Lock()
		defer d.hints.mu.Unlock()
		return len(d.hints.gone.byRun) == 1, fmt.Sprint(d.hints.gone.byRun)
	})
	back := c.cfg
	back.Join = []string{a.gossipAddr()}
	start(t, back)
	for _, p := range []*Pool{a, b, d} {
		sees(t, p, "n1=alive n2=alive n3=alive n4=alive")
	}
}

// Declared gone by mistake, a node becomes another run and stays.
func TestForceLeaveOfOneThatRuns(t *testing.T) {
	a := start(t, config("n1"))
	b := start(t, config("n2", a))
	sees(t, a, "n1=alive n2=alive")
	sees(t, b, "n1=alive n2=alive")
	run := member(t, a, "n2").Meta.Run
	d := departure{ID: member(t, a, "n2").Meta.ID, Run: run, At: time.Now().Unix()}
	a.hints.depart(d) // as if it had looked failed here
	a.hints.tell(d)
	eventually(t, "n2 has another run", func() (bool, string) {
		m := member(t, a, "n2")
		return m.Meta.Run != run, fmt.Sprint(m.Meta.Run)
	})
	b.Close()
	sees(t, a, "n1=alive n2=failed") // not left: that was said of the earlier run
}

func TestRestartWithANewAddressIsFoundAgain(t *testing.T) {
	a := start(t, config("n1"))
	b := start(t, config("n2", a))
	c := start(t, config("n3", a))
	for _, p := range []*Pool{a, b, c} {
		sees(t, p, "n1=alive n2=alive n3=alive")
	}
	old := c.gossipAddr()
	c.Close()
	again := c.cfg // the same node, at another port, before the old one is seen to be gone
	again.Join = []string{a.gossipAddr()}
	again.PeerAddr = ":7999"
	n := start(t, again)
	if n.gossipAddr() == old {
		t.Skip("the system gave the same port again")
	}
	for _, p := range []*Pool{a, b, n} {
		eventually(t, p.cfg.Name+" has n3 at its new address", func() (bool, string) {
			m := p.Members()
			i := slices.IndexFunc(m, func(m Member) bool { return m.Name == "n3" })
			return i >= 0 && m[i].Status == Alive && m[i].GossipAddr == n.gossipAddr() && m[i].PeerAddr == "127.0.0.1:7999", fmt.Sprintf("%+v", m)
		})
		sees(t, p, "n1=alive n2=alive n3=alive")
	}
}

// Everybody comes back with another port and no join address: the rejoin file
// names where the others were, so one that stayed is enough.
func TestRejoinFile(t *testing.T) {
	a := start(t, config("n1"))
	conf := config("n2", a)
	conf.DataDir = t.TempDir()
	b := start(t, conf)
	sees(t, b, "n1=alive n2=alive")
	b.Close()
	saved, err := b.rejoin.load()
	if err != nil || !slices.Contains(saved, a.gossipAddr()) {
		t.Fatalf("the rejoin file has %v, %v", saved, err)
	}
	conf.Join = nil
	b = start(t, conf)
	sees(t, b, "n1=alive n2=alive")
	b.Close()

	// Damage is not an obstacle.
	writeFile(t, b.rejoin.path, "\x00\xff:::garbage\n"+a.gossipAddr()+"\n")
	b = start(t, conf)
	sees(t, b, "n1=alive n2=alive")

	// A node that finds nobody keeps what it had.
	a.Close()
	b.Close()
	b = start(t, conf)
	eventually(t, "two rounds", func() (bool, string) { s := b.JoinStatus(); return s.Rounds >= 2, fmt.Sprintf("%+v", s) })
	b.Close()
	if saved, _ := b.rejoin.load(); !slices.Contains(saved, a.gossipAddr()) {
		t.Errorf("the rejoin file has lost the other: %v", saved)
	}
}

// Two pools that grew apart become one once a member of one is an address of
// the other, also when nobody joins any more: the search is steady.
func TestIslandsMeet(t *testing.T) {
	addrs := t.TempDir() + "/addrs"
	writeFile(t, addrs, "# nobody yet\n")
	a := start(t, config("n1"))
	conf := config("n2", a)
	conf.Join = append(conf.Join, "file://"+addrs)
	b := start(t, conf)
	c := start(t, config("n3"))
	d := start(t, config("n4", c))
	sees(t, b, "n1=alive n2=alive")
	sees(t, d, "n3=alive n4=alive")
	eventually(t, "n2's search is in its steady rounds", func() (bool, string) { s := b.JoinStatus(); return s.Rounds >= 4, fmt.Sprintf("%+v", s) })
	writeFile(t, addrs, c.gossipAddr()+"\n")
	for _, p := range []*Pool{a, b, c, d} {
		sees(t, p, "n1=alive n2=alive n3=alive n4=alive")
	}
}

func TestJoin(t *testing.T) {
	a, b := start(t, config("n1")), start(t, config("n2"))
	if n, err := b.Join(context.Background(), []string{a.gossipAddr()}); n != 1 || err != nil {
		t.Fatalf("Join = %d, %v", n, err)
	}
	sees(t, a, "n1=alive n2=alive")
	for _, c := range []struct{ addr, says string }{
		{b.gossipAddr(), "is this node itself"},
		{deadAddr(t), "connection refused"},
		{"no-such-host.invalid:1", "no-such-host.invalid"},
		{"file:///no/such/file", "no such file"},
	} {
		if n, err := b.Join(context.Background(), []string{c.addr}); n != 0 || err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("Join(%s) = %d, %v; expected %q", c.addr, n, err, c.says)
		}
	}
	if _, err := b.Join(context.Background(), []string{"gopher://x"}); !errors.Is(err, framework.ErrInvalid) {
		t.Errorf("an unknown source: %v", err)
	}
	if _, err := b.Join(context.Background(), nil); !errors.Is(err, framework.ErrInvalid) {
		t.Errorf("no address: %v", err)
	}
}

// deadAddr is an address at which nobody listens.
func deadAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// A join address that is the node itself satisfies nothing, whether it shows
// (the same address) or not (a way back by another one).
func TestJoinAddressThatIsTheNodeItself(t *testing.T) {
	conf := config("n1")
	port := freePort(t)
	conf.Bind = fmt.Sprintf("127.0.0.1:%d", port)
	around := relay(t, conf.Bind)
	conf.Join = []string{fmt.Sprintf("localhost:%d", port), around}
	a := start(t, conf)
	eventually(t, "three rounds", func() (bool, string) { s := a.JoinStatus(); return s.Rounds >= 3, fmt.Sprintf("%+v", s) })
	s := a.JoinStatus()
	if s.Joined {
		t.Errorf("a node that has only met itself says it has joined: %+v", s)
	}
	self := 0
	for _, try := range s.Tries {
		if try.OK {
			t.Errorf("counted as joined: %+v", try)
		}
		if try.Self {
			self++
		}
	}
	if self != 2 {
		t.Errorf("%d addresses recognised as the node itself, expected 2: %+v", self, s.Tries)
	}
}

// The search goes on however long nobody is there, and says how it goes.
func TestSearchNeverGivesUp(t *testing.T) {
	port := freePort(t)
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	conf := config("n2")
	conf.Join = []string{addr, "file:///no/such/file", "no-such-host.invalid:1"}
	b := start(t, conf)
	eventually(t, "five rounds", func() (bool, string) { s := b.JoinStatus(); return s.Rounds >= 5, fmt.Sprintf("%+v", s) })
	s := b.JoinStatus()
	if s.Joined || len(s.Tries) != 3 {
		t.Errorf("status is %+v", s)
	}
	for _, try := range s.Tries {
		if try.Err == "" || try.OK {
			t.Errorf("this should have failed: %+v", try)
		}
	}
	first := config("n1")
	first.Bind = addr
	start(t, first)
	sees(t, b, "n1=alive n2=alive")
}
