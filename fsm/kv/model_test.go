package kv_test

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/diarchy/diarchy/fsm"
	"github.com/diarchy/diarchy/fsm/kv"
)

// model is the machine as a plain map, from the words of the documentation and
// none of the machine's code.
type model struct {
	items map[string]kv.Item
	index uint64
	now   int64
}

func (m *model) get(key string) (kv.Item, bool) {
	it, ok := m.items[key]
	return it, ok && (it.Expires == 0 || it.Expires > m.now)
}

// An action is one operation, for the machine and for the model.
type action struct {
	op    kv.Op
	key   string
	value []byte
	ttl   time.Duration
	rev   uint64
	delta int64
}

func (a action) command() []byte {
	switch a.op {
	case kv.OpPut:
		return kv.Put(a.key, a.value, a.ttl)
	case kv.OpDelete:
		return kv.Delete(a.key)
	case kv.OpCAS:
		return kv.CAS(a.key, a.rev, a.value, a.ttl)
	case kv.OpDeleteIf:
		return kv.DeleteIf(a.key, a.rev)
	case kv.OpAppend:
		return kv.Append(a.key, a.value)
	case kv.OpAdd:
		return kv.Add(a.key, a.delta)
	default:
		return kv.GetQuery(a.key)
	}
}

// run does a on the model; refused tells of an application error.
func (m *model) run(a action) (o kv.Outcome, refused bool) {
	old, there := m.get(a.key)
	o = kv.Outcome{Op: a.op, OK: true, Revision: m.index}
	switch a.op {
	case kv.OpCAS, kv.OpDeleteIf:
		have := uint64(0)
		if there {
			have = old.Revision
		}
		if have != a.rev {
			return kv.Outcome{Op: a.op, Revision: have}, true
		}
		if a.op == kv.OpDeleteIf {
			delete(m.items, a.key)
			return kv.Outcome{Op: a.op, OK: true, Revision: have}, false
		}
		m.put(a)
	case kv.OpPut:
		m.put(a)
	case kv.OpDelete:
		delete(m.items, a.key)
		if !there {
			return kv.Outcome{Op: a.op}, false
		}
		o.Revision = old.Revision
	case kv.OpAppend:
		value := slices.Concat(old.Value, a.value)
		if !there {
			value, old.Expires = a.value, 0
		}
		m.items[a.key] = kv.Item{Key: a.key, Value: value, Revision: m.index, Expires: old.Expires}
		o.Number = int64(len(value))
	case kv.OpAdd:
		return m.add(a, old, there)
	case kv.OpGet:
		if !there {
			return kv.Outcome{Op: a.op}, false
		}
		o = kv.Outcome{Op: a.op, OK: true, Item: old}
	}
	return o, false
}

func (m *model) put(a action) {
	it := kv.Item{Key: a.key, Value: a.value, Revision: m.index}
	if a.ttl > 0 {
		it.Expires = m.now + int64(a.ttl)
	}
	m.items[a.key] = it
}

func (m *model) add(a action, old kv.Item, there bool) (kv.Outcome, bool) {
	n, expires := int64(0), int64(0)
	if there {
		var err error
		if n, err = strconv.ParseInt(string(old.Value), 10, 64); err != nil || fmt.Sprint(n) != string(old.Value) {
			return kv.Outcome{}, true
		}
		expires = old.Expires
	}
	if sum := float64(n) + float64(a.delta); math.Abs(sum) > 9e18 {
		return kv.Outcome{}, true
	}
	n += a.delta
	m.items[a.key] = kv.Item{Key: a.key, Value: fmt.Append(nil, n), Revision: m.index, Expires: expires}
	return kv.Outcome{Op: kv.OpAdd, OK: true, Revision: m.index, Number: n}, false
}

// transact runs ops, all or none.
func (m *model) transact(ok bool, ops []action) (kv.Outcome, bool) {
	o := kv.Outcome{Op: kv.OpTxn, OK: ok, Revision: m.index}
	before := maps.Clone(m.items)
	for _, a := range ops {
		r, refused := m.run(a)
		if refused {
			m.items = before
			return kv.Outcome{}, true
		}
		o.Results = append(o.Results, r)
	}
	return o, false
}

