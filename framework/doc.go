// Package framework says what every consensus engine promises and owns all that
// is above the log, once for all engines: the applier (sessions, time, command
// numbers, results, snapshots), the Group that joins an engine to a machine,
// the Node that hosts groups, the catalogue they are created from, and the
// Streams that carry everything between nodes.
//
// It holds no engine, starts no plugin process and speaks no gossip: those are
// handed in. Read engine.go first, then applier.go, group.go, node.go.
//
// The words are neutral. What they are called in the engines:
//
//	framework    hashicorp/raft        viewstamped replication
//	leader       leader                primary
//	follower     follower              backup
//	term         term                  view (epoch and counter)
//	position     index                 op and place in its batch
//	entry        log entry             command of a batch
//	learner      nonvoter              standby
//	membership   configuration         epoch configuration
package framework
