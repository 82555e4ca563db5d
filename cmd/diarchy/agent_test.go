//go:build unix

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/diarchy/diarchy/internal/dev"
)

// addresses are so many free ports of this machine.
func addresses(t *testing.T, n int) []string {
	t.Helper()
	taken, out := map[int]bool{}, []string{}
	for range n {
		port, err := dev.Port(0, taken)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, dev.Loopback(port))
	}
	return out
}

// soloFlags are those of an agent that is alone.
func soloFlags(t *testing.T, dir string) (flags []string, client string) {
	a := addresses(t, 3)
	return []string{
		"agent", "--name", "n1", "--data-dir", dir, "--gossip-bootstrap-expect", "1", "--gossip-timing", "local",
		"--gossip-bind", a[0], "--peer-bind", a[1], "--client-bind", a[2],
	}, a[2]
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	r, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

// ready waits until a node says that it is.
func ready(t *testing.T, addr string) {
	t.Helper()
	eventually(t, 30*time.Second, addr+" is ready", func() bool {
		r, err := http.Get("http://" + addr + "/readyz")
		if err != nil {
			return false
		}
		defer r.Body.Close()
		return r.StatusCode == http.StatusOK
	})
}

func TestAgentDev(t *testing.T) {
	t.Parallel()
	tmp := tempHere(t)
	a := addresses(t, 3)
	p := start(t, []string{"TMPDIR=" + tmp}, "agent", "-dev", "-gossip-bind="+a[0], "-peer-bind="+a[1], "-client-bind="+a[2])
	banner := p.await(t, `(?s)diarchy \S+\n\n  node +dev \(\S+\)\n  data +(\S+)\n.*groups +kv`, 20*time.Second)
	if !strings.HasPrefix(banner[1], tmp) {
		t.Errorf("the data directory is %s, expected one in %s", banner[1], tmp)
	}
	ready(t, a[2])
	if got := must(t, "kv", "put", "a", "1", "--addr", a[2]); got != "revision 1\n" {
		t.Errorf("put: %q", got)
	}
	_, metrics := get(t, "http://"+a[2]+"/metrics")
	for _, name := range []string{"diarchy_commit_latency_seconds", `diarchy_raft_term{group="kv"`, "raft_", "memberlist_", "go_goroutines"} {
		if !strings.Contains(metrics, name) {
			t.Errorf("/metrics has no %s", name)
		}
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	if code := p.wait(t, 20*time.Second); code != 0 {
		t.Errorf("SIGTERM: exit code %d", code)
	}
	if left, _ := filepath.Glob(tmp + "/*"); len(left) > 0 {
		t.Errorf("files are left: %v", left)
	}
}

// TestAgentRefusesToStart: what is wrong is said, the exit code is 1, and the
// data directory can be used afterwards.
func TestAgentRefusesToStart(t *testing.T) {
	t.Parallel()
	dir := tempHere(t)
	flags, addr := soloFlags(t, dir+"/n1")
	refused := func(want string, args ...string) {
		t.Helper()
		p := start(t, nil, args...)
		if code := p.wait(t, 20*time.Second); code != 1 {
			t.Errorf("%v: exit code %d, expected 1", args, code)
		}
		if !strings.Contains(p.output(), want) {
			t.Errorf("%v: expected %q; said:\n%s", args, want, p.output())
		}
	}
	with := func(more ...string) []string { return append(append([]string(nil), flags...), more...) }
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, setting := range []string{"gossip-bind", "peer-bind", "client-bind"} {
		refused("address already in use", with("--"+setting, l.Addr().String())...)
		refused(strings.ReplaceAll(setting, "-", "."), with("--"+setting, l.Addr().String())...)
	}
	refused("beyond loopback", with("--client-bind", "0.0.0.0:7999")...)
	file := write(t, dir+"/file", "")
	refused("is not a directory", with("--data-dir", file)...)
	refused("make the data directory", with("--data-dir", file+"/below")...)
	refused("encrypt_file", with("--gossip-encrypt-file", write(t, dir+"/key", "not a key"))...)

	p := start(t, nil, flags...)
	ready(t, addr)
	refused("is in use by process", flags...)
	if code, text := get(t, "http://"+addr+"/healthz"); code != http.StatusOK {
		t.Errorf("the node that was there first: %d %s", code, text)
	}
	_ = p.cmd.Process.Signal(os.Interrupt)
	if code := p.wait(t, 20*time.Second); code != 0 {
		t.Errorf("Ctrl-C: exit code %d", code)
	}
	refused(`belongs to node "n1", and this node is configured as "n2"`, with("--name", "n2")...)
}

// TestSIGTERMWhileItWaitsForOthers: a node that has formed nothing yet ends as
// well as any, and waits again when it is started again.
func TestSIGTERMWhileItWaitsForOthers(t *testing.T) {
	t.Parallel()
	flags, addr := soloFlags(t, tempHere(t)+"/n1")
	flags = append(flags, "--gossip-bootstrap-expect", "3", "--gossip-join", addresses(t, 1)[0])
	for range 2 {
		p := start(t, nil, flags...)
		eventually(t, 20*time.Second, "the node says what it waits for", func() bool {
			r, err := http.Get("http://" + addr + "/readyz")
			if err != nil {
				return false
			}
			defer r.Body.Close()
			b, _ := io.ReadAll(r.Body)
			return strings.Contains(string(b), "1 of 3 (bootstrap_expect)")
		})
		if out, code := diarchy(t, "kv", "get", "a", "--addr", addr, "--timeout", "1s"); code != 1 || !strings.Contains(out, "not formed or joined a cluster yet") {
			t.Errorf("a read meanwhile: exit code %d\n%s", code, out)
		}
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		if code := p.wait(t, 10*time.Second); code != 0 {
			t.Errorf("SIGTERM: exit code %d", code)
		}
	}
}

// TestGroupBlockThatDiffers: the catalogue decides, and says so with both values.
func TestGroupBlockThatDiffers(t *testing.T) {
	t.Parallel()
	dir := tempHere(t)
	flags, addr := soloFlags(t, dir+"/n1")
	group := "group \"g\" {\n  engine = \"raft\"\n  machine = \"builtin:kv\"\n  replicas = 1\n  options = { log_store = %q }\n}\n"
	file := write(t, dir+"/groups.hcl", fmt.Sprintf(group, "wal"))
	flags = append(flags, "-c", file)
	p := start(t, nil, flags...)
	ready(t, addr)
	_ = p.cmd.Process.Signal(os.Interrupt)
	p.wait(t, 20*time.Second)
	write(t, file, fmt.Sprintf(group, "boltdb"))
	p = start(t, nil, flags...)
	if code := p.wait(t, 20*time.Second); code != 1 {
		t.Errorf("exit code %d, expected 1", code)
	}
	for _, want := range []string{`group "g" of the configuration`, "wal", "boltdb"} {
		if !strings.Contains(p.output(), want) {
			t.Errorf("%q is not said:\n%s", want, p.output())
		}
	}
}

// TestTLSTokensAndReload: three nodes that prove who they are, encrypted gossip,
// and tokens that SIGHUP changes.
func TestTLSTokensAndReload(t *testing.T) {
	t.Parallel()
	dir := tempHere(t)
	must(t, "tls", "ca", "create", "--dir", dir)
	write(t, dir+"/gossip.key", must(t, "keygen"))
	write(t, dir+"/admin", "first-admin")
	write(t, dir+"/reader", "first-reader")
	cl, err := dev.NewCluster(dev.ClusterConfig{
		Binary: binary, Dir: dir, Nodes: 3, AnyPorts: true,
		BlocksOf: func(i int) string {
			name := fmt.Sprintf("n%d", i+1)
			must(t, "tls", "cert", "create", name, "--dir", dir)
			return ordersGroup + fmt.Sprintf("tls {\n ca_file = %q\n cert_file = %q\n key_file = %q\n}\n", dir+"/ca.pem", dir+"/"+name+".pem", dir+"/"+name+"-key.pem")
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Kill()
	for _, n := range cl.Nodes {
		more := fmt.Sprintf("gossip { encrypt_file = %q }\nclient {\n token_file = %q\n readonly_token_file = %q\n}\n", dir+"/gossip.key", dir+"/admin", dir+"/reader")
		n.AddConfig(write(t, n.Dir+"/zz.hcl", more))
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
	}
	first := cl.Nodes[0]
	ask := func(token string, args ...string) (string, int) {
		t.Helper()
		args = append(args, "--addr", first.ClientAddr(), "--ca-file", dir+"/ca.pem", "--timeout", "5s")
		if token != "" {
			args = append(args, "--token-file", write(t, dir+"/"+token+".token", token))
		}
		return diarchy(t, args...)
	}
	eventually(t, time.Minute, "a write is taken over TLS", func() bool {
		_, code := ask("first-admin", "kv", "put", "a", "1", "--group", "orders")
		return code == 0
	})
	if out, code := ask("first-reader", "kv", "get", "a", "--group", "orders"); code != 0 || out != "1\n" {
		t.Errorf("the reader reads: %d %s", code, out)
	}
	for token, want := range map[string]string{"first-reader": "administrator token", "": "token is needed", "wrong": "token is needed"} {
		if out, code := ask(token, "kv", "put", "a", "2", "--group", "orders"); code != 1 || !strings.Contains(out, want) {
			t.Errorf("a write with token %q: exit code %d, expected 1 and %q:\n%s", token, code, want, out)
		}
	}
	write(t, dir+"/admin", "second-admin\n")
	_ = first.Process().Signal(syscall.SIGHUP)
	eventually(t, 10*time.Second, "the new token is taken", func() bool {
		_, code := ask("second-admin", "members")
		return code == 0
	})
	if out, code := ask("first-admin", "members"); code != 1 {
		t.Errorf("the old token is still taken: %d %s", code, out)
	}
	if out, code := diarchy(t, "members", "--addr", first.ClientAddr()); code != 1 {
		t.Errorf("without TLS: exit code %d\n%s", code, out)
	}
}

// TestCommands runs what talks to a node against three of them.
func TestCommands(t *testing.T) {
	t.Parallel()
	cl := agents(t)
	addr := cl.Nodes[0].ClientAddr()
	dir := tempHere(t)
	run := func(args ...string) (string, int) { return diarchy(t, append(args, "--addr", addr)...) }
	for _, row := range []struct {
		line string
		code int
		want string // a pattern
	}{
		{"members", 0, `(?s)NAME +ADDRESS +STATUS.*n1 .*alive.*orders,system.*n2 .*n3 `},
		{"group list", 0, `orders +raft +builtin:kv +3 +disk +n\d,n\d,n\d`},
		{"group status orders", 0, `(?s)orders: builtin:kv, engine raft, leader n\d.*leader +voter`},
		{"group status nothing", 1, `no such group: "nothing"`},
		{"group peers orders", 0, `(?s)n\d +voter +leader`},
		{"kv put a 1 --group orders", 0, `^revision \d+\n$`},
		{"kv get a --group orders", 0, `^1\n$`},
		{"kv get a --group orders --consistency stale -o json", 0, `"value": "1"`},
		{"kv get nothing --group orders", 1, `key "nothing" is not there`},
		{"kv put empty  --file " + write(t, dir+"/empty", "") + " --group orders", 0, `revision`},
		{"kv cas a 99 2 --group orders", 1, `key "a" is at revision \d+, expected at 99`},
		{"kv cas b 0 2 --group orders", 0, `revision`},
		{"kv list --group orders", 0, `(?s)a +1.*b +2.*empty +""`},
		{"kv list b --keys -o json --group orders", 0, `"key": "b"`},
		{"kv delete b --group orders", 0, `revision`},
		{"kv delete b --group orders", 0, `nothing to delete`},
		{"kv put a 1", 1, `no such group: "kv"`},
		{"propose orders 'add n 5'", 0, `^5 \(revision \d+\)\n$`},
		{"propose orders 'add a x'", 2, `expected`},
		{"propose orders 'add a 9223372036854775807'", 1, `out of range`},
		{"propose orders frob", 2, `expected`},
		{"query orders 'get n'", 0, `^5\n$`},
		{"query orders 'list'", 0, `KEY`},
		{"group transfer orders", 0, `handed over`},
		{"group transfer orders n9", 1, `no such node`},
		{"group promote orders n1", 0, `done`},
		{"group create extra --replicas 9", 2, `the cluster has 3 live nodes: start more nodes`},
		{"group create extra --machine builtin:sql", 2, `sql`},
		{"group create extra --node n1 --node n2 --node n3", 0, `created group extra`},
		{"group create extra --engine paxos", 2, `expected one of raft`},
		{"kv put x y --group extra", 0, `revision 1`},
		{"group snapshot save extra " + dir + "/backup", 0, `machine kv\) is in`},
		{"group snapshot save extra " + dir + "/backup", 1, `exists: choose another file`},
		{"kv put x z --group extra", 0, `revision 2`},
		{"group snapshot restore extra " + dir + "/backup --confirm extra", 0, `group extra is restored`},
		{"kv get x --group extra", 0, `^y\n$`},
		{"group snapshot restore extra " + dir + "/empty --confirm extra", 2, `not a backup.*nothing was changed`},
		{"group destroy extra --confirm extra", 0, `group extra is destroyed`},
		{"kv get x --group extra", 1, `no such group`},
		{"group destroy system --confirm system", 1, `system`},
		{"plugin list", 0, `NAME`},
		{"plugin info nothing", 2, `has no plugin "nothing"`},
		{"force-leave n2", 1, `n2 .*is alive`},
		{"force-leave n9", 1, `no member "n9"`},
		{"join 127.0.0.1:1", 2, `no other node was reached`},
		{"join " + dev.Loopback(cl.Nodes[1].Gossip), 0, `1 of 1 addresses answered`},
	} {
		words, err := shellWords("diarchy " + row.line)
		if err != nil {
			t.Fatal(err)
		}
		out, code := run(words[1:]...)
		if code != row.code || !regexp.MustCompile(row.want).MatchString(out) {
			t.Errorf("%s: exit code %d, expected %d and %s; said:\n%s", row.line, code, row.code, row.want, out)
		}
	}
	inspected := must(t, "group", "snapshot", "inspect", dir+"/backup", "-o", "json")
	var backup struct {
		Group  string
		Number int
	}
	if err := json.Unmarshal([]byte(inspected), &backup); err != nil || backup.Group != "extra" || backup.Number != 1 {
		t.Errorf("inspected: %v\n%s", err, inspected)
	}
	tailAndWatch(t, addr)
	// A node that is asked to leave ends in order and is listed as left.
	last := cl.Nodes[2]
	must(t, "leave", "--addr", last.ClientAddr())
	if err := last.Process().Err(); err != nil {
		t.Errorf("the node that left ended with %v", err)
	}
	eventually(t, 10*time.Second, "n3 is listed as left", func() bool {
		return regexp.MustCompile(`n3 .* left`).MatchString(must(t, "members", "--addr", addr))
	})
}

// tailAndWatch follows commands and a key while they change.
func tailAndWatch(t *testing.T, addr string) {
	t.Helper()
	tail := start(t, nil, "group", "tail", "orders", "--from", "1", "--addr", addr)
	watch := start(t, nil, "kv", "get", "watched", "--watch", "--group", "orders", "--addr", addr)
	watch.await(t, `\(key "watched" is not there\)`, 10*time.Second)
	must(t, "kv", "put", "watched", "one", "--group", "orders", "--addr", addr)
	watch.await(t, `one\n`, 10*time.Second)
	must(t, "kv", "delete", "watched", "--group", "orders", "--addr", addr)
	watch.await(t, `(?s)one\n.*is not there`, 10*time.Second)
	tail.await(t, `(?s)1\t\S+\t".*watched.*watched`, 10*time.Second)
	for _, p := range []*started{tail, watch} {
		_ = p.cmd.Process.Signal(os.Interrupt)
		if code := p.wait(t, 10*time.Second); code != 0 {
			t.Errorf("%v: Ctrl-C: exit code %d\n%s", p.cmd.Args, code, p.output())
		}
	}
}

// TestRecover gives a group and the catalogue, whose quorum is lost, the one
// member that is left.
func TestRecover(t *testing.T) {
	t.Parallel()
	cl := agents(t)
	addr := cl.Nodes[0].ClientAddr()
	must(t, "kv", "put", "a", "1", "--group", "orders", "--addr", addr)
	for _, n := range cl.Nodes {
		n.Process().Kill()
	}
	left := cl.Nodes[0]
	for _, group := range []string{"orders", "system"} {
		if out, code := diarchy(t, "group", "recover", group, "--data-dir", left.DataDir, "--peers", "n1"); code != 1 || !strings.Contains(out, "--i-accept-loss") {
			t.Fatalf("without --i-accept-loss: exit code %d\n%s", code, out)
		}
		t.Logf("%s", must(t, "group", "recover", group, "--data-dir", left.DataDir, "--peers", "n1", "--i-accept-loss"))
	}
	if err := left.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "the recovered group takes writes", func() bool {
		cmd := exec.Command(binary, "kv", "put", "b", "2", "--group", "orders", "--addr", addr, "--timeout", "5s")
		return cmd.Run() == nil
	})
	if got := must(t, "kv", "get", "a", "--group", "orders", "--addr", addr); got != "1\n" {
		t.Errorf("what was acknowledged before holds %q", got)
	}
}
