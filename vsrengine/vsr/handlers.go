package vsr

type handler func(*Replica, *Message, *peer)

// handlers is the protocol on one page. An empty cell is a message dropped on
// purpose. The peer is nil where the sender is not a member.
var handlers = [phaseCount][kindCount]handler{
	Normal: {
		Prepare: onPrepare, PrepareOK: onPrepareOK, Commit: onCommit, CommitOK: onCommitOK,
		StartViewChange: onStartViewChange, DoViewChange: onDoViewChange, Notice: onNotice, StartView: onStartView,
		GetView: onGetView, HandOver: onHandOver,
		GetState: onGetState, NewState: onNewState, GetEntries: onGetEntries, Entries: onEntries,
		GetSnapshot: onGetSnapshot, SnapshotOffer: onSnapshotOffer, GetChunk: onGetChunk, Chunk: onChunk,
		Recovery: onRecovery, GetProof: onGetProof, Proof: onProof, EpochAhead: onEpochAhead,
	},
	ViewChange: {
		Prepare: onLaterView, Commit: onLaterView,
		StartViewChange: onStartViewChange, DoViewChange: onDoViewChange, Notice: onNotice, StartView: onStartView,
		Progress: onProgress, HandOver: onHandOver,
		GetEntries: onGetEntries, Entries: onEntries,
		GetSnapshot: onGetSnapshot, SnapshotOffer: onSnapshotOffer, GetChunk: onGetChunk, Chunk: onChunk,
		EpochAhead: onEpochAhead,
	},
	RecoveringHead: {
		StartView:  onStartView,
		GetEntries: onGetEntries, GetSnapshot: onGetSnapshot, GetChunk: onGetChunk,
		SnapshotOffer: onSnapshotOffer, Chunk: onChunk,
		EpochAhead: onEpochAhead,
	},
	Recovering: {
		Recovery: onRecoveryOfOther, RecoveryResponse: onRecoveryResponse,
		Entries: onEntries, SnapshotOffer: onSnapshotOffer, Chunk: onChunk,
		EpochAhead: onEpochAhead,
	},
	Retired: {
		Prepare: onRetired, Commit: onRetired, StartView: onStartView,
		Recovery: onAskRetired, GetView: onAskRetired, StartViewChange: onAskRetired,
		SnapshotOffer: onSnapshotOffer, Chunk: onChunk,
	},
}

// anyEpoch are the kinds whose content speaks for itself, whatever the view.
var anyEpoch = [kindCount]bool{
	GetEntries: true, Entries: true, GetSnapshot: true, SnapshotOffer: true, GetChunk: true, Chunk: true,
	RecoveryResponse: true, Recovery: true, EpochAhead: true, GetView: true,
}

func (r *Replica) dispatch(m *Message) {
	p := r.peer(m.From)
	if p != nil {
		p.heard = r.now
		r.witness(p, m)
	}
	if r.phase != Retired && r.phase != Halted && !r.sameEpoch(m) {
		return
	}
	h := handlers[r.phase][m.Kind]
	if h == nil {
		r.drop(NotePhase)
		return
	}
	h(r, m, p)
}

// sameEpoch deals with messages of other epochs: those that can carry a replica
// over pass, those of the past are answered with the present (D10).
func (r *Replica) sameEpoch(m *Message) bool {
	mine, theirs := r.view.Epoch(), m.View.Epoch()
	if mine == theirs || anyEpoch[m.Kind] || r.cfg.Defect == DefectOldEpochVote && m.View.Counter() == r.view.Counter() {
		return true
	}
	if theirs > mine {
		switch m.Kind {
		case Notice, DoViewChange, StartView:
			return true
		}
		r.drop(NoteLaterEpoch)
		switch r.phase {
		case Normal, ViewChange:
			r.askView(m.From, m.View)
		case Recovering:
			r.send(m.From, Message{Kind: Recovery, View: r.recovery.stamp, Nonce: r.recovery.nonce})
		}
		return false
	}
	r.drop(NoteEarlierEpoch)
	if r.phase == Normal {
		r.tellEpoch(m.From)
	}
	return false
}
