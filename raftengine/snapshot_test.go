package raftengine

import (
	"errors"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/diarchy/diarchy/framework"
)

func (n *replica) payload() (framework.Position, string) {
	n.c.t.Helper()
	at, r, err := n.e.OpenSnapshot()
	if err != nil {
		n.c.t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		n.c.t.Fatal(err)
	}
	return at, string(b)
}

func TestSnapshotAndItsLog(t *testing.T) {
	for _, store := range []string{storeWAL, storeBolt, storeMemory} {
		t.Run(store, func(t *testing.T) {
			bubble(t, 1, func(t *testing.T, c *cluster) {
				if store == storeMemory {
					c.inMemory()
				}
				c.option(logStoreOption, store).option(trailingLogsOption, "5").start()
				n := c.leader()
				if _, _, err := n.e.OpenSnapshot(); !errors.Is(err, framework.ErrNoSnapshot) {
					t.Errorf("without one: %v", err)
				}
				n.write(numbered("a", 50)...)
				first := n.snapshot("first")
				if s := n.e.Status(); s.First != 1 || s.Snapshot != first {
					t.Errorf("after the first: %+v", s)
				}
				n.write(numbered("b", 50)...)
				second := n.snapshot("second")
				if at, p := n.payload(); at != second || p != "second" {
					t.Errorf("the newest is %q at %d", p, at)
				}
				// What is above the older one stays: the newest may be damaged.
				if s := n.e.Status(); s.First != first+1 || s.Snapshot != second {
					t.Errorf("after the second at %d: %+v", second, s)
				}
				var gone *framework.CompactedError
				if _, _, err := n.e.Entries(first, 1<<20); !errors.As(err, &gone) || gone.Oldest != first+1 {
					t.Errorf("Entries from %d: %v", first, err)
				}
				entries, through, err := n.e.Entries(second+1, 1<<20)
				if err != nil || len(entries) != 0 || through != second {
					t.Errorf("Entries from the end: %d, %d, %v", len(entries), through, err)
				}
				entries, _, err = n.e.Entries(first+1, 10)
				if err != nil || len(entries) != 5 || string(entries[0].Data) != "b0" {
					t.Errorf("Entries of 10 bytes: %v, %v", entries, err)
				}
				// Nothing to do, and nothing to be had.
				if err := n.e.Snapshot(n.ctx(within), first, text("late")); err != nil {
					t.Errorf("an older one: %v", err)
				}
				if err := n.e.Snapshot(n.ctx(within), second+100, text("early")); !errors.Is(err, framework.ErrInvalid) {
					t.Errorf("one in the future: %v", err)
				}
				n.write("c")
				n.snapshot("third")
				if s := n.e.Status(); s.First > s.Last-4 {
					t.Errorf("trailing_logs = 5, but %d to %d are kept", s.First, s.Last)
				}
			})
		})
	}
}

type failing struct{ err error }

func (f failing) WriteTo(w io.Writer) (int64, error) {
	n, _ := io.WriteString(w, "half of ")
	return int64(n), f.err
}

