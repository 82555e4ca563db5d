// Package raftengine is hashicorp/raft spoken in framework words: it offers
// framework.Engine and is as thin as that contract allows. It knows no machine,
// keeps no sessions and reads no command.
//
// Read engine.go first (what is running and how it starts and stops), then
// propose.go and pending.go (how a proposal gets its one outcome), fsm.go (how
// committed entries leave), read.go, snapshot.go, transport.go, store.go.
//
// # What of raft is used, and what is not
//
//   - Futures of ApplyLog are not waited for. Where a proposal went is seen in
//     the log store (pending.go), what became of it in the FSM. So there is no
//     goroutine, channel or wake-up of ours for each command, and nothing that
//     raft leaves unanswered when it shuts down can hold us.
//   - raft takes no snapshots: its triggers are off and FSM.Snapshot refuses. The
//     framework decides; Engine.Snapshot writes into raft's own SnapshotStore and
//     shortens the log itself. snapshot.go says why raft bears that.
//   - VerifyLeader is only a trigger: its answer counts heartbeats sent before the
//     question. read.go counts answers to what was sent after it.
//   - RestoreCommittedLogs is off (it hangs at start), RecoverCluster is not used
//     (it needs a machine), the log is always declared monotonic.
//
// Entries of raft's log: LogCommand with no Extensions is a command, with {1} a
// control entry, with {2} a marker of the engine's own. A new leader writes a
// marker after raft's no-op. raft shows no-ops to nobody; the marker makes every
// replica announce the positions up to it, tells the leader that its term's first
// entry is committed, and that raft takes proposals.
//
// # Metrics
//
// raft's own metrics go to the process-wide go-metrics sink and carry no group;
// bridging them is the program's business. The engine registers gauges and
// counters of its group on EngineConfig.Metrics (metrics.go).
package raftengine
