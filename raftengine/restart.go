package raftengine

// The snapshot livelock (hashicorp/raft#697) and its end.
//
// A follower whose log, written by an old leader, reaches to or beyond a snapshot
// it is sent, with another term at the snapshot's index, installs it and empties
// its log, but raft's memory of the last entry stays on the old log's. It then
// refuses every AppendEntries after the snapshot, since it looks for the entry
// before in a log that it believes to be there, and is sent the snapshot again,
// for ever, thousands of times a second.
//
// The store is right: snapshot and an empty log. Only the memory of a running
// raft is wrong, and nothing but a start corrects it. So when the store sees its
// log emptied for a snapshot while raft goes on believing in it, the engine starts
// raft anew on the same storage and connections. That takes milliseconds, once.

// logWiped is called by raft's main goroutine, in its DeleteRange.
func (e *engine) logWiped(stale bool) {
	if stale {
		e.restartWanted.Store(true)
		e.wake()
	}
}

// restart is called by watchRaft.
func (e *engine) restart() {
	e.log.Warn("raft is started anew: it holds on to entries that a snapshot replaced", "snapshot", e.snaps.newestIndex())
	_ = e.raft.Load().Shutdown().Error() // only ever nil; waits until the install has ended
	if err := e.startRaft(); err != nil {
		e.log.Error("raft did not start again; this replica stops", "err", err)
		e.beginEnd(err)
		return
	}
	e.restarts.Add(1)
}
