package vsr

// Bounds of what a message may ask this replica to believe. Frames are checksummed
// and links authenticated below; these keep an encoder's mistake, or a peer with
// other group constants, from taking this replica along.
const (
	membersMax = 64
	aheadMax   = 1 << 20 // ops that a log to take over may lie beyond this one: further, a snapshot comes first
	opMax      = 1 << 56 // no group gets so far
	counterMax = 1 << 39 // nor in one epoch to such a view
)

// wellFormed reports whether the parts of a message fit together. What they say
// is judged by the handlers.
func (r *Replica) wellFormed(m *Message) bool {
	if m.Op > opMax || m.Commit > opMax || m.View.Counter() > counterMax || m.Target.Counter() > counterMax {
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
	case Commit:
		if m.Commit > m.Op {
			return false
		}
	case Prepare:
		if len(m.Entries) != 1 {
			return false
		}
	}
	for i := range m.Entries {
		if e := &m.Entries[i]; e.Op == 0 || e.Op > opMax || e.Checksum == 0 || e.View > m.View && m.Kind != Entries || uint64(len(e.Body)) != uint64(e.Size) || i > 0 && e.Op != m.Entries[i-1].Op+1 {
			return false
		}
	}
	return (m.Log == nil || r.wellFormedLog(m)) && (m.Members == nil || m.Members.wellFormed() && m.Members.Epoch == m.View.Epoch()) && (m.Snapshot == nil || m.Snapshot.wellFormed())
}

// wellFormed also refuses a snapshot that ends with a Reconfigure and does not
// know it: whoever installed it would go on in an epoch that is over.
func (s *Snapshot) wellFormed() bool {
	h := &s.Header
	return h.Op > 0 && h.Op < opMax && s.Members.wellFormed() && (h.Kind != KindConfig || s.Members.Op == h.Op)
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
		h := &l.Headers[i]
		if h.Op != l.Low()+Op(i) {
			return false
		}
		if l.Claims[i]&Linked == 0 {
			continue
		}
		if i > 0 && l.Claims[i-1]&Linked != 0 && l.Headers[i-1].Checksum != h.Parent {
			return false
		}
		if h.Kind == KindConfig && h.View.Epoch() == l.LogView.Epoch() && h.Op != l.Head {
			return false // nothing follows a Reconfigure in its epoch
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
