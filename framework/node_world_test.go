package framework_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	. "github.com/diarchy/diarchy/framework"
)

// sharedWorld is an engine without a network, for tests of what is above engines: all
// replicas of a group share one log in memory, which outlives them as their
// disks would. A replica hears of it while it runs, is a member, and is of the
// log's incarnation; a majority of the voters must run for anything to commit.
type sharedWorld struct {
	mu   sync.Mutex
	logs map[UUID]*sharedLog
}

func newSharedWorld() *sharedWorld { return &sharedWorld{logs: map[UUID]*sharedLog{}} }

// sharedLog is under sharedWorld.mu.
type sharedLog struct {
	incarnation uint32
	term        Term
	leader      NodeID
	membership  Membership
	entries     []Entry
	last        Position
	running     map[NodeID]*sharedReplica
}

type sharedReplica struct {
	w       *sharedWorld
	log     *sharedLog
	c       EngineConfig
	heard   Position
	changed chan struct{}
	closed  bool
}

const recoveredFile = "recovered.json"

func (w *sharedWorld) driver() EngineDriver {
	return EngineDriver{
		New: w.open,
		Check: func(_ string, options map[string]string) error {
			if _, bad := options["bad"]; bad {
				return errors.New("unknown option bad")
			}
			return nil
		},
		Recover: w.recover,
	}
}

// recover leaves a note for the next start, as an engine rewrites its files.
func (w *sharedWorld) recover(_ context.Context, c EngineConfig, members []Member) (RecoverReport, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.logs[c.Group.ID]
	b, _ := json.Marshal(members)
	if err := os.WriteFile(filepath.Join(c.Dir, recoveredFile), b, 0o600); err != nil {
		return RecoverReport{}, err
	}
	return RecoverReport{Term: l.term, Last: l.last, Old: l.membership.Members, New: members}, nil
}

func (w *sharedWorld) open(_ context.Context, c EngineConfig) (Engine, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.logs[c.Group.ID]
	if l == nil {
		l = &sharedLog{running: map[NodeID]*sharedReplica{}}
		w.logs[c.Group.ID] = l
	}
	if c.Dir != "" {
		if err := os.WriteFile(filepath.Join(c.Dir, "state"), []byte("x"), 0o600); err != nil {
			return nil, err
		}
		if b, err := os.ReadFile(filepath.Join(c.Dir, recoveredFile)); err == nil && c.Group.Incarnation > l.incarnation {
			l.incarnation = c.Group.Incarnation
			l.membership.ID++
			if err := json.Unmarshal(b, &l.membership.Members); err != nil {
				return nil, err
			}
		}
	}
	if len(l.membership.Members) == 0 && len(c.Bootstrap) > 0 {
		l.membership = Membership{ID: 1, Members: c.Bootstrap, Committed: true}
	}
	if l.running[c.Self] != nil {
		return nil, errors.New("this replica runs already")
	}
	r := &sharedReplica{w: w, log: l, c: c, changed: make(chan struct{})}
	l.running[c.Self] = r
	l.settle()
	return r, nil
}

func (l *sharedLog) live(id NodeID) bool {
	r := l.running[id]
	m, member := l.membership.Find(id)
	return r != nil && member && m.Suffrage == Voter && r.c.Group.Incarnation == l.incarnation
}

// settle elects if need be, and lets everybody hear what is committed.
func (l *sharedLog) settle() {
	live := []NodeID{}
	for _, m := range l.membership.Members {
		if l.live(m.ID) {
			live = append(live, m.ID)
		}
	}
	slices.Sort(live)
	switch {
	case len(live) < l.membership.Voters()/2+1:
		l.leader = ""
	case !slices.Contains(live, l.leader):
		l.leader = live[0]
		l.term++
		l.last++ // a leader's first entry is the engine's own
	}
	for _, r := range l.running {
		if r.hears() && r.heard < l.last {
			var news []Entry
			for _, e := range l.entries {
				if e.Position > r.heard {
					news = append(news, e)
				}
			}
			r.heard = l.last
			r.c.Host.Announce(news, l.last)
		}
		close(r.changed)
		r.changed = make(chan struct{})
	}
}

