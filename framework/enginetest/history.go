package enginetest

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/diarchy/diarchy/framework"
	"github.com/diarchy/diarchy/fsm/kv"
)

// history is what clients asked and heard, in an order that a shared counter
// gives: two events that a clock cannot tell apart are told apart by it.
type history struct {
	mu  sync.Mutex
	ops []porcupine.Operation
}

type input struct {
	op    string // put, get, add, count
	key   string
	value string
}

type output struct {
	value   string
	number  int64
	unknown bool // the outcome is not known: it may take effect at any time from the call on
}

// model is a store of registers (put, get) and counters (add, count), each key
// by itself. A command done twice makes a counter's history impossible.
var model = porcupine.Model{
	Partition: func(ops []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[string][]porcupine.Operation{}
		var keys []string
		for _, o := range ops {
			k := o.Input.(input).key
			if byKey[k] == nil {
				keys = append(keys, k)
			}
			byKey[k] = append(byKey[k], o)
		}
		var parts [][]porcupine.Operation
		for _, k := range keys {
			parts = append(parts, byKey[k])
		}
		return parts
	},
	Init: func() any { return output{} },
	Step: func(state, in, out any) (bool, any) {
		s, i, o := state.(output), in.(input), out.(output)
		switch i.op {
		case "put":
			return true, output{value: i.value}
		case "get":
			return o.unknown || o.value == s.value, s
		case "add":
			s.number++
			return o.unknown || o.number == s.number, s
		default: // count
			return o.unknown || o.number == s.number, s
		}
	},
	DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v -> %+v", in, out) },
}

func (c *cluster) tick() int64 { return int64(atomic.AddUint64(&c.clock, 1)) }

// checkHistory holds everything that clients saw to the model, whole.
func (c *cluster) checkHistory() {
	c.t.Helper()
	c.history.mu.Lock()
	defer c.history.mu.Unlock()
	res, info := porcupine.CheckOperationsVerbose(model, c.history.ops, 2*time.Minute)
	if res == porcupine.Ok {
		return
	}
	path := filepath.Join(c.t.ArtifactDir(), "history.html")
	err := porcupine.VisualizePath(model, info, path)
	c.t.Errorf("history of %d operations: %v; drawn in %s (%v)", len(c.history.ops), res, path, err)
}

// client is one caller with a session. It does one thing at a time.
type client struct {
	c       *cluster
	id      int
	session framework.SessionID
	opened  bool
	seq     uint64
	rng     *rand.Rand
	reads   framework.Consistency
}

// load runs clients until the function returned is called; that waits for them
// and returns how many operations were answered.
func (c *cluster) load(clients int) (stop func() int) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var answered atomic.Int64
	for i := range clients {
		wg.Go(func() {
			cl := c.newClient(i)
			for ctx.Err() == nil {
				if cl.step(ctx) {
					answered.Add(1)
				}
			}
		})
	}
	return func() int {
		cancel()
		wg.Wait()
		return int(answered.Load())
	}
}

func (c *cluster) newClient(i int) *client {
	cl := &client{c: c, id: i, rng: rand.New(rand.NewPCG(uint64(i), 7))}
	binary.LittleEndian.PutUint64(cl.session[:], uint64(i)+1)
	return cl
}

const clientTimeout = 3 * time.Second

// step does one operation, until it has an answer or the client is stopped:
// then the outcome is unknown for ever. It pauses a little between operations,
// so that a long outage does not make a history too long to check.
func (cl *client) step(ctx context.Context) bool {
	i := input{key: fmt.Sprintf("k%d", cl.rng.IntN(4))}
	switch cl.rng.IntN(5) {
	case 0, 1:
		cl.seq++
		i.op, i.value = "put", fmt.Sprintf("%d.%d", cl.id, cl.seq)
	case 2:
		cl.seq++
		i.op, i.key = "add", "n"+i.key
	case 3:
		i.op = "get"
	default:
		i.op, i.key = "count", "n"+i.key
	}
	call := cl.c.tick()
	out, err := cl.do(ctx, i)
	op := porcupine.Operation{ClientId: cl.id, Input: i, Call: call, Output: out, Return: cl.c.tick()}
	if err != nil {
		if framework.HappenedOf(err) == framework.No {
			return false // and nobody need know of it
		}
		op.Output, op.Return = output{unknown: true}, math.MaxInt64
	}
	cl.c.history.mu.Lock()
	cl.c.history.ops = append(cl.c.history.ops, op)
	cl.c.history.mu.Unlock()
	select {
	case <-time.After(time.Duration(cl.rng.IntN(20)) * time.Millisecond):
	case <-ctx.Done():
	}
	return err == nil
}

