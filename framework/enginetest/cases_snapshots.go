package enginetest

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/diarchy/diarchy/framework"
)

func (c *cluster) snapshot(n *node) framework.SnapshotReport {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	rep, err := n.g.Snapshot(ctx)
	if err != nil {
		c.t.Fatalf("%s: snapshot: %v", n.id, err)
	}
	return rep
}

func caseSnapshotRestart(c *cluster) {
	c.fill(500)
	c.level()
	for _, n := range c.nodes {
		if rep := c.snapshot(n); n.g.EngineStatus().Snapshot != rep.Position {
			c.t.Errorf("%s: snapshot at %d, the engine says %d", n.id, rep.Position, n.g.EngineStatus().Snapshot)
		}
	}
	c.write(put(1))
	for _, n := range c.nodes {
		n.crash()
	}
	for _, n := range c.nodes {
		n.start()
	}
	c.mustRead("key1", "value1")
	c.write(put(2))
}

// caseCatchUpBySnapshot: one replica is away until the log it needs is gone.
func caseCatchUpBySnapshot(c *cluster) {
	f := c.follower()
	f.crash()
	c.fill(12_000) // more than an engine may keep at hand beside its log
	for c.compacted() < 100 {
		c.fill(2000)
		for _, n := range c.live() {
			c.level(n)
			c.snapshot(n)
		}
	}
	f.start()
	c.level()
	if s := f.g.EngineStatus(); s.Snapshot == 0 {
		c.t.Errorf("it caught up without a snapshot: the case shows nothing\n%s", c.describe())
	}
	// It has all it needs to lead.
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := c.leader().g.Transfer(ctx, f.id); err != nil {
		c.t.Error(err)
	}
	c.write(put(1))
	// A new member starts from nothing.
	c.join()
	c.level()
}

// compacted is below which position every running replica has let its log go.
func (c *cluster) compacted() framework.Position {
	least := ^framework.Position(0)
	for _, n := range c.live() {
		least = min(least, n.g.EngineStatus().First)
	}
	return least
}

func caseSnapshotsUnderLoad(c *cluster) {
	stop := c.load(6)
	var wg sync.WaitGroup
	for _, n := range c.nodes {
		wg.Go(func() {
			for range 10 {
				c.snapshot(n)
				c.pass(50 * time.Millisecond)
			}
		})
	}
	wg.Wait()
	l := c.leader()
	l.crash()
	c.leader()
	l.start()
	stop()
}

// stage has a backup checked and kept by one node, then by others.
func (c *cluster) stage(l *node, archive []byte, others ...*node) [32]byte {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	hash, _, err := l.g.StageRestore(ctx, bytes.NewReader(archive))
	if err != nil {
		c.t.Fatal(err)
	}
	for _, n := range others {
		if n == l {
			continue
		}
		r, err := l.g.OpenStaged(hash)
		if err != nil {
			c.t.Fatal(err)
		}
		if err := n.g.StagePayload(ctx, hash, r); err != nil {
			c.t.Fatal(err)
		}
		_ = r.Close()
	}
	return hash
}

func caseRestoreBackup(c *cluster) {
	c.write(put(1))
	var archive bytes.Buffer
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	l := c.leader()
	if _, err := l.g.Backup(ctx, &archive); err != nil {
		c.t.Fatal(err)
	}
	token := c.write(put(2)).Token
	late := c.follower()
	late.crash()
	l = c.leader()
	hash := c.stage(l, archive.Bytes(), c.live()...)
	if err := l.g.CommitRestore(ctx, hash); err != nil {
		c.t.Fatal(err)
	}
	late.start() // it fetches the payload when it meets the entry, or gets a snapshot
	c.mustRead("key1", "value1")
	c.mustRead("key2", "")
	if _, err := c.query(c.leader(), "key1", framework.ReadQuery{After: token}); !errors.Is(err, framework.ErrOtherHistory) {
		c.t.Errorf("a token of the old history: %v", err)
	}
	if r := c.write(put(3)); r.Token.Number <= token.Number || r.Token.History == token.History {
		c.t.Errorf("after the restore: %+v, before it: %+v", r.Token, token)
	}
	c.level()
}
