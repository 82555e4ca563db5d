package vsr_test

import (
	"testing"

	"github.com/diarchy/diarchy/vsrengine/vsr"
)

// lane is three replicas in memory whose disks and network take no time: what is
// left is what the protocol itself costs.
type lane struct {
	replicas []*vsr.Replica
	inbox    [][]vsr.Message
}

func newLane(tb testing.TB, memory bool) *lane {
	tb.Helper()
	members := vsr.NewMembership(vsr.Member{ID: 1, Role: vsr.Voter}, vsr.Member{ID: 2, Role: vsr.Voter}, vsr.Member{ID: 3, Role: vsr.Voter})
	l := &lane{inbox: make([][]vsr.Message, 3)}
	for id := vsr.ID(1); id <= 3; id++ {
		cfg := vsr.DefaultConfig()
		cfg.ID, cfg.Memory = id, memory
		r, err := vsr.New(cfg, vsr.State{Record: &vsr.Record{Members: members, Virgin: true}, Incarnation: vsr.Nonce{Hi: uint64(id)}})
		if err != nil {
			tb.Fatal(err)
		}
		l.replicas = append(l.replicas, r)
	}
	for i := range l.replicas {
		l.perform(i)
	}
	return l
}

// perform obeys one replica's output.
func (l *lane) perform(i int) (applied int) {
	for {
		out := l.replicas[i].Take()
		for _, m := range out.Send {
			l.inbox[m.To-1] = append(l.inbox[m.To-1], m)
		}
		for _, m := range out.Promise {
			l.inbox[m.To-1] = append(l.inbox[m.To-1], m)
		}
		applied += len(out.Apply)
		n := len(out.Persist)
		if n == 0 {
			return applied
		}
		l.replicas[i].Persisted(out.Persist[n-1].Ticket)
	}
}

// settle delivers until nothing moves.
func (l *lane) settle() (applied int) {
	for busy := true; busy; {
		busy = false
		for i := range l.replicas {
			in := l.inbox[i]
			for k := range in {
				l.replicas[i].Step(&in[k])
			}
			l.inbox[i] = in[:0]
			if len(in) > 0 {
				busy = true
			}
			n := l.perform(i)
			if i == 0 {
				applied += n
			}
		}
	}
	return applied
}

// BenchmarkCore is the normal case for all three replicas together: one batch of
// commands prepared, made durable, acknowledged, committed and given out.
func BenchmarkCore(b *testing.B) {
	for _, mode := range []struct {
		name   string
		memory bool
	}{{"disk", false}, {"memory", true}} {
		b.Run(mode.name, func(b *testing.B) {
			const commands = 64
			l := newLane(b, mode.memory)
			body := make([]byte, commands*256)
			sum := vsr.BodySum(body)
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				if _, err := l.replicas[0].Propose(vsr.Batch{Kind: vsr.KindUser, Count: commands, Body: body, BodyChecksum: sum}); err != nil {
					b.Fatal(err)
				}
				n += l.perform(0) + l.settle()
				// Memory mode keeps its log until there are snapshots.
				if mode.memory && n%4096 == 0 {
					l.snapshot(b)
				}
			}
			if n < b.N {
				b.Fatalf("%d of %d batches applied", n, b.N)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*commands), "ns/command")
		})
	}
}

func (l *lane) snapshot(b *testing.B) {
	for _, r := range l.replicas {
		s, ok := r.SnapshotAt(r.Status().Applied)
		if !ok {
			b.Fatal("no snapshot")
		}
		r.Snapshotted(s)
		out := r.Take()
		if n := len(out.Persist); n > 0 {
			r.Persisted(out.Persist[n-1].Ticket)
		}
	}
}

// TestCoreAllocations holds the normal case to no allocation a command: what a
// batch allocates is shared by its commands.
func TestCoreAllocations(t *testing.T) {
	const commands = 64
	l := newLane(t, false)
	body := make([]byte, commands*16)
	sum := vsr.BodySum(body)
	step := func() {
		if _, err := l.replicas[0].Propose(vsr.Batch{Kind: vsr.KindUser, Count: commands, Body: body, BodyChecksum: sum}); err != nil {
			t.Fatal(err)
		}
		l.perform(0)
		l.settle()
	}
	for range 1000 {
		step()
	}
	if got := testing.AllocsPerRun(1000, step); got >= commands/16 {
		t.Errorf("%v allocations a batch of %d commands", got, commands)
	}
}