func (m *model) list(prefix, after string, limit int) (items []kv.Item, more bool) {
	for _, it := range m.items {
		if _, live := m.get(it.Key); live && strings.HasPrefix(it.Key, prefix) && (after == "" || it.Key > after) {
			items = append(items, it)
		}
	}
	slices.SortFunc(items, func(a, b kv.Item) int { return cmp.Compare(a.Key, b.Key) })
	if len(items) > limit {
		return items[:limit], true
	}
	return items, false
}

var (
	keys   = rapid.SampledFrom([]string{"a", "ab", "abc", "b", "b/1", "b/2", "ü", "\xff"})
	values = rapid.OneOf(rapid.SampledFrom([][]byte{{}, []byte("7"), []byte("-3"), []byte("07"), []byte("9000000000000000000")}),
		rapid.SliceOfN(rapid.Byte(), 0, 40))
	ttls = rapid.SampledFrom([]time.Duration{0, 0, 0, 1, time.Second, 5 * time.Second})
)

func (m *model) drawRevision(t *rapid.T, key string) uint64 {
	if it, ok := m.items[key]; ok && rapid.Bool().Draw(t, "right") {
		return it.Revision
	}
	return rapid.Uint64Range(0, m.index).Draw(t, "revision")
}

func (m *model) draw(t *rapid.T, ops ...kv.Op) action {
	a := action{op: rapid.SampledFrom(ops).Draw(t, "op"), key: keys.Draw(t, "key")}
	a.value, a.ttl = values.Draw(t, "value"), ttls.Draw(t, "ttl")
	a.rev = m.drawRevision(t, a.key)
	if a.op == kv.OpDeleteIf {
		a.rev = max(a.rev, 1)
	}
	a.delta = rapid.SampledFrom([]int64{1, -1, 10, 9e18, -9e18}).Draw(t, "delta")
	return a
}

var txnOps = []kv.Op{kv.OpPut, kv.OpDelete, kv.OpAppend, kv.OpAdd, kv.OpGet}

// step draws one command, runs it on the model, and returns what to expect.
func (m *model) step(t *rapid.T) (command []byte, want kv.Outcome, refused bool) {
	if rapid.IntRange(0, 4).Draw(t, "txn") > 0 {
		a := m.draw(t, append(txnOps, kv.OpCAS, kv.OpDeleteIf)...)
		want, refused = m.run(a)
		return a.command(), want, refused
	}
	var txn kv.Txn
	holds := true
	for range rapid.IntRange(0, 2).Draw(t, "guards") {
		key := keys.Draw(t, "guard key")
		it, there := m.get(key)
		switch rapid.IntRange(0, 3).Draw(t, "guard") {
		case 0:
			rev := m.drawRevision(t, key)
			txn.If = append(txn.If, kv.RevisionIs(key, rev))
			holds = holds && (there && it.Revision == rev || !there && rev == 0)
		case 1:
			value := values.Draw(t, "guard value")
			txn.If = append(txn.If, kv.ValueIs(key, value))
			holds = holds && there && bytes.Equal(it.Value, value)
		case 2:
			txn.If = append(txn.If, kv.Exists(key))
			holds = holds && there
		case 3:
			txn.If = append(txn.If, kv.Absent(key))
			holds = holds && !there
		}
	}
	var branches [2][]action
	for i := range branches {
		for range rapid.IntRange(0, 4).Draw(t, "operations") {
			branches[i] = append(branches[i], m.draw(t, txnOps...))
		}
	}
	for i, to := range []*[][]byte{&txn.Then, &txn.Else} {
		for _, a := range branches[i] {
			*to = append(*to, a.command())
		}
	}
	branch := branches[1]
	if holds {
		branch = branches[0]
	}
	want, refused = m.transact(holds, branch)
	return txn.Command(), want, refused
}

