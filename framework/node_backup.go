package framework

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync"

	"github.com/diarchy/diarchy/framework/peerpb"
)

// TakeSnapshot implements Service.
func (n *Node) TakeSnapshot(ctx context.Context, group string) (SnapshotReport, error) {
	g, err := n.localGroup(ctx, group)
	if err != nil {
		return SnapshotReport{}, n.named(err)
	}
	rep, err := g.Snapshot(ctx)
	return rep, n.named(err)
}

// Checksum implements Service.
func (n *Node) Checksum(ctx context.Context, group string) (Checksum, error) {
	g, err := n.localGroup(ctx, group)
	if err != nil {
		return Checksum{}, n.named(err)
	}
	sum, err := g.Checksum(ctx)
	return sum, n.named(err)
}

// localGroup is this node's replica, for what is asked of it alone.
func (n *Node) localGroup(ctx context.Context, group string) (*Group, error) {
	t, err := n.resolve(ctx, group)
	if err != nil {
		return nil, err
	}
	if r := n.replica(t.info.ID); r != nil {
		return r.running()
	}
	return nil, ErrNoSuchGroup.Because("node %q has no replica of group %q: ask one that has, see 'diarchy group status %s'", n.cfg.Name, group, group)
}

// Backup implements Service: the leader's state, so at least everything that was
// answered before the call.
func (n *Node) Backup(ctx context.Context, group string, w io.Writer) (SnapshotReport, error) {
	t, err := n.resolve(ctx, group)
	if err != nil {
		return SnapshotReport{}, err
	}
	count := &countingWriter{w: w}
	rep, err := route(ctx, n, t, false,
		func(g *Group) (SnapshotReport, error) {
			if s := g.EngineStatus(); s.Role != RoleLeader {
				return SnapshotReport{}, notLeader(s)
			}
			rep, err := g.Backup(ctx, count)
			return rep, count.brokeOff(err)
		},
		func(p *peer) (SnapshotReport, error) { return p.backup(ctx, t.info.ID, count) })
	return rep, n.named(err)
}

// countingWriter knows whether an archive has been begun.
type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

// brokeOff keeps a second archive from being written behind a broken first one.
func (c *countingWriter) brokeOff(err error) error {
	if err == nil || c.n == 0 {
		return err
	}
	return ErrNoQuorum.Because("the backup broke off after %d bytes (%s): discard it and take another", c.n, err)
}

func (p *peer) backup(ctx context.Context, group UUID, w *countingWriter) (rep SnapshotReport, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := p.bulk.Backup(ctx, &peerpb.BackupRequest{Group: group[:]})
	if err != nil {
		return rep, callError(p.node, err, false, false)
	}
	for {
		c, err := stream.Recv()
		if err != nil {
			return rep, w.brokeOff(callError(p.node, err, false, false))
		}
		if len(c.Report) > 0 {
			if err := json.Unmarshal(c.Report, &rep); err != nil {
				return rep, fmt.Errorf("backup: the leader's report: %w", err)
			}
			return rep, nil
		}
		if _, err := w.Write(c.Data); err != nil {
			return rep, err
		}
	}
}

// RestoreBackup implements Service.
func (n *Node) RestoreBackup(ctx context.Context, group string, r io.Reader) (SnapshotReport, error) {
	t, err := n.resolve(ctx, group)
	if err != nil {
		return SnapshotReport{}, err
	}
	// An archive can be read once, so the leader is found before a byte is.
	wait, cancel := context.WithTimeout(ctx, n.cfg.LeaderWait)
	defer cancel()
	leader, err := n.leader(wait, &t, "", n.cfg.Tick)
	if err != nil {
		return SnapshotReport{}, n.named(err)
	}
	var rep SnapshotReport
	if leader == n.cfg.ID {
		rep, err = n.restoreHere(ctx, t.info.ID, t.local, r)
	} else {
		var p *peer
		if p, err = n.peers.get(leader); err == nil {
			rep, err = p.restore(ctx, t.info.ID, r)
		}
	}
	return rep, n.named(err)
}

