package enginetest

// cases are all of the suite; the functions stand in the cases_ files.
var cases = []testCase{
	// Replication, crashes and restarts.
	{"Elect", 3, caseElect},
	{"Replicate", 3, caseReplicate},
	{"OneReplica", 1, caseOneReplica},
	{"FiveReplicas", 5, caseFiveReplicas},
	{"FailOver", 3, caseFailOver},
	{"FailOverAgainAndAgain", 3, caseFailOverAgain},
	{"CrashAndRestartAll", 3, caseCrashAll},
	{"RestartEveryoneWithNewAddresses", 3, caseNewAddresses},
	{"ShutdownHandsOver", 3, caseShutdown},

	// The five properties, each under what threatens it most.
	{"ElectionSafety", 5, caseElectionSafety},
	{"LeaderAppendOnly", 3, caseLeaderAppendOnly},
	{"LogMatching", 3, caseLogMatching},
	{"LeaderCompleteness", 5, caseLeaderCompleteness},
	{"StateMachineSafety", 3, caseStateMachineSafety},

	// Links and machines.
	{"CutLeaderOff", 3, caseCutLeader},
	{"CutOneWay", 3, caseCutOneWay},
	{"CutBridge", 5, caseBridge},
	{"MinorityCommitsNothing", 5, caseMinority},
	{"PauseLeader", 3, casePauseLeader},
	{"FaultsUnderLoad", 5, caseFaultsUnderLoad},
	{"MachineHangs", 3, caseMachineHangs},
	{"LeaderWithoutMachineHandsOver", 3, caseMachineLost},
	{"LeaderDiskHangs", 3, caseDiskHangs},
	{"LeaderDiskFails", 3, caseDiskFails},
	{"LeaderClockIsLate", 3, caseLateClock},
	{"ResultTooLarge", 3, caseResultTooLarge},
	{"BackPressure", 3, caseBackPressure},

	// Membership.
	{"Learner", 3, caseLearner},
	{"PromoteAndDemote", 3, casePromote},
	{"RemoveFollower", 3, caseRemoveFollower},
	{"RemoveLeader", 3, caseRemoveLeader},
	{"Replace", 3, caseReplace},
	{"OneChangeAtATime", 3, caseOneChange},
	{"ChangeThatWouldLoseTheQuorum", 3, caseWouldLoseQuorum},
	{"Transfer", 3, caseTransfer},

	// Snapshots.
	{"SnapshotAndRestart", 3, caseSnapshotRestart},
	{"CatchUpBySnapshot", 3, caseCatchUpBySnapshot},
	{"SnapshotsUnderLoad", 3, caseSnapshotsUnderLoad},
	{"RestoreBackup", 3, caseRestoreBackup},
	{"RestoreInterrupted", 3, caseRestoreInterrupted},

	// Sessions and reads.
	{"SessionsThroughLeaderChanges", 3, caseSessions},
	{"ReadLevels", 3, caseReadLevels},
	{"ReadAfterElectionAndNoWrite", 3, caseReadAfterElection},
	{"ReadAfterRestartWithOnlyANoOp", 3, caseReadAfterNoOp},
	{"ReadDuringMembershipChange", 3, caseReadDuringChange},
	{"DeposedLeaderReadsNothing", 3, caseDeposedReads},
}
