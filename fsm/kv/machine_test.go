package kv_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/diarchy/diarchy/fsm"
	"github.com/diarchy/diarchy/fsm/kv"
)

const now = int64(1e18)

// script runs commands one after another and returns the results.
func script(t *testing.T, m *kv.Machine, commands ...[]byte) []fsm.Result {
	t.Helper()
	var results []fsm.Result
	for i, c := range commands {
		results = append(results, run(t, m, uint64(i+1), now, c))
	}
	return results
}

func get(t *testing.T, m *kv.Machine, key string, at int64) (kv.Item, bool) {
	t.Helper()
	b, err := m.Query(context.Background(), fsm.Query{Data: kv.GetQuery(key), Time: at})
	if err != nil {
		t.Fatalf("get %q: %v", key, err)
	}
	item, found, err := kv.DecodeItem(b)
	if err != nil {
		t.Fatalf("get %q: %v", key, err)
	}
	return item, found
}

func TestRefusals(t *testing.T) {
	long, huge := strings.Repeat("k", kv.MaxKeyBytes), make([]byte, kv.MaxValueBytes)
	nest := kv.Txn{Then: [][]byte{kv.Txn{}.Command()}}
	many := kv.Txn{Then: make([][]byte, kv.MaxTxnParts+1)}
	for i := range many.Then {
		many.Then[i] = kv.Delete("k")
	}
	for name, x := range map[string]struct {
		command []byte
		want    string // "" for none
	}{
		"empty command":         {nil, "kv: the command is empty"},
		"text":                  {[]byte("put a b"), "kv: unknown command code 0x70 (text is not a command; kv.ParseCommand makes one of it)"},
		"unknown code":          {[]byte{200}, "kv: unknown command code 0xc8"},
		"empty key":             {kv.Put("", nil, 0), "kv: the key is empty"},
		"NUL in key":            {kv.Put("a\x00b", nil, 0), "kv: the key holds a NUL at byte 1"},
		"longest key":           {kv.Put(long, nil, 0), ""},
		"longer key":            {kv.Put(long+"k", nil, 0), "kv: the key has 4097 bytes, more than 4096"},
		"largest value":         {kv.Put("a", huge, 0), ""},
		"larger value":          {kv.Put("a", append(huge, 0), 0), "kv: the value has 1040385 bytes, more than 1040384"},
		"append over the limit": {kv.Append("full", []byte("x")), `kv: append to "full": the value would have 1040385 bytes, more than 1040384`},
		"negative ttl":          {kv.Put("a", nil, -time.Second), "kv: the ttl is negative or over 100 years"},
		"longest ttl":           {kv.Put("a", nil, kv.MaxTTL), ""},
		"longer ttl":            {kv.Put("a", nil, kv.MaxTTL+1), "kv: the ttl is negative or over 100 years"},
		"cut short":             {kv.Put("a", []byte("xyz"), 0)[:5], "kv: a length says more than there is"},
		"something behind":      {append(kv.Delete("a"), 0), "kv: something follows its end"},
		"delete-if 0":           {kv.DeleteIf("a", 0), "kv: delete-if needs a revision above 0"},
		"list as a command":     {kv.ListQuery(kv.List{}), "kv: list is a query, not a command"},
		"add to text":           {kv.Add("text", 1), `kv: add to "text": its value is no number`},
		"add beyond 64 bits":    {kv.Add("max", 1), `kv: add to "max": 9223372036854775807 and 1 is out of range`},
		"add within 64 bits":    {kv.Add("max", math.MinInt64), ""},
		"cas, other revision":   {kv.CAS("text", 77, nil, 0), `kv: conflict: key "text" is at revision 2, expected at 77`},
		"cas, there is one":     {kv.CAS("text", 0, nil, 0), `kv: conflict: key "text" exists at revision 2, expected not to`},
		"cas, there is none":    {kv.CAS("none", 5, nil, 0), `kv: conflict: key "none" does not exist, expected at revision 5`},
		"nested transaction":    {nest.Command(), "kv: txn cannot stand in a transaction"},
		"cas in a transaction":  {kv.Txn{Else: [][]byte{kv.CAS("a", 1, nil, 0)}}.Command(), "kv: cas cannot stand in a transaction: use a guard on the revision"},
		"empty key in a guard":  {kv.Txn{If: []kv.Guard{kv.Exists("")}}.Command(), "kv: the key is empty"},
		"unmade guard":          {kv.Txn{If: make([]kv.Guard, 1)}.Command(), "kv: the key is empty"},
		"large transaction":     {many.Command(), "kv: the transaction has 1025 operations, more than 1024"},
		"empty transaction":     {kv.Txn{}.Command(), ""},
		"failing transaction": {kv.Txn{Then: [][]byte{kv.Delete("text"), kv.Add("full", 1)}}.Command(),
			`kv: transaction undone: operation 2 of 2: add to "full": its value is no number`},
		"long answer": {kv.Txn{Then: [][]byte{kv.GetQuery("full"), kv.GetQuery("full")}}.Command(),
			"kv: transaction undone: operation 2 of 2: the answer would have more than 1048512 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			m := kv.New()
			script(t, m, kv.Put("full", huge, 0), kv.Put("text", []byte("hello"), 0), kv.Add("max", math.MaxInt64))
			before := written(t, m)
			r := run(t, m, 9, now, x.command)
			if r.Err != x.want {
				t.Errorf("Err is %q, want %q", r.Err, x.want)
			}
			if x.want != "" && !bytes.Equal(before, written(t, m)) {
				t.Error("it changed the state")
			}
			if err := kv.CheckCommand(x.command); err != nil && (!errors.Is(err, kv.ErrInvalid) || x.want == "") {
				t.Errorf("CheckCommand: %v", err)
			}
		})
	}
}

