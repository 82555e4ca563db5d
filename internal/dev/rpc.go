package dev

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"connectrpc.com/connect"

	pb "github.com/diarchy/diarchy/client/clientpb"
)

// RPC speaks to the node alone; nothing is retried elsewhere.
func (n *Node) RPC() pb.DiarchyClient {
	n.rpcOnce.Do(func() {
		p := new(http.Protocols)
		p.SetUnencryptedHTTP2(true)
		n.http = &http.Transport{Protocols: p}
		n.rpc = pb.NewDiarchyClient(&http.Client{Transport: n.http}, "http://"+n.ClientAddr(), connect.WithGRPC())
	})
	return n.rpc
}

// Status asks any living node for a group's status.
func (cl *Cluster) Status(ctx context.Context, group string) (*pb.GroupStatusResponse, error) {
	err := fmt.Errorf("no node runs")
	for _, n := range cl.Nodes {
		if n.Ended() {
			continue
		}
		var s *pb.GroupStatusResponse
		if s, err = n.status(ctx, group); err == nil {
			return s, nil
		}
	}
	return nil, err
}

func (n *Node) status(ctx context.Context, group string) (*pb.GroupStatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	return n.RPC().GroupStatus(ctx, &pb.GroupStatusRequest{Group: group})
}

// AwaitGroup waits until a group has a leader and ok is content with its status,
// which is asked for again and again. ok says what it still waits for.
func (cl *Cluster) AwaitGroup(ctx context.Context, group string, ok func(*pb.GroupStatusResponse) error) (*pb.GroupStatusResponse, error) {
	for {
		s, err := cl.Status(ctx, group)
		if err == nil && s.GetLeader() == "" {
			err = fmt.Errorf("group %s has no leader", group)
		}
		if err == nil {
			err = ok(s)
		}
		if err == nil {
			return s, nil
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// AllRunning is content when every one of the group's replicas is reachable,
// votes, and has applied all that the leader has committed.
func AllRunning(replicas int) func(*pb.GroupStatusResponse) error {
	return func(s *pb.GroupStatusResponse) error {
		group, running := s.GetInfo().GetSpec().GetName(), 0
		for _, r := range s.GetReplicas() {
			switch {
			case !r.GetReachable():
				return fmt.Errorf("the replica of group %s on %s is not reachable", group, r.GetName())
			case r.GetMachine().GetState() != "running":
				return fmt.Errorf("the machine of group %s on %s is %s %s", group, r.GetName(), r.GetMachine().GetState(), r.GetMachine().GetError())
			case r.GetApplied() < r.GetCommit() || r.GetLeader() != s.GetLeader():
				return fmt.Errorf("the replica of group %s on %s is still behind", group, r.GetName())
			}
			running++
		}
		if running != replicas {
			return fmt.Errorf("group %s has %d replicas of %d", group, running, replicas)
		}
		return nil
	}
}

// Leader is the node that leads by a status.
func (cl *Cluster) Leader(s *pb.GroupStatusResponse) (*Node, error) {
	for _, r := range s.GetReplicas() {
		if r.GetNode() != s.GetLeader() {
			continue
		}
		for _, n := range cl.Nodes {
			if n.Name == r.GetName() {
				return n, nil
			}
		}
	}
	return nil, fmt.Errorf("the leader %s is none of these nodes", s.GetLeader())
}

// PluginPID is the process of the node's machine for a group.
func (n *Node) PluginPID(ctx context.Context, plugin string) (int, error) {
	a, err := n.RPC().PluginInfo(ctx, &pb.PluginInfoRequest{Name: plugin})
	if err != nil {
		return 0, err
	}
	for _, p := range a.GetPlugin().GetProcesses() {
		return int(p.GetPid()), nil
	}
	return 0, fmt.Errorf("plugin %s has no process on node %s", plugin, n.Name)
}

// Compare hashes every replica's state, as soon as all have executed the same
// commands, and fails when they differ.
func (cl *Cluster) Compare(ctx context.Context, group string) (number uint64, sum string, err error) {
	for {
		sums, err := cl.checksums(ctx, group)
		if err != nil {
			return 0, "", err
		}
		first, same := sums[0], true
		for i, s := range sums {
			switch {
			case s.GetNumber() != first.GetNumber():
				same = false
			case s.GetSha256() != first.GetSha256():
				return 0, "", fmt.Errorf("the replicas differ at command %d: %s has %.16s…, %s has %.16s…", s.GetNumber(),
					cl.Nodes[0].Name, first.GetSha256(), cl.Nodes[i].Name, s.GetSha256())
			}
		}
		if same {
			return first.GetNumber(), first.GetSha256(), nil
		}
		select {
		case <-ctx.Done():
			return 0, "", fmt.Errorf("the replicas do not reach the same command number: %w", ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (cl *Cluster) checksums(ctx context.Context, group string) ([]*pb.ChecksumResponse, error) {
	var out []*pb.ChecksumResponse
	for _, n := range cl.Nodes {
		s, err := n.RPC().Checksum(ctx, &pb.ChecksumRequest{Group: group})
		if err != nil {
			return nil, fmt.Errorf("hash the replica on %s: %w", n.Name, err)
		}
		out = append(out, s)
	}
	return out, nil
}
