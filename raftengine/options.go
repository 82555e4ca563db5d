package raftengine

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/diarchy/diarchy/framework"
)

// The log stores of Options["log_store"].
const (
	storeWAL    = "wal"
	storeBolt   = "boltdb"
	storeMemory = "memory"
)

const (
	defaultTrailing      = 10_240
	defaultHeartbeat     = time.Second
	defaultQueue         = 16 << 10
	defaultQueueBytes    = 64 << 20
	defaultEntryBytes    = 4 << 20
	defaultStallAfter    = 2 * time.Second
	timeoutMin           = 5 * time.Millisecond // raft's own bound
	entryBytesCeiling    = 60 << 20             // raft-wal takes entries of up to 64 MiB
	trailingLogsOption   = "trailing_logs"
	logStoreOption       = "log_store"
	heartbeatOption      = "heartbeat"
	electionOption       = "election"
	durabilityInMemory   = "memory"
	snapshotsKept        = 2
	maxAppendEntries     = 1024 // raft's own ceiling
	maxRPCsInFlight      = 2    // pipeline.AppendEntries relies on it
	appendBytesMax       = 8 << 20
	transportTimeout     = 10 * time.Second
	leaderLeaseMax       = 500 * time.Millisecond
	commitTimeoutMax     = 50 * time.Millisecond
	logCacheEntries      = 10_000
	logCacheBytes        = 64 << 20
	snapshotIntervalNone = 10_000 * time.Hour
)

// settings are a replica's options, checked and with defaults filled in.
type settings struct {
	logStore            string
	trailing            uint64
	heartbeat, election time.Duration
	stallAfter          time.Duration
	entryBytes          int
	queueBytes, queue   int
}

var optionKeys = []string{electionOption, heartbeatOption, logStoreOption, trailingLogsOption}

// Driver returns the driver that cmd/diarchy's table of engines holds.
func Driver() framework.EngineDriver {
	return framework.EngineDriver{New: New, Check: Check, Recover: Recover}
}

// Check reports what of durability and options this engine cannot do.
func Check(durability string, options map[string]string) error {
	if durability == durabilityInMemory {
		return fmt.Errorf("durability = %q: engine raft keeps its log on disk and has no other way; use \"disk\", or engine vsr", durability)
	}
	if durability != "" && durability != "disk" {
		return fmt.Errorf("durability = %q: engine raft knows only \"disk\"", durability)
	}
	_, err := settingsOf(&framework.EngineConfig{Dir: "any", Options: options})
	return err
}

func memoryStoreError() error {
	return fmt.Errorf("option %s = %q forgets log and votes when the process ends and is for tests only; use %q or %q", logStoreOption, storeMemory, storeWAL, storeBolt)
}

func parseOptions(options map[string]string) (settings, error) {
	s := settings{trailing: defaultTrailing}
	for key, value := range options {
		if err := s.set(key, value); err != nil {
			return s, err
		}
	}
	return s, nil
}

func (s *settings) set(key, value string) (err error) {
	switch key {
	case logStoreOption:
		s.logStore = value
		if !slices.Contains([]string{storeWAL, storeBolt, storeMemory}, value) {
			err = fmt.Errorf("option %s = %q: expected %q or %q", key, value, storeWAL, storeBolt)
		}
	case trailingLogsOption:
		if s.trailing, err = strconv.ParseUint(value, 10, 63); err != nil {
			err = fmt.Errorf("option %s = %q: expected a whole number of entries", key, value)
		}
	case heartbeatOption:
		s.heartbeat, err = parseTimeout(key, value)
	case electionOption:
		s.election, err = parseTimeout(key, value)
	default:
		err = fmt.Errorf("option %q: engine raft has no such option; it has %s", key, strings.Join(optionKeys, ", "))
	}
	return err
}

func parseTimeout(key, value string) (time.Duration, error) {
	d, err := time.ParseDuration(value)
	if err != nil || d < timeoutMin {
		return 0, fmt.Errorf("option %s = %q: expected a duration of at least %s, such as \"1s\"", key, value, timeoutMin)
	}
	return d, nil
}

// settingsOf joins options and configuration; an option wins over its field.
func settingsOf(c *framework.EngineConfig) (settings, error) {
	s, err := parseOptions(c.Options)
	if err != nil {
		return s, err
	}
	s.heartbeat, s.election = orDuration(s.heartbeat, c.Heartbeat), orDuration(s.election, c.Election)
	if s.heartbeat == 0 {
		s.heartbeat = defaultHeartbeat
		if s.election > 0 {
			s.heartbeat = min(s.heartbeat, s.election)
		}
	}
	s.election = orDuration(s.election, s.heartbeat)
	s.stallAfter = orDuration(c.StallAfter, defaultStallAfter)
	s.entryBytes = orInt(c.EntryBytesMax, defaultEntryBytes)
	s.queueBytes = orInt(c.QueueBytesMax, defaultQueueBytes)
	s.queue = orInt(c.QueueMax, defaultQueue)
	return s, s.check(c.Dir)
}

func (s *settings) check(dir string) error {
	switch {
	case s.heartbeat < timeoutMin:
		return fmt.Errorf("heartbeat of %s: expected at least %s", s.heartbeat, timeoutMin)
	case s.election < s.heartbeat:
		return fmt.Errorf("election timeout of %s: expected at least the heartbeat timeout, %s", s.election, s.heartbeat)
	case s.entryBytes > entryBytesCeiling:
		return fmt.Errorf("entries of up to %d bytes: raft's log stores take %d", s.entryBytes, entryBytesCeiling)
	case dir == "" && s.logStore == "":
		s.logStore = storeMemory
	case dir == "" && s.logStore != storeMemory:
		return fmt.Errorf("option %s = %q needs a directory", logStoreOption, s.logStore)
	case dir != "" && s.logStore == storeMemory:
		return memoryStoreError()
	case s.logStore == "":
		s.logStore = storeWAL
	}
	return nil
}

func orDuration(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}

func orInt(n, otherwise int) int {
	if n == 0 {
		return otherwise
	}
	return n
}
