package raftengine

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/diarchy/diarchy/framework"
)

// peers is what the answers to this replica's own messages say of the others.
//
// Invariants, under mu: every request carries a stamp, the value of round when it
// was sent; so an answer to one with a stamp of at least r was sent after the
// call of newRound that returned r.
type peers struct {
	onAnswer func() // an answer that a round may wait for; does not block

	mu      sync.Mutex
	round   uint64
	waiting bool
	known   map[raft.ServerID]*peer
}

// peer is of one term; a newer term starts it over, but for contact and installs.
type peer struct {
	term    uint64
	acked   uint64 // the newest stamp answered with success in term
	match   uint64
	contact time.Time

	sendingFrom    uint64 // the index of a snapshot on its way, 0 for none
	installedIndex uint64
	installedTerm  uint64
	installedTimes int
}

// The pause before a snapshot is sent to the same follower again and again.
const (
	installPauseFirst = 100 * time.Millisecond
	installPauseMax   = 10 * time.Second
)

func newPeers(onAnswer func()) *peers {
	return &peers{onAnswer: onAnswer, known: map[raft.ServerID]*peer{}}
}

// get needs mu.
func (p *peers) get(id raft.ServerID) *peer {
	x := p.known[id]
	if x == nil {
		x = &peer{}
		p.known[id] = x
	}
	return x
}

func (p *peers) stamp() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.round
}

// newRound starts a round; answers to what is sent from now on count for it.
func (p *peers) newRound() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.round++
	p.waiting = true
	return p.round
}

func (p *peers) endRound() {
	p.mu.Lock()
	p.waiting = false
	p.mu.Unlock()
}

// answered records an answer. One of a newer term is a refusal; raft acts on it.
func (p *peers) answered(id raft.ServerID, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse, sent uint64) {
	if resp.Term != req.Term {
		return
	}
	p.mu.Lock()
	x := p.get(id)
	x.contact = time.Now()
	x.inTerm(req.Term)
	notify := false
	if resp.Success && x.term == req.Term {
		x.acked = max(x.acked, sent)
		// A heartbeat checks no entry; every other request covers all up to its
		// last one.
		x.match = max(x.match, req.PrevLogEntry+uint64(len(req.Entries)))
		notify = p.waiting && sent == p.round
	}
	p.mu.Unlock()
	if notify {
		p.onAnswer()
	}
}

func (x *peer) inTerm(term uint64) {
	if term > x.term {
		x.term, x.acked, x.match = term, 0, 0
	}
}

// confirmed tells whether a majority of a configuration's voters has answered in
// term to what was sent since round began. self counts for itself.
func (p *peers) confirmed(round, term uint64, conf raft.Configuration, self raft.ServerID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	voters, votes := 0, 0
	for _, s := range conf.Servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		voters++
		if x := p.known[s.ID]; s.ID == self || x != nil && x.term == term && x.acked >= round {
			votes++
		}
	}
	return voters > 0 && votes > voters/2
}

// progress is what the leader of term knows of a peer.
func (p *peers) progress(id framework.NodeID, term uint64) framework.PeerProgress {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := framework.PeerProgress{Node: id}
	if x := p.known[raft.ServerID(id)]; x != nil {
		out.Contact = x.contact
		if x.term == term {
			out.Match = framework.Position(x.match)
		}
	}
	return out
}

// installPause is how long to wait before a snapshot is sent once more.
func (p *peers) installPause(id raft.ServerID, index, term uint64) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	x := p.get(id)
	if x.installedIndex != index || x.installedTerm != term {
		return 0
	}
	return min(installPauseFirst<<min(x.installedTimes-1, 16), installPauseMax)
}

// installed records that a follower has taken a snapshot.
func (p *peers) installed(id raft.ServerID, req *raft.InstallSnapshotRequest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	x := p.get(id)
	x.contact = time.Now()
	if x.inTerm(req.Term); x.term == req.Term {
		x.match = max(x.match, req.LastLogIndex)
	}
	if x.installedIndex != req.LastLogIndex || x.installedTerm != req.LastLogTerm {
		x.installedIndex, x.installedTerm, x.installedTimes = req.LastLogIndex, req.LastLogTerm, 0
	}
	x.installedTimes++
}

// sending notes that a snapshot is on its way, 0 when it no longer is.
func (p *peers) sending(id raft.ServerID, index uint64) {
	p.mu.Lock()
	p.get(id).sendingFrom = index
	p.mu.Unlock()
}

// keepFrom is the lowest index of a snapshot on its way, 0 for none: its receiver
// will want the entries after it.
func (p *peers) keepFrom() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	var low uint64
	for _, x := range p.known {
		if x.sendingFrom != 0 && (low == 0 || x.sendingFrom < low) {
			low = x.sendingFrom
		}
	}
	return low
}
