package framework

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// unknownEngine names the engines that there are.
func (n *Node) unknownEngine(group, engine string) error {
	return ErrInvalid.Because("group %q: engine %q is not known here: expected one of %s", group, engine,
		strings.Join(slices.Sorted(maps.Keys(n.cfg.Engines)), ", "))
}

// CheckSpec says what is wrong with a group before anything starts: names,
// ranges, engine, durability, options, machine.
func (n *Node) CheckSpec(spec GroupSpec) error {
	spec = spec.normal()
	if err := spec.Validate(); err != nil {
		return err
	}
	driver, ok := n.cfg.Engines[spec.Engine]
	if !ok {
		return n.unknownEngine(spec.Name, spec.Engine)
	}
	if spec.Durability == "memory" && !driver.Features.MemoryMode {
		return ErrInvalid.Because("group %q: durability = \"memory\" is not offered by engine %q: use \"disk\"", spec.Name, spec.Engine)
	}
	if driver.Check != nil {
		if err := driver.Check(spec.Durability, spec.Options); err != nil {
			return ErrInvalid.Because("group %q: %s", spec.Name, err)
		}
	}
	if spec.Machine == CatalogueMachine {
		return ErrInvalid.Because("group %q: machine %q is the system group's alone", spec.Name, spec.Machine)
	}
	if _, err := n.cfg.Machines(spec.Name, spec.Machine); err != nil {
		return ErrInvalid.Because("group %q: machine %q: %s", spec.Name, spec.Machine, err)
	}
	return nil
}

// CreateGroup implements Service. A group of that name that is the same is
// answered as if it had just been created; one that differs is refused with both
// values.
func (n *Node) CreateGroup(ctx context.Context, spec GroupSpec) (GroupInfo, error) {
	spec, err := n.resolveNodes(ctx, spec.normal())
	if err != nil {
		return GroupInfo{}, n.named(err)
	}
	if err := n.CheckSpec(spec); err != nil {
		return GroupInfo{}, n.named(err)
	}
	if n.Cluster() == (UUID{}) {
		return GroupInfo{}, ErrNoQuorum.Because("this node has not formed or joined a cluster yet")
	}
	if spec.Replicas%2 == 0 {
		n.log.Warn("an even number of replicas survives no more losses than one fewer would", "group", spec.Name, "replicas", spec.Replicas)
	}
	n.renewView(ctx) // for the candidates
	var info GroupInfo
	cmd := catalogueCommand{Op: opCreate, ID: newUUID(), Spec: &spec, Nodes: n.candidates()}
	r, err := n.proposeCatalogue(ctx, cmd, &info)
	if err != nil {
		return GroupInfo{}, n.named(err)
	}
	n.awaitView(ctx, func(v *catalogueView) bool { return v.byID[info.ID] != nil || v.state.Number >= r.Token.Number })
	return info, nil
}

// resolveNodes makes ids of the names in a spec.
func (n *Node) resolveNodes(ctx context.Context, spec GroupSpec) (GroupSpec, error) {
	ids := make([]NodeID, 0, len(spec.Nodes))
	for _, name := range spec.Nodes {
		id, err := n.nodeNamed(ctx, string(name))
		if err != nil {
			return spec, err
		}
		ids = append(ids, id)
	}
	spec.Nodes = ids
	return spec.normal(), nil
}

// nodeNamed finds a node by name or id. One that is not known is looked up anew:
// it may just have joined.
func (n *Node) nodeNamed(ctx context.Context, name string) (NodeID, error) {
	if id, ok := n.views.get().nodeNamed(name); ok {
		return id, nil
	}
	n.refreshView(ctx)
	if id, ok := n.views.get().nodeNamed(name); ok {
		return id, nil
	}
	return "", ErrNoSuchNode.Because("no such node: %q; see 'diarchy members'", name)
}