func TestEmptyValueIsNotAbsent(t *testing.T) {
	m := kv.New()
	script(t, m, kv.Put("empty", nil, 0))
	if it, found := get(t, m, "empty", now); !found || len(it.Value) != 0 || it.Revision != 1 {
		t.Errorf("an empty value: found %v, %+v", found, it)
	}
	if _, found := get(t, m, "absent", now); found {
		t.Error("a key that was never written is found")
	}
}

func TestConflictTellsTheRevision(t *testing.T) {
	m := kv.New()
	r := script(t, m, kv.Put("k", nil, 0), kv.CAS("k", 9, nil, 0), kv.DeleteIf("k", 9), kv.DeleteIf("k", 1))
	for i, want := range []struct {
		conflict bool
		revision uint64
	}{{false, 1}, {true, 1}, {true, 1}, {false, 1}} {
		o, err := kv.DecodeOutcome(r[i].Value)
		if err != nil || o.Conflict() != want.conflict || o.Revision != want.revision {
			t.Errorf("command %d: %+v, %v, want conflict %v at revision %d", i+1, o, err, want.conflict, want.revision)
		}
	}
}

func TestExpiry(t *testing.T) {
	m := kv.New()
	r := run(t, m, 1, now, kv.Put("k", []byte("v"), time.Second))
	if r.Due != now+1e9 {
		t.Errorf("due at %d, want %d", r.Due, now+1e9)
	}
	if _, found := get(t, m, "k", now+1e9-1); !found {
		t.Error("not found before it expires")
	}
	if _, found := get(t, m, "k", now+1e9); found {
		t.Error("found when it has expired, by the time of the query")
	}
	// The time of the command counts: this one comes too late.
	if r := run(t, m, 2, now+1e9, kv.CAS("k", 1, nil, 0)); !strings.Contains(r.Err, "does not exist") {
		t.Errorf("cas of an expired key: %q", r.Err)
	}
	run(t, m, 3, now+1e9, kv.Put("k", nil, time.Second))
	run(t, m, 4, now+1e9, kv.Append("k", []byte("x")))
	if it, _ := get(t, m, "k", now+1e9); it.Expires != now+2e9 {
		t.Errorf("append moved the expiry to %d", it.Expires)
	}
	if r := run(t, m, 5, now+1e9, kv.Put("k", nil, 0)); r.Due != 0 {
		t.Errorf("put without ttl: due at %d", r.Due)
	}
}

