package framework

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"
)

// CommitRestore, on the leader, makes the staged payload the group's state by a
// control entry and waits until this replica has it. Every other replica should
// have staged it before; a late one fetches it then.
func (g *Group) CommitRestore(ctx context.Context, hash [32]byte) error {
	f, err := g.OpenStaged(hash)
	if err != nil {
		return err
	}
	_ = f.Close()
	body := append([]byte{byte(controlRestore)}, hash[:]...)
	var history UUID
	_, _ = rand.Read(history[:]) // never fails
	_, err = g.control(ctx, append(body, history[:]...))
	return err
}

// restore acts on a committed restore: the payload's state becomes the group's,
// all sessions end, numbers go on above both, a new history begins. A replica
// that has not staged the payload fetches it now. An error means that nothing
// was done yet: the machine is made anew and the entry is met again.
func (a *applier) restore(hash [32]byte, history UUID, at Position) error {
	a.state.begin(time.Now()) // it may last; a leader hands over then
	defer a.state.end()
	if err := a.restoreStaged(hash, history, at); err != nil {
		return fmt.Errorf("restore of payload %x: %w", hash[:4], err)
	}
	first := at > a.seen.position()
	a.at = at
	a.publish()
	a.state.serve(a.opened)
	if first {
		a.tail.forget() // after publish: who is woken finds another history
		a.log.Info("backup restored", "number", a.st.number, "history", a.history)
	}
	a.sinceSnap.entries = a.cfg.Snapshots.Entries // soon, so that the payload can go
	return nil
}

func (a *applier) restoreStaged(hash [32]byte, history UUID, at Position) error {
	f, err := a.openOrFetch(hash)
	if err != nil {
		return err
	}
	defer f.Close()
	a.staged.use(hash, at)
	p, err := openPayload(f)
	if err != nil {
		return err
	}
	defer p.Close()
	if err := a.sameMachine(&p.info); err != nil {
		return err
	}
	if at > a.hostAt { // what a durable machine has behind it, it has done
		a.closeMachine()
		if err := a.open(); err != nil {
			return err
		}
	}
	a.st = replicated{
		number: max(a.st.number, p.info.number), time: max(a.st.time, p.info.time), sessions: newSessionTable(a.limits),
	}
	a.setHistory(history)
	if at <= a.hostAt {
		return nil
	}
	return a.restoreMachine(p, at)
}