func (v *catalogueView) nodeNamed(name string) (NodeID, bool) {
	if v.nodes[NodeID(name)] != nil {
		return NodeID(name), true
	}
	if c := v.state.nodeNamed(name); c != nil {
		return c.ID, true
	}
	return "", false
}

// candidates are the nodes that a group may be placed on: those that gossip does
// not say are gone.
func (n *Node) candidates() []NodeID {
	gone := map[NodeID]bool{}
	if n.cfg.Members != nil {
		for id := range n.views.get().nodes {
			gone[id] = id != n.cfg.ID
		}
		for _, m := range n.members() {
			if m.Status == "alive" || m.Status == "suspect" || m.Status == "unknown" {
				gone[m.ID] = false
			}
		}
	}
	ids := []NodeID{}
	for id, c := range n.views.get().nodes {
		if !gone[id] && c.Former == "" {
			ids = append(ids, id)
		}
	}
	return sortedIDs(ids)
}

// Ensure is what a group block in a configuration asks for: create it if it is
// not there, as soon as enough nodes are. It waits for that until ctx ends. A
// group that is there and differs is an error that names both values.
func (n *Node) Ensure(ctx context.Context, spec GroupSpec) (GroupInfo, error) {
	spec = spec.normal()
	if err := n.CheckSpec(spec); err != nil {
		return GroupInfo{}, err
	}
	var last error = ErrNoQuorum.Because("group %q: this node has not formed or joined a cluster yet", spec.Name)
	for {
		views, own, members := n.views.wait(), n.changed.wait(), n.membersChanged()
		v := n.views.get()
		if g := v.byName[spec.Name]; g != nil {
			want, err := n.resolveNodes(ctx, spec)
			if err == nil {
				err = differs(g.GroupSpec, want)
			}
			return g.GroupInfo, err
		}
		if v.state.Cluster != (UUID{}) {
			var done bool
			var info GroupInfo
			if info, done, last = n.tryEnsure(ctx, v, spec); done {
				return info, last
			}
		}
		pause, cancel := context.WithTimeout(ctx, n.cfg.Tick)
		select {
		case <-views:
		case <-own:
		case <-members:
		case <-pause.Done():
		}
		cancel()
		if ctx.Err() != nil {
			return GroupInfo{}, last
		}
		if n.ctx.Err() != nil {
			return GroupInfo{}, ErrStopped
		}
	}
}

// tryEnsure creates the group if there are enough nodes. done is false when it
// is worth another try.
func (n *Node) tryEnsure(ctx context.Context, v *catalogueView, spec GroupSpec) (info GroupInfo, done bool, err error) {
	have := len(n.candidates())
	if len(spec.Nodes) > 0 {
		if spec, err = n.resolveNodes(ctx, spec); err != nil {
			return info, false, err // it may yet join
		}
		have = len(v.nodes)
	}
	if have < spec.Replicas {
		return info, false, tooFewNodes(spec, have)
	}
	if info, err = n.CreateGroup(ctx, spec); err == nil {
		return info, true, nil
	}
	switch AsError(err).Code {
	case CodeConflict, CodeInvalid, CodeTooLarge, CodeDenied:
		return info, true, err
	}
	return info, false, err
}

// DestroyGroup implements Service.
func (n *Node) DestroyGroup(ctx context.Context, group, confirm string) error {
	t, err := n.resolve(ctx, group)
	if err != nil {
		return err
	}
	if confirm != group {
		return ErrInvalid.Because("destroying group %q removes its data everywhere: its name must be given twice (the second was %q)", group, confirm)
	}
	if t.info.System {
		return ErrDenied.Because("the system group cannot be destroyed")
	}
	r, err := n.proposeCatalogue(ctx, catalogueCommand{Op: opDestroy, ID: t.info.ID}, nil)
	if err != nil {
		return n.named(fmt.Errorf("destroy group %q: %w", group, err))
	}
	n.awaitView(ctx, func(v *catalogueView) bool { return v.state.Number >= r.Token.Number })
	return nil
}
