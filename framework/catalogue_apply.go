package framework

import (
	"encoding/json"
	"slices"
)

// catalogueOp names a command of the catalogue.
type catalogueOp string

// Commands. Every one is idempotent: a repetition finds its work done and
// answers as the first did, because the nodes send them at least once.
const (
	opInit        catalogueOp = "init"        // Cluster, ID, Spec, Nodes: the cluster and its system group
	opRegister    catalogueOp = "register"    // Node, Takeover
	opCreate      catalogueOp = "create"      // ID (drawn by the proposer), Spec, Nodes: candidates
	opPlace       catalogueOp = "place"       // ID, Target
	opUnplace     catalogueOp = "unplace"     // ID, Target
	opDestroy     catalogueOp = "destroy"     // ID
	opCleaned     catalogueOp = "cleaned"     // ID, Target: its data of the destroyed group is gone
	opIncarnation catalogueOp = "incarnation" // ID, Incarnation, Nodes: the members left after a recovery
)

// catalogueCommand is one command, as JSON.
type catalogueCommand struct {
	V           int            `json:"v"`
	Op          catalogueOp    `json:"op"`
	Cluster     UUID           `json:"cluster,omitzero"`
	ID          UUID           `json:"id,omitzero"`
	Spec        *GroupSpec     `json:"spec,omitempty"`
	Node        *catalogueNode `json:"node,omitempty"`
	Takeover    bool           `json:"takeover,omitempty"`
	Target      NodeID         `json:"target,omitempty"`
	Nodes       []NodeID       `json:"nodes,omitempty"`
	Incarnation uint32         `json:"incarnation,omitempty"`
}

func (c catalogueCommand) encode() []byte {
	c.V = catalogueFormat
	b, _ := json.Marshal(c) // no field can fail
	return b
}

// apply executes one command. What it returns is the answer, or a refusal that
// changed nothing.
func (s *catalogueState) apply(data []byte) (any, error) {
	var c catalogueCommand
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, ErrInvalid.Because("not a catalogue command") // err's words may differ between replicas
	}
	if c.V != catalogueFormat {
		return nil, ErrInvalid.Because("catalogue command of version %d: this catalogue takes version %d; upgrade every node first", c.V, catalogueFormat)
	}
	switch c.Op {
	case opInit:
		return nil, s.init(c)
	case opRegister:
		return nil, s.register(c)
	case opCreate:
		return s.create(c)
	case opPlace:
		return nil, s.placeOne(c)
	case opUnplace:
		return nil, s.unplaceOne(c)
	case opDestroy:
		return nil, s.destroy(c)
	case opCleaned:
		return nil, s.cleaned(c)
	case opIncarnation:
		return nil, s.bumpIncarnation(c)
	}
	return nil, ErrInvalid.Because("unknown catalogue command %q", c.Op)
}

func (s *catalogueState) init(c catalogueCommand) error {
	if c.Spec == nil || c.Cluster == (UUID{}) || len(c.Nodes) == 0 {
		return ErrInvalid.Because("init needs a cluster, a spec and nodes")
	}
	if s.Cluster != (UUID{}) {
		if s.Cluster != c.Cluster {
			return ErrConflict.Because("this is cluster %s, not %s", s.Cluster, c.Cluster)
		}
		return nil
	}
	s.Cluster = c.Cluster
	nodes := sortedIDs(c.Nodes)
	s.addGroup(catalogueGroup{
		GroupInfo: GroupInfo{GroupSpec: *c.Spec, ID: c.ID, Placed: nodes, System: true},
		Founders:  slices.Clone(nodes),
	})
	return nil
}

func (s *catalogueState) register(c catalogueCommand) error {
	if c.Node == nil {
		return ErrInvalid.Because("register names no node")
	}
	n := *c.Node
	n.Former = ""
	if err := checkNode(n); err != nil {
		return err
	}
	if other := s.nodeNamed(n.Name); other != nil && other.ID != n.ID {
		if !c.Takeover {
			return nameTaken(n.Name, other.ID)
		}
		old := other.ID
		other.Former, other.Name = other.Name, s.formerName(other.Name, old)
		s.dropFormer(old)
	}
	if have := s.node(n.ID); have != nil {
		*have = n
		return nil
	}
	if len(s.Nodes) >= nodesMax {
		return ErrTooLarge.Because("the cluster has %d nodes already, the most it takes", nodesMax)
	}
	s.addNode(n)
	return nil
}

func nameTaken(name string, by NodeID) *Error {
	return ErrConflict.Because("node name %q belongs to node %s: names are unique in a cluster; choose another name", name, by)
}

