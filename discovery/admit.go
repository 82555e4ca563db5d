package discovery

import (
	"fmt"

	"github.com/hashicorp/memberlist"

	"github.com/diarchy/diarchy/framework"
)

// refusal is why a node is not let in.
type refusal struct {
	reason string // a label of diarchy_gossip_refused_total
	text   string
}

func (r *refusal) Error() string { return r.text }

// NotifyAlive is asked about every word that a node is alive, from whomever it
// comes, before memberlist believes it. The node lock is held.
func (h *hints) NotifyAlive(n *memberlist.Node) error {
	r, err := recordOf(n)
	if err != nil {
		h.met.refused[refusedMalformed].Inc()
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if no := h.judge(&r); no != nil {
		h.met.refused[no.reason].Inc()
		mark(h.dirty)
		return no
	}
	return nil
}

// judge says whether a node may be a member, given who is one. mu is held.
//
// An address belongs to one process, so news of another name or id at an
// address that is known is old or of its next occupant, never a conflict:
// memberlist's probes find out which. News of the same name or id at another
// address is either a node that was started elsewhere, and then the old place
// soon fails and the new one is let in, or a clash, which lasts until somebody
// ends it.
func (h *hints) judge(r *record) *refusal {
	if r.name == h.self.name && r.addr == h.self.addr {
		return nil // this node, perhaps an earlier run: memberlist refutes what is old
	}
	if h.otherCluster(r.meta.Cluster) {
		text := fmt.Sprintf("%s belongs to cluster %s, this node to cluster %s: it is ignored; give each cluster a gossip label or key of its own",
			r, r.meta.Cluster, h.self.meta.Cluster)
		h.conflicts.note(OtherCluster, r, h.self.meta.Cluster.String(), text, h.now())
		// One that was a member before it had a cluster is none from now on.
		if known := h.members[r.name]; known != nil && known.meta.ID == r.meta.ID && known.meta.Cluster != r.meta.Cluster {
			gone := *known
			gone.meta = r.meta
			h.members[r.name] = &gone
			h.touch()
		}
		return &refusal{refusedCluster, text}
	}
	if no := h.clash(r, &h.self); no != nil {
		return no
	}
	if known := h.members[r.name]; known != nil && known.status == Alive {
		if no := h.clash(r, known); no != nil {
			return no
		}
	}
	for _, known := range h.members {
		if known.meta.ID == r.meta.ID && known.name != r.name && known.status == Alive {
			return h.clash(r, known)
		}
	}
	return nil
}

// clash compares r with a node that is alive, this one among them. mu is held.
func (h *hints) clash(r, known *record) *refusal {
	sameName, sameID := r.name == known.name, r.meta.ID == known.meta.ID
	if !sameName && !sameID {
		return nil
	}
	if r.addr == known.addr {
		if sameName {
			return nil // the same place: an earlier or later run of it
		}
		// The same node under a second name: its former name, or its new one,
		// which has to wait until the former has failed.
		return &refusal{refusedID, fmt.Sprintf("%s is known as %s", r, known.name)}
	}
	whose := "it is"
	if known == &h.self {
		whose = "this node is"
	}
	if sameID {
		text := fmt.Sprintf("node %s is announced at two addresses: as %s at %s, and as %s at %s. The second is refused while the first is alive. "+
			"If the node was restarted elsewhere this ends by itself; if its data directory was copied, stop one of the two and give it a directory of its own",
			r.meta.ID, known.name, known.addr, r.name, r.addr)
		h.conflicts.note(SameID, r, known.String(), text, h.now())
		return &refusal{refusedID, text}
	}
	text := fmt.Sprintf("the name %s is used by two nodes: by %s at %s, and by %s at %s. The second is refused while the first is alive (%s node %s): give one of them another name",
		r.name, known.meta.ID, known.addr, r.meta.ID, r.addr, whose, known.meta.ID)
	h.conflicts.note(SameName, r, known.String(), text, h.now())
	return &refusal{refusedName, text}
}

// NotifyMerge is asked before the states of two nodes are joined, on both
// sides. It refuses what would end in a pool with this node in it twice, or of
// another cluster alone, so that the one that joins is told why. Of others'
// quarrels it may know too little, or too late: NotifyAlive judges those.
func (h *hints) NotifyMerge(peers []*memberlist.Node) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var foreign *refusal
	friends := false
	for _, n := range peers {
		if n.State != memberlist.StateAlive && n.State != memberlist.StateSuspect {
			continue
		}
		r, err := recordOf(n)
		if err != nil {
			continue // NotifyAlive counts it
		}
		if h.otherCluster(r.meta.Cluster) {
			foreign = &refusal{refusedCluster, fmt.Sprintf("%s belongs to cluster %s, this node to cluster %s", &r, r.meta.Cluster, h.self.meta.Cluster)}
			continue
		}
		friends = true
		if r.addr == h.self.addr {
			continue
		}
		if no := h.clash(&r, &h.self); no != nil {
			h.met.refused[no.reason].Inc()
			mark(h.dirty)
			return no
		}
	}
	if foreign != nil && !friends {
		h.met.refused[refusedCluster].Inc()
		return foreign
	}
	return nil
}

// NotifyConflict is memberlist's own word for one name at two addresses. judge
// comes first and knows more; this is for what may slip between.
func (h *hints) NotifyConflict(existing, other *memberlist.Node) {
	r, err := recordOf(other)
	if err != nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if known := h.members[existing.Name]; known != nil && known.status == Alive {
		h.clash(&r, known)
		mark(h.dirty)
	}
}

// selfClash is the newest conflict that keeps this node itself out, if any.
func (h *hints) selfClash() (Conflict, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var newest Conflict
	for _, e := range h.conflicts.byKey {
		own := e.Name == h.self.name || e.ID == framework.NodeID(h.self.meta.ID.String())
		if own && e.Kind != OtherCluster && e.Last.After(newest.Last) {
			newest = e.Conflict
		}
	}
	return newest, newest.Text != ""
}
