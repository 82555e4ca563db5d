package raftengine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/hashicorp/raft"

	"github.com/diarchy/diarchy/framework"
)

// Recover gives a stopped replica a new membership, after a majority of the old
// one is lost for ever. What its log holds beyond what was committed becomes part
// of the group; what it does not hold is lost.
//
// raft's own RecoverCluster runs the machine and writes a snapshot of it. This
// appends a configuration entry instead, in a term of its own, and raft starts
// with the newest configuration in its log whether or not it is committed.
//
// The entry's (index, term) must be this node's alone, since raft takes two logs
// with the same last (index, term) for equal, and several survivors may be
// recovered with one list, each behind a different end of its log. So the term is
// the next that leaves, divided by the number of members, this node's place in
// the sorted list. Within the list the survivors then hold an election as usual:
// the one with the highest last (term, index) wins, and the others take its log.
func Recover(ctx context.Context, c framework.EngineConfig, members []framework.Member) (framework.RecoverReport, error) {
	rep, err := recoverReplica(ctx, c, members)
	if err != nil {
		return rep, fmt.Errorf("engine raft: recover: %w", err)
	}
	return rep, nil
}

func recoverReplica(ctx context.Context, c framework.EngineConfig, members []framework.Member) (rep framework.RecoverReport, err error) {
	if c.Dir == "" {
		return rep, errors.New("the replica keeps nothing on disk")
	}
	set, err := settingsOf(&c)
	if err != nil {
		return rep, err
	}
	if err := checkMembers(members, c.Self); err != nil {
		return rep, err
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	lock, err := lockDir(c.Dir, c.Self)
	if err != nil {
		return rep, err
	}
	defer lock.unlock()
	back, err := openBackend(set.logStore, c.Dir, c.Logger, newWALCounters())
	if err != nil {
		return rep, err
	}
	w := newWatch(set.stallAfter, func() {})
	defer w.stop()
	s, err := openStore(back, w, &history{})
	if err != nil {
		return rep, errors.Join(err, back.Close())
	}
	defer func() { err = errors.Join(err, s.close()) }()
	snaps, err := openSnapshots(c.Dir, c.Logger)
	if err != nil {
		return rep, err
	}
	return appendMembership(ctx, s, snaps, c.Self, members)
}

func appendMembership(ctx context.Context, s *store, snaps *snapshotStore, self framework.NodeID, members []framework.Member) (rep framework.RecoverReport, err error) {
	last, err := lastEntry(ctx, s, snaps)
	if err != nil {
		return rep, err
	}
	if last == 0 {
		return rep, errors.New("this replica holds no log and no snapshot: there is nothing to recover from")
	}
	members = sortedMembers(members)
	rep = framework.RecoverReport{Snapshot: framework.Position(snaps.newestIndex()), Old: s.confs.membership().Members, New: members}
	term := recoveryTerm(s.term.Load(), members, self)
	if err := (raftStable{s}).SetUint64(keyCurrentTerm, term); err != nil {
		return rep, err
	}
	entry := &raft.Log{
		Index: last + 1, Term: term, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(configurationOf(members)),
	}
	if err := s.append([]*raft.Log{entry}); err != nil {
		return rep, err
	}
	rep.Term, rep.Last = framework.Term(term), framework.Position(last+1)
	return rep, nil
}

// lastEntry is the last position there is; on the way it learns the membership
// and that everything since the snapshot can be read.
func lastEntry(ctx context.Context, s *store, snaps *snapshotStore) (uint64, error) {
	all, err := snaps.List()
	if err != nil {
		return 0, err
	}
	var base uint64
	for _, m := range all {
		_, r, err := snaps.Open(m.ID)
		if err != nil {
			continue // marked damaged; the one before will do
		}
		_ = r.Close()
		base = m.Index
		s.confs.reset(m.ConfigurationIndex, m.Configuration)
		break
	}
	if len(all) > 0 && base == 0 {
		return 0, errors.New("none of this replica's snapshots can be read")
	}
	first, last := s.bounds()
	if last <= base {
		if last != 0 && last < base { // a crash came between an install and its end
			return base, s.remove(first, last)
		}
		return base, nil
	}
	if first > base+1 {
		return 0, fmt.Errorf("the log begins at position %d, the newest readable snapshot stands at %d: entries between them are gone", first, base)
	}
	s.scanning.Store(true)
	defer s.scanning.Store(false)
	for i := base + 1; i <= last; i++ {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		var l raft.Log
		if err := s.get(i, &l); err != nil {
			return 0, fmt.Errorf("read entry at position %d: %w", i, err)
		}
	}
	return last, nil
}

func sortedMembers(members []framework.Member) []framework.Member {
	members = slices.Clone(members)
	slices.SortFunc(members, func(a, b framework.Member) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	return members
}

// recoveryTerm is the lowest term above the present one that is self's alone
// among members.
func recoveryTerm(present uint64, members []framework.Member, self framework.NodeID) uint64 {
	n := uint64(len(members))
	place := uint64(slices.IndexFunc(members, func(m framework.Member) bool { return m.ID == self }))
	term := present + 1
	for term%n != place {
		term++
	}
	return term
}
