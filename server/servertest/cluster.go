// Package servertest is a cluster in memory behind framework.Service, with one
// group on the bundled key-value machine: for tests of servers and clients. It
// has sessions and leaders but no consensus: all nodes share one log. Faults are
// planted in it by name.
//
// It is not a model of an engine; framework/enginetest tests those. Read
// cluster.go first, service.go for what each node answers.
package servertest

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/diarchy/diarchy/framework"
	"github.com/diarchy/diarchy/fsm"
	"github.com/diarchy/diarchy/fsm/kv"
)

// GroupName is the one group's name.
const GroupName = "orders"

// Cluster is the state that all nodes share.
type Cluster struct {
	mu       sync.Mutex
	machine  fsm.Machine
	history  framework.UUID
	number   uint64
	log      []framework.TailEntry
	oldest   uint64 // the first number that the log still has
	grown    chan struct{}
	sessions map[framework.SessionID]*session
	leader   int // -1: none
	executed map[string]int
	nodes    []*Node

	lose     int // so many proposals to come are executed and their answers lost
	fail     []error
	hang     chan struct{} // while set, proposals and reads wait for it
	held     int           // so many do
	watching int           // calls of WaitIndex
	kind     string
}

type session struct {
	seen map[uint64]framework.Receipt
	gone bool // results are no longer kept
}

// New makes a cluster of n nodes led by the first.
func New(n int) *Cluster {
	m, err := newMachine()
	if err != nil {
		panic(err) // the bundled machine cannot fail to open
	}
	c := &Cluster{
		machine: m, history: framework.UUID{15: 7}, oldest: 1, grown: make(chan struct{}),
		sessions: map[framework.SessionID]*session{}, executed: map[string]int{}, kind: "kv",
	}
	for i := range n {
		c.nodes = append(c.nodes, &Node{c: c, i: i, id: framework.NodeID(fmt.Sprintf("00000000-0000-0000-0000-%012d", i+1))})
	}
	return c
}

func newMachine() (fsm.Machine, error) {
	m := kv.New()
	_, err := m.Open(context.Background())
	return m, err
}

// Node is the i-th node.
func (c *Cluster) Node(i int) *Node { return c.nodes[i] }

// Lead makes the i-th node the leader; -1 leaves the group without one.
func (c *Cluster) Lead(i int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leader = i
}

// LoseAnswers executes the next n proposals and answers outcome_unknown.
func (c *Cluster) LoseAnswers(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lose = n
}

// FailNext answers the next calls with these errors, in order, and does nothing.
func (c *Cluster) FailNext(errs ...error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fail = append(c.fail, errs...)
}

// Hang makes calls wait until release is called.
func (c *Cluster) Hang() (release func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	hang := make(chan struct{})
	c.hang = hang
	return func() {
		c.mu.Lock()
		c.hang = nil
		c.mu.Unlock()
		close(hang)
	}
}

// Waiting counts the calls that a Hang holds.
func (c *Cluster) Waiting() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.held
}

// Watching counts the calls of WaitIndex under way.
func (c *Cluster) Watching() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.watching
}

// Executed tells how often a command of these bytes was executed.
func (c *Cluster) Executed(command []byte) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.executed[string(command)]
}

// Number is that of the last command.
func (c *Cluster) Number() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.number
}

// ExpireSessions evicts every session.
func (c *Cluster) ExpireSessions() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.sessions)
}

// ForgetResults drops what the sessions keep of results, but not that they
// happened.
func (c *Cluster) ForgetResults() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.sessions {
		s.gone = true
	}
}

// Sessions counts the open ones.
func (c *Cluster) Sessions() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.sessions)
}

// Compact forgets the log below from.
func (c *Cluster) Compact(from uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.log = c.log[from-c.oldest:]
	c.oldest = from
}

// MachineName changes the name that the machine goes by.
func (c *Cluster) MachineName(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kind = name
}

// planted waits out a Hang and takes the next planted failure.
func (c *Cluster) planted(ctx context.Context) error {
	c.mu.Lock()
	hang := c.hang
	if hang != nil {
		c.held++
	}
	c.mu.Unlock()
	if hang != nil {
		var err error
		select {
		case <-hang:
		case <-ctx.Done():
			err = framework.ErrMaybe.Because("%s", ctx.Err())
		}
		c.mu.Lock()
		c.held--
		c.mu.Unlock()
		if err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.fail) == 0 {
		return nil
	}
	err := c.fail[0]
	c.fail = c.fail[1:]
	return err
}

// execute runs one command, once in its session.
func (c *Cluster) execute(cmd framework.Command) (framework.Receipt, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var s *session
	if cmd.Session.ID != (framework.SessionID{}) {
		if s = c.sessions[cmd.Session.ID]; s == nil {
			return framework.Receipt{}, framework.ErrSessionExpired
		}
		if rec, ok := s.seen[cmd.Session.Seq]; ok {
			if s.gone {
				e := framework.ErrResultGone.Because("command %d happened; its result is gone", rec.Token.Number)
				e.Index = rec.Token.Number
				return framework.Receipt{}, e
			}
			rec.Duplicate = true
			return rec, nil
		}
		for seq := range s.seen {
			if seq < cmd.Session.AckedBelow {
				delete(s.seen, seq)
			}
		}
	}
	rec, err := c.applyLocked(cmd.Data)
	if err != nil {
		return rec, err
	}
	if s != nil {
		s.seen[cmd.Session.Seq] = rec
	}
	if c.lose > 0 {
		c.lose--
		return framework.Receipt{}, framework.ErrMaybe
	}
	return rec, nil
}

func (c *Cluster) applyLocked(data []byte) (framework.Receipt, error) {
	c.number++
	now := time.Now()
	var results [1]fsm.Result
	batch := fsm.Batch{Entries: []fsm.Entry{{Index: c.number, Time: now.UnixNano(), Data: data}}, Time: now.UnixNano()}
	if err := c.machine.Apply(context.Background(), batch, results[:]); err != nil {
		return framework.Receipt{}, framework.ErrInternal.Because("%s", err)
	}
	c.executed[string(data)]++
	c.log = append(c.log, framework.TailEntry{Number: c.number, Time: now, Data: append([]byte(nil), data...)})
	close(c.grown)
	c.grown = make(chan struct{})
	value := append([]byte(nil), results[0].Value...)
	return framework.Receipt{Token: framework.Token{History: c.history, Number: c.number}, Value: value, Err: results[0].Err}, nil
}
