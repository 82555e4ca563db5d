package vsr

// Phase is what a replica is doing; the paper calls it status.
type Phase uint8

// The phases. Recovering is memory mode's; RecoveringHead is a disk whose last
// op is uncertain: it neither votes nor acknowledges.
const (
	Normal Phase = iota
	ViewChange
	RecoveringHead
	Recovering
	Retired // removed from the group
	Halted  // its disk is behind what it promised (D18)
	phaseCount
)

func (p Phase) String() string {
	return [...]string{"normal", "view-change", "recovering-head", "recovering", "retired", "halted"}[p]
}

// Status is a copy of what a replica knows of itself.
type Status struct {
	ID       ID
	Phase    Phase
	Role     Role
	View     View
	LogView  View
	Primary  ID   // of View
	Serving  bool // the primary of a view that has begun, in contact with a quorum
	Head     Op
	Commit   Op // known committed
	Applied  Op // given out to be applied
	First    Op // first op kept
	Snapshot Op // newest
	Damaged  bool
	Held     bool
	Members  Membership
	Trouble  string // why it does not get on, in words; "" if it does
}

// Where is the part of Status that is cheap to ask for after every input.
type Where struct {
	Phase   Phase
	View    View
	LogView View
	Head    Op
	Commit  Op
	Applied Op
}

// Where says how far the replica is.
func (r *Replica) Where() Where {
	return Where{r.phase, r.view, r.logView, r.log.head, r.commit, r.applied}
}
