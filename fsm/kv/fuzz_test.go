package kv_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/diarchy/diarchy/fsm"
	"github.com/diarchy/diarchy/fsm/kv"
)

func seedCommands() [][]byte {
	txn := kv.Txn{If: []kv.Guard{kv.RevisionIs("a", 1), kv.ValueIs("b", []byte("2")), kv.Absent("c"), kv.Exists("a")},
		Then: [][]byte{kv.Put("a", []byte("x"), time.Second), kv.Add("b", 2)}, Else: [][]byte{kv.GetQuery("a"), kv.Delete("b")}}
	return [][]byte{
		kv.Put("a", []byte("1"), time.Minute), kv.Delete("a"), kv.CAS("a", 1, nil, 0), kv.DeleteIf("b", 2),
		kv.Append("a", []byte("tail")), kv.Add("b", -5), kv.GetQuery("a"), txn.Command(),
		kv.ListQuery(kv.List{Prefix: "a", After: "b", Limit: 3}), nil, {0}, {8, 255, 255, 3},
	}
}

// Any bytes as a command: two machines agree, the answer decodes, a refusal
// changes nothing, and CheckCommand says the same.
func FuzzCommand(f *testing.F) {
	for _, c := range seedCommands() {
		f.Add(c)
	}
	f.Fuzz(func(t *testing.T, command []byte) {
		var snapshots [2][]byte
		for i := range snapshots {
			m := kv.New()
			run(t, m, 1, now, kv.Put("a", []byte("1"), time.Second))
			run(t, m, 2, now, kv.Put("b", []byte("2"), 0))
			before := written(t, m)
			r := run(t, m, 3, now, command)
			snapshots[i] = written(t, m)
			if r.Err != "" && !bytes.Equal(before, snapshots[i]) {
				t.Errorf("refused (%s), yet it changed the state", r.Err)
			}
			if _, err := kv.DecodeOutcome(r.Value); err != nil && r.Err == "" {
				t.Errorf("the answer does not decode: %v", err)
			}
			if err := kv.CheckCommand(command); err != nil && r.Err == "" {
				t.Errorf("executed, yet CheckCommand says: %v", err)
			}
			restored(t, m)
		}
		if !bytes.Equal(snapshots[0], snapshots[1]) {
			t.Error("two machines differ")
		}
	})
}

func FuzzQuery(f *testing.F) {
	for _, c := range seedCommands() {
		f.Add(c)
	}
	m := kv.New()
	run(f, m, 1, now, kv.Put("a", []byte("1"), 0))
	f.Fuzz(func(t *testing.T, query []byte) {
		b, err := m.Query(context.Background(), fsm.Query{Data: query})
		if checked := kv.CheckQuery(query); (checked == nil) != (err == nil) {
			t.Errorf("Query: %v, CheckQuery: %v", err, checked)
		}
		if err != nil {
			if !errors.Is(err, kv.ErrInvalid) {
				t.Errorf("%v, want ErrInvalid", err)
			}
			return
		}
		_, _, errItem := kv.DecodeItem(b)
		_, _, errList := kv.DecodeList(b)
		if (errItem == nil) == (errList == nil) {
			t.Errorf("the answer is one to get (%v), or to list (%v)", errItem, errList)
		}
	})
}

// Any bytes as an answer: an error or a value, and something to show.
func FuzzAnswer(f *testing.F) {
	m := kv.New()
	for i, c := range seedCommands() {
		f.Add(run(f, m, uint64(i+1), now, c).Value)
	}
	for _, q := range [][]byte{kv.GetQuery("a"), kv.ListQuery(kv.List{}), kv.ListQuery(kv.List{Limit: 1})} {
		b, err := m.Query(context.Background(), fsm.Query{Data: q})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{9, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		_, errOutcome := kv.DecodeOutcome(b)
		_, _, errItem := kv.DecodeItem(b)
		_, _, errList := kv.DecodeList(b)
		for _, err := range []error{errOutcome, errItem, errList} {
			if err != nil && !errors.Is(err, kv.ErrInvalid) {
				t.Errorf("%v, want ErrInvalid", err)
			}
		}
		if errOutcome == nil && errList == nil {
			t.Error("an answer to a command and to list at once")
		}
		if kv.FormatResult(b) == "" && len(b) > 0 {
			t.Error("nothing to show")
		}
	})
}

// Any bytes as a snapshot: an error, or a state that writes a good one.
func FuzzRestore(f *testing.F) {
	m := kv.New()
	f.Add(written(f, m))
	for i, c := range seedCommands() {
		run(f, m, uint64(i+1), now, c)
		f.Add(written(f, m))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := kv.New()
		if err := m.Restore(context.Background(), fsm.SnapshotInfo{}, bytes.NewReader(b)); err == nil {
			restored(t, m)
		}
	})
}

func FuzzText(f *testing.F) {
	for _, s := range []string{
		"put k v", `put "a b" "" ttl=30s`, "delete k rev=3", "cas k 0 v ttl=1h", "append k v", "add k -5", "get k",
		"txn if exists a; rev b 3; value c d; absent e then put a b; add n 1 else get a; delete b", "txn then get a",
		"list", "list p after=q limit=5 keys", `put "unclosed`, "txn if", ";", "put ; b", "put k ttl=1s ttl=1s",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		command, err := kv.ParseCommand(s)
		if err == nil && kv.CheckCommand(command) != nil || err != nil && !errors.Is(err, kv.ErrInvalid) {
			t.Errorf("ParseCommand: %q, %v", command, err)
		}
		query, err := kv.ParseQuery(s)
		if err == nil && kv.CheckQuery(query) != nil || err != nil && !errors.Is(err, kv.ErrInvalid) {
			t.Errorf("ParseQuery: %q, %v", query, err)
		}
	})
}
