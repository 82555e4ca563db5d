package dev

import (
	"context"
	"sync"

	"github.com/diarchy/diarchy/client"
	"github.com/diarchy/diarchy/fsm/kv"
)

// store is the bundled machine's group as the check uses it, by way of the
// client library, which follows the leader and repeats what is safe to repeat.
type store struct {
	client   *client.Client
	group    *client.Group
	sabotage string

	mu    sync.Mutex
	puts  int
	known map[string]string // for stale-read
}

func openStore(cl *Cluster, group, sabotage string) (*store, error) {
	var addrs []string
	for _, n := range cl.Nodes {
		addrs = append(addrs, n.ClientAddr())
	}
	c, err := client.New(client.Config{Addresses: addrs})
	if err != nil {
		return nil, err
	}
	return &store{client: c, group: c.Group(group), sabotage: sabotage, known: map[string]string{}}, nil
}

func (s *store) close() error { return s.client.Close() }

// skippedWrite is which write skip-write leaves out.
const skippedWrite = 500

// put returns when the write is acknowledged.
func (s *store) put(ctx context.Context, key, value string) error {
	s.mu.Lock()
	s.puts++
	skip := s.sabotage == breakSkip && s.puts == skippedWrite
	s.mu.Unlock()
	if skip {
		return nil
	}
	r, err := s.group.Propose(ctx, kv.Put(key, []byte(value), 0))
	if err != nil {
		return err
	}
	_, err = kv.DecodeOutcome(r.Value)
	return err
}

// get reads linearizably.
func (s *store) get(ctx context.Context, key string) (string, bool, error) {
	if v, ok := s.recall(key); ok {
		return v, true, nil
	}
	a, err := s.group.Query(ctx, kv.GetQuery(key), client.ReadOptions{})
	if err != nil {
		return "", false, err
	}
	item, found, err := kv.DecodeItem(a.Value)
	if err != nil || !found {
		return "", false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known[key] = string(item.Value)
	return string(item.Value), true, nil
}

// recall is what stale-read answers with: what was read before, as a replica
// does that has not heard of what came after.
func (s *store) recall(key string) (string, bool) {
	if s.sabotage != breakStale {
		return "", false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.known[key]
	return v, ok
}
