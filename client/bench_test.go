package client_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/diarchy/diarchy/client"
	"github.com/diarchy/diarchy/framework"
	"github.com/diarchy/diarchy/server"
	"github.com/diarchy/diarchy/server/servertest"
)

// instant answers at once: what is left is client, stream and server.
type instant struct{ *servertest.Node }

func (instant) ProposeAsync(_ context.Context, _ string, cs []framework.Command, done func(int, framework.Receipt, error)) {
	for i := range cs {
		done(i, framework.Receipt{Token: framework.Token{Number: 1}, Value: cs[i].Data[:8]}, nil)
	}
}

func (instant) Query(_ context.Context, _ string, q framework.ReadQuery) (framework.Answer, error) {
	return framework.Answer{Value: q.Data[:8]}, nil
}

// BenchmarkCalls is the whole way from a caller to the service and back, with
// 256-byte commands, each caller waiting for its answer.
func BenchmarkCalls(b *testing.B) {
	for _, callers := range []int{1, 64, 512} {
		for _, kind := range []string{"propose", "session", "query"} {
			b.Run(fmt.Sprintf("%s/%d", kind, callers), func(b *testing.B) { benchCalls(b, kind, callers) })
		}
	}
}

func benchCalls(b *testing.B, kind string, callers int) {
	c := servertest.New(1)
	p := &nodePort{cfg: server.Config{Service: instant{c.Node(0)}}}
	p.t = new(testing.T)
	p.start("127.0.0.1:0")
	defer p.stop()
	cl, err := client.New(client.Config{Addresses: []string{p.addr}})
	if err != nil {
		b.Fatal(err)
	}
	defer cl.Close()
	g := cl.Group(servertest.GroupName)
	data := make([]byte, 256)
	ctx := context.Background()
	call := func() error {
		var err error
		switch kind {
		case "propose":
			_, err = g.ProposeWithoutSession(ctx, data)
		case "session":
			_, err = g.Propose(ctx, data)
		case "query":
			_, err = g.Query(ctx, data, client.ReadOptions{})
		}
		return err
	}
	if err := call(); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	begin := time.Now()
	var wg sync.WaitGroup
	each := b.N/callers + 1
	for range callers {
		wg.Go(func() {
			for range each {
				if err := call(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(each*callers)/time.Since(begin).Seconds(), "op/s")
}
