//go:build unix

package plugins_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/diarchy/diarchy/fsm"
	"github.com/diarchy/diarchy/fsm/kv"
	"github.com/diarchy/diarchy/internal/bench"
	"github.com/diarchy/diarchy/raftengine"
)

// BenchmarkTablePlugin is the tax of a machine in a process of its own: the
// bundled machine in groups of three replicas on raft, every write synced, in
// this process and as a plugin beside each replica, in rounds that alternate.
func BenchmarkTablePlugin(b *testing.B) {
	inside := bench.StartGroup(b, raftengine.Driver(), func(int) fsm.Factory {
		return func(context.Context) (fsm.Machine, error) { return kv.New(), nil }
	})
	plugin := bench.StartGroup(b, raftengine.Driver(), func(int) fsm.Factory {
		_, f := factoryOf(b, role(b, "kv"))
		return f
	})
	value := make([]byte, 256)
	bench.Compare(b, []int{1, 64, 512}, bench.Named{Name: "in-process", Target: inside}, bench.Named{Name: "plugin", Target: plugin},
		func(client, i int) []byte { return kv.Put(fmt.Sprintf("key%d", (client*31+i)%10_000), value, 0) })
}
