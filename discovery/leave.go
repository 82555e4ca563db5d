package discovery

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/diarchy/diarchy/framework"
)

// leaveTimeout bounds Leave where its context does not.
const leaveTimeout = 5 * time.Second

var errClosed = framework.ErrStopped.Because("the gossip pool is closed")

// tellDirectly is how many members a departure is sent to by itself.
const tellDirectly = 8

// Leave tells the others that this node goes, so that they list it as left and
// not as failed. The pool runs on until Close. An error says that it may not
// have been heard.
func (p *Pool) Leave(ctx context.Context) error {
	p.leave.Lock()
	defer p.leave.Unlock()
	if p.closed {
		return errClosed
	}
	if p.left {
		return nil
	}
	p.left = true
	p.searching()
	h := p.hints
	h.mu.Lock()
	h.leaving = true
	d := departure{ID: h.self.meta.ID, Run: h.self.meta.Run, At: h.now().Unix()}
	h.mu.Unlock()
	h.depart(d)
	h.tell(d)
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	told := p.tellSome(ctx, d)
	deadline, _ := ctx.Deadline()
	err := p.list.Leave(max(time.Until(deadline), time.Millisecond))
	if err = errors.Join(told, err); err != nil {
		return framework.ErrMaybe.Because("leave: some members may take this node for failed, not left: %v", err)
	}
	return nil
}

// tellSome sends a departure to a few members over TCP and fails when there are
// some and none could be told.
func (p *Pool) tellSome(ctx context.Context, d departure) error {
	h := p.hints
	h.mu.Lock()
	msg := encodeDeparture(h.self.meta.Cluster, d)
	h.mu.Unlock()
	var to []*memberlist.Node
	for _, n := range p.list.Members() {
		if n.Name != p.cfg.Name && len(to) < tellDirectly {
			to = append(to, n)
		}
	}
	results := make(chan error, len(to))
	for _, n := range to {
		if !p.tasks.run(func() { results <- p.list.SendReliable(n, msg) }) {
			return errClosed
		}
	}
	var errs []error
	for range to {
		select {
		case err := <-results:
			if err == nil {
				continue
			}
			errs = append(errs, err)
		case <-ctx.Done():
			errs = append(errs, ctx.Err())
		}
	}
	if len(errs) < len(to) || len(to) == 0 {
		return nil
	}
	return errors.Join(errs...)
}

// ForceLeave has everybody list a failed node, named by name or id, as left:
// it is no longer looked for and is dropped after a while. It is refused for a
// node that is alive, and done for one that has left. A new run of the node is
// let in as ever.
func (p *Pool) ForceLeave(ctx context.Context, node string) error {
	h := p.hints
	h.mu.Lock()
	r := h.find(node)
	self := r != nil && r.name == h.self.name
	h.mu.Unlock()
	switch {
	case r == nil:
		return framework.ErrNoSuchNode.Because("no member %q is known here; see 'diarchy members'", node)
	case self:
		return framework.ErrConflict.Because("%s is this node: use leave", node)
	case r.status == Left:
		return nil
	case r.status == Alive:
		return framework.ErrConflict.Because("%s at %s is alive: stop it, or use leave there; a stopped node shows as failed after a few seconds", r.name, r.addr)
	}
	d := departure{ID: r.meta.ID, Run: r.meta.Run, At: h.now().Unix()}
	h.depart(d)
	h.tell(d)
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	if err := p.tellSome(ctx, d); err != nil {
		return framework.ErrMaybe.Because("force-leave is noted on this node and goes on with the gossip, but no other member could be told at once: %v", err)
	}
	return nil
}

// find gives a record by name or id, one that is alive before others. mu is held.
func (h *hints) find(node string) *record {
	if r := h.members[node]; r != nil {
		return r
	}
	id, err := framework.ParseUUID(node)
	if err != nil {
		return nil
	}
	var found *record
	for _, r := range h.members {
		if r.meta.ID == id && (found == nil || r.status < found.status) {
			found = r
		}
	}
	return found
}