func (r *sharedReplica) hears() bool {
	_, member := r.log.membership.Find(r.c.Self)
	return member && r.c.Group.Incarnation == r.log.incarnation
}

func (r *sharedReplica) notLeader() error {
	e := *ErrNotLeader
	if r.hears() {
		e.Leader = r.log.leader
	}
	return &e
}

func (r *sharedReplica) Propose(batch []Proposal) {
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	outcomes := make([]Outcome, len(batch))
	for i, p := range batch {
		outcomes[i].Ref = p.Ref
		if r.closed || r.log.leader != r.c.Self {
			outcomes[i].Err = r.notLeader()
			continue
		}
		r.log.last++
		outcomes[i].Position = r.log.last
		r.log.entries = append(r.log.entries, Entry{Position: r.log.last, Term: r.log.term, Kind: p.Kind, Data: p.Data})
	}
	r.c.Host.Resolve(outcomes)
	r.log.settle()
}

func (r *sharedReplica) ReadIndex(context.Context) (Position, error) {
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	if r.log.leader != r.c.Self {
		return 0, r.notLeader()
	}
	return r.log.last, nil
}

func (r *sharedReplica) Entries(from Position, _ int) (out []Entry, through Position, err error) {
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	for _, e := range r.log.entries {
		if e.Position >= from && e.Position <= r.heard {
			out = append(out, e)
		}
	}
	return out, r.heard, nil
}

func (r *sharedReplica) Snapshot(_ context.Context, _ Position, payload io.WriterTo) error {
	_, err := payload.WriteTo(io.Discard) // the log keeps everything all the same
	return err
}

func (r *sharedReplica) OpenSnapshot() (Position, io.ReadCloser, error) {
	return 0, nil, ErrNoSnapshot
}

func (r *sharedReplica) Change(_ context.Context, c Change, basedOn uint64) error {
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	l := r.log
	if l.leader != r.c.Self {
		return r.notLeader()
	}
	if basedOn != 0 && basedOn != l.membership.ID {
		return ErrMembershipChanged
	}
	members := slices.DeleteFunc(slices.Clone(l.membership.Members), func(m Member) bool { return m.ID == c.Node })
	switch c.Op {
	case AddLearner, Demote:
		members = append(members, Member{ID: c.Node, Suffrage: Learner})
	case Promote:
		members = append(members, Member{ID: c.Node, Suffrage: Voter})
	}
	l.membership = Membership{ID: l.membership.ID + 1, Members: members, Committed: true}
	l.last++
	l.settle()
	return nil
}

func (r *sharedReplica) Transfer(_ context.Context, to NodeID) error {
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	l := r.log
	if l.leader != r.c.Self {
		return r.notLeader()
	}
	for _, m := range l.membership.Members {
		if m.ID != r.c.Self && l.live(m.ID) && (to == "" || to == m.ID) {
			l.leader = m.ID
			l.term++
			l.last++
			l.settle()
			return nil
		}
	}
	return ErrNotCaughtUp
}

func (r *sharedReplica) Status() EngineStatus {
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	l := r.log
	s := EngineStatus{Role: RoleFollower, Last: r.heard, Commit: r.heard, First: 1}
	if !r.hears() {
		return s
	}
	s.Term, s.Leader, s.Membership, s.LeaderContact = l.term, l.leader, l.membership, time.Now()
	if m, _ := l.membership.Find(r.c.Self); m.Suffrage == Learner {
		s.Role = RoleLearner
	}
	if l.leader == r.c.Self {
		s.Role = RoleLeader
		for id, other := range l.running {
			if id != r.c.Self && other.hears() {
				s.Peers = append(s.Peers, PeerProgress{Node: id, Match: other.heard, Contact: time.Now()})
			}
		}
	}
	return s
}

func (r *sharedReplica) Changed() <-chan struct{} {
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	return r.changed
}

func (r *sharedReplica) Features() Features { return Features{} }

func (r *sharedReplica) Close(context.Context) error {
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	if !r.closed {
		r.closed = true
		delete(r.log.running, r.c.Self)
		r.log.settle()
	}
	return nil
}
