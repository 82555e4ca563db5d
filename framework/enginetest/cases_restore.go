package enginetest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"time"

	"github.com/diarchy/diarchy/framework"
	"github.com/diarchy/diarchy/fsm/kv"
)

// restoring is one round of a case that restores a backup and ends every replica
// in the middle of it.
type restoring struct {
	c       *cluster
	leader  *node
	archive []byte
	result  chan error // of the step under way, when everybody is down
}

// caseRestoreInterrupted ends every replica at each step of a restore. What comes
// back is the old state or the new, whole, and the same everywhere.
func caseRestoreInterrupted(c *cluster) {
	const old, fresh, either = "old", "new", "either"
	for i, x := range []struct {
		step  string
		want  string
		until func(*restoring)
	}{
		{"while the archive comes in", old, (*restoring).whileItComesIn},
		{"when one has it", old, func(r *restoring) { c.stage(r.leader, r.archive) }},
		{"when all have it", old, func(r *restoring) { c.stage(r.leader, r.archive, c.live()...) }},
		{"proposed, and not agreed on", either, (*restoring).whileProposed},
		{"agreed on, and executed nowhere", fresh, (*restoring).whileAgreed},
		{"while every machine takes it in", fresh, (*restoring).whileTakenIn},
		{"done", fresh, (*restoring).done},
	} {
		a, b := fmt.Sprintf("backed up %d", i), fmt.Sprintf("later %d", i)
		r := &restoring{c: c, result: make(chan error, 1)}
		r.prepare(a, b)
		history := r.leader.g.Status().History
		x.until(r)
		for _, n := range c.nodes {
			n.crash()
		}
		for _, n := range c.nodes {
			n.ledger.release()
			n.start()
		}
		c.leader()
		c.level()
		values := map[string]string{c.stale(c.nodes[0], "one"): c.stale(c.nodes[0], "two")}
		isNew := c.nodes[0].g.Status().History != history
		for _, n := range c.nodes {
			one, two, h := c.stale(n, "one"), c.stale(n, "two"), n.g.Status().History
			if _, same := values[one]; !same || one != two || h != c.nodes[0].g.Status().History {
				c.t.Errorf("%s: %s has %q and %q in history %s, %s has %v", x.step, n.id, one, two, h, c.nodes[0].id, values)
			}
			if want := map[bool]string{true: a, false: b}[isNew]; one != want {
				c.t.Errorf("%s: %s has %q; its history says it should be %q", x.step, n.id, one, want)
			}
		}
		if got := map[bool]string{true: fresh, false: old}[isNew]; x.want != either && got != x.want {
			c.t.Errorf("%s: the %s state came back, want the %s", x.step, got, x.want)
		}
	}
}

// prepare makes a backup of one state, then another state.
func (r *restoring) prepare(backedUp, later string) {
	c := r.c
	write := func(v string) {
		c.write(kv.Put("one", []byte(v), 0))
		c.write(kv.Put("two", []byte(v), 0))
	}
	write(backedUp)
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	var archive bytes.Buffer
	if _, err := c.leader().g.Backup(ctx, &archive); err != nil {
		c.t.Fatal(err)
	}
	write(later)
	c.level()
	r.archive, r.leader = archive.Bytes(), c.leader()
}

func (c *cluster) stale(n *node, key string) string {
	c.t.Helper()
	a, err := c.query(n, key, framework.ReadQuery{Consistency: framework.Stale})
	if err != nil {
		c.t.Errorf("%s: read %s: %v", n.id, key, err)
	}
	out, _ := decodeRead(a.Value)
	return out.value
}

// whileItComesIn leaves the leader with half an archive.
func (r *restoring) whileItComesIn() {
	in, out := io.Pipe()
	go func() {
		_, _, err := r.leader.g.StageRestore(context.Background(), in)
		r.result <- err
	}()
	if _, err := out.Write(r.archive[:len(r.archive)/2]); err != nil {
		r.c.t.Fatal(err)
	}
	out.CloseWithError(io.ErrUnexpectedEOF)
	if err := <-r.result; framework.HappenedOf(err) != framework.No {
		r.c.t.Errorf("half an archive: %v", err)
	}
}

// whileProposed leaves the leader with an entry that no other has.
func (r *restoring) whileProposed() {
	hash := r.c.stage(r.leader, r.archive, r.c.live()...)
	r.leader.isolate()
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if err := r.leader.g.CommitRestore(ctx, hash); framework.HappenedOf(err) == framework.Yes {
		r.c.t.Errorf("a restore without a quorum: %v", err)
	}
}

// whileAgreed leaves the entry committed under machines that do nothing.
func (r *restoring) whileAgreed() {
	c := r.c
	hash := c.stage(r.leader, r.archive, c.live()...)
	for _, n := range c.nodes {
		n.ledger.hang()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	_, err := r.leader.g.Propose(ctx, framework.Command{Data: kv.Put("one", []byte("in between"), 0)})
	cancel()
	if err == nil {
		c.t.Error("a hanging machine answered")
	}
	before := r.leader.g.EngineStatus().Last
	r.commit(hash)
	c.until("the restore is agreed on", func() bool { return r.allKnow(before) })
}

// allKnow tells whether every replica knows something past a position committed.
func (r *restoring) allKnow(p framework.Position) bool {
	for _, n := range r.c.nodes {
		if n.g.EngineStatus().Commit <= p {
			return false
		}
	}
	return true
}

// commit proposes the restore and does not wait.
func (r *restoring) commit(hash [32]byte) {
	g := r.leader.g
	go func() { r.result <- g.CommitRestore(context.Background(), hash) }()
}

// whileTakenIn leaves every machine with half of the backup.
func (r *restoring) whileTakenIn() {
	c := r.c
	hash := c.stage(r.leader, r.archive, c.live()...)
	for _, n := range c.nodes {
		n.ledger.hangRestore()
	}
	r.commit(hash)
	c.until("every machine takes the backup in", func() bool {
		for _, n := range c.nodes {
			if !n.ledger.restoring() {
				return false
			}
		}
		return true
	})
}

func (r *restoring) done() {
	hash := r.c.stage(r.leader, r.archive, r.c.live()...)
	r.commit(hash)
	if err := <-r.result; err != nil {
		r.c.t.Error(err)
	}
}
