package vsr

import (
	"slices"
	"strconv"
)

// The defects, each a published mistake or one that a review found.
const (
	DefectNone               Defect = iota
	DefectTruncateOnPrepare         // A1: cut the log and take the view on a later view's Prepare
	DefectAmnesia                   // A2: no stamp in memory mode
	DefectOldAcks                   // A16: acknowledgements survive a view change
	DefectLogViewVolatile           // A17: log_view is not durable before the first acknowledgement
	DefectViewVolatile              // A18: the view is not durable before DoViewChange
	DefectTwoLogs                   // A19: a restart describes its log anew for the same view
	DefectPrepareEarly              // A20: a primary prepares before its log_view is durable
	DefectSlotByView                // A21 taken literally: at start, drop by header view
	DefectOldStartView              // A22: recovering_head takes any StartView
	DefectNackDamaged               // A23: a damaged entry counts as never held
	DefectFreshRead                 // A43: a fresh primary answers reads at once
	DefectHeldPromise               // A47: a held acknowledgement survives its view
	DefectCompletionByOp            // A48: completion by op instead of ticket
	DefectLogViewEarly              // A50: log_view without its headers
	DefectInstallDropsTail          // A51: an install drops what lies above it
	DefectExactTargets              // A54: suspicions counted for the exact target only
	DefectDeadExecute               // A63: what is not of this log is executed
	DefectSelfRecovery              // A66: a recovery answered by its own old view
	DefectNewVoterNack              // A67: the new epoch may cut its own Reconfigure
	DefectInstallRewritesLog        // A69: an install rewrites the view record
	DefectAbdicatedStartView        // A70: a restarted primary goes on in its view
	DefectNackBesideDamage          // A71: a nack from a damaged journal
	DefectEpochWithoutQuorum        // D10: an epoch started without its quorum
	DefectOldEpochVote              // R5: votes of another epoch are counted
	DefectUncertainStartView        // a StartView names what lies below a hole of its sender
	DefectSkipFsync                 // acknowledge before the write is durable
	DefectAckBeforeQuorum           // commit with one acknowledgement too few
	DefectNackTooFew                // cut what one replica does not have
	DefectSessionless               // a snapshot without its sessions (the simulator's machine)
	defectCount
)

// DefectCount is the number of defects, DefectNone with them.
const DefectCount = int(defectCount)

var defectNames = [defectCount]string{
	"None", "TruncateOnPrepare", "Amnesia", "OldAcks", "LogViewVolatile", "ViewVolatile", "TwoLogs", "PrepareEarly",
	"SlotByView", "OldStartView", "NackDamaged", "FreshRead", "HeldPromise", "CompletionByOp", "LogViewEarly",
	"InstallDropsTail", "ExactTargets", "DeadExecute", "SelfRecovery", "NewVoterNack", "InstallRewritesLog",
	"AbdicatedStartView", "NackBesideDamage", "EpochWithoutQuorum", "OldEpochVote", "UncertainStartView", "SkipFsync", "AckBeforeQuorum",
	"NackTooFew", "Sessionless",
}

func (d Defect) String() string {
	if d < defectCount {
		return defectNames[d]
	}
	return "Defect(" + strconv.Itoa(int(d)) + ")"
}

// What follows is reached with a defect only.

// unwriteRecord takes the record just written back.
func (r *Replica) unwriteRecord() {
	r.out.Persist = r.out.Persist[:len(r.out.Persist)-1]
	r.issued--
	r.recordTicket = 0
}

// recordWithoutLog names the new log_view beside the old log.
func (r *Replica) recordWithoutLog() {
	w := &r.out.Persist[len(r.out.Persist)-1]
	log := *w.Record.Log
	log.Headers, log.Claims = nil, nil
	w.Record.Log = &log
}

func (r *Replica) truncateAsPublished(m *Message) {
	r.log.cut(max(r.commit, r.applied))
	r.leaveView()
	r.view, r.logView = m.View, m.View
	r.writeRecord(r.describe())
	r.backup.head = m.Op
	r.askState()
}

// holdPromise lets an acknowledgement that waits for the disk survive the view.
func (r *Replica) holdPromise() {
	if r.cfg.Defect != DefectHeldPromise || r.phase != Normal || r.isPrimary() || r.heldAck != nil {
		return
	}
	s := r.log.find(r.log.head)
	if s == nil || s.ticket <= r.durable {
		return
	}
	r.heldAck = &Message{Kind: PrepareOK, View: r.view, Op: s.Op, Checksum: s.Checksum, From: r.id, To: r.members.Primary(r.view)}
	r.heldTicket = s.ticket
}

// persistedDefect remembers completions by op, and gives out what was held.
func (r *Replica) persistedDefect(t Ticket) {
	for len(r.ticketOps) > 0 && r.ticketOps[0].Ticket <= t {
		r.highestDurableOp = max(r.highestDurableOp, r.ticketOps[0].Op)
		r.ticketOps = r.ticketOps[1:]
	}
	if r.heldAck != nil && r.heldTicket <= r.durable {
		r.out.Promise = append(r.out.Promise, *r.heldAck)
		r.heldAck = nil
	}
}

// exactTarget is the highest view that a quorum names exactly.
func exactTarget(want []View, q int) View {
	for i := len(want) - 1; i >= q-1; i-- {
		if want[i] == want[i-q+1] {
			return want[i]
		}
	}
	return 0
}

// slotsByView drops every entry above the known commit that was prepared before
// log_view.
func slotsByView(found []Slot, rec *Log) []Slot {
	return slices.DeleteFunc(slices.Clone(found), func(s Slot) bool { return s.Op > rec.Commit && s.View < rec.LogView })
}

// recoverAlone takes its own old view for the answer of its primary.
func (r *Replica) recoverAlone(v View) {
	r.leaveView()
	r.view = v
	r.recordEpoch = r.members.Epoch
	r.enterNormal()
	r.prim.begun = true
}

// startEpochAlone begins an epoch on the strength of the old quorum.
func (r *Replica) startEpochAlone(v View) {
	r.leaveView()
	r.view = v
	r.prim.suffix = r.log.head
	r.enterNormal()
	r.persistedNormal()
}
