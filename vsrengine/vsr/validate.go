package vsr

// Bounds of what a message may ask this replica to believe. Frames are checksummed
// and links authenticated below; these keep an encoder's mistake, or a peer with
// other group constants, from taking this replica along.
const (
	membersMax = 64
	aheadMax   = 1 << 20 // ops that a log to take over may lie beyond this one: further, a snapshot comes first
	opMax      = 1 << 56 // no group gets so far
)

// wellFormed reports whether the parts of a message fit together. What they say
// is judged by the handlers.
func (r *Replica) wellFormed(m *Message) bool {
	if m.Op > opMax || m.Commit > opMax {
		return false
	}
	switch m.Kind {
	case DoViewChange, StartView:
		if m.Log == nil {
			return false
		}
	case SnapshotOffer, GetChunk, Chunk:
		if m.Snapshot == nil {
			return false
		}
	case EpochAhead, RecoveryResponse:
		if m.Members == nil {
			return false
		}
	case Prepare:
		if len(m.Entries) != 1 {
			return false
		}
	}
	for i := range m.Entries {
		if e := &m.Entries[i]; e.Op == 0 || e.Op > opMax || e.Checksum == 0 || e.View > m.View && m.Kind != Entries || i > 0 && e.Op != m.Entries[i-1].Op+1 {
			return false
		}
	}
	return (m.Log == nil || r.wellFormedLog(m)) && (m.Members == nil || m.Members.wellFormed()) &&
		(m.Snapshot == nil || m.Snapshot.Header.Op > 0 && m.Snapshot.Header.Op < opMax && m.Snapshot.Members.wellFormed())
}

func (r *Replica) wellFormedLog(m *Message) bool {
	l := m.Log
	n := len(l.Headers)
	if max(l.Head, l.Begin, l.First, l.Contiguous, l.Applied, l.Commit, l.Snapshot) > opMax {
		return false
	}
	if n != len(l.Claims) || n > r.cfg.PipelineMax+1 || Op(n) > l.Head || n == 0 && l.Head > 0 || l.LogView > m.View {
		return false
	}
	for i := range l.Headers {
		if l.Headers[i].Op != l.Low()+Op(i) {
			return false
		}
	}
	// Who describes a log knows where it ends.
	return n == 0 || l.Headers[n-1].Checksum != 0
}

func (m *Membership) wellFormed() bool {
	n := m.Voters()
	if m.Op > opMax || n == 0 || n > VotersMax || len(m.Members) > membersMax || len(m.Previous) > membersMax {
		return false
	}
	for i := range m.Members {
		if x := &m.Members[i]; x.ID == 0 || x.Role != Voter && x.Role != Learner || i > 0 && x.ID <= m.Members[i-1].ID {
			return false
		}
	}
	return true
}