func TestExpiryOddTimes(t *testing.T) {
	for _, x := range []struct{ now, want int64 }{
		{-5, 1},                            // would come to 0, which is never
		{math.MaxInt64 - 1, math.MaxInt64}, // would wrap around
		{math.MinInt64, math.MinInt64 + 5},
	} {
		m := kv.New()
		if r := run(t, m, 1, x.now, kv.Put("k", nil, 5)); r.Due != x.want {
			t.Errorf("written at %d with ttl 5: due at %d, want %d", x.now, r.Due, x.want)
		}
	}
}

// A great many that expire together are swept away bit by bit, and none of them
// is seen meanwhile.
func TestSweepIsBounded(t *testing.T) {
	const n = 5000
	m := kv.New()
	for i := range n {
		run(t, m, uint64(i+1), now, kv.Put(fmt.Sprint("k", i), nil, time.Second))
	}
	later := now + 2e9
	if r := run(t, m, n+1, later, kv.Put("last", nil, 0)); r.Due != now+1e9 {
		t.Fatalf("after one command on %d expired items: due at %d, want %d: there is more to sweep", n, r.Due, now+1e9)
	}
	for i := range n {
		if _, found := get(t, m, fmt.Sprint("k", i), later); found {
			t.Fatalf("k%d is found after it has expired", i)
		}
	}
	b, err := m.Query(context.Background(), fsm.Query{Data: kv.ListQuery(kv.List{Limit: 10}), Time: later})
	if err != nil {
		t.Fatal(err)
	}
	if items, more, _ := kv.DecodeList(b); len(items) != 1 || more {
		t.Errorf("list shows %d items, more %v, want last alone", len(items), more)
	}
	if r := run(t, m, n+2, later, kv.CAS("k4999", 0, nil, 0)); r.Err != "" {
		t.Errorf("an expired key cannot be created: %s", r.Err)
	}
	results := make([]fsm.Result, 1)
	for range n {
		if err := m.Apply(context.Background(), fsm.Batch{Time: later}, results); err != nil {
			t.Fatal(err)
		}
		if results[0].Due == 0 {
			break
		}
	}
	fresh := kv.New()
	run(t, fresh, n+1, later, kv.Put("last", nil, 0))
	run(t, fresh, n+2, later, kv.CAS("k4999", 0, nil, 0))
	if !bytes.Equal(written(t, m), written(t, fresh)) {
		t.Error("ticks have not swept all of them away")
	}
}

func TestListStaysWithinAnAnswer(t *testing.T) {
	m := kv.New()
	value := make([]byte, 100<<10)
	for i := range 25 {
		run(t, m, uint64(i+1), now, kv.Put(fmt.Sprintf("k%02d", i), value, 0))
	}
	var seen []string
	for after, more := "", true; more; {
		b, err := m.Query(context.Background(), fsm.Query{Data: kv.ListQuery(kv.List{Prefix: "k", After: after})})
		if err != nil || len(b) > 1<<20 {
			t.Fatalf("list after %q: %d bytes, %v", after, len(b), err)
		}
		var items []kv.Item
		if items, more, err = kv.DecodeList(b); err != nil {
			t.Fatal(err)
		}
		for _, it := range items {
			seen, after = append(seen, it.Key), it.Key
		}
	}
	if len(seen) != 25 || seen[0] != "k00" || seen[24] != "k24" {
		t.Errorf("continued lists show %v", seen)
	}
}

