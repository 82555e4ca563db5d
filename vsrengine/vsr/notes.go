package vsr

// Note is why a message was dropped on purpose. [Replica.Notes] counts them.
type Note uint8

// The notes. A script shows each.
const (
	NoteHeld         Note = iota // the replica is held
	NoteBooting                  // the first record is not durable yet
	NoteMisaddressed             // to another, from itself, or of no kind
	NoteMalformed                // its parts do not fit together
	NotePhase                    // the handler table has no cell for it
	NoteEarlierEpoch             // the sender's epoch has ended
	NoteLaterEpoch               // mine has ended: asked for the new one
	NoteEarlierView              // of a view that is over
	NoteLaterView                // of a view I have not entered: asked for its StartView
	NoteNotMember                // the sender has no vote, or I have none
	NoteNotPrimary               // from one who is not the view's primary, or for one
	NoteGap                      // too far beyond my head: asked for what lies between
	NoteConflict                 // contradicts what is known: never in a correct group
	NoteUnknown                  // acknowledges what I do not have
	NoteNonce                    // answers another question
	NoteDeadView                 // a StartView that lacks what is committed here
	NoteNotReady                 // cannot say so durably yet
	NoteUnwanted                 // nobody asked, or no longer
	NoteDuplicateLog             // a second DoViewChange of one view
	NoteTooFew                   // a Recovery answer that does not count
	NotePurpose                  // HandOver to a view that is not after this one
	noteCount
)

// NoteCount is the number of notes.
const NoteCount = int(noteCount)

func (n Note) String() string {
	return [...]string{
		"held", "booting", "misaddressed", "malformed", "phase", "earlier-epoch", "later-epoch", "earlier-view", "later-view",
		"not-member", "not-primary", "gap", "conflict", "unknown-op", "nonce", "dead-view", "not-ready", "unwanted",
		"duplicate-log", "too-few", "purpose",
	}[n]
}

// Notes counts how often each note was made.
func (r *Replica) Notes() *[NoteCount]uint64 { return &r.notes }
