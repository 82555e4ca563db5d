package vsrsim

import (
	"fmt"

	"github.com/diarchy/diarchy/vsrengine/vsr"
)

// EventKind says what an [Event] is.
type EventKind uint8

// What can be observed. Replica is where it happens unless said otherwise.
const (
	Started   EventKind = iota // a process
	Refused                    // a process did not start: it is not a member any more
	Crashed                    // a process
	Paused                     // a process does nothing until it is resumed
	Resumed                    //
	Cut                        // messages from Replica to Peer do not arrive any more
	Joined                     // all cuts are over
	Sent                       // a message from Replica to Peer; ID pairs it with its arrival
	Arrived                    // a message from Peer at Replica, sent at SentAt
	Dropped                    // a message from Replica to Peer, lost on the way
	InView                     // Replica is in View with Phase
	Flushed                    // Op is the last ticket that became durable
	Committed                  // Op is applied for the first time anywhere
	Acked                      // a client was told of Op
	Answered                   // a reader was shown the state after Op
	Taken                      // a snapshot of Op
	Installed                  // a snapshot of Op
	Damaged                    // the record of Op, or the snapshot of Op
	Wiped                      // a disk
	Changed                    // a change of membership about Peer was asked for
	Handed                     // a hand-over to Peer was asked for
	Healed                     // the second phase begins
	Left                       // Replica is not in the core of the second phase
	Failed                     // something is wrong
	eventKinds
)

var eventNames = [eventKinds]string{
	"start", "refused", "crash", "pause", "resume", "cut", "joined", "send", "arrive", "drop", "view", "flush", "commit",
	"ack", "read", "snapshot", "install", "damage", "wipe", "change", "transfer", "HEALED", "left-out", "FAILED",
}

func (k EventKind) String() string { return eventNames[k] }

// Event is one thing that happened.
type Event struct {
	At      uint64 // microticks, a thousand to a tick
	Kind    EventKind
	Replica vsr.ID
	Peer    vsr.ID
	Message vsr.Kind
	Phase   vsr.Phase
	View    vsr.View
	Op      vsr.Op
	ID      uint64 // pairs Sent with Arrived; a message doubled has one ID
	SentAt  uint64
}

// String is the event as one line in fixed columns: time, kind, replica, peer,
// message or phase, view, op, and for messages their number and time under way.
func (e *Event) String() string {
	what := ""
	switch e.Kind {
	case Sent, Arrived, Dropped:
		what = e.Message.String()
	case InView:
		what = e.Phase.String()
	}
	s := fmt.Sprintf("%7d.%03d %-8s %3s %3s %-16s %8s %7d", e.At/microticks, e.At%microticks, e.Kind,
		column(e.Replica), column(e.Peer), what, e.View, e.Op)
	switch e.Kind {
	case Sent, Dropped:
		s += fmt.Sprintf("  #%d", e.ID)
	case Arrived:
		s += fmt.Sprintf("  #%d +%d", e.ID, e.At-e.SentAt)
	}
	return s
}

func column(id vsr.ID) string {
	if id == 0 {
		return "-"
	}
	return fmt.Sprint(uint64(id))
}

// note puts an event into the running hash and tells the observer.
func (w *world) note(e Event) {
	w.mix(uint64(e.Kind)<<56 | uint64(e.Replica)<<48 | uint64(e.Peer)<<40 | uint64(e.Message)<<32 | uint64(e.Phase)<<24 | e.ID&0xffffff)
	w.mix(uint64(e.View)<<24 ^ uint64(e.Op))
	if w.observe != nil {
		e.At = w.now
		w.observe(&e)
	}
}

func (w *world) mix(x uint64) {
	w.hash = (w.hash ^ x ^ w.now<<20) * 0x9e3779b97f4a7c15
	w.hash ^= w.hash >> 29
}