// Appends write behind the ends of older values, never into them.
func TestAppendLeavesSnapshotsAndAnswersAlone(t *testing.T) {
	m := kv.New()
	script(t, m, kv.Append("k", []byte("one ")), kv.Append("k", []byte("two ")))
	before, err := m.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer before.Release()
	done := make(chan string)
	go func() {
		var b bytes.Buffer
		_, err := before.WriteTo(&b)
		done <- fmt.Sprint(b.String(), err)
	}()
	// Undone, and the room used again.
	run(t, m, 3, now, kv.Txn{Then: [][]byte{kv.Append("k", []byte("undone")), kv.Add("k", 1)}}.Command())
	for i := range uint64(100) {
		run(t, m, 4+i, now, kv.Append("k", []byte("x")))
	}
	if got := <-done; !strings.Contains(got, "one two ") || strings.Contains(got, "x") {
		t.Errorf("the snapshot holds %q", got)
	}
	if it, _ := get(t, m, "k", now); string(it.Value) != "one two "+strings.Repeat("x", 100) {
		t.Errorf("the value is %q", it.Value)
	}
}

func TestEqualStatesByOtherWays(t *testing.T) {
	a, b := kv.New(), kv.New()
	script(t, a, kv.Put("x", []byte("1"), 0), kv.Put("y", []byte("2"), 0), kv.Delete("x"), kv.Put("z", nil, 0))
	run(t, b, 4, now, kv.Put("z", nil, 0))
	run(t, b, 2, now, kv.Put("y", []byte("2"), 0))
	if !bytes.Equal(written(t, a), written(t, b)) {
		t.Error("equal states, other snapshots")
	}
	da, _ := a.Digest(t.Context())
	db, _ := b.Digest(t.Context())
	if !bytes.Equal(da, db) {
		t.Errorf("equal states, other digests: %x, %x", da, db)
	}
	// Values that change places are another state, with another digest.
	c := kv.New()
	run(t, c, 4, now, kv.Put("y", nil, 0))
	run(t, c, 2, now, kv.Put("z", []byte("2"), 0))
	if dc, _ := c.Digest(t.Context()); bytes.Equal(da, dc) {
		t.Error("values changed places, same digest")
	}
}

func TestQueryRefusals(t *testing.T) {
	m := kv.New()
	for name, q := range map[string][]byte{
		"empty": nil, "text": []byte("get k"), "a command": kv.Put("k", nil, 0), "a transaction": kv.Txn{}.Command(),
		"NUL in key": kv.GetQuery("a\x00"), "empty key": kv.GetQuery(""), "NUL in prefix": kv.ListQuery(kv.List{Prefix: "\x00"}),
		"limit too large": kv.ListQuery(kv.List{Limit: kv.MaxListItems + 1}),
	} {
		if _, err := m.Query(t.Context(), fsm.Query{Data: q}); !errors.Is(err, kv.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
		if err := kv.CheckQuery(q); !errors.Is(err, kv.ErrInvalid) {
			t.Errorf("%s: CheckQuery: %v, want ErrInvalid", name, err)
		}
	}
}

func TestRestoreRefuses(t *testing.T) {
	m := kv.New()
	script(t, m, kv.Put("a", []byte("1"), time.Hour), kv.Put("b", []byte("2"), 0))
	good := written(t, m)
	swapped := bytes.ReplaceAll(bytes.Clone(good), []byte{1, 'a', 1, '1'}, []byte{1, 'c', 1, '1'})
	newer := bytes.Clone(good)
	newer[3]++
	for name, x := range map[string]struct {
		b    []byte
		want string
	}{
		"empty":               {nil, "unexpected EOF"},
		"of something else":   {[]byte("PK\x03\x04 and so on"), "does not begin as one of kv"},
		"newer format":        {newer, "format is version 2, this is version 1"},
		"something behind it": {append(bytes.Clone(good), 0), "something follows its end"},
		"keys out of order":   {swapped, `not in order at "b"`},
		"huge length":         {[]byte("dkv\x01\x01\xff\xff\xff\xff\x0f"), "where at most 4096 can be"},
	} {
		err := kv.New().Restore(t.Context(), fsm.SnapshotInfo{}, bytes.NewReader(x.b))
		if err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v, want %q in it", name, err, x.want)
		}
	}
	for n := range good {
		if err := kv.New().Restore(t.Context(), fsm.SnapshotInfo{}, bytes.NewReader(good[:n])); err == nil {
			t.Errorf("the first %d of %d bytes are taken for a snapshot", n, len(good))
		}
	}
	err := kv.New().Restore(t.Context(), fsm.SnapshotInfo{Name: "other"}, bytes.NewReader(good))
	if err == nil || !strings.Contains(err.Error(), `"other"`) {
		t.Errorf("a snapshot of another machine: %v", err)
	}
	broken := io.MultiReader(bytes.NewReader(good), iotest.ErrReader(io.ErrClosedPipe))
	if err := kv.New().Restore(t.Context(), fsm.SnapshotInfo{}, broken); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a reader that fails at the end: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := kv.New().Restore(ended, fsm.SnapshotInfo{}, bytes.NewReader(good)); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
}