// formerName is what a node is called once another has taken its name.
func (s *catalogueState) formerName(name string, id NodeID) string {
	short := name + "~" + string(id[:8])
	if s.nodeNamed(short) != nil {
		return name + "~" + string(id)
	}
	return short
}

func (s *catalogueState) create(c catalogueCommand) (any, error) {
	if c.Spec == nil || c.ID == (UUID{}) {
		return nil, ErrInvalid.Because("create names no group")
	}
	if s.Cluster == (UUID{}) {
		return nil, ErrInvalid.Because("the cluster has not formed yet")
	}
	spec := c.Spec.normal()
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	if have := s.groupNamed(spec.Name); have != nil {
		if have.ID == c.ID {
			return have.GroupInfo, nil
		}
		if err := differs(have.GroupSpec, spec); err != nil {
			return nil, err
		}
		return have.GroupInfo, nil
	}
	if s.group(c.ID) != nil || s.tombstone(c.ID) != nil {
		return nil, ErrConflict.Because("group id %s is used already", c.ID)
	}
	if len(s.Groups) >= groupsMax {
		return nil, ErrTooLarge.Because("the cluster has %d groups already, the most it takes", groupsMax)
	}
	placed, err := s.place(spec, c.Nodes)
	if err != nil {
		return nil, err
	}
	g := catalogueGroup{GroupInfo: GroupInfo{GroupSpec: spec, ID: c.ID, Placed: placed}, Founders: slices.Clone(placed)}
	s.addGroup(g)
	return g.GroupInfo, nil
}

func (s *catalogueState) placeOne(c catalogueCommand) error {
	g := s.group(c.ID)
	if g == nil {
		return ErrNoSuchGroup
	}
	if n := s.node(c.Target); n == nil || n.Former != "" {
		return ErrNoSuchNode.Because("node %s has not joined the cluster, or its name belongs to another node now", c.Target)
	}
	g.Placed = sortedIDs(append(g.Placed, c.Target))
	return nil
}

func (s *catalogueState) unplaceOne(c catalogueCommand) error {
	g := s.group(c.ID)
	if g == nil {
		return ErrNoSuchGroup
	}
	if len(g.Placed) == 1 && g.Placed[0] == c.Target {
		return ErrInvalid.Because("node %s holds the last replica of group %q; use 'group destroy'", c.Target, g.Name)
	}
	is := func(id NodeID) bool { return id == c.Target }
	g.Placed = slices.DeleteFunc(g.Placed, is)
	g.Founders = slices.DeleteFunc(g.Founders, is)
	s.dropFormer(c.Target)
	return nil
}

func (s *catalogueState) destroy(c catalogueCommand) error {
	if s.tombstone(c.ID) != nil {
		return nil
	}
	g := s.group(c.ID)
	if g == nil {
		return ErrNoSuchGroup
	}
	if g.System {
		return ErrDenied.Because("the system group cannot be destroyed")
	}
	if len(s.Destroyed) >= tombstonesMax {
		s.Destroyed = slices.Delete(s.Destroyed, 0, 1)
	}
	placed := g.Placed
	s.Destroyed = append(s.Destroyed, tombstone{ID: g.ID, Name: g.Name, Nodes: placed})
	s.Groups = slices.DeleteFunc(s.Groups, func(g catalogueGroup) bool { return g.ID == c.ID })
	for _, id := range placed {
		s.dropFormer(id)
	}
	return nil
}

func (s *catalogueState) cleaned(c catalogueCommand) error {
	t := s.tombstone(c.ID)
	if t == nil {
		return nil
	}
	t.Nodes = slices.DeleteFunc(t.Nodes, func(id NodeID) bool { return id == c.Target })
	if len(t.Nodes) == 0 {
		s.Destroyed = slices.DeleteFunc(s.Destroyed, func(t tombstone) bool { return t.ID == c.ID })
	}
	return nil
}

func (s *catalogueState) bumpIncarnation(c catalogueCommand) error {
	g := s.group(c.ID)
	if g == nil {
		return ErrNoSuchGroup
	}
	if len(c.Nodes) == 0 {
		return ErrInvalid.Because("a recovered group needs members")
	}
	if c.Incarnation <= g.Incarnation {
		return nil
	}
	gone := g.Placed
	g.Incarnation, g.Placed = c.Incarnation, sortedIDs(c.Nodes)
	// Whoever is placed from now on joins what was recovered.
	g.Founders = nil
	for _, id := range gone {
		s.dropFormer(id)
	}
	return nil
}