// do tries nodes in turn until one answers. In its session a command may be
// sent again and again.
func (cl *client) do(ctx context.Context, i input) (output, error) {
	var last error = framework.ErrDeadline
	maybe := false
	for try := 0; ctx.Err() == nil; try++ {
		live := cl.c.groups()
		if len(live) == 0 {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		g := live[(cl.id+try)%len(live)]
		if !cl.opened && !cl.open(ctx, g) {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		out, err := cl.once(ctx, g, i)
		if err == nil {
			return out, nil
		}
		last = err
		switch framework.HappenedOf(err) {
		case framework.Maybe:
			maybe = true
		case framework.Yes:
			return output{unknown: true}, err
		}
		time.Sleep(time.Duration(1+cl.rng.IntN(10)) * time.Millisecond)
	}
	if maybe {
		return output{}, framework.ErrMaybe
	}
	return output{}, last
}

func (cl *client) open(ctx context.Context, g *framework.Group) bool {
	ctx, cancel := context.WithTimeout(ctx, clientTimeout)
	defer cancel()
	cl.opened = g.OpenSession(ctx, cl.session, framework.SessionOptions{}) == nil
	return cl.opened
}

func (cl *client) once(ctx context.Context, g *framework.Group, i input) (output, error) {
	ctx, cancel := context.WithTimeout(ctx, clientTimeout)
	defer cancel()
	if i.op == "get" || i.op == "count" {
		a, err := g.Query(ctx, framework.ReadQuery{Data: getQuery(i.key), Consistency: cl.reads})
		if err != nil {
			return output{}, err
		}
		return decodeRead(a.Value)
	}
	data := kv.Put(i.key, []byte(i.value), 0)
	if i.op == "add" {
		data = kv.Add(i.key, 1)
	}
	r, err := g.Propose(ctx, framework.Command{Data: data, Session: framework.Session{ID: cl.session, Seq: cl.seq, AckedBelow: cl.seq}})
	if err != nil {
		return output{}, err
	}
	o, err := kv.DecodeOutcome(r.Value)
	if err != nil || r.Err != "" {
		return output{}, fmt.Errorf("answer %q %q: %w", r.Value, r.Err, err)
	}
	cl.c.acknowledge(r.Token.Number, data)
	return output{number: o.Number}, nil
}

func getQuery(key string) []byte { return kv.GetQuery(key) }

func decodeRead(b []byte) (output, error) {
	item, found, err := kv.DecodeItem(b)
	if err != nil || !found {
		return output{}, err
	}
	var n int64
	_, _ = fmt.Sscan(string(item.Value), &n) // a counter's text; a register's is not looked at
	return output{value: string(item.Value), number: n}, nil
}

// groups are the running replicas, for clients, beside starts and crashes.
func (c *cluster) groups() []*framework.Group {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []*framework.Group
	for _, n := range c.nodes {
		if n.g != nil {
			out = append(out, n.g)
		}
	}
	return out
}

// write proposes through whoever leads until it is done, and returns its number.
func (c *cluster) write(data []byte) framework.Receipt {
	c.t.Helper()
	var rec framework.Receipt
	c.until("a write", func() bool {
		for _, g := range c.groups() {
			ctx, cancel := context.WithTimeout(context.Background(), clientTimeout)
			r, err := g.Propose(ctx, framework.Command{Data: data})
			cancel()
			if err == nil {
				rec = r
				c.acknowledge(r.Token.Number, data)
				return true
			}
		}
		return false
	})
	return rec
}

// fill writes n small commands, many at once.
func (c *cluster) fill(n int) {
	c.t.Helper()
	for n > 0 {
		l := c.leader()
		cs := make([]framework.Command, min(n, 1000))
		for i := range cs {
			cs[i].Data = kv.Put(fmt.Sprintf("fill%d", i%100), []byte("v"), 0)
		}
		var wg sync.WaitGroup
		var done atomic.Int64
		wg.Add(len(cs))
		l.g.ProposeAsync(context.Background(), cs, func(i int, r framework.Receipt, err error) {
			if err == nil {
				done.Add(1)
				c.acknowledge(r.Token.Number, cs[i].Data)
			}
			wg.Done()
		})
		wg.Wait()
		n -= int(done.Load())
	}
}

// acknowledge remembers what a client was told has happened.
func (c *cluster) acknowledge(number uint64, data []byte) {
	c.mu.Lock()
	c.acked[number] = string(data)
	c.mu.Unlock()
}
