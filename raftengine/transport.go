package raftengine

import (
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/diarchy/diarchy/framework"
	"github.com/diarchy/diarchy/internal/hlog"
)

// transport is raft's own NetworkTransport over framework.Streams (streams.go)
// with four additions on what this replica sends:
//
//   - It can be held: while a storage call hangs nothing is sent, until it returns.
//   - An AppendEntries never lets its receiver commit beyond what it has checked.
//     raft's follower commits up to min(leader's commit, its own last index), and
//     its leader may send, with no entries, a commit index above PrevLogEntry (it
//     reads its last index, waits out a back-off, then reads its commit index): a
//     follower with an old leader's entries there would commit those. The paper's
//     bound, the last entry the message speaks of, is set here.
//   - An AppendEntries is bounded in bytes, not only in entries.
//   - Sends are stamped and answers recorded (peers.go), for reads and for lag.
//
// It is not a raft.WithClose: the engine closes it, since raft may be started
// anew on it.
type transport struct {
	net    *raft.NetworkTransport
	layer  *streamLayer
	gate   *gate
	peers  *peers
	log    *slog.Logger
	closed chan struct{}
	once   sync.Once
}

var (
	_ raft.Transport   = (*transport)(nil)
	_ raft.WithPreVote = (*transport)(nil)

	errHeld    = errors.New("raftengine: this replica's storage does not answer, so it does not take part")
	errStopped = errors.New("raftengine: stopped")
	// errRejected sends raft back from pipelining to one request at a time.
	errRejected = errors.New("raftengine: the follower rejected an earlier request")
)

func newTransport(c *framework.EngineConfig, onAnswer func(), log *slog.Logger) (*transport, error) {
	layer, err := newStreamLayer(c)
	if err != nil {
		return nil, err
	}
	t := &transport{layer: layer, peers: newPeers(onAnswer), log: log, closed: make(chan struct{})}
	t.gate = newGate(t.closed)
	t.net = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: layer, MaxPool: 3, MaxRPCsInFlight: maxRPCsInFlight, Timeout: transportTimeout,
		Logger: hlog.New(log, "raft-net", slog.LevelWarn),
	})
	return t, nil
}

// close ends every connection and call under way.
func (t *transport) close() {
	t.once.Do(func() {
		close(t.closed)
		_ = t.net.Close() // only ever nil
		t.layer.closeConns()
	})
}

func (t *transport) Consumer() <-chan raft.RPC { return t.net.Consumer() }

func (t *transport) LocalAddr() raft.ServerAddress { return t.net.LocalAddr() }

func (t *transport) EncodePeer(id raft.ServerID, a raft.ServerAddress) []byte {
	return t.net.EncodePeer(id, a)
}

func (t *transport) DecodePeer(b []byte) raft.ServerAddress { return t.net.DecodePeer(b) }

// SetHeartbeatHandler wraps raft's: a replica whose storage hangs does not
// pretend to follow, and a raft that is shutting down, which answers nothing,
// does not keep the connection waiting.
func (t *transport) SetHeartbeatHandler(handle func(raft.RPC)) {
	t.net.SetHeartbeatHandler(func(rpc raft.RPC) {
		if t.gate.held() {
			rpc.Respond(nil, errHeld)
			return
		}
		handle(rpc)
		if len(rpc.RespChan) == 0 {
			rpc.Respond(nil, errStopped)
		}
	})
}

func (t *transport) AppendEntries(id raft.ServerID, to raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if err := t.gate.pass(); err != nil {
		return err
	}
	confine(req)
	sent := t.peers.stamp()
	if err := t.net.AppendEntries(id, to, req, resp); err != nil {
		return err
	}
	t.peers.answered(id, req, resp, sent)
	return nil
}

// confine keeps a request to what one message may carry and its receiver may
// conclude from it. raft goes on from the last entry it finds in req.
func confine(req *raft.AppendEntriesRequest) {
	bytes := 0
	for i, l := range req.Entries {
		if bytes += len(l.Data); bytes > appendBytesMax && i > 0 {
			req.Entries = req.Entries[:i]
			break
		}
	}
	req.LeaderCommitIndex = min(req.LeaderCommitIndex, req.PrevLogEntry+uint64(len(req.Entries)))
}