func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		machine := kv.New()
		m := &model{items: map[string]kv.Item{}, now: 1e18}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			m.now += rapid.SampledFrom([]int64{0, 1, 1e9, 4e9}).Draw(t, "time")
			if rapid.IntRange(0, 9).Draw(t, "tick") == 0 {
				tick(t, machine, m)
				continue
			}
			m.index++
			command, want, refused := m.step(t)
			result := run(t, machine, m.index, m.now, command)
			if (result.Err != "") != refused {
				t.Fatalf("command %d: Err is %q, want refused %v", m.index, result.Err, refused)
			}
			if want.Op != 0 {
				compareOutcome(t, result.Value, want)
			}
			compareLists(t, machine, m)
			if rapid.IntRange(0, 9).Draw(t, "restore") == 0 {
				machine = restored(t, machine)
			}
		}
	})
}

func tick(t *rapid.T, machine *kv.Machine, m *model) {
	results := make([]fsm.Result, 1)
	if err := machine.Apply(context.Background(), fsm.Batch{Time: m.now}, results); err != nil {
		t.Fatalf("tick: %v", err)
	}
	var due int64
	for _, it := range m.items {
		if _, live := m.get(it.Key); live && it.Expires != 0 && (due == 0 || it.Expires < due) {
			due = it.Expires
		}
	}
	if results[0].Due != due {
		t.Fatalf("after a tick at %d: due at %d, want %d", m.now, results[0].Due, due)
	}
}

type fataler interface {
	Helper()
	Fatalf(string, ...any)
}

func run(t fataler, machine *kv.Machine, index uint64, now int64, command []byte) fsm.Result {
	t.Helper()
	results := make([]fsm.Result, 1)
	b := fsm.Batch{Time: now, Entries: []fsm.Entry{{Index: index, Time: now, Data: command}}}
	if err := machine.Apply(context.Background(), b, results); err != nil {
		t.Fatalf("Apply: %v", err)
	}
	return results[0]
}

func compareOutcome(t fataler, value []byte, want kv.Outcome) {
	t.Helper()
	got, err := kv.DecodeOutcome(value)
	if err != nil {
		t.Fatalf("the answer does not decode: %v", err)
	}
	if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); g != w {
		t.Fatalf("the outcome is %s, want %s", g, w)
	}
}

func compareLists(t *rapid.T, machine *kv.Machine, m *model) {
	prefix := rapid.SampledFrom([]string{"", "a", "b/", "zz"}).Draw(t, "prefix")
	after := rapid.SampledFrom([]string{"", "a", "abb", "b/1"}).Draw(t, "after")
	limit := rapid.IntRange(1, 9).Draw(t, "limit")
	want, wantMore := m.list(prefix, after, limit)
	q := fsm.Query{Data: kv.ListQuery(kv.List{Prefix: prefix, After: after, Limit: limit}), Time: m.now}
	b, err := machine.Query(context.Background(), q)
	if err != nil {
		t.Fatalf("list: %v", err)
	}
	got, more, err := kv.DecodeList(b)
	if err != nil {
		t.Fatalf("list: %v", err)
	}
	if g, w := fmt.Sprintf("%+v %v", got, more), fmt.Sprintf("%+v %v", want, wantMore); g != w {
		t.Fatalf("list %q after %q limit %d: %s, want %s", prefix, after, limit, g, w)
	}
}

// restored is a copy by way of a snapshot, which has the same bytes and digest.
func restored(t fataler, machine *kv.Machine) *kv.Machine {
	t.Helper()
	first := written(t, machine)
	again := kv.New()
	if err := again.Restore(context.Background(), fsm.SnapshotInfo{}, bytes.NewReader(first)); err != nil {
		t.Fatalf("Restore: %v", err)
	}
	if second := written(t, again); !bytes.Equal(first, second) {
		t.Fatalf("the snapshot of the restored copy differs")
	}
	a, _ := machine.Digest(context.Background())
	b, _ := again.Digest(context.Background())
	if !bytes.Equal(a, b) {
		t.Fatalf("the digest of the restored copy is %x, want %x", b, a)
	}
	return again
}

func written(t fataler, machine *kv.Machine) []byte {
	t.Helper()
	s, err := machine.Snapshot(context.Background())
	if err != nil {
		t.Fatalf("Snapshot: %v", err)
	}
	defer s.Release()
	var b bytes.Buffer
	if _, err := s.WriteTo(&b); err != nil {
		t.Fatalf("WriteTo: %v", err)
	}
	return b.Bytes()
}
