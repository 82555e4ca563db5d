package discovery

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/diarchy/diarchy/framework"
)

func mustKeys(t *testing.T, keys ...string) [][]byte {
	t.Helper()
	var out [][]byte
	for _, k := range keys {
		b, err := ParseKey(k)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, b)
	}
	return out
}

func TestLoadKeys(t *testing.T) {
	k1, k2 := Keygen(), Keygen()
	if k1 == k2 || len(mustKeys(t, k1)[0]) != 32 {
		t.Fatalf("Keygen gave %d bytes", len(mustKeys(t, k1)[0]))
	}
	path := filepath.Join(t.TempDir(), "key")
	write := func(s string) string { writeFile(t, path, s); return path }
	for _, c := range []struct{ name, encrypt, file, says string }{
		{"both", k1, write(k1), "both set"},
		{"not base64", "hello world!", "", "encrypt: not base64"},
		{"wrong length", "aGVsbG8=", "", "5 bytes: a gossip key has 16, 24 or 32"},
		{"no such file", "", path + "x", "no such file"},
	} {
		if keys, err := LoadKeys(c.encrypt, c.file); keys != nil || err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, %v; expected %q", c.name, keys, err, c.says)
		}
	}
	for text, says := range map[string]string{
		"":                                 "holds no key",
		"# only words\n":                   "holds no key",
		k1 + "\nabc\n":                     "line 2: not base64",
		strings.Repeat("#", 65<<10) + "\n": "far too long",
	} {
		_, err := LoadKeys("", write(text))
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%.20q: %v; expected %q", text, err, says)
		}
		if err != nil && strings.Contains(err.Error(), k1) {
			t.Errorf("the error shows a key: %v", err)
		}
	}
	keys, err := LoadKeys("", write("# the new one first\n"+k2+"\n\n"+k1+" # old\n"))
	if want := mustKeys(t, k2, k1); err != nil || fmt.Sprint(keys) != fmt.Sprint(want) {
		t.Errorf("two keys: %v, %v", keys, err)
	}
	if keys, err := LoadKeys("", ""); keys != nil || err != nil {
		t.Errorf("no keys: %v, %v", keys, err)
	}
	if _, err := LoadKeys("aGVsbG8=", ""); !errors.Is(err, framework.ErrInvalid) {
		t.Errorf("a bad key is %v, expected ErrInvalid", err)
	}
}

// refusedSome waits until a pool has refused something for a reason.
func refusedSome(t *testing.T, p *Pool, reason string) {
	t.Helper()
	eventually(t, p.cfg.Name+" has refused something because of "+reason, func() (bool, string) {
		return figure(t, p.met.refused[reason]) > 0, "0"
	})
}

// stayApart waits until each of two has tried the other twice.
func stayApart(t *testing.T, a, b *Pool) {
	t.Helper()
	for _, p := range []*Pool{a, b} {
		eventually(t, p.cfg.Name+" has tried and failed twice", func() (bool, string) {
			s := p.JoinStatus()
			return s.Rounds >= 2 && len(s.Tries) == 1 && s.Tries[0].Err != "", fmt.Sprintf("%+v", s)
		})
		if v := view(p); v != p.cfg.Name+"=alive" {
			t.Errorf("%s has let somebody in: %s", p.cfg.Name, v)
		}
	}
}

// apart starts two nodes that join each other.
func apart(t *testing.T, change func(a, b *Config)) (a, b *Pool) {
	t.Helper()
	ca, cb := config("n1"), config("n2")
	ca.Bind, cb.Bind = fmt.Sprintf("127.0.0.1:%d", freePort(t)), fmt.Sprintf("127.0.0.1:%d", freePort(t))
	ca.Join, cb.Join = []string{cb.Bind}, []string{ca.Bind}
	change(&ca, &cb)
	return start(t, ca), start(t, cb)
}

func TestWrongKeyNeverJoins(t *testing.T) {
	a, b := apart(t, func(a, b *Config) { a.Keys, b.Keys = mustKeys(t, Keygen()), mustKeys(t, Keygen()) })
	stayApart(t, a, b)
	refusedSome(t, a, refusedKey)
	refusedSome(t, b, refusedKey)
}

func TestNoKeyNeverJoins(t *testing.T) {
	a, b := apart(t, func(a, _ *Config) { a.Keys = mustKeys(t, Keygen()) })
	stayApart(t, a, b)
	refusedSome(t, a, refusedKey)
	refusedSome(t, b, refusedKey)
}

func TestWrongLabelNeverJoins(t *testing.T) {
	a, b := apart(t, func(a, b *Config) { a.Label, b.Label = "blue", "green" })
	stayApart(t, a, b)
	refusedSome(t, a, refusedLabel)
	refusedSome(t, b, refusedLabel)
}

// Keys change by one restart after the other: both are known to all, and each
// encrypts with its own first.
func TestTwoKeysWhileTheyChange(t *testing.T) {
	k1, k2 := Keygen(), Keygen()
	a, b := apart(t, func(a, b *Config) {
		a.Keys, b.Keys = mustKeys(t, k1, k2), mustKeys(t, k2, k1)
		a.Label, b.Label = "blue", "blue"
	})
	sees(t, a, "n1=alive n2=alive")
	sees(t, b, "n1=alive n2=alive")
}
