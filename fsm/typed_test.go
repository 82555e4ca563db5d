package fsm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/diarchy/diarchy/fsm"
)

type deposit struct {
	Account string
	Cents   int64
}

type account struct {
	fsm.Base
	fsm.Typed[deposit, int64]
	mu      sync.RWMutex
	balance map[string]int64
	ticked  int64
}

func newAccount() *account {
	a := &account{balance: map[string]int64{}}
	a.Handle, a.Locker = a.deposit, &a.mu
	return a
}

var errOverdrawn = errors.New("not enough money")

func (a *account) deposit(_ fsm.Entry, d deposit) (int64, error) {
	if a.balance[d.Account]+d.Cents < 0 {
		return a.balance[d.Account], errOverdrawn
	}
	a.balance[d.Account] += d.Cents
	return a.balance[d.Account], nil
}

func (a *account) Query(_ context.Context, q fsm.Query) ([]byte, error) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return fmt.Append(nil, a.balance[string(q.Data)]), nil
}

func apply(t *testing.T, m fsm.Machine, commands ...string) []fsm.Result {
	t.Helper()
	b := fsm.Batch{Time: 9}
	for i, c := range commands {
		b.Entries = append(b.Entries, fsm.Entry{Index: uint64(i + 1), Time: 9, Data: []byte(c)})
	}
	results := make([]fsm.Result, max(1, len(commands)))
	if err := m.Apply(t.Context(), b, results); err != nil {
		t.Fatalf("Apply: %v", err)
	}
	return results
}

func TestTypedComposesWithBaseAndAuthorsMethods(t *testing.T) {
	var m fsm.Machine = newAccount()
	got := apply(t, m, `{"Account":"a","Cents":5}`, `{"Account":"a","Cents":-9}`, `{"Account":"a","Cents":-1}`)
	want := []fsm.Result{{Value: []byte("5")}, {Err: "not enough money"}, {Value: []byte("4")}}
	for i := range want {
		if !bytes.Equal(got[i].Value, want[i].Value) || got[i].Err != want[i].Err {
			t.Errorf("result %d: got %q, %q, want %q, %q", i, got[i].Value, got[i].Err, want[i].Value, want[i].Err)
		}
	}
	if v, err := m.Query(t.Context(), fsm.Query{Data: []byte("a")}); err != nil || string(v) != "4" {
		t.Errorf("Query: %q, %v, want 4", v, err)
	}
	if _, err := m.Snapshot(t.Context()); !errors.Is(err, fsm.ErrUnsupported) {
		t.Errorf("Snapshot: %v, want ErrUnsupported from Base", err)
	}
}

func TestTypedRefusesWhatDoesNotDecode(t *testing.T) {
	for command, want := range map[string]string{
		``:                            "it is not JSON",
		`{"Account":`:                 "it is not JSON",
		`{"Account":"a"} x`:           "it is not JSON",
		"\x00\xff":                    "it is not JSON",
		`{"Account":"a","Cents":"x"}`: "its JSON does not fit",
		`[1]`:                         "its JSON does not fit",
	} {
		m := newAccount()
		r := apply(t, m, command)[0]
		if !strings.HasPrefix(r.Err, "the command is no fsm_test.deposit: "+want) {
			t.Errorf("%q: Err is %q, want %q in it", command, r.Err, want)
		}
		if len(m.balance) != 0 {
			t.Errorf("%q: it was executed", command)
		}
	}
}

func TestTypedWithOwnCodec(t *testing.T) {
	bad := errors.New("cannot say that")
	m := &struct {
		fsm.Base
		fsm.Typed[string, string]
	}{}
	m.Decode = func(b []byte) (string, error) {
		if len(b) == 0 {
			return "", errors.New("")
		}
		return string(b), nil
	}
	m.Encode = func(s string) ([]byte, error) {
		if s == "B" {
			return nil, bad
		}
		return []byte(s), nil
	}
	m.Handle = func(e fsm.Entry, s string) (string, error) { return strings.ToUpper(s), nil }
	got := apply(t, m, "a", "b", "")
	if string(got[0].Value) != "A" || got[0].Err != "" {
		t.Errorf("a: %q, %q", got[0].Value, got[0].Err)
	}
	if got[1].Value != nil || got[1].Err != bad.Error() {
		t.Errorf("an answer that does not encode: %q, %q", got[1].Value, got[1].Err)
	}
	if got[2].Err == "" {
		t.Error("an error without words looks like success")
	}
}

func TestTypedAnswerThatIsNoJSON(t *testing.T) {
	m := &struct {
		fsm.Base
		fsm.Typed[int, func()]
	}{}
	m.Handle = func(fsm.Entry, int) (func(), error) { return func() {}, nil }
	if r := apply(t, m, "1")[0]; r.Err != "the answer, a func(), cannot be written as JSON" {
		t.Errorf("Err is %q", r.Err)
	}
}

func TestTypedLost(t *testing.T) {
	m := newAccount()
	m.Handle = func(fsm.Entry, deposit) (int64, error) { return 0, fmt.Errorf("disk: %w", fsm.ErrLost) }
	err := m.Apply(t.Context(), fsm.Batch{Entries: []fsm.Entry{{Index: 1, Data: []byte(`{}`)}}}, make([]fsm.Result, 1))
	if !errors.Is(err, fsm.ErrLost) {
		t.Errorf("Apply: %v, want ErrLost", err)
	}
	if !m.mu.TryLock() {
		t.Error("the lock is still held")
	}
}

func TestTypedTicks(t *testing.T) {
	m := newAccount()
	m.Tick = func(now int64) { m.ticked = now }
	m.Due = func() int64 { return m.ticked + 100 }
	if r := apply(t, m, `{}`, `{}`); r[0].Due != 0 || r[1].Due != 100 {
		t.Errorf("Due after commands: %d, %d, want 0, 100", r[0].Due, r[1].Due)
	}
	if r := apply(t, m); m.ticked != 9 || r[0].Due != 109 {
		t.Errorf("a tick at 9 came at %d with due %d, want 109", m.ticked, r[0].Due)
	}
}

// A machine whose commands and answers are Go types, in JSON.
func ExampleTyped() {
	type add struct{ N int }
	var m struct {
		fsm.Base
		fsm.Typed[add, int]
		total int
	}
	m.Handle = func(_ fsm.Entry, c add) (int, error) {
		if c.N < 0 {
			return 0, errors.New("only forward")
		}
		m.total += c.N
		return m.total, nil
	}

	batch := fsm.Batch{Entries: []fsm.Entry{
		{Index: 1, Data: []byte(`{"N": 2}`)},
		{Index: 2, Data: []byte(`{"N": 40}`)},
		{Index: 3, Data: []byte(`{"N": -1}`)},
	}}
	results := make([]fsm.Result, len(batch.Entries))
	if err := m.Apply(context.Background(), batch, results); err != nil {
		fmt.Println("lost:", err)
	}
	for _, r := range results {
		fmt.Printf("%s %q\n", r.Value, r.Err)
	}
	// Output:
	// 2 ""
	// 42 ""
	//  "only forward"
}
