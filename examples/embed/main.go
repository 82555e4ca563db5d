// Embed runs three nodes in one Go program, on real ports and disks: the whole
// of what a program needs that wants replicated state without other processes.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"path/filepath"

	"github.com/diarchy/diarchy/framework"
	"github.com/diarchy/diarchy/fsm"
	"github.com/diarchy/diarchy/fsm/kv"
	"github.com/diarchy/diarchy/raftengine"
)

func main() {
	dir, err := os.MkdirTemp("", "embed")
	if err == nil {
		err = errors.Join(run(context.Background(), dir, os.Stdout), os.RemoveAll(dir))
	}
	if err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, dir string, out io.Writer) error {
	names := []string{"a", "b", "c"}
	var ids []framework.NodeID
	listeners, addrs := map[framework.NodeID]net.Listener{}, map[framework.NodeID]string{}
	for _, name := range names {
		id, err := framework.LoadNodeID(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if listeners[id], err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return err
		}
		ids, addrs[id] = append(ids, id), listeners[id].Addr().String()
	}
	find := func(id framework.NodeID) (string, bool) { a, ok := addrs[id]; return a, ok }
	cluster := framework.ClusterID(ids)
	var nodes []*framework.Node
	for i, id := range ids {
		streams, err := framework.NewStreams(framework.StreamsConfig{
			Self: id, Listener: listeners[id], Resolve: find, Cluster: func() framework.UUID { return cluster },
		})
		if err != nil {
			return err
		}
		defer streams.Close()
		node, err := framework.OpenNode(ctx, framework.NodeConfig{
			ID: id, Name: names[i], DataDir: filepath.Join(dir, names[i]), Streams: streams,
			Engines:  map[string]framework.EngineDriver{"raft": raftengine.Driver()},
			Machines: func(_, _ string) (fsm.Factory, error) { return newKV, nil },
		})
		if err != nil {
			return err
		}
		defer node.Close(ctx)
		nodes = append(nodes, node)
		if err := node.Form(ctx, cluster, ids); err != nil {
			return err
		}
	}
	return use(ctx, nodes, out)
}

func newKV(context.Context) (fsm.Machine, error) { return kv.New(), nil }

// use makes a group, writes on one node and reads on another: any will do, each
// asks the leader.
func use(ctx context.Context, nodes []*framework.Node, out io.Writer) error {
	group := framework.GroupSpec{Name: "things", Engine: "raft", Machine: "builtin:kv", Replicas: len(nodes)}
	if _, err := nodes[0].Ensure(ctx, group); err != nil {
		return err
	}
	written, err := nodes[1].Propose(ctx, "things", framework.Command{Data: kv.Put("greeting", []byte("hello"), 0)})
	if err != nil {
		return err
	}
	answer, err := nodes[2].Query(ctx, "things", framework.ReadQuery{Data: kv.GetQuery("greeting")})
	if err != nil {
		return err
	}
	item, _, err := kv.DecodeItem(answer.Value)
	fmt.Fprintf(out, "command %d, read linearizably: %s = %s\n", written.Token.Number, item.Key, item.Value)
	return err
}
