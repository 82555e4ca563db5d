package discovery

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/diarchy/diarchy/framework"
)

// ConflictKind tells what two nodes have in common that they must not.
type ConflictKind string

// Kinds of conflict.
const (
	// SameName: two nodes with one name.
	SameName ConflictKind = "name"
	// SameID: two places at which one node runs: a copied data directory.
	SameID ConflictKind = "id"
	// OtherCluster: a node of another cluster speaks to this pool.
	OtherCluster ConflictKind = "cluster"
)

// Conflict is a node that was refused, and whom it clashes with.
type Conflict struct {
	Kind ConflictKind
	// Name, ID and Addr are the refused node's; Known is what it clashes with.
	Name  string
	ID    framework.NodeID
	Addr  string
	Known string
	// Text says all of it, and what to do.
	Text        string
	First, Last time.Time
	Count       int
}

type conflictKey struct {
	kind ConflictKind
	name string
	id   framework.UUID
	addr netip.AddrPort
}

// conflictsMax bounds how many are remembered; conflictLogEvery is how often
// one that goes on is logged.
const (
	conflictsMax     = 64
	conflictLogEvery = time.Minute
)

type conflictEntry struct {
	Conflict
	logged time.Time
}

// conflicts remembers who was refused of late.
type conflicts struct {
	kept  time.Duration
	byKey map[conflictKey]*conflictEntry
}

func (c *conflicts) note(kind ConflictKind, r *record, known, text string, now time.Time) {
	k := conflictKey{kind, r.name, r.meta.ID, r.addr}
	e := c.byKey[k]
	if e == nil {
		if len(c.byKey) >= conflictsMax {
			return // what is there already is alarm enough
		}
		if c.byKey == nil {
			c.byKey = map[conflictKey]*conflictEntry{}
		}
		e = &conflictEntry{Conflict: Conflict{
			Kind: kind, Name: r.name, ID: framework.NodeID(r.meta.ID.String()), Addr: r.addr.String(), First: now,
		}}
		c.byKey[k] = e
	}
	e.Known, e.Text, e.Last = known, text, now
	e.Count++
}

// resolve forgets the conflicts of a node that was let in after all.
func (c *conflicts) resolve(r *record) {
	for _, kind := range []ConflictKind{SameName, SameID, OtherCluster} {
		delete(c.byKey, conflictKey{kind, r.name, r.meta.ID, r.addr})
	}
}

func (c *conflicts) expire(now time.Time) {
	for k, e := range c.byKey {
		if now.Sub(e.Last) > c.kept {
			delete(c.byKey, k)
		}
	}
}

// toLog gives what is to be logged now.
func (c *conflicts) toLog(now time.Time) []Conflict {
	var out []Conflict
	for _, e := range c.byKey {
		if e.logged.IsZero() || now.Sub(e.logged) >= conflictLogEvery && e.Last.After(e.logged) {
			e.logged = now
			out = append(out, e.Conflict)
		}
	}
	return out
}

func (c *conflicts) list() []Conflict {
	out := make([]Conflict, 0, len(c.byKey))
	for _, e := range c.byKey {
		out = append(out, e.Conflict)
	}
	slices.SortFunc(out, func(a, b Conflict) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Addr, b.Addr))
	})
	return out
}

func (r *record) String() string {
	return fmt.Sprintf("%s (node %s at %s)", r.name, r.meta.ID, r.addr)
}
