package discovery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/diarchy/diarchy/framework"
)

// nameServer answers A, AAAA and SRV over UDP on loopback.
func nameServer(t *testing.T, a, aaaa []string, srv map[string]uint16) *net.Resolver {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			if b, err := answer(buf[:n], a, aaaa, srv); err == nil {
				pc.WriteTo(b, from)
			}
		}
	}()
	t.Cleanup(func() { pc.Close(); <-done })
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", pc.LocalAddr().String())
	}}
}

func answer(query []byte, a, aaaa []string, srv map[string]uint16) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		return nil, err
	}
	m.Response, m.Authoritative, m.Additionals = true, true, nil
	q := m.Questions[0]
	add := func(b dnsmessage.ResourceBody) {
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1}, Body: b})
	}
	switch q.Type {
	case dnsmessage.TypeA:
		for _, s := range a {
			add(&dnsmessage.AResource{A: [4]byte(net.ParseIP(s).To4())})
		}
	case dnsmessage.TypeAAAA:
		for _, s := range aaaa {
			add(&dnsmessage.AAAAResource{AAAA: [16]byte(net.ParseIP(s))})
		}
	case dnsmessage.TypeSRV:
		for target, port := range srv {
			add(&dnsmessage.SRVResource{Target: dnsmessage.MustNewName(target), Port: port})
		}
	}
	return m.Pack()
}

func addrsOf(t *testing.T, source string, r *net.Resolver) ([]string, error) {
	t.Helper()
	d, err := parseSource(source, r)
	if err != nil {
		t.Fatal(err)
	}
	if d.String() != source {
		t.Errorf("%q calls itself %q", source, d.String())
	}
	out, err := d.Addrs(context.Background())
	slices.Sort(out)
	return out, err
}

func TestParseSourceRefuses(t *testing.T) {
	for s, says := range map[string]string{
		"":                       "expected host:port",
		"host:port":              "port must be a number",
		"1.2.3.4:70000":          "port must be a number",
		"1.2.3.4:0":              "port 0",
		"a:b:c":                  "for IPv6 [address]:port",
		"gopher://x":             "gopher:// is not known",
		"dns://":                 "names nothing",
		"dns://host:x":           "expected dns://host:port",
		"dns+srv://name:80":      "expected dns+srv://name",
		"file://":                "names nothing",
		"exec://":                "names nothing",
		"exec://   ":             "names no command",
		"exec://cmd 'not closed": "is not closed",
	} {
		if _, err := ParseSource(s); !errors.Is(err, framework.ErrInvalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v; expected %q", s, err, says)
		}
	}
	for _, s := range []string{"host", "host:1", "1.2.3.4", "::1", "[::1]:5", "dns://host", "dns+srv://_a._udp.b.c"} {
		if _, err := ParseSource(s); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestDNSSources(t *testing.T) {
	r := nameServer(t, []string{"10.0.0.1", "10.0.0.2"}, []string{"2001:db8::1"}, map[string]uint16{"n1.example.": 1001, "n2.example.": 1002})
	got, err := addrsOf(t, "dns://nodes.example:7000", r)
	if want := []string{"10.0.0.1:7000", "10.0.0.2:7000", "[2001:db8::1]:7000"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("dns: %v, %v", got, err)
	}
	got, err = addrsOf(t, "dns+srv://_gossip._udp.example", r)
	if want := []string{"n1.example:1001", "n2.example:1002"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("dns+srv: %v, %v", got, err)
	}
	none := nameServer(t, nil, nil, nil)
	for _, s := range []string{"dns://nodes.example:1", "dns+srv://_gossip._udp.example"} {
		if got, err := addrsOf(t, s, none); err == nil || len(got) != 0 {
			t.Errorf("%s without records: %v, %v", s, got, err)
		}
	}
}

// A node is found by SRV records, whose targets are looked up in turn.
func TestJoinBySRV(t *testing.T) {
	a := start(t, config("n1"))
	_, port, _ := net.SplitHostPort(a.gossipAddr())
	n, _ := strconv.Atoi(port)
	conf := config("n2")
	conf.Resolver = nameServer(t, []string{"127.0.0.1"}, nil, map[string]uint16{"n1.example.": uint16(n)})
	conf.Join = []string{"dns+srv://_gossip._udp.example"}
	b := start(t, conf)
	sees(t, b, "n1=alive n2=alive")
}

func TestFileSource(t *testing.T) {
	path := filepath.Join(t.TempDir(), "addrs")
	for _, c := range []struct {
		text string
		want []string
		says string
	}{
		{"10.0.0.1:1 # first\n\n# none\n\t[::1]:2\r\nhost\n", []string{"10.0.0.1:1", "[::1]:2", "host"}, ""},
		{"10.0.0.1:1\na:b:c\n10.0.0.2:1", []string{"10.0.0.1:1", "10.0.0.2:1"}, "line 2: address \"a:b:c\""},
		{"", nil, ""},
		{strings.Repeat("h:1\n", sourceAddrsMax+1), slices.Repeat([]string{"h:1"}, sourceAddrsMax), "more than 256"},
		{strings.Repeat("x", sourceBytesMax+1), nil, "far too long"},
	} {
		writeFile(t, path, c.text)
		got, err := addrsOf(t, "file://"+path, nil)
		if !slices.Equal(got, c.want) || (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%.30q: %v, %v; expected %v, %q", c.text, got, err, c.want, c.says)
		}
	}
}

func TestExecSource(t *testing.T) {
	if _, err := exec.LookPath("sh"); err != nil {
		t.Skip("needs sh")
	}
	for _, c := range []struct {
		cmd  string
		want []string
		says string
	}{
		{`printf 10.0.0.1:1\n10.0.0.2:2\n`, []string{"10.0.0.1:1", "10.0.0.2:2"}, ""},
		{`sh -c 'echo "$1:9"' x "a host"`, nil, "line 1: address \"a host:9\""},
		{`sh -c "echo no cloud today >&2; exit 3"`, nil, "exit status 3: no cloud today"},
		{`/no/such/command`, nil, "no such file"},
		{`sh -c "head -c 70000 /dev/zero"`, nil, "printed more than 65536 bytes"},
	} {
		got, err := addrsOf(t, "exec://"+c.cmd, nil)
		if c.want != nil && !slices.Equal(got, c.want) || (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %.100v, %v; expected %v, %q", c.cmd, got, err, c.want, c.says)
		}
	}
}

// A command that hangs is killed, and what it has started with it.
func TestExecSourceTimeout(t *testing.T) {
	if _, err := exec.LookPath("sh"); err != nil {
		t.Skip("needs sh")
	}
	pidFile := filepath.Join(t.TempDir(), "pid")
	s := &execSource{args: []string{"sh", "-c", "sleep 600 & echo $! > " + pidFile + "; wait"}, timeout: 500 * time.Millisecond}
	if got, err := s.Addrs(context.Background()); err == nil || !strings.Contains(err.Error(), "did not end within") {
		t.Errorf("%v, %v", got, err)
	}
	b, err := os.ReadFile(pidFile)
	if err != nil {
		t.Skip("the machine was too slow to start the child in time")
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the grandchild is gone", func() (bool, string) {
		state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		// Without anybody to reap it, it stays as a zombie.
		return err != nil || strings.Contains(string(state), ") Z "), string(state)
	})
}

func TestSplitCommand(t *testing.T) {
	got, err := splitCommand(`  a "b c"  'd "e"' "" f'g'h `)
	if want := []string{"a", "b c", `d "e"`, "", "fgh"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v", got, err)
	}
}
