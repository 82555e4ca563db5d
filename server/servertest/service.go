package servertest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/diarchy/diarchy/framework"
	"github.com/diarchy/diarchy/fsm"
)

// Node is one node's framework.Service.
type Node struct {
	c  *Cluster
	i  int
	id framework.NodeID

	mu         sync.Mutex
	clientAddr string
	unready    string
}

var _ framework.Service = (*Node)(nil)

// SetClientAddr is where clients reach the node.
func (n *Node) SetClientAddr(addr string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.clientAddr = addr
}

// SetMachineState changes what the node says of its machine; "" is running.
func (n *Node) SetMachineState(state string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.unready = state
}

func (n *Node) addr() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.clientAddr
}

// route says whether this node may serve what only the leader can: itself, or by
// forwarding.
func (n *Node) route(ctx context.Context, group string, noForward bool) error {
	if group != GroupName {
		return framework.ErrNoSuchGroup.Because("no group %q", group)
	}
	if err := n.c.planted(ctx); err != nil {
		return err
	}
	n.c.mu.Lock()
	leader := n.c.leader
	n.c.mu.Unlock()
	if leader == n.i {
		return nil
	}
	if leader < 0 {
		if noForward {
			return framework.ErrNotLeader
		}
		return framework.ErrNoQuorum
	}
	if !noForward {
		return nil
	}
	e := framework.ErrNotLeader.Because("node %d leads", leader)
	e.Leader, e.LeaderAddr = n.c.nodes[leader].id, n.c.nodes[leader].addr()
	return e
}

// Propose executes a command.
func (n *Node) Propose(ctx context.Context, group string, c framework.Command) (framework.Receipt, error) {
	if err := n.route(ctx, group, c.NoForward); err != nil {
		return framework.Receipt{}, err
	}
	return n.c.execute(c)
}

// ProposeAsync answers from another goroutine, as a node does.
func (n *Node) ProposeAsync(ctx context.Context, group string, cs []framework.Command, done func(int, framework.Receipt, error)) {
	go func() {
		for i, c := range cs {
			rec, err := n.Propose(ctx, group, c)
			done(i, rec, err)
		}
	}()
}

// Query reads.
func (n *Node) Query(ctx context.Context, group string, q framework.ReadQuery) (framework.Answer, error) {
	if err := n.route(ctx, group, q.NoForward && q.Consistency != framework.Stale); err != nil {
		return framework.Answer{}, err
	}
	c := n.c
	c.mu.Lock()
	history := c.history
	c.mu.Unlock()
	if q.After.Number > 0 {
		if q.After.History != history {
			return framework.Answer{}, framework.ErrOtherHistory
		}
		for c.Number() < q.After.Number {
			if reached, _ := n.WaitIndex(ctx, group, c.Number()); ctx.Err() != nil {
				return framework.Answer{}, framework.ErrDeadline.Because("at %d, waiting for %d", reached, q.After.Number)
			}
		}
	}
	c.mu.Lock()
	number, machine := c.number, c.machine
	c.mu.Unlock()
	now := time.Now()
	v, err := machine.Query(ctx, fsm.Query{Data: q.Data, Index: number, Time: now.UnixNano()})
	if err != nil {
		return framework.Answer{}, framework.ErrInvalid.Because("%s", err)
	}
	return framework.Answer{Value: v, Token: framework.Token{History: history, Number: number}, Time: now}, nil
}

// OpenSession registers.
func (n *Node) OpenSession(ctx context.Context, group string, id framework.SessionID, _ framework.SessionOptions) error {
	if err := n.route(ctx, group, false); err != nil {
		return err
	}
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	if n.c.sessions[id] == nil {
		n.c.sessions[id] = &session{seen: map[uint64]framework.Receipt{}}
	}
	return nil
}

// CloseSession forgets.
func (n *Node) CloseSession(ctx context.Context, group string, id framework.SessionID) error {
	if err := n.route(ctx, group, false); err != nil {
		return err
	}
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	delete(n.c.sessions, id)
	return nil
}

