//go:build unix

package plugins_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/diarchy/diarchy/framework"
	"github.com/diarchy/diarchy/framework/enginetest"
	"github.com/diarchy/diarchy/fsm"
	"github.com/diarchy/diarchy/fsm/kv"
	"github.com/diarchy/diarchy/plugins"
	"github.com/diarchy/diarchy/raftengine"
)

// plugged is a group whose machines are plugins, one host for each replica.
type plugged struct {
	*enginetest.Trio
	hosts  [3]*plugins.Host
	refuse [3]atomic.Bool // no new plugin is started there
}

func startPlugged(t *testing.T, snapshots framework.SnapshotPolicy) *plugged {
	p := &plugged{}
	var factories [3]fsm.Factory
	for i := range p.hosts {
		p.hosts[i], factories[i] = factoryOf(t, role(t, "kv"))
	}
	p.Trio = enginetest.StartTrio(t, raftengine.Driver(), snapshots, func(i int) fsm.Factory {
		return func(ctx context.Context) (fsm.Machine, error) {
			if p.refuse[i].Load() {
				return nil, errors.New("refused by the test")
			}
			return factories[i](ctx)
		}
	})
	return p
}

// kill ends the processes of a replica's plugin, as kill -9 does, and returns how
// many.
func (p *plugged) kill(i int) (killed int) {
	for _, s := range p.hosts[i].Status() {
		if s.PID > 0 && syscall.Kill(s.PID, syscall.SIGKILL) == nil {
			killed++
		}
	}
	return killed
}

// adders count in keys of their own, each add in a session, and check that every
// answer is one more than the last. stop gives how far each has come.
func (p *plugged) adders(t *testing.T, n int) (stop func() []int64) {
	var wg sync.WaitGroup
	ended := make(chan struct{})
	counts := make([]int64, n)
	for i := range n {
		wg.Go(func() {
			var s framework.Session
			binary.LittleEndian.PutUint64(s.ID[:], uint64(i)+1)
			p.OpenSession(s.ID)
			for {
				select {
				case <-ended:
					return
				default:
				}
				s.Seq, s.AckedBelow = s.Seq+1, s.Seq+1
				r := p.Propose(framework.Command{Data: kv.Add(key(i), 1), Session: s})
				counts[i]++
				if o, err := kv.DecodeOutcome(r.Value); err != nil || r.Err != "" || o.Number != counts[i] {
					t.Errorf("add %d of client %d: %+v %q %v", counts[i], i, o, r.Err, err)
					return
				}
			}
		})
	}
	return func() []int64 {
		close(ended)
		wg.Wait()
		return counts
	}
}

func key(client int) string { return fmt.Sprintf("client %d", client) }

// mustHold reads every counter on every replica.
func (p *plugged) mustHold(t *testing.T, counts []int64) {
	t.Helper()
	p.Level()
	for i, g := range p.Running() {
		for client, want := range counts {
			a, err := g.Query(t.Context(), framework.ReadQuery{Data: kv.GetQuery(key(client)), Consistency: framework.Stale})
			if err != nil {
				t.Fatal(err)
			}
			if item, _, err := kv.DecodeItem(a.Value); err != nil || string(item.Value) != fmt.Sprint(want) {
				t.Errorf("replica %d: client %d is at %q, %v; %d were answered", i, client, item.Value, err, want)
			}
		}
	}
}

// TestKilledPluginsDoubleAndSkipNothing: plugins of all replicas, the leader's
// among them, are killed again and again while clients write. Each comes back
// from snapshot and log, and every command has its one result.
func TestKilledPluginsDoubleAndSkipNothing(t *testing.T) {
	p := startPlugged(t, framework.SnapshotPolicy{Entries: 300})
	leader := p.Leader()
	stop := p.adders(t, 8)
	for round := range 9 {
		i := (leader + round) % 3
		g := p.Group(i)
		was := g.Status().Machine.Restarts
		from := g.Status().Number
		p.Until("the group goes on", func() bool { return p.Group(p.Leader()).Status().Number > from+20 })
		p.Until("a plugin is killed", func() bool { return p.kill(i) > 0 })
		p.Until("the plugin is back", func() bool {
			s := g.Status().Machine
			return s.Restarts > was && s.State == "running"
		})
	}
	counts := stop()
	p.mustHold(t, counts)
	var snapshot framework.Position
	for _, g := range p.Running() {
		snapshot = max(snapshot, g.EngineStatus().Snapshot)
	}
	if snapshot == 0 {
		t.Error("no snapshot was taken: nothing came back from one")
	}
	t.Logf("9 plugins killed; answered: %v", counts)
}

// TestALeaderWithoutItsPluginHandsOver: the plugin of a leader ends and no other
// starts. Another replica leads; this one goes on storing, and follows with its
// machine when one starts again.
func TestALeaderWithoutItsPluginHandsOver(t *testing.T) {
	p := startPlugged(t, framework.SnapshotPolicy{})
	stop := p.adders(t, 4)
	old := p.Leader()
	from := p.Group(old).Status().Number
	p.Until("the group goes on", func() bool { return p.Group(old).Status().Number > from+20 })
	p.refuse[old].Store(true)
	p.Until("its plugin is killed", func() bool { return p.kill(old) > 0 })
	now := p.Leader(old)
	p.Until("it leads no more", func() bool { return p.Group(old).EngineStatus().Role != framework.RoleLeader })
	from = p.Group(now).Status().Number
	p.Until("the group goes on", func() bool { return p.Group(now).Status().Number > from+20 })
	commit := p.Group(now).EngineStatus().Commit
	p.Until("it stores without a machine", func() bool { return p.Group(old).EngineStatus().Last >= commit })
	if s := p.Group(old).Status(); s.Machine.State == "running" || s.Machine.Err == "" || s.Suffrage != "voter" {
		t.Errorf("without a plugin: %+v", s)
	}
	p.refuse[old].Store(false)
	p.mustHold(t, stop())
}
