package client

import (
	"context"

	pb "github.com/diarchy/diarchy/client/clientpb"
)

// What is asked of "the node" here is asked of the one at Config.Addresses[0] and
// of no other; the rest of whichever answers.

// Groups lists the groups of the cluster.
func (c *Client) Groups(ctx context.Context) ([]*pb.GroupInfo, error) {
	res, err := unary(ctx, c, true, &pb.ListGroupsRequest{}, pb.DiarchyClient.ListGroups)
	return res.GetGroups(), err
}

// CreateGroup makes a group. When the answer is lost it may exist.
func (c *Client) CreateGroup(ctx context.Context, spec *pb.GroupSpec) (*pb.GroupInfo, error) {
	res, err := unary(ctx, c, false, &pb.CreateGroupRequest{Spec: spec}, pb.DiarchyClient.CreateGroup)
	return res.GetGroup(), err
}

// DestroyGroup removes a group and its data; confirm is its name again.
func (c *Client) DestroyGroup(ctx context.Context, name, confirm string) error {
	_, err := unary(ctx, c, false, &pb.DestroyGroupRequest{Group: name, Confirm: confirm}, pb.DiarchyClient.DestroyGroup)
	return err
}

// Nodes lists the nodes of the cluster.
func (c *Client) Nodes(ctx context.Context) ([]*pb.NodeInfo, error) {
	res, err := unary(ctx, c, true, &pb.ListNodesRequest{}, pb.DiarchyClient.ListNodes)
	return res.GetNodes(), err
}

// Members lists the gossip pool as the node sees it.
func (c *Client) Members(ctx context.Context) ([]*pb.PoolMember, error) {
	res, err := atHome(ctx, c, &pb.MembersRequest{}, pb.DiarchyClient.Members)
	return res.GetMembers(), err
}

// Join makes the node join a pool; it says how many addresses answered.
func (c *Client) Join(ctx context.Context, addrs ...string) (int, error) {
	res, err := atHome(ctx, c, &pb.JoinRequest{Addresses: addrs}, pb.DiarchyClient.Join)
	return int(res.GetJoined()), err
}

// Leave makes the node leave the pool and stop.
func (c *Client) Leave(ctx context.Context) error {
	n, err := c.seed(0)
	if err != nil {
		return err
	}
	if _, err := n.rpc.Leave(ctx, &pb.LeaveRequest{}); err != nil {
		return fromConnect(err)
	}
	return nil
}

// ForceLeave declares a failed member gone.
func (c *Client) ForceLeave(ctx context.Context, node string) error {
	_, err := atHome(ctx, c, &pb.ForceLeaveRequest{Node: node}, pb.DiarchyClient.ForceLeave)
	return err
}

// Plugins lists what the node may run.
func (c *Client) Plugins(ctx context.Context) ([]*pb.Plugin, error) {
	res, err := atHome(ctx, c, &pb.ListPluginsRequest{}, pb.DiarchyClient.ListPlugins)
	return res.GetPlugins(), err
}

// Plugin is one of them.
func (c *Client) Plugin(ctx context.Context, name string) (*pb.Plugin, error) {
	res, err := atHome(ctx, c, &pb.PluginInfoRequest{Name: name}, pb.DiarchyClient.PluginInfo)
	return res.GetPlugin(), err
}

// Status is the node: itself, its replicas, what it waits for.
func (c *Client) Status(ctx context.Context) (*pb.StatusResponse, error) {
	return atHome(ctx, c, &pb.StatusRequest{}, pb.DiarchyClient.Status)
}

// Version is what the node runs.
func (c *Client) Version(ctx context.Context) (*pb.VersionResponse, error) {
	return atHome(ctx, c, &pb.VersionRequest{}, pb.DiarchyClient.Version)
}

// Status is the group as its leader sees it.
func (g *Group) Status(ctx context.Context) (*pb.GroupStatusResponse, error) {
	return unary(ctx, g.c, true, &pb.GroupStatusRequest{Group: g.name}, pb.DiarchyClient.GroupStatus)
}

// LocalStatus is the replica of the node alone.
func (g *Group) LocalStatus(ctx context.Context) (*pb.GroupStatusResponse, error) {
	return atHome(ctx, g.c, &pb.GroupStatusRequest{Group: g.name, Local: true}, pb.DiarchyClient.GroupStatus)
}

// ChangeMembership makes one membership step. When the answer is lost, look at
// Status; with BasedOn set, asking again cannot do it twice.
func (g *Group) ChangeMembership(ctx context.Context, op pb.ChangeOp, node string, basedOn uint64, force bool) error {
	req := &pb.ChangeMembershipRequest{Group: g.name, Op: op, Node: node, BasedOn: basedOn, Force: force}
	_, err := unary(ctx, g.c, false, req, pb.DiarchyClient.ChangeMembership)
	return err
}

// Replace puts newNode in oldNode's place: learner, promote, remove.
func (g *Group) Replace(ctx context.Context, oldNode, newNode string, force bool) error {
	req := &pb.ReplaceRequest{Group: g.name, OldNode: oldNode, NewNode: newNode, Force: force}
	_, err := unary(ctx, g.c, false, req, pb.DiarchyClient.Replace)
	return err
}

// Transfer hands leadership to a node, or to any when toNode is empty.
func (g *Group) Transfer(ctx context.Context, toNode string) error {
	_, err := unary(ctx, g.c, toNode != "", &pb.TransferRequest{Group: g.name, ToNode: toNode}, pb.DiarchyClient.Transfer)
	return err
}

// TakeSnapshot makes the replica of the node snapshot now.
func (g *Group) TakeSnapshot(ctx context.Context) (*pb.SnapshotReport, error) {
	return atHome(ctx, g.c, &pb.TakeSnapshotRequest{Group: g.name}, pb.DiarchyClient.TakeSnapshot)
}

// Checksum hashes the machine state of the replica of the node.
func (g *Group) Checksum(ctx context.Context) (*pb.ChecksumResponse, error) {
	return atHome(ctx, g.c, &pb.ChecksumRequest{Group: g.name}, pb.DiarchyClient.Checksum)
}
