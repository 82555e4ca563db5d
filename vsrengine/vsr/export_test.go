package vsr

// LogAt shows tests one op of a replica's log: its header, and how it is held.
func (r *Replica) LogAt(op Op) (h Header, linked, present, damaged bool) {
	s := r.log.find(op)
	if s == nil {
		return Header{Op: op}, false, false, false
	}
	return s.Header, s.linked, s.present, s.damaged
}

// The quorums, for tests of their arithmetic.
var (
	Quorum     = quorum
	NackQuorum = nackQuorum
	MeetQuorum = meetQuorum
)
