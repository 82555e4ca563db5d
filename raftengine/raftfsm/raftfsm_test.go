package raftfsm_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/diarchy/diarchy/fsm"
	"github.com/diarchy/diarchy/fsm/fsmtest"
	"github.com/diarchy/diarchy/raftengine/raftfsm"
)

func TestContract(t *testing.T) {
	suite := func(start func() (raft.FSM, raftfsm.Options)) func(*testing.T) {
		return func(t *testing.T) {
			factory := func(context.Context) (fsm.Machine, error) { return raftfsm.New(start()) }
			fsmtest.Run(t, factory, fsmtest.Options{
				Command: wordsCommand, Queries: [][]byte{nil, []byte("a"), []byte("b"), []byte("none")},
			})
		}
	}
	t.Run("FSM", suite(func() (raft.FSM, raftfsm.Options) {
		w := newWords()
		return w, raftfsm.Options{Name: "words", Query: w.query}
	}))
	t.Run("BatchingFSM", suite(func() (raft.FSM, raftfsm.Options) {
		w := newBatchedWords()
		return w, raftfsm.Options{Name: "words", Query: w.query}
	}))
	// One of raft's own, unchanged, without queries.
	t.Run("MockFSM", suite(func() (raft.FSM, raftfsm.Options) { return &raft.MockFSM{}, raftfsm.Options{} }))
}

// scripted does what its fields say.
type scripted struct {
	raft.FSM
	apply    func(*raft.Log) any
	snapshot func() (raft.FSMSnapshot, error)
	restore  func(io.ReadCloser) error
}

func (s *scripted) Apply(l *raft.Log) any               { return s.apply(l) }
func (s *scripted) Snapshot() (raft.FSMSnapshot, error) { return s.snapshot() }
func (s *scripted) Restore(r io.ReadCloser) error       { return s.restore(r) }