// restore sends an archive to the leader.
func (p *peer) restore(ctx context.Context, group UUID, r io.Reader) (rep SnapshotReport, err error) {
	ctx, sent := watchSent(ctx)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := p.bulk.Restore(ctx)
	if err != nil {
		return rep, callError(p.node, err, true, sent.Load())
	}
	if err := stream.Send(&peerpb.Chunk{Group: group[:]}); err == nil {
		_, err = io.CopyBuffer(onlyWriter{chunkWriter{stream.Send}}, onlyReader{r}, make([]byte, peerChunkBytes))
		if err != nil && !isEnd(err) {
			return rep, ErrInvalid.Because("read the backup: %s; nothing was changed", err)
		}
	}
	reply, err := stream.CloseAndRecv()
	if err != nil {
		return rep, callError(p.node, err, true, true)
	}
	if err := json.Unmarshal(reply.Report, &rep); err != nil {
		return rep, ErrMaybe.Because("the leader's report cannot be read: %s", err)
	}
	return rep, nil
}

// onlyReader hides everything but Read, so that io.CopyBuffer uses its buffer.
type onlyReader struct{ io.Reader }

// restoreHere restores a backup on the leader: staged here, then on every member
// that can be reached, and only then agreed on.
func (n *Node) restoreHere(ctx context.Context, id UUID, g *Group, r io.Reader) (SnapshotReport, error) {
	s := g.EngineStatus()
	if s.Role != RoleLeader {
		return SnapshotReport{}, notLeader(s)
	}
	hash, rep, err := g.StageRestore(ctx, r)
	if err != nil {
		return rep, err
	}
	if err := n.stageOnMembers(ctx, id, hash, s.Membership); err != nil {
		return rep, err
	}
	if err := g.CommitRestore(ctx, hash); err != nil {
		return rep, err
	}
	st := g.Status()
	rep.Number, rep.History, rep.Position = st.Number, st.History, st.Applied
	return rep, nil
}

// stageOnMembers has every member fetch and check the payload. One that cannot
// be reached fetches it later; one that refuses it ends the restore.
func (n *Node) stageOnMembers(ctx context.Context, id UUID, hash [32]byte, members Membership) error {
	var (
		wg      sync.WaitGroup
		mu      sync.Mutex
		refusal error
	)
	reached := n.askAll(ctx, id, memberIDs(members))
	for _, m := range members.Members {
		if _, ok := reached[m.ID]; !ok || m.ID == n.cfg.ID {
			continue
		}
		wg.Go(func() {
			err := n.stageOn(ctx, m.ID, id, hash)
			if err == nil {
				return
			}
			if isUnreachable(err) || AsError(err).Code == CodeStopped {
				n.log.Warn("a member could not fetch the backup and will do so later", "member", m.ID, "err", err)
				return
			}
			mu.Lock()
			refusal = ErrInvalid.Because("node %s does not take the backup: %s; nothing was changed", n.views.get().nodeName(m.ID), err)
			mu.Unlock()
		})
	}
	wg.Wait()
	return refusal
}

func memberIDs(m Membership) []NodeID {
	ids := make([]NodeID, len(m.Members))
	for i := range m.Members {
		ids[i] = m.Members[i].ID
	}
	return ids
}

func (n *Node) stageOn(ctx context.Context, member NodeID, group UUID, hash [32]byte) error {
	p, err := n.peers.get(member)
	if err != nil {
		return err
	}
	_, err = p.Stage(ctx, &peerpb.StageRequest{Group: group[:], Hash: hash[:]})
	return callError(member, err, false, false)
}

// fetcher is GroupConfig.FetchPayload.
func (n *Node) fetcher(group UUID) func(context.Context, NodeID, [32]byte) (io.ReadCloser, error) {
	return func(ctx context.Context, from NodeID, hash [32]byte) (io.ReadCloser, error) {
		return n.fetchPayload(ctx, group, from, hash)
	}
}

// fetchPayload opens a payload staged on another node. What is read must be
// checked by its hash.
func (n *Node) fetchPayload(ctx context.Context, group UUID, from NodeID, hash [32]byte) (io.ReadCloser, error) {
	p, err := n.peers.get(from)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	stream, err := p.bulk.Payload(ctx, &peerpb.PayloadRequest{Group: group[:], Hash: hash[:]})
	if err != nil {
		cancel()
		return nil, callError(from, err, false, false)
	}
	return &payloadFetch{
		chunkReader: chunkReader{next: func() (*peerpb.Chunk, error) {
			c, err := stream.Recv()
			if err != nil && !isEnd(err) {
				err = callError(from, err, false, false)
			}
			return c, err
		}},
		cancel: cancel,
	}, nil
}

type payloadFetch struct {
	chunkReader
	cancel context.CancelFunc
}

func (f *payloadFetch) Close() error {
	f.cancel()
	return nil
}
