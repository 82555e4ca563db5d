//go:build unix

package plugins_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/diarchy/diarchy/fsm"
	"github.com/diarchy/diarchy/plugins"
	"github.com/diarchy/diarchy/plugins/fsmpb"
)

func sumOf(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// program writes a file of its own directory.
func program(t testing.TB, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// refusal tries to run a plugin and returns what was said, by whichever step.
func refusal(t *testing.T, o plugins.Options) error {
	t.Helper()
	run := runDir(t)
	o.RunDir = run
	h, err := plugins.New(o)
	if err != nil {
		return err
	}
	defer func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		if left, _ := os.ReadDir(run); len(left) > 0 {
			t.Errorf("left in the run directory: %v", left)
		}
	}()
	f, err := h.Factory(o.Specs[0].Name)
	if err != nil {
		return err
	}
	m, err := f(t.Context())
	if err == nil {
		m.Close()
	}
	if left := h.Status(); len(left) > 0 {
		t.Errorf("left running: %v", left)
	}
	return err
}

const elfOfAnotherMachine = "\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xf3\x00\x01\x00\x00\x00" +
	"\x00\x00\x01\x00\x00\x00\x00\x00\x40\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x40\x00\x38\x00\x00\x00\x40\x00\x00\x00\x00\x00"

type refused struct {
	spec plugins.Spec
	want []string
}

// everythingRefused is a spec for each way not to be run, and what must be said.
func everythingRefused(t *testing.T) map[string]refused {
	script := func(mode os.FileMode) string { return program(t, "#!/bin/sh\nexit 0\n", mode) }
	linked := filepath.Join(t.TempDir(), "link")
	linkedDir := filepath.Join(t.TempDir(), "dir")
	openDir := script(0o755)
	unstopped := script(0o755)
	for _, err := range []error{
		os.Symlink(script(0o755), linked),
		os.Symlink(filepath.Dir(unstopped), linkedDir),
		os.Chmod(filepath.Dir(openDir), 0o777),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	right := script(0o755)
	wrongSum := strings.Repeat("0123456789abcdef", 4)
	at := func(path string) plugins.Spec { return plugins.Spec{Name: "p", Path: path, AllowUnpinned: true} }
	pinned := at(right)
	pinned.SHA256 = wrongSum
	unpinned := at(right)
	unpinned.AllowUnpinned = false
	short := at(right)
	short.SHA256 = "abc"
	badEnv := at(right)
	badEnv.Env = []string{"NOVALUE"}
	badName := at(right)
	badName.Name = "../p"
	outside := at(right)
	outside.Files = map[string]string{"../x": ""}

	return map[string]refused{
		"missing":             {at("/nowhere/p"), []string{"/nowhere/p", "no such file"}},
		"a directory":         {at(filepath.Dir(right)), []string{"a directory"}},
		"not executable":      {at(script(0o644)), []string{"not executable", "-rw-r--r--", "chmod +x"}},
		"a symbolic link":     {at(linked), []string{"symbolic link"}},
		"a linked directory":  {at(filepath.Join(linkedDir, "program")), []string{"symbolic link", filepath.Dir(unstopped)}},
		"world-writable":      {at(script(0o777)), []string{"writable by everybody"}},
		"in an open place":    {at(openDir), []string{"writable by everybody", filepath.Dir(openDir)}},
		"wrong checksum":      {pinned, []string{wrongSum, sumOf(t, right), "not run"}},
		"no checksum":         {unpinned, []string{"no SHA-256"}},
		"half a checksum":     {short, []string{"64 hexadecimal digits"}},
		"environment":         {badEnv, []string{"NOVALUE", "KEY=value"}},
		"name":                {badName, []string{"../p", "letters"}},
		"file outside":        {outside, []string{"../x", "below"}},
		"no path":             {plugins.Spec{Name: "p", AllowUnpinned: true}, []string{"no path"}},
		"text":                {at(program(t, "just words\n", 0o755)), []string{"text file", "exec format error"}},
		"empty":               {at(program(t, "", 0o755)), []string{"empty"}},
		"another machine's":   {at(program(t, elfOfAnotherMachine, 0o755)), []string{"EM_RISCV", runtime.GOARCH}},
		"missing interpreter": {at(program(t, "#!/no/such/python\n", 0o755)), []string{"interpreter", "/no/such/python"}},
		"ends at once":        {role(t, "exit0"), []string{"exit status 0", "sdk.Serve"}},
		"fails at once":       {role(t, "exit3"), []string{"exit status 3", "no such table"}},
		"prints first":        {role(t, "garbage"), []string{"hello, world", "not a handshake"}},
		"prints without end":  {role(t, "flood"), []string{"not a handshake"}},
		"closes its output":   {role(t, "mute"), []string{"closed its standard output"}},
		"another protocol":    {role(t, "future"), []string{"version 99", "version 1"}},
		"no certificate":      {role(t, "plain"), []string{"no certificate", "AutoMTLS"}},
		"another's plugin":    {role(t, "foreign"), []string{"exit status 1", "no Diarchy plugin"}},
	}
}

func TestWhatCannotBeRunIsSaidInOneLine(t *testing.T) {
	for name, c := range everythingRefused(t) {
		t.Run(name, func(t *testing.T) {
			err := refusal(t, plugins.Options{Specs: []plugins.Spec{c.spec}})
			if err == nil {
				t.Fatal("it was run")
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q is not in: %v", w, err)
				}
			}
			if strings.Contains(err.Error(), "\n") || len(err.Error()) > 800 {
				t.Errorf("not one line: %v", err)
			}
			if e := new(plugins.Error); !errors.As(err, &e) || e.Plugin == "" {
				t.Errorf("%T says no plugin", err)
			}
			t.Log(err)
		})
	}
}

func TestAStickyDirectoryWillDoForOnesOwn(t *testing.T) {
	path := program(t, "#!/bin/sh\nexit 0\n", 0o755)
	if err := os.Chmod(filepath.Dir(path), 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	if sum, err := plugins.Verify(plugins.Spec{Name: "p", Path: path, AllowUnpinned: true}); err != nil || sum != sumOf(t, path) {
		t.Errorf("%s, %v", sum, err)
	}
}

func TestAStartThatTakesTooLongIsEnded(t *testing.T) {
	err := refusal(t, plugins.Options{Specs: []plugins.Spec{role(t, "silent")}, StartTimeout: 100 * time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), "start timeout of 100ms") {
		t.Errorf("got %v", err)
	}
}

func TestAStartCanBeGivenUp(t *testing.T) {
	_, f := factoryOf(t, role(t, "silent"))
	why := errors.New("shutting down")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if _, err := f(ctx); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
	h, f := factoryOf(t, role(t, "silent"))
	ctx, cancel = context.WithCancelCause(t.Context())
	go func() {
		for len(h.Status()) == 0 {
			runtime.Gosched()
		}
		cancel(why)
	}()
	if _, err := f(ctx); !errors.Is(err, why) {
		t.Errorf("while it runs: %v", err)
	}
}

func TestTheCopyThatWasHashedIsWhatRuns(t *testing.T) {
	content, err := os.ReadFile(self(t))
	if err != nil {
		t.Fatal(err)
	}
	path := program(t, string(content), 0o755)
	s := role(t, "probe")
	s.Path, s.SHA256, s.AllowUnpinned = path, strings.ToUpper(sumOf(t, path)), false
	h, f := factoryOf(t, s)
	// Swapped after it was checked, before it is run.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\ntouch /tmp/owned\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		m := open(t, f)
		if r, err := apply(m, "x"); err != nil || len(r.Value) == 0 {
			t.Errorf("%+v, %v", r, err)
		}
		if st := h.Status(); len(st) != 1 || !strings.EqualFold(st[0].SHA256, s.SHA256) {
			t.Errorf("status %+v", st)
		}
		m.Close()
	}
}

func TestTheRunningProgramCanBeItsOwnPlugin(t *testing.T) {
	s, err := plugins.Self("bundled")
	if err != nil {
		t.Fatal(err)
	}
	s.Env = []string{roleKey + "=probe"}
	_, f := factoryOf(t, s)
	if r, err := apply(open(t, f), "x"); err != nil || len(r.Value) == 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestAnInterpretedPluginBringsItsFiles(t *testing.T) {
	path := program(t, "#!/bin/sh\ncat \"$(/usr/bin/dirname \"$0\")/lib/words\" >&2\nexit 4\n", 0o755)
	words := filepath.Join(filepath.Dir(path), "lib", "words")
	if err := os.Mkdir(filepath.Dir(words), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(words, []byte("from the companion\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := plugins.Spec{Name: "p", Path: path, SHA256: sumOf(t, path), Env: []string{"PATH=/bin:/usr/bin"}, Files: map[string]string{"lib/words": sumOf(t, words)}}
	if err := refusal(t, plugins.Options{Specs: []plugins.Spec{s}}); err == nil || !strings.Contains(err.Error(), "from the companion") {
		t.Errorf("got %v", err)
	}
	if err := os.WriteFile(words, []byte("changed\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := refusal(t, plugins.Options{Specs: []plugins.Spec{s}}); err == nil || !strings.Contains(err.Error(), "wrong checksum") || !strings.Contains(err.Error(), words) {
		t.Errorf("got %v", err)
	}
}

func TestARunDirectoryHasToFit(t *testing.T) {
	long := filepath.Join(runDir(t), strings.Repeat("d", 90))
	_, err := plugins.New(plugins.Options{RunDir: long})
	if err == nil || !strings.Contains(err.Error(), long) || !strings.Contains(err.Error(), "107") {
		t.Errorf("a long one: %v", err)
	}
	if _, err := os.Stat(long); !errors.Is(err, os.ErrNotExist) {
		t.Error("it was made nevertheless")
	}
	everybodys := runDir(t)
	if err := os.Chmod(everybodys, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := plugins.New(plugins.Options{RunDir: everybodys}); err == nil || !strings.Contains(err.Error(), "writable by everybody") {
		t.Errorf("an open one: %v", err)
	}
	file := program(t, "", 0o600)
	if _, err := plugins.New(plugins.Options{RunDir: file}); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a file: %v", err)
	}
	// The longest that is allowed works.
	base := runDir(t)
	fits := filepath.Join(base, strings.Repeat("d", 107-len("/p999/s999999/plugin4294967295")-len(base)-1))
	h := newHost(t, plugins.Options{RunDir: fits, Specs: []plugins.Spec{role(t, "probe")}})
	f, err := h.Factory("probe")
	if err != nil {
		t.Fatal(err)
	}
	open(t, f)
	if info, err := os.Stat(filepath.Join(fits, "p0")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("our directory: %v, %v", info, err)
	}
}

func TestPluginsAreFoundByName(t *testing.T) {
	old, now := role(t, "probe"), role(t, "probe")
	old.Version, now.Version = "1", "2"
	h := newHost(t, plugins.Options{Specs: []plugins.Spec{old, now, role(t, "kv")}})
	for name, want := range map[string]string{
		"probe@2": "", "kv": "", "probe": "probe@1, probe@2", "probe@3": "probe@1, probe@2, kv", "orders": "not configured",
	} {
		_, err := h.Factory(name)
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	list := h.List()
	if len(list) != 3 || list[1].Version != "2" || list[1].SHA256 != sumOf(t, self(t)) || list[1].Pinned || list[1].Problem != "" {
		t.Errorf("list %+v", list)
	}
	if _, err := plugins.New(plugins.Options{RunDir: runDir(t), Specs: []plugins.Spec{old, old}}); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("the same twice: %v", err)
	}
}

func TestAnswersHaveLimits(t *testing.T) {
	const tooLong = fsmpb.ResultBytesMax + 1
	_, f := factoryOf(t, role(t, "probe"))
	m := open(t, f)
	r, err := apply(m, "answer 4194305")
	if err != nil || r.Err != "result too large (4194305 > 4194304)" || len(r.Value) > 0 {
		t.Errorf("a result too long: %d bytes, %q, %v", len(r.Value), r.Err, err)
	}
	if r, err := apply(m, "answer 4194304"); err != nil || len(r.Value) != fsmpb.ResultBytesMax {
		t.Errorf("the longest result: %d bytes, %v", len(r.Value), err)
	}
	if _, err := m.Query(t.Context(), fsm.Query{Data: []byte("answer 4194305")}); err == nil || errors.Is(err, fsm.ErrLost) || !strings.Contains(err.Error(), "4194305") {
		t.Errorf("a query's answer of %d bytes: %v", tooLong, err)
	}
	if v := query(t, m, "answer 4194304"); len(v) != fsmpb.ResultBytesMax {
		t.Errorf("the longest answer: %d bytes", len(v))
	}
}

func TestABatchMayBeLargerThanAMessage(t *testing.T) {
	_, f := factoryOf(t, role(t, "probe"))
	m := open(t, f)
	b := fsm.Batch{Time: 9}
	for i := range 20 {
		b.Entries = append(b.Entries, fsm.Entry{Index: uint64(i), Data: append([]byte("answer 1000000 "), make([]byte, 1<<20)...)[:len("answer 1000000")+i%2*(1<<20)]})
	}
	results := make([]fsm.Result, len(b.Entries))
	if err := m.Apply(t.Context(), b, results); err != nil {
		t.Fatal(err)
	}
	for i, r := range results {
		if i%2 == 0 && len(r.Value) != 1000000 {
			t.Fatalf("result %d has %d bytes", i, len(r.Value))
		}
	}
	if results[19].Due != 10 {
		t.Errorf("due %d", results[19].Due)
	}
}

func TestABrokenProtocolEndsThePlugin(t *testing.T) {
	h, f := factoryOf(t, role(t, "raw"))
	for command, want := range map[string]string{
		"answer 67108864": "larger than max",
		"nothing":         "0 results where 1 were due",
		"twice":           "more results than commands",
		"other":           "answer to batch 6 where 1 was due",
	} {
		t.Run(command, func(t *testing.T) {
			m := open(t, f)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := apply(m, command)
			runtime.ReadMemStats(&after)
			if !errors.Is(err, fsm.ErrLost) || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want ErrLost and %q", err, want)
			}
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 16<<20 {
				t.Errorf("the host allocated %d bytes", grown)
			}
			if len(h.Status()) > 0 {
				t.Error("the plugin runs on")
			}
		})
	}
	t.Run("query", func(t *testing.T) {
		m := open(t, f)
		if _, err := m.Query(t.Context(), fsm.Query{Data: []byte("67108864")}); err == nil || errors.Is(err, fsm.ErrLost) {
			t.Errorf("an answer of 64 MiB: %v, want an error of this query alone", err)
		}
		if v := query(t, m, "100"); len(v) != 100 {
			t.Errorf("the next query: %d bytes", len(v))
		}
	})
}