func start(t *testing.T, f raft.FSM, o raftfsm.Options) fsm.Machine {
	t.Helper()
	m, err := raftfsm.New(f, o)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func returning(v any) *scripted { return &scripted{apply: func(*raft.Log) any { return v }} }

func applyOne(t *testing.T, m fsm.Machine) fsm.Result {
	t.Helper()
	r := make([]fsm.Result, 1)
	if err := m.Apply(t.Context(), fsm.Batch{Entries: []fsm.Entry{{Index: 1}}}, r); err != nil {
		t.Fatalf("Apply: %v", err)
	}
	return r[0]
}

type ownError struct{ text string }

func (e *ownError) Error() string { return e.text }

func TestResults(t *testing.T) {
	const cannot = ", which JSON cannot say: return []byte, string, an error or a value for JSON, or set Options.EncodeResult"
	loop := map[string]any{}
	loop["self"] = loop
	for _, x := range []struct {
		returned   any
		value, err string
	}{
		{nil, "", ""},
		{[]byte("bytes"), "bytes", ""},
		{[]byte(nil), "", ""},
		{"text", "text", ""},
		{errors.New("no"), "", "no"},
		{fmt.Errorf("because: %w", io.EOF), "", "because: EOF"},
		{&ownError{""}, "", "refused with a *raftfsm_test.ownError without words"},
		{(*ownError)(nil), "", ""},
		{42, "42", ""},
		{true, "true", ""},
		{struct{ A, B int }{1, 2}, `{"A":1,"B":2}`, ""},
		{map[string]int{"b": 2, "a": 1}, `{"a":1,"b":2}`, ""},
		{json.RawMessage(`{"x": 1}`), `{"x":1}`, ""},
		{make(chan int), "", "raftfsm: the result is a chan int" + cannot},
		{func() {}, "", "raftfsm: the result is a func()" + cannot},
		{math.NaN(), "", "raftfsm: the result is a float64" + cannot},
		{loop, "", "raftfsm: the result is a map[string]interface {}" + cannot},
	} {
		r := applyOne(t, start(t, returning(x.returned), raftfsm.Options{}))
		if string(r.Value) != x.value || r.Err != x.err {
			t.Errorf("%T: value %q, error %q, want %q, %q", x.returned, r.Value, r.Err, x.value, x.err)
		}
	}
}

// An FSM may answer with a buffer that it fills again for the next command.
func TestResultIsCopied(t *testing.T) {
	buffer := make([]byte, 1)
	f := &scripted{apply: func(l *raft.Log) any {
		buffer[0] = '0' + byte(l.Index)
		return buffer
	}}
	r := make([]fsm.Result, 2)
	if err := start(t, f, raftfsm.Options{}).Apply(t.Context(), fsm.Batch{Entries: []fsm.Entry{{Index: 1}, {Index: 2}}}, r); err != nil {
		t.Fatal(err)
	}
	if string(r[0].Value) != "1" || string(r[1].Value) != "2" {
		t.Errorf("results %q, %q, want 1, 2", r[0].Value, r[1].Value)
	}
}

func TestOwnEncodeResult(t *testing.T) {
	encode := func(v any) ([]byte, error) {
		if v == 7 {
			return nil, errors.New("not seven")
		}
		return fmt.Append(nil, "<", v, ">"), nil
	}
	for _, x := range []struct {
		returned   any
		value, err string
	}{{"x", "<x>", ""}, {7, "", "not seven"}, {nil, "", ""}, {errors.New("no"), "", "no"}} {
		r := applyOne(t, start(t, returning(x.returned), raftfsm.Options{EncodeResult: encode}))
		if string(r.Value) != x.value || r.Err != x.err {
			t.Errorf("%v: value %q, error %q, want %q, %q", x.returned, r.Value, r.Err, x.value, x.err)
		}
	}
}

func TestLogOfAnEntry(t *testing.T) {
	var got []raft.Log
	f := &scripted{apply: func(l *raft.Log) any {
		got = append(got, *l)
		return nil
	}}
	at := time.Date(2030, 1, 2, 3, 4, 5, 6, time.UTC)
	data := []byte("data")
	b := fsm.Batch{Entries: []fsm.Entry{{Index: 8, Time: at.UnixNano(), Data: data}, {Index: 9, Time: at.UnixNano() + 1}}}
	if err := start(t, f, raftfsm.Options{}).Apply(t.Context(), b, make([]fsm.Result, 2)); err != nil {
		t.Fatal(err)
	}
	copy(data, "XXXX") // the host takes it back
	want := raft.Log{Index: 8, Term: 1, Type: raft.LogCommand, Data: []byte("data"), AppendedAt: at}
	if fmt.Sprintf("%+v", got[0]) != fmt.Sprintf("%+v", want) {
		t.Errorf("the Log is %+v, want %+v", got[0], want)
	}
	if where := got[0].AppendedAt.Location(); where != time.UTC {
		t.Errorf("AppendedAt is in %v: an FSM that formats it would differ from one replica to the next", where)
	}
	if got[1].Index != 9 || got[1].Data == nil || len(got[1].Data) != 0 || got[1].AppendedAt.Sub(at) != 1 {
		t.Errorf("the second Log is %+v", got[1])
	}
}

func TestBatchesGoToBatchingFSM(t *testing.T) {
	w := newBatchedWords()
	m := start(t, w, raftfsm.Options{})
	b := fsm.Batch{Entries: []fsm.Entry{{Index: 1, Data: []byte("set a 1")}, {Index: 2, Data: []byte("set a 2")}, {Index: 3, Data: []byte("x")}}}
	r := make([]fsm.Result, 3)
	if err := m.Apply(t.Context(), b, r); err != nil {
		t.Fatal(err)
	}
	if len(w.batches) != 1 || w.batches[0] != 3 {
		t.Errorf("the FSM had batches of %v, want one of 3", w.batches)
	}
	if string(r[1].Value) != "1" || r[2].Err != "no such command" {
		t.Errorf("results %+v", r)
	}
}

// short answers too little.
type short struct{ batchedWords }

func (s *short) ApplyBatch(logs []*raft.Log) []any { return make([]any, len(logs)-1) }

func TestShortAnswerLosesTheMachine(t *testing.T) {
	err := start(t, &short{}, raftfsm.Options{}).Apply(t.Context(), fsm.Batch{Entries: make([]fsm.Entry, 3)}, make([]fsm.Result, 3))
	if err == nil || !strings.Contains(err.Error(), "answered 2 of 3 commands") {
		t.Errorf("Apply: %v", err)
	}
}

func TestConfigurationStoreIsRefused(t *testing.T) {
	_, err := raftfsm.New(&raft.MockFSMConfigStore{FSM: &raft.MockFSM{}}, raftfsm.Options{})
	if !errors.Is(err, raftfsm.ErrConfigurationStore) || !strings.Contains(err.Error(), "leave StoreConfiguration out") {
		t.Errorf("New: %v, want the reason and what to do", err)
	}
	if _, err := raftfsm.New(nil, raftfsm.Options{}); err == nil {
		t.Error("no FSM at all is taken")
	}
}

// persisted is a raft.FSMSnapshot that does what persist says.
type persisted struct {
	persist  func(raft.SnapshotSink) error
	released int
}

func (p *persisted) Persist(s raft.SnapshotSink) error { return p.persist(s) }
func (p *persisted) Release()                          { p.released++ }

func TestPersist(t *testing.T) {
	full := iotestWriter{err: errors.New("disk full")}
	for name, x := range map[string]struct {
		to      io.Writer
		persist func(raft.SnapshotSink) error
		want    string // of the error
	}{
		"closes": {io.Discard, func(s raft.SnapshotSink) error {
			defer s.Cancel()
			_, err := s.Write([]byte("abc"))
			return errors.Join(err, s.Close())
		}, ""},
		"does not close": {io.Discard, func(s raft.SnapshotSink) error {
			_, err := io.WriteString(s, "abc")
			return err
		}, ""},
		"has no id": {io.Discard, func(s raft.SnapshotSink) error {
			if s.ID() == "" {
				return errors.New("empty id")
			}
			_, err := io.WriteString(s, "abc")
			return err
		}, ""},
		"fails": {io.Discard, func(raft.SnapshotSink) error { return errors.New("cannot") }, "cannot"},
		"cancels and says nothing": {io.Discard, func(s raft.SnapshotSink) error { return s.Cancel() },
			"raftfsm: the FSM cancelled its snapshot"},
		"writes after Close": {io.Discard, func(s raft.SnapshotSink) error {
			_ = s.Close()
			_, err := s.Write([]byte("abc"))
			return err
		}, "raftfsm: the snapshot is closed"},
		"overlooks a full disk": {full, func(s raft.SnapshotSink) error {
			_, _ = s.Write([]byte("abc"))
			return s.Close()
		}, "disk full"},
	} {
		p := &persisted{persist: x.persist}
		m := start(t, &scripted{snapshot: func() (raft.FSMSnapshot, error) { return p, nil }}, raftfsm.Options{})
		s, err := m.Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		n, err := s.WriteTo(x.to)
		if x.want == "" && (err != nil || n != 3) || x.want != "" && (err == nil || err.Error() != x.want) {
			t.Errorf("%s: %d bytes, %v, want %q", name, n, err, x.want)
		}
		s.Release()
		s.Release()
		if p.released != 1 {
			t.Errorf("%s: released %d times", name, p.released)
		}
	}
}

type iotestWriter struct{ err error }

func (w iotestWriter) Write([]byte) (int, error) { return 0, w.err }

func TestSnapshotThatCannotBeTaken(t *testing.T) {
	for name, f := range map[string]func() (raft.FSMSnapshot, error){
		"an error": func() (raft.FSMSnapshot, error) { return nil, errors.New("not now") },
		"nothing":  func() (raft.FSMSnapshot, error) { return nil, nil },
	} {
		if s, err := start(t, &scripted{snapshot: f}, raftfsm.Options{}).Snapshot(t.Context()); err == nil || s != nil {
			t.Errorf("%s: %v, %v, want an error alone", name, s, err)
		}
	}
}

func TestRestoreTellsOfDamageThatTheFSMOverlooks(t *testing.T) {
	damage := errors.New("checksum differs")
	damaged := func() io.Reader { return io.MultiReader(strings.NewReader("state"), iotest.ErrReader(damage)) }
	for name, f := range map[string]func(io.ReadCloser) error{
		"stops before it": func(r io.ReadCloser) error {
			_, err := io.ReadFull(r, make([]byte, 5))
			return errors.Join(err, r.Close())
		},
		"reads on and says nothing": func(r io.ReadCloser) error {
			_, _ = io.ReadAll(r)
			return nil
		},
		"passes it on": func(r io.ReadCloser) error {
			_, err := io.ReadAll(r)
			return err
		},
	} {
		err := start(t, &scripted{restore: f}, raftfsm.Options{}).Restore(t.Context(), fsm.SnapshotInfo{}, damaged())
		if !errors.Is(err, damage) {
			t.Errorf("an FSM that %s: %v, want the damage", name, err)
		}
	}
}

func TestRestoreOfAnotherMachine(t *testing.T) {
	m := start(t, newWords(), raftfsm.Options{Name: "words"})
	err := m.Restore(t.Context(), fsm.SnapshotInfo{Name: "numbers"}, bytes.NewReader(nil))
	if err == nil || !strings.Contains(err.Error(), `"numbers"`) {
		t.Errorf("Restore: %v", err)
	}
}

func TestOpenQueryClose(t *testing.T) {
	closing := errors.New("closing")
	m := start(t, newWords(), raftfsm.Options{Name: "words", Version: "3", Close: func() error { return closing }})
	if o, err := m.Open(t.Context()); err != nil || o.Name != "words" || o.Version != "3" || o.Capabilities != (fsm.Capabilities{}) {
		t.Errorf("Open: %+v, %v", o, err)
	}
	if _, err := m.Query(t.Context(), fsm.Query{}); !errors.Is(err, fsm.ErrUnsupported) {
		t.Errorf("Query without Options.Query: %v", err)
	}
	if err := m.Close(); !errors.Is(err, closing) {
		t.Errorf("Close: %v", err)
	}
	if err := start(t, newWords(), raftfsm.Options{}).Close(); err != nil {
		t.Errorf("Close without Options.Close: %v", err)
	}
}
