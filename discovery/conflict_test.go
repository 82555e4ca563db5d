package discovery

import (
	"strings"
	"testing"

	"github.com/diarchy/diarchy/framework"
)

func TestTwoNodesWithOneName(t *testing.T) {
	a := start(t, config("n1"))
	b := start(t, config("n2", a))
	sees(t, a, "n1=alive n2=alive")

	// The name of the node that it joins, and of another one.
	same1, same2 := start(t, config("n1", a)), start(t, config("n2", a))
	hasConflict(t, a, SameName, a.gossipAddr(), same1.gossipAddr(), "another name")
	hasConflict(t, same1, SameName, a.gossipAddr(), same1.gossipAddr())
	hasConflict(t, a, SameName, b.gossipAddr(), same2.gossipAddr())
	hasConflict(t, same2, SameName, b.gossipAddr(), same2.gossipAddr())
	if m := member(t, a, "n2"); m.ID != b.cfg.ID {
		t.Errorf("the second n2 has taken the place of the first: %+v", m)
	}
	for _, p := range []*Pool{same1, same2} {
		if v := view(p); v != p.cfg.Name+"=alive" {
			t.Errorf("the refused node has members: %s", v)
		}
		if s := p.JoinStatus(); s.Joined || s.Clash == "" {
			t.Errorf("the refused node says %+v", s)
		}
	}

	// Once the first is gone the name is free.
	b.Close()
	sees(t, same2, "n1=alive n2=alive")
	eventually(t, "n1 has the second n2", func() (bool, string) {
		m := member(t, a, "n2")
		return m.ID == same2.cfg.ID && m.Status == Alive, string(m.ID)
	})
}

func TestOneIDInTwoPlaces(t *testing.T) {
	a := start(t, config("n1"))
	b := start(t, config("n2", a))
	sees(t, a, "n1=alive n2=alive")

	sameName := b.cfg // a copied data directory, name and all
	sameName.Join = []string{a.gossipAddr()}
	c := start(t, sameName)
	hasConflict(t, a, SameID, b.gossipAddr(), c.gossipAddr(), string(b.cfg.ID), "copied")
	hasConflict(t, c, SameID, b.gossipAddr(), c.gossipAddr())

	otherName := config("n3", a)
	otherName.ID = b.cfg.ID
	d := start(t, otherName)
	hasConflict(t, a, SameID, b.gossipAddr(), d.gossipAddr(), "n2", "n3")
	hasConflict(t, d, SameID, b.gossipAddr(), d.gossipAddr())

	ownID := config("n4", a) // the id of the very node that it joins
	ownID.ID = a.cfg.ID
	e := start(t, ownID)
	hasConflict(t, a, SameID, a.gossipAddr(), e.gossipAddr())
	hasConflict(t, e, SameID, a.gossipAddr(), e.gossipAddr())

	if v := view(a); v != "n1=alive n2=alive" || member(t, a, "n2").GossipAddr != b.gossipAddr() {
		t.Errorf("a copy was let in: %s, %+v", v, member(t, a, "n2"))
	}
}

func TestNodesOfAnotherCluster(t *testing.T) {
	x, y := framework.UUID{1}, framework.UUID{2}
	conf := config("n1")
	conf.Cluster = x
	a := start(t, conf)
	conf = config("n2", a)
	conf.Cluster = y
	b := start(t, conf)
	eventually(t, "the join is refused with both clusters named", func() (bool, string) {
		for _, try := range b.JoinStatus().Tries {
			if strings.Contains(try.Err, x.String()) && strings.Contains(try.Err, y.String()) {
				return true, ""
			}
		}
		return false, view(b)
	})
	free := start(t, config("n3", a, b)) // sees both, belongs to none, and does not join them up
	sees(t, free, "n1=alive n2=alive n3=alive")
	sees(t, a, "n1=alive n3=alive")
	sees(t, b, "n2=alive n3=alive")
	hasConflict(t, a, OtherCluster, "n2", b.gossipAddr(), y.String(), x.String())
	if err := free.SetMeta(func(m *Meta) {
		m.Cluster, m.Agreement = x, Agreement{Phase: PhaseFormed, Cluster: x}
	}); err != nil {
		t.Fatal(err)
	}
	sees(t, free, "n1=alive n3=alive")
	sees(t, b, "n2=alive")
	hasConflict(t, b, OtherCluster, "n3", x.String())
	if got := member(t, a, "n3").Cluster; got == y {
		t.Errorf("n3 is in cluster %s", got)
	}
}