func TestASnapshotThatFailsLeavesNothing(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		c.start()
		n := c.leader()
		at := n.write("a")
		broken := errors.New("the machine is gone")
		if err := n.e.Snapshot(n.ctx(within), at, failing{broken}); !errors.Is(err, broken) {
			t.Errorf("a payload that fails: %v", err)
		}
		ended := n.ctx(0)
		if err := n.e.Snapshot(ended, at, text("x")); !errors.Is(err, ended.Err()) {
			t.Errorf("a context that has ended: %v", err)
		}
		if _, _, err := n.e.OpenSnapshot(); !errors.Is(err, framework.ErrNoSnapshot) {
			t.Errorf("there is one: %v", err)
		}
		if s := n.e.Status(); s.Snapshot != 0 || s.First != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// A leader that has shortened its log without raft knowing ships its snapshot
// once, goes on from the entry after it, and so does one that has restarted or is
// newly elected.
func TestCatchUpBySnapshot(t *testing.T) {
	for _, store := range []string{storeWAL, storeBolt} {
		t.Run(store, func(t *testing.T) {
			bubble(t, 3, func(t *testing.T, c *cluster) {
				c.option(logStoreOption, store).option(trailingLogsOption, "0").start()
				l := c.leader()
				f := c.others(l)[0]
				f.stop()
				shorten := func() (at framework.Position) {
					for _, s := range []string{"a", "b", "c"} {
						last := l.write(numbered(s, 100)...)
						for _, n := range c.nodes {
							if n.e == nil {
								continue
							}
							n.host.untilThrough(last)
							at = n.snapshot("state of " + s)
						}
					}
					return at
				}
				at := shorten()
				f.start()
				f.host.untilThrough(l.write("after"))
				if got := f.host.installs; !slices.Equal(got, []framework.Position{at}) {
					t.Errorf("installs %v, want one at %d", got, at)
				}
				if _, p := f.payload(); p != "state of c" {
					t.Errorf("it holds %q", p)
				}
				if m := f.e.Status().Membership; m.ID != 1 || len(m.Members) != 3 || !m.Committed {
					t.Errorf("membership from the snapshot: %+v", m)
				}
				// Everyone restarts; each can lead and bring up a new member.
				c.close()
				c.start()
				l = c.leader()
				l.write("restarted")
				n := c.add("", nil)
				n.config.Options, n.config.Dir = nil, ""
				n.start()
				for _, op := range []framework.ChangeOp{framework.AddLearner, framework.Promote} {
					if err := l.e.Change(l.ctx(within), framework.Change{Op: op, Node: n.id}, 0); err != nil {
						t.Fatal(err)
					}
				}
				n.host.untilThrough(l.write("joined"))
				if err := l.e.Transfer(l.ctx(within), n.id); err != nil {
					t.Fatal(err)
				}
				c.leader(n)
				last := n.write("led by the new one")
				for _, n := range c.nodes {
					n.host.untilThrough(last)
				}
			})
		})
	}
}

// The entry at the newest snapshot's index must stay in the log: the leader goes
// on from the one after it. If that is given up, raft ships the snapshot for ever.
func TestTheEntryAtTheSnapshotStays(t *testing.T) {
	bubble(t, 3, func(t *testing.T, c *cluster) {
		c.option(trailingLogsOption, "0").start()
		l := c.leader()
		f := c.others(l)[0]
		f.stop()
		for _, s := range []string{"a", "b"} {
			l.write(numbered(s, 100)...)
			l.snapshot(s)
		}
		if s := l.e.Status(); s.First > s.Snapshot {
			t.Fatalf("the log begins at %d, the snapshot stands at %d", s.First, s.Snapshot)
		}
		f.start()
		f.host.until("an install", func() bool { return len(f.host.installs) > 0 })
		time.Sleep(10 * time.Second)
		synctest.Wait()
		p := l.e.trans.peers
		p.mu.Lock()
		defer p.mu.Unlock()
		if times := p.known["n"+f.e.id[1:]].installedTimes; times != 1 {
			t.Errorf("the snapshot was shipped %d times", times)
		}
	})
}

// A snapshot carries the membership in force at its position, not the newest.
func TestASnapshotCarriesItsMembership(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		c.start()
		n := c.leader()
		at := n.write("before")
		for _, id := range []framework.NodeID{"x", "y"} {
			if err := n.e.Change(n.ctx(within), framework.Change{Op: framework.AddLearner, Node: id}, 0); err != nil {
				t.Fatal(err)
			}
		}
		if err := n.e.Snapshot(n.ctx(within), at, text("state")); err != nil {
			t.Fatal(err)
		}
		meta := must(n.e.snaps.List())[0]
		if meta.Index != uint64(at) || len(meta.Configuration.Servers) != 1 || meta.ConfigurationIndex != 1 {
			t.Errorf("%+v", meta)
		}
		n.stop()
		n.start()
		if m := n.e.Status().Membership; len(m.Members) != 3 {
			t.Errorf("after a restart: %+v", m)
		}
	})
}