// Tail follows the log.
func (n *Node) Tail(ctx context.Context, group string, from uint64, each func(framework.TailEntry) error) error {
	if err := n.route(ctx, group, false); err != nil {
		return err
	}
	c := n.c
	if from == 0 {
		from = c.Number() + 1
	}
	for {
		c.mu.Lock()
		oldest, grown := c.oldest, c.grown
		var todo []framework.TailEntry
		if from >= oldest && from <= c.number {
			todo = c.log[from-oldest:]
		}
		c.mu.Unlock()
		if from < oldest {
			e := framework.ErrCompacted.Because("the oldest kept is %d", oldest)
			e.Index = oldest
			return e
		}
		for _, e := range todo {
			if err := each(e); err != nil {
				return err
			}
			from = e.Number + 1
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// WaitIndex waits for a command.
func (n *Node) WaitIndex(ctx context.Context, group string, after uint64) (uint64, error) {
	if group != GroupName {
		return 0, framework.ErrNoSuchGroup.Because("no group %q", group)
	}
	c := n.c
	c.mu.Lock()
	c.watching++
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.watching--
		c.mu.Unlock()
	}()
	for {
		c.mu.Lock()
		number, grown := c.number, c.grown
		c.mu.Unlock()
		if number > after {
			return number, nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return number, nil
		}
	}
}

func (n *Node) info() framework.GroupInfo {
	g := framework.GroupInfo{ID: framework.UUID{0: 1}}
	g.Name, g.Engine, g.Machine, g.Replicas, g.Durability = GroupName, "raft", "builtin:kv", len(n.c.nodes), "disk"
	for _, m := range n.c.nodes {
		g.Placed = append(g.Placed, m.id)
	}
	return g
}

// Groups lists the one group.
func (n *Node) Groups(ctx context.Context) ([]framework.GroupInfo, error) {
	if err := n.c.planted(ctx); err != nil {
		return nil, err
	}
	return []framework.GroupInfo{n.info()}, nil
}

// GroupStatus is what the leader would say.
func (n *Node) GroupStatus(ctx context.Context, group string) (framework.GroupStatus, error) {
	if err := n.route(ctx, group, false); err != nil {
		return framework.GroupStatus{}, err
	}
	st := framework.GroupStatus{GroupInfo: n.info(), Term: 3, Membership: framework.Membership{ID: 1, Committed: true}}
	for _, m := range n.c.nodes {
		st.Membership.Members = append(st.Membership.Members, framework.Member{ID: m.id})
		r, _ := m.LocalStatus(group)
		st.Replicas, st.Leader = append(st.Replicas, r), r.Leader
	}
	return st, nil
}

// LocalStatus is this replica.
func (n *Node) LocalStatus(group string) (framework.ReplicaStatus, error) {
	if group != GroupName {
		return framework.ReplicaStatus{}, framework.ErrNoSuchGroup.Because("no group %q here", group)
	}
	n.mu.Lock()
	state := n.unready
	n.mu.Unlock()
	if state == "" {
		state = "running"
	}
	c := n.c
	c.mu.Lock()
	defer c.mu.Unlock()
	r := framework.ReplicaStatus{
		Node: n.id, Name: fmt.Sprintf("n%d", n.i+1), Reachable: true, Role: "follower", Suffrage: "voter",
		Number: c.number, History: c.history, SnapshotProgress: -1,
		Machine: framework.MachineStatus{State: state, Name: c.kind, Version: "1"},
	}
	if c.leader >= 0 {
		r.Leader = c.nodes[c.leader].id
	}
	if c.leader == n.i {
		r.Role = "leader"
	}
	return r, nil
}

// Nodes lists all.
func (n *Node) Nodes(context.Context) ([]framework.NodeInfo, error) {
	var out []framework.NodeInfo
	for _, m := range n.c.nodes {
		i := m.Self()
		i.Self = m == n
		out = append(out, i)
	}
	return out, nil
}

// Self is this node.
func (n *Node) Self() framework.NodeInfo {
	return framework.NodeInfo{
		ID: n.id, Name: fmt.Sprintf("n%d", n.i+1), Status: "alive", ClientAddr: n.addr(), Version: "test",
		Groups: []string{GroupName}, Self: true, Cluster: framework.UUID{0: 9},
	}
}

// CreateGroup knows one group only.
func (n *Node) CreateGroup(ctx context.Context, spec framework.GroupSpec) (framework.GroupInfo, error) {
	if err := n.c.planted(ctx); err != nil {
		return framework.GroupInfo{}, err
	}
	if spec.Name == GroupName {
		return framework.GroupInfo{}, framework.ErrGroupExists
	}
	return framework.GroupInfo{GroupSpec: spec, ID: framework.UUID{0: 2}}, nil
}

// DestroyGroup wants the name twice.
func (n *Node) DestroyGroup(ctx context.Context, group, confirm string) error {
	if err := n.route(ctx, group, false); err != nil {
		return err
	}
	if confirm != group {
		return framework.ErrInvalid.Because("confirm must be %q", group)
	}
	return nil
}

// ChangeMembership knows the nodes by name.
func (n *Node) ChangeMembership(ctx context.Context, group string, r framework.ChangeRequest) error {
	if err := n.route(ctx, group, false); err != nil {
		return err
	}
	return n.known(r.Node)
}

// Replace knows the nodes by name.
func (n *Node) Replace(ctx context.Context, group, _, newNode string, _ bool) error {
	if err := n.route(ctx, group, false); err != nil {
		return err
	}
	return n.known(newNode)
}

// Transfer makes another node the leader.
func (n *Node) Transfer(ctx context.Context, group, to string) error {
	if err := n.route(ctx, group, false); err != nil {
		return err
	}
	for _, m := range n.c.nodes {
		if m.Self().Name == to {
			n.c.Lead(m.i)
			return nil
		}
	}
	return n.known(to)
}

func (n *Node) known(name string) error {
	for _, m := range n.c.nodes {
		if m.Self().Name == name {
			return nil
		}
	}
	return framework.ErrNoSuchNode.Because("no node %q", name)
}

func (n *Node) report(size int64) framework.SnapshotReport {
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	return framework.SnapshotReport{Number: n.c.number, History: n.c.history, MachineName: "kv", MachineVersion: "1", Bytes: size}
}

// TakeSnapshot only reports.
func (n *Node) TakeSnapshot(ctx context.Context, group string) (framework.SnapshotReport, error) {
	if err := n.route(ctx, group, false); err != nil {
		return framework.SnapshotReport{}, err
	}
	return n.report(0), nil
}

// Checksum hashes the machine's snapshot.
func (n *Node) Checksum(ctx context.Context, group string) (framework.Checksum, error) {
	h := sha256.New()
	rep, err := n.Backup(ctx, group, h)
	return framework.Checksum{Number: rep.Number, History: rep.History, SHA256: hex.EncodeToString(h.Sum(nil))}, err
}

// Backup writes the machine's snapshot.
func (n *Node) Backup(ctx context.Context, group string, w io.Writer) (framework.SnapshotReport, error) {
	if err := n.route(ctx, group, false); err != nil {
		return framework.SnapshotReport{}, err
	}
	n.c.mu.Lock()
	s, err := n.c.machine.Snapshot(ctx)
	n.c.mu.Unlock()
	if err != nil {
		return framework.SnapshotReport{}, framework.ErrInternal.Because("%s", err)
	}
	defer s.Release()
	size, err := s.WriteTo(w)
	if err != nil {
		return framework.SnapshotReport{}, framework.ErrInternal.Because("%s", err)
	}
	return n.report(size), nil
}

// RestoreBackup reads one, all of it or nothing.
func (n *Node) RestoreBackup(ctx context.Context, group string, r io.Reader) (framework.SnapshotReport, error) {
	if err := n.route(ctx, group, false); err != nil {
		return framework.SnapshotReport{}, err
	}
	b, err := io.ReadAll(r)
	if err != nil {
		return framework.SnapshotReport{}, framework.ErrInvalid.Because("the archive was cut off: %s", err)
	}
	c := n.c
	c.mu.Lock()
	defer c.mu.Unlock()
	fresh, err := newMachine()
	if err != nil {
		return framework.SnapshotReport{}, err
	}
	if err := fresh.Restore(ctx, fsm.SnapshotInfo{Name: "kv", Version: "1", Size: int64(len(b))}, bytes.NewReader(b)); err != nil {
		return framework.SnapshotReport{}, framework.ErrInvalid.Because("the archive is damaged: %s", err)
	}
	c.machine = fresh
	c.history[0]++
	clear(c.sessions)
	return framework.SnapshotReport{Number: c.number, History: c.history, MachineName: "kv", Bytes: int64(len(b))}, nil
}
