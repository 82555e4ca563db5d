package framework

import (
	"cmp"
	"crypto/sha256"
	"maps"
	"slices"
)

const (
	catalogueFormat = 1
	nodesMax        = 1024
	groupsMax       = 4096
	tombstonesMax   = 4096
)

// catalogueState is the catalogue's whole state, and its snapshot as JSON.
// Invariants:
//   - Nodes is sorted by ID, no two have one Name;
//   - Groups is sorted by Name, no two have one Name or one ID;
//   - every node in a group's Placed was registered when it was placed;
//   - Founders is a subset of Placed;
//   - no ID is in Groups and in Destroyed.
type catalogueState struct {
	Format int `json:"format"`
	// Number is that of the last command applied.
	Number    uint64           `json:"number"`
	Cluster   UUID             `json:"cluster"`
	Nodes     []catalogueNode  `json:"nodes,omitempty"`
	Groups    []catalogueGroup `json:"groups,omitempty"`
	Destroyed []tombstone      `json:"destroyed,omitempty"`
}

// catalogueNode is a node that has joined the cluster.
type catalogueNode struct {
	ID      NodeID `json:"id"`
	Name    string `json:"name"`
	Version string `json:"version"`
	// Former is the name the node had until another node took it over.
	Former string `json:"former,omitempty"`
}

// catalogueGroup is a group. Founders are those of Placed that may form the
// group: they were named at its create and have been in it ever since. A node
// that was placed later must never bootstrap.
type catalogueGroup struct {
	GroupInfo
	Founders []NodeID `json:"founders,omitempty"`
}

// tombstone remembers a destroyed group until every node that had a replica of
// it has said that its data is gone. Data is removed for a tombstone only, never
// for the mere absence of a group.
type tombstone struct {
	ID    UUID     `json:"id"`
	Name  string   `json:"name"`
	Nodes []NodeID `json:"nodes,omitempty"`
}

func (s *catalogueState) clone() *catalogueState {
	c := *s
	c.Nodes = slices.Clone(s.Nodes)
	c.Groups = slices.Clone(s.Groups)
	for i := range c.Groups {
		g := &c.Groups[i]
		g.Nodes, g.Placed, g.Founders = slices.Clone(g.Nodes), slices.Clone(g.Placed), slices.Clone(g.Founders)
		g.Options = maps.Clone(g.Options)
	}
	c.Destroyed = slices.Clone(s.Destroyed)
	for i := range c.Destroyed {
		c.Destroyed[i].Nodes = slices.Clone(s.Destroyed[i].Nodes)
	}
	return &c
}

func (s *catalogueState) node(id NodeID) *catalogueNode {
	i, ok := slices.BinarySearchFunc(s.Nodes, id, func(n catalogueNode, id NodeID) int { return cmp.Compare(n.ID, id) })
	if !ok {
		return nil
	}
	return &s.Nodes[i]
}

func (s *catalogueState) nodeNamed(name string) *catalogueNode {
	for i := range s.Nodes {
		if s.Nodes[i].Name == name {
			return &s.Nodes[i]
		}
	}
	return nil
}

func (s *catalogueState) group(id UUID) *catalogueGroup {
	for i := range s.Groups {
		if s.Groups[i].ID == id {
			return &s.Groups[i]
		}
	}
	return nil
}

func (s *catalogueState) groupNamed(name string) *catalogueGroup {
	for i := range s.Groups {
		if s.Groups[i].Name == name {
			return &s.Groups[i]
		}
	}
	return nil
}

func (s *catalogueState) tombstone(id UUID) *tombstone {
	for i := range s.Destroyed {
		if s.Destroyed[i].ID == id {
			return &s.Destroyed[i]
		}
	}
	return nil
}

// addGroup keeps Groups sorted.
func (s *catalogueState) addGroup(g catalogueGroup) {
	i, _ := slices.BinarySearchFunc(s.Groups, g.Name, func(g catalogueGroup, name string) int { return cmp.Compare(g.Name, name) })
	s.Groups = slices.Insert(s.Groups, i, g)
}

func (s *catalogueState) addNode(n catalogueNode) {
	i, _ := slices.BinarySearchFunc(s.Nodes, n.ID, func(n catalogueNode, id NodeID) int { return cmp.Compare(n.ID, id) })
	s.Nodes = slices.Insert(s.Nodes, i, n)
}

// dropFormer forgets a node whose name another has taken over, once no group
// has a replica on it.
func (s *catalogueState) dropFormer(id NodeID) {
	n := s.node(id)
	if n == nil || n.Former == "" || s.replicasOn(id) > 0 {
		return
	}
	s.Nodes = slices.DeleteFunc(s.Nodes, func(n catalogueNode) bool { return n.ID == id })
}

func (s *catalogueState) replicasOn(id NodeID) int {
	n := 0
	for i := range s.Groups {
		if slices.Contains(s.Groups[i].Placed, id) {
			n++
		}
	}
	return n
}

// place chooses nodes for a new group: those of the candidates with the fewest
// replicas, by id where that is equal.
func (s *catalogueState) place(spec GroupSpec, candidates []NodeID) ([]NodeID, error) {
	if len(spec.Nodes) > 0 {
		for _, id := range spec.Nodes {
			if s.node(id) == nil {
				return nil, ErrNoSuchNode.Because("group %q names node %s, which has not joined the cluster; see 'diarchy members'", spec.Name, id)
			}
		}
		return sortedIDs(spec.Nodes), nil
	}
	type load struct {
		id       NodeID
		replicas int
	}
	var loads []load
	for _, id := range sortedIDs(candidates) {
		if n := s.node(id); n != nil && n.Former == "" {
			loads = append(loads, load{id, s.replicasOn(id)})
		}
	}
	if len(loads) < spec.Replicas {
		return nil, tooFewNodes(spec, len(loads))
	}
	slices.SortStableFunc(loads, func(a, b load) int { return cmp.Compare(a.replicas, b.replicas) })
	chosen := make([]NodeID, spec.Replicas)
	for i := range chosen {
		chosen[i] = loads[i].id
	}
	return sortedIDs(chosen), nil
}

func tooFewNodes(spec GroupSpec, have int) *Error {
	return ErrInvalid.Because("group %q asks for %d replicas and the cluster has %d live nodes: start more nodes, or ask for fewer replicas",
		spec.Name, spec.Replicas, have)
}

// sortedIDs returns a sorted copy without repetitions.
func sortedIDs(ids []NodeID) []NodeID {
	out := slices.Clone(ids)
	slices.Sort(out)
	return slices.Compact(out)
}

// ClusterID is the UUID of the cluster that these nodes form: the same for the
// same nodes in any order.
func ClusterID(nodes []NodeID) UUID {
	h := sha256.New()
	h.Write([]byte("diarchy cluster 1"))
	for _, id := range sortedIDs(nodes) {
		h.Write([]byte{0})
		h.Write([]byte(id))
	}
	return UUID(h.Sum(nil)[:16])
}

// SystemGroupID is the id of a cluster's system group.
func SystemGroupID(cluster UUID) UUID {
	h := sha256.Sum256(append([]byte("diarchy system group 1\x00"), cluster[:]...))
	return UUID(h[:16])
}