func (t *transport) AppendEntriesPipeline(id raft.ServerID, to raft.ServerAddress) (raft.AppendPipeline, error) {
	if err := t.gate.pass(); err != nil {
		return nil, err
	}
	p, err := t.net.AppendEntriesPipeline(id, to)
	if err != nil {
		return nil, err
	}
	return &pipeline{AppendPipeline: p, t: t, id: id}, nil
}

// pipeline does to the requests of a pipeline what transport does to others.
// Answers are not intercepted, which would cost a goroutine between the wire and
// raft for each: with two requests in flight at most, the one before has been
// answered when AppendEntries returns. raft calls it at least every CommitTimeout,
// so what is known of a follower's log is older than it by no more than that.
//
// It also ends a pipeline whose answers nobody reads any more. raft's reader stops
// at the first answer that is not a success; the next answer then keeps the
// pipeline's decoder waiting for it, and the request after that keeps raft's
// replication waiting for the decoder: for the rest of the term the follower would
// be sent nothing, and a shutdown would not end. So no third request is sent
// before the first is known to have succeeded.
type pipeline struct {
	raft.AppendPipeline
	t    *transport
	id   raft.ServerID
	last raft.AppendFuture
	sent uint64
}

func (p *pipeline) AppendEntries(req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	if err := p.t.gate.pass(); err != nil {
		return nil, err
	}
	confine(req)
	sent := p.t.peers.stamp()
	f, err := p.AppendPipeline.AppendEntries(req, resp)
	if err != nil {
		return nil, err
	}
	if before := p.last; before != nil {
		if err := before.Error(); err != nil {
			return nil, err
		}
		p.t.peers.answered(p.id, before.Request(), before.Response(), p.sent)
		if !before.Response().Success {
			return nil, errRejected
		}
	}
	p.last, p.sent = f, sent
	return f, nil
}

func (t *transport) RequestVote(id raft.ServerID, to raft.ServerAddress, req *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	if err := t.gate.pass(); err != nil {
		return err
	}
	return t.net.RequestVote(id, to, req, resp)
}

func (t *transport) RequestPreVote(id raft.ServerID, to raft.ServerAddress, req *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	if err := t.gate.pass(); err != nil {
		return err
	}
	return t.net.RequestPreVote(id, to, req, resp)
}

func (t *transport) TimeoutNow(id raft.ServerID, to raft.ServerAddress, req *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	if err := t.gate.pass(); err != nil {
		return err
	}
	return t.net.TimeoutNow(id, to, req, resp)
}

// InstallSnapshot sends a snapshot. One that a follower has taken before and asks
// for again is sent after a pause that grows: whatever the reason, it does not
// become a storm.
func (t *transport) InstallSnapshot(id raft.ServerID, to raft.ServerAddress, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	if err := t.gate.pass(); err != nil {
		return err
	}
	if d := t.peers.installPause(id, req.LastLogIndex, req.LastLogTerm); d > 0 {
		t.log.Warn("a follower asks again for a snapshot that it has taken", "peer", id, "index", req.LastLogIndex, "sent again in", d)
		select {
		case <-time.After(d):
		case <-t.closed:
			return errStopped
		}
	}
	t.peers.sending(id, req.LastLogIndex)
	defer t.peers.sending(id, 0)
	if err := t.net.InstallSnapshot(id, to, req, resp, data); err != nil {
		return err
	}
	if resp.Success {
		t.peers.installed(id, req)
	}
	return nil
}

// gate lets sends pass or holds them until it opens again.
type gate struct {
	closed <-chan struct{}
	mu     sync.Mutex
	shut   chan struct{} // nil while open
}

func newGate(closed <-chan struct{}) *gate { return &gate{closed: closed} }

// set holds or opens the gate; false when it was so already.
func (g *gate) set(held bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if held == (g.shut != nil) {
		return false
	}
	if held {
		g.shut = make(chan struct{})
	} else {
		close(g.shut)
		g.shut = nil
	}
	return true
}

func (g *gate) state() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.shut
}

func (g *gate) held() bool { return g.state() != nil }

// pass waits while the gate is held.
func (g *gate) pass() error {
	for {
		shut := g.state()
		if shut == nil {
			return nil
		}
		select {
		case <-shut:
		case <-g.closed:
			return errStopped
		}
	}
}
