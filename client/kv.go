package client

import (
	"context"
	"errors"
	"iter"
	"time"

	pb "github.com/diarchy/diarchy/client/clientpb"
	"github.com/diarchy/diarchy/fsm/kv"
)

// KV speaks to a group that runs the bundled key-value machine. Changes are
// executed exactly once; see Group.Propose for errors.
type KV struct{ g *Group }

// KV is the group as a key-value store.
func (g *Group) KV() KV { return KV{g} }

// Written is the answer to a change of one key.
type Written struct {
	// Token names the state after it.
	Token Token
	// Revision is the key's after the command; of a delete, the deleted one.
	Revision uint64
	// Existed is false when there was nothing to delete.
	Existed bool
	// Number is the counter after Add, the length after Append.
	Number int64
}

// Put sets key to value, for ttl when that is above zero.
func (k KV) Put(ctx context.Context, key string, value []byte, ttl time.Duration) (Written, error) {
	return k.change(ctx, kv.Put(key, value, ttl))
}

// CAS sets key if its revision is the one given, 0 for "not there". Otherwise
// ErrConflict, whose Index is the revision found.
func (k KV) CAS(ctx context.Context, key string, revision uint64, value []byte, ttl time.Duration) (Written, error) {
	return k.change(ctx, kv.CAS(key, revision, value, ttl))
}

// Delete removes key; that there is none is no error.
func (k KV) Delete(ctx context.Context, key string) (Written, error) {
	return k.change(ctx, kv.Delete(key))
}

// DeleteIf removes key if its revision is the one given; otherwise ErrConflict.
func (k KV) DeleteIf(ctx context.Context, key string, revision uint64) (Written, error) {
	return k.change(ctx, kv.DeleteIf(key, revision))
}

// Add adds delta to the counter at key.
func (k KV) Add(ctx context.Context, key string, delta int64) (Written, error) {
	return k.change(ctx, kv.Add(key, delta))
}

// Append adds value at the end of key's value.
func (k KV) Append(ctx context.Context, key string, value []byte) (Written, error) {
	return k.change(ctx, kv.Append(key, value))
}

// Txn does a guarded transaction; Outcome.OK tells whether its guards held.
func (k KV) Txn(ctx context.Context, t kv.Txn) (kv.Outcome, Token, error) {
	return k.command(ctx, t.Command())
}

func (k KV) change(ctx context.Context, command []byte) (Written, error) {
	o, t, err := k.command(ctx, command)
	return Written{Token: t, Revision: o.Revision, Existed: o.OK, Number: o.Number}, err
}

func (k KV) command(ctx context.Context, command []byte) (kv.Outcome, Token, error) {
	if err := kv.CheckCommand(command); err != nil {
		return kv.Outcome{}, Token{}, &Error{Code: pb.CodeInvalid, Message: err.Error()}
	}
	res, err := k.g.Propose(ctx, command)
	if err != nil && !errors.Is(err, ErrRefused) {
		return kv.Outcome{}, Token{}, err
	}
	o, derr := kv.DecodeOutcome(res.Value)
	switch {
	case derr == nil && o.Conflict():
		return o, res.Token, &Error{Code: pb.CodeConflict, Index: o.Revision, Message: "the key is not at the revision given; nothing was written"}
	case err != nil:
		return o, res.Token, err
	case derr != nil:
		return o, res.Token, notKV(derr)
	}
	return o, res.Token, nil
}

func notKV(err error) error {
	return &Error{Code: pb.CodeInternal, Happened: Maybe, Message: "the answer is not one of the key-value machine: " + err.Error()}
}

// Get reads key; found is false when it is not there.
func (k KV) Get(ctx context.Context, key string, o ReadOptions) (item kv.Item, found bool, t Token, err error) {
	a, err := k.query(ctx, kv.GetQuery(key), o)
	if err != nil {
		return kv.Item{}, false, Token{}, err
	}
	item, found, err = kv.DecodeItem(a.Value)
	if err != nil {
		return kv.Item{}, false, Token{}, notKV(err)
	}
	return item, found, a.Token, nil
}

// List reads the items that l asks for; more tells that there are others after
// them.
func (k KV) List(ctx context.Context, l kv.List, o ReadOptions) (items []kv.Item, more bool, err error) {
	a, err := k.query(ctx, kv.ListQuery(l), o)
	if err != nil {
		return nil, false, err
	}
	items, more, err = kv.DecodeList(a.Value)
	if err != nil {
		return nil, false, notKV(err)
	}
	return items, more, nil
}

func (k KV) query(ctx context.Context, q []byte, o ReadOptions) (Answer, error) {
	if err := kv.CheckQuery(q); err != nil {
		return Answer{}, &Error{Code: pb.CodeInvalid, Message: err.Error()}
	}
	return k.g.Query(ctx, q, o)
}

// Event is one state of a watched key.
type Event struct {
	// Item is the key's state; its Revision is 0 when it is not there.
	Item  kv.Item
	Found bool
	Token Token
}

// Watch gives key's state now and after each change until ctx ends. Changes in
// quick succession may be seen as one; the last is always seen.
func (k KV) Watch(ctx context.Context, key string) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		first := true
		var seen uint64
		o := ReadOptions{}
		for {
			item, found, t, err := k.Get(ctx, key, o)
			if err != nil {
				yield(Event{}, err)
				return
			}
			if first || item.Revision != seen {
				first, seen = false, item.Revision
				if !yield(Event{Item: item, Found: found, Token: t}, nil) {
					return
				}
			}
			if _, err := k.g.WaitIndex(ctx, t.Number); err != nil {
				yield(Event{}, err)
				return
			}
		}
	}
}
