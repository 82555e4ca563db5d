package framework

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/diarchy/diarchy/fsm"
)

// benchEngine commits what it is given in groups, as a log that is synced does,
// and costs next to nothing itself.
type benchEngine struct {
	fakeEngine
	inbox []Proposal
	wake  chan struct{}
	stop  chan struct{}
	done  chan struct{}
}

func (b *benchEngine) driver() EngineDriver {
	return EngineDriver{New: func(ctx context.Context, c EngineConfig) (Engine, error) {
		if _, err := b.fakeEngine.driver().New(ctx, c); err != nil {
			return nil, err
		}
		b.wake, b.stop, b.done = make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
		go b.run()
		return b, nil
	}}
}

func (b *benchEngine) Propose(batch []Proposal) {
	b.mu.Lock()
	b.inbox = append(b.inbox, batch...)
	b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

func (b *benchEngine) run() {
	defer close(b.done)
	var spare []Proposal
	var outcomes []Outcome
	for {
		select {
		case <-b.wake:
		case <-b.stop:
			return
		}
		b.mu.Lock()
		batch := b.inbox
		b.inbox = spare[:0]
		out := make([]Entry, len(batch))
		outcomes = outcomes[:0]
		for i := range batch {
			b.last++
			out[i] = Entry{Position: b.last, Term: 1, Kind: batch[i].Kind, Data: batch[i].Data}
			outcomes = append(outcomes, Outcome{Ref: batch[i].Ref, Position: b.last})
		}
		last := b.last
		b.mu.Unlock()
		b.host.Announce(out, last)
		b.host.Resolve(outcomes)
		clear(batch)
		spare = batch
	}
}

func (b *benchEngine) Close(context.Context) error {
	close(b.stop)
	<-b.done
	return nil
}

// idleMachine answers every command with the same 8 bytes.
type idleMachine struct{ fsm.Base }

var idleAnswer = make([]byte, 8)

func (idleMachine) Apply(_ context.Context, b fsm.Batch, results []fsm.Result) error {
	for i := range b.Entries {
		results[i].Value = idleAnswer
	}
	return nil
}

func benchGroup(b *testing.B) *Group {
	e := &benchEngine{}
	g, err := OpenGroup(context.Background(), GroupConfig{
		Identity: GroupIdentity{ID: UUID{1}, Name: "g"}, Self: "self", Engine: e.driver(),
		Machine: func(context.Context) (fsm.Machine, error) { return idleMachine{}, nil },
		Queues:  QueueLimits{RingBytes: 1 << 40},
	})
	if err != nil {
		b.Fatal(err)
	}
	// The engine keeps no log, so nothing may be committed before it is wanted.
	for changed := g.Changed(); g.Status().Machine.State != "running"; changed = g.Changed() {
		<-changed
	}
	b.Cleanup(func() {
		if err := g.Close(context.Background()); err != nil {
			b.Error(err)
		}
	})
	return g
}

// BenchmarkGroupOnFakeEngine is what the framework itself costs a command: from
// Propose through the applier to the answer, on an engine that costs nothing.
func BenchmarkGroupOnFakeEngine(b *testing.B) {
	for _, clients := range []int{1, 64, 512} {
		b.Run(fmt.Sprintf("sync/%d", clients), func(b *testing.B) {
			g := benchGroup(b)
			data := make([]byte, 128)
			each := b.N/clients + 1
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			b.ReportAllocs()
			b.ResetTimer()
			var wg sync.WaitGroup
			for range clients {
				wg.Go(func() {
					for range each {
						if _, err := g.Propose(ctx, Command{Data: data}); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
	for _, sessions := range []bool{false, true} {
		b.Run(fmt.Sprintf("async/64 sessions=%v", sessions), func(b *testing.B) { benchAsync(b, sessions) })
	}
}

// benchAsync keeps 8 batches of 64 on their way.
func benchAsync(b *testing.B, sessions bool) {
	const size, flying = 64, 8
	g := benchGroup(b)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	data := make([]byte, 128)
	room := make(chan struct{}, flying)
	ids := make(chan SessionID, flying)
	for i := range flying {
		room <- struct{}{}
		ids <- SessionID{byte(i + 1)}
		if err := g.OpenSession(ctx, SessionID{byte(i + 1)}, SessionOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	seqs := map[SessionID]uint64{}
	b.ReportAllocs()
	b.ResetTimer()
	var all sync.WaitGroup
	for n := 0; n < b.N; n += size {
		<-room
		cs := make([]Command, size)
		id := <-ids
		for i := range cs {
			cs[i].Data = data
			if sessions {
				seqs[id]++
				cs[i].Session = Session{ID: id, Seq: seqs[id], AckedBelow: seqs[id] - uint64(i)}
			}
		}
		left := size
		all.Add(1)
		g.ProposeAsync(ctx, cs, func(_ int, _ Receipt, err error) { // by one goroutine, the applier's
			if err != nil {
				b.Error(err)
			}
			if left--; left == 0 {
				ids <- id
				room <- struct{}{}
				all.Done()
			}
		})
	}
	all.Wait()
}