// The bytes are a contract: clients and logs outlive a version.
func TestGoldenBytes(t *testing.T) {
	txn := kv.Txn{If: []kv.Guard{kv.RevisionIs("k", 300), kv.ValueIs("k", []byte("v")), kv.Exists("k"), kv.Absent("k")},
		Then: [][]byte{kv.GetQuery("k")}, Else: [][]byte{kv.Delete("k")}}
	for _, x := range []struct {
		name string
		got  []byte
		want string
	}{
		{"put", kv.Put("k", []byte("v"), time.Microsecond), "\x01\x01k\xe8\x07\x01v"},
		{"delete", kv.Delete("k"), "\x02\x01k"},
		{"cas", kv.CAS("k", 300, []byte("v"), 0), "\x03\x01k\xac\x02\x00\x01v"},
		{"delete-if", kv.DeleteIf("k", 300), "\x04\x01k\xac\x02"},
		{"append", kv.Append("k", []byte("v")), "\x05\x01k\x01v"},
		{"add", kv.Add("k", -3), "\x06\x01k\x05"},
		{"get", kv.GetQuery("k"), "\x07\x01k"},
		{"txn", txn.Command(), "\x08\x04\x01\x01k\xac\x02\x02\x01k\x01v\x03\x01k\x04\x01k\x01\x07\x01k\x01\x02\x01k"},
		{"list", kv.ListQuery(kv.List{Prefix: "p", After: "pa", Limit: 300, KeysOnly: true}), "\x09\x01p\x02pa\xac\x02\x01"},
	} {
		if string(x.got) != x.want {
			t.Errorf("%s: %q, want %q", x.name, x.got, x.want)
		}
	}
	m := kv.New()
	r := script(t, m, kv.Put("k", []byte("v"), 0), kv.Append("k", []byte("w")), kv.GetQuery("k"), kv.Txn{Then: [][]byte{kv.Delete("k"), kv.Add("n", -3)}}.Command())
	for i, want := range []string{"\x01\x01\x01", "\x05\x01\x02\x04", "\x07\x01\x01k\x02vw\x02\x00", "\x08\x01\x04\x02\x02\x01\x02\x06\x01\x04\x05"} {
		if string(r[i].Value) != want {
			t.Errorf("answer %d: %q, want %q", i+1, r[i].Value, want)
		}
	}
	if got := written(t, m); string(got) != "dkv\x01\x01\x01n\x02-3\x04\x00" {
		t.Errorf("snapshot: %q", got)
	}
	if d, _ := m.Digest(t.Context()); fmt.Sprintf("%x", d) != goldenDigest {
		t.Errorf("digest: %x, want %s: replicas of two versions would seem to differ", d, goldenDigest)
	}
}

const goldenDigest = "0000000000000001dc2b40de93264e97"
