package kv_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/diarchy/diarchy/fsm"
	"github.com/diarchy/diarchy/fsm/kv"
)

func TestParseCommand(t *testing.T) {
	for text, want := range map[string][]byte{
		"put k v":                          kv.Put("k", []byte("v"), 0),
		"  put\tk   v  ":                   kv.Put("k", []byte("v"), 0),
		"put k v ttl=1m30s":                kv.Put("k", []byte("v"), 90*time.Second),
		`put "a key" "two\nlines; \x00"`:   kv.Put("a key", []byte("two\nlines; \x00"), 0),
		`put k ""`:                         kv.Put("k", nil, 0),
		"put k ttl=1s":                     kv.Put("k", []byte("ttl=1s"), 0),
		"put k ttl=1s ttl=2s":              kv.Put("k", []byte("ttl=1s"), 2*time.Second),
		"delete k":                         kv.Delete("k"),
		"delete k rev=7":                   kv.DeleteIf("k", 7),
		"cas k 0 v":                        kv.CAS("k", 0, []byte("v"), 0),
		"cas k 9 v ttl=1s":                 kv.CAS("k", 9, []byte("v"), time.Second),
		"append k v":                       kv.Append("k", []byte("v")),
		"add k -12":                        kv.Add("k", -12),
		"get k":                            kv.GetQuery("k"),
		"txn then put a b":                 kv.Txn{Then: [][]byte{kv.Put("a", []byte("b"), 0)}}.Command(),
		"txn if absent a else get a":       kv.Txn{If: []kv.Guard{kv.Absent("a")}, Else: [][]byte{kv.GetQuery("a")}}.Command(),
		`txn if "if" a then delete "then"`: nil,
		"txn if rev a 3;exists b ; value c d then delete a; add n 1 else get a": kv.Txn{
			If:   []kv.Guard{kv.RevisionIs("a", 3), kv.Exists("b"), kv.ValueIs("c", []byte("d"))},
			Then: [][]byte{kv.Delete("a"), kv.Add("n", 1)}, Else: [][]byte{kv.GetQuery("a")}}.Command(),
	} {
		got, err := kv.ParseCommand(text)
		if want == nil {
			if !errors.Is(err, kv.ErrInvalid) {
				t.Errorf("%s: %q, %v, want ErrInvalid", text, got, err)
			}
			continue
		}
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %q, %v, want %q", text, got, err, want)
		}
	}
}

func TestParseErrorsSayWhatWasExpected(t *testing.T) {
	for text, want := range map[string]string{
		"":                            "expected a command",
		"fetch k":                     `unknown command "fetch"; expected one of:`,
		"put":                         "expected a key",
		"put k":                       "expected a value",
		"put k v w":                   `did not expect "w"`,
		"put k v ttl=soon":            "ttl=soon: expected a duration like 30s",
		"put k v ttl=-1s":             "expected a duration like 30s",
		`put "" v`:                    "the key is empty",
		`put "a\x00" v`:               "the key holds a NUL at byte 1",
		`put "k v`:                    `a string that begins with " does not end as one`,
		"cas k v w":                   `"v": expected a revision`,
		"delete k rev=0":              "delete-if needs a revision above 0",
		"add k 1.5":                   `"1.5": expected a whole number`,
		"txn":                         "a transaction needs then",
		"txn if exists a":             "a transaction needs then",
		"txn if older a then get a":   `unknown guard "older"`,
		"txn then cas a 1 b":          "cas cannot stand in a transaction: use a guard",
		"txn then delete a rev=4":     "rev= cannot stand in a transaction: use a guard",
		"txn then get a; ":            "expected a command",
		"txn then get a else get b c": `did not expect "c"`,
		"put ; v":                     "expected a key",
	} {
		_, err := kv.ParseCommand(text)
		if !errors.Is(err, kv.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q in it", text, err, want)
		}
	}
	for text, want := range map[string]string{
		"":             "expected get or list",
		"put k v":      `unknown query "put"`,
		"get":          "expected a key",
		"get k x":      `did not expect "x"`,
		"list p limit": `did not expect "limit"`, "list limit=0": "limit=0: expected a number from 1 to 10000",
		"list limit=99999": "expected a number from 1 to 10000",
	} {
		_, err := kv.ParseQuery(text)
		if !errors.Is(err, kv.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("query %q: %v, want %q in it", text, err, want)
		}
	}
}

func TestParseQuery(t *testing.T) {
	for text, want := range map[string][]byte{
		"get k":                       kv.GetQuery("k"),
		"list":                        kv.ListQuery(kv.List{}),
		"list p":                      kv.ListQuery(kv.List{Prefix: "p"}),
		"list keys":                   kv.ListQuery(kv.List{KeysOnly: true}),
		`list "keys" limit=2 after=x`: kv.ListQuery(kv.List{Prefix: "keys", Limit: 2, After: "x"}),
		"list limit=7 keys":           kv.ListQuery(kv.List{Limit: 7, KeysOnly: true}),
	} {
		if got, err := kv.ParseQuery(text); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %q, %v, want %q", text, got, err, want)
		}
	}
}

// A conversation as a person at a command line sees it.
func TestTextConversation(t *testing.T) {
	m := kv.New()
	index := uint64(0)
	for _, x := range []struct{ say, want string }{
		{"put k hello", "revision 1"},
		{"?get k", "hello (revision 1)"},
		{"?get none", "no such key"},
		{"cas k 0 x", "conflict: at revision 1"},
		{"cas none 4 x", "conflict: no such key"},
		{"append k \" you\"", "9 bytes (revision 4)"},
		{"add n 41", "41 (revision 5)"},
		{"put t \"\" ttl=1h", "revision 6"},
		{"?list", "k = \"hello you\" (revision 4)\nn = 41 (revision 5)\nt = \"\" (revision 6, expires 2001-09-09T02:46:40Z)"},
		{"?list limit=1", "k = \"hello you\" (revision 4)\nmore: list … after=k"},
		{"?list zzz", "nothing"},
		{"txn if exists k then add n 1; get none else delete n", "then (revision 7)\n  add: 42 (revision 7)\n  get: no such key"},
		{"txn if absent k then add n 1 else delete n; delete n", "else (revision 8)\n  delete: deleted (was revision 7)\n  delete: no such key"},
		{"delete k rev=4", "deleted (was revision 4)"},
	} {
		var value []byte
		if query, ok := strings.CutPrefix(x.say, "?"); ok {
			b, err := kv.ParseQuery(query)
			if err != nil {
				t.Fatal(err)
			}
			if value, err = m.Query(context.Background(), fsm.Query{Data: b, Time: now}); err != nil {
				t.Fatal(err)
			}
		} else {
			b, err := kv.ParseCommand(x.say)
			if err != nil {
				t.Fatal(err)
			}
			index++
			value = run(t, m, index, now, b).Value
		}
		if got := kv.FormatResult(value); got != x.want {
			t.Errorf("%s:\n%s\nwant:\n%s", x.say, got, x.want)
		}
	}
	if got := kv.FormatResult([]byte("no answer")); got != `"no answer"` {
		t.Errorf("bytes that are no answer: %s", got)
	}
}
