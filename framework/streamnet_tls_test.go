package framework_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/diarchy/diarchy/framework"
	"github.com/diarchy/diarchy/internal/certs"
	"github.com/diarchy/diarchy/internal/memnet"
)

// pki is a directory with two authorities.
type pki struct{ dir string }

func newPKI(t *testing.T) *pki {
	t.Helper()
	p := &pki{t.TempDir()}
	for _, ca := range []string{"ca", "other-ca"} {
		if err := certs.CreateCA(p.pair(ca), certs.CAOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func (p *pki) pair(name string) certs.Pair {
	return certs.Pair{Cert: filepath.Join(p.dir, name+".pem"), Key: filepath.Join(p.dir, name+"-key.pem")}
}

// leaf makes a certificate in files called file, signed by ca.
func (p *pki) leaf(t *testing.T, ca, file string, o certs.LeafOptions) certs.Pair {
	t.Helper()
	if err := certs.CreateLeaf(p.pair(ca), p.pair(file), o); err != nil {
		t.Fatal(err)
	}
	return p.pair(file)
}

// node loads a node's certificate as an agent does, and makes it the first time.
func (p *pki) node(t *testing.T, name string) *framework.StreamTLS {
	t.Helper()
	pair := p.pair(name)
	if _, err := os.Stat(pair.Cert); err != nil {
		p.leaf(t, "ca", name, certs.LeafOptions{Identity: certs.Identity{Role: certs.RoleNode, Name: name}})
	}
	s, err := certs.LoadNode(certs.Files{CA: p.pair("ca").Cert, Cert: pair.Cert, Key: pair.Key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &framework.StreamTLS{Server: s.PeerServer(), Client: s.PeerClient()}
}

// raw makes settings of any certificate, with none of the checks that loading
// does; pair may be zero for none.
func (p *pki) raw(t *testing.T, ca string, pair certs.Pair) *tls.Config {
	t.Helper()
	data, err := os.ReadFile(p.pair(ca).Cert)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(data)
	c := &tls.Config{RootCAs: pool, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, ServerName: "localhost"}
	if pair != (certs.Pair{}) {
		cert, err := tls.LoadX509KeyPair(pair.Cert, pair.Key)
		if err != nil {
			t.Fatal(err)
		}
		// Shown whatever authorities the other side asks for: a thief does so.
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
		c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil }
	}
	return c
}

func withTLS(name string, settings *framework.StreamTLS) func(*framework.StreamsConfig) {
	return func(c *framework.StreamsConfig) { c.Name, c.TLS = name, settings }
}

func TestNodesWithCertificatesConnect(t *testing.T) {
	eachNetwork(t, func(t *testing.T, w *streamWorld) {
		p := newPKI(t)
		nameOf := func(c *framework.StreamsConfig) {
			c.NameOf = func(id framework.NodeID) (string, bool) { return "node-" + string(id), true }
		}
		a, b := w.node("a", withTLS("node-a", p.node(t, "node-a")), nameOf), w.node("b", withTLS("node-b", p.node(t, "node-b")), nameOf)
		l := listen(t, b, framework.PlaneRaft, someGroup)
		mine, theirs := link(t, a, "b", l, framework.PlaneRaft, someGroup)
		if got := theirs.(interface{ Name() string }).Name(); got != "node-a" || theirs.From() != "a" {
			t.Errorf("comes from %q, %q", theirs.From(), got)
		}
		big := strings.Repeat("0123456789abcdef", 20_000) // past the handshake's limit
		go func() { _, _ = mine.Write([]byte(big)) }()
		hear(t, theirs, big)
		say(t, theirs, mine, "and back")
	})
}

func TestOrdinaryTLSSettingsDo(t *testing.T) {
	w, p := newWorld(t, nil), newPKI(t)
	settings := func(name string) *framework.StreamTLS {
		c := p.raw(t, "ca", p.leaf(t, "ca", name, certs.LeafOptions{Identity: certs.Identity{Role: certs.RoleNode, Name: name}}))
		c.ServerName = "" // the address dialed is to be compared, 127.0.0.1
		return &framework.StreamTLS{Server: c, Client: c}
	}
	a, b := w.node("a", withTLS("a", settings("a"))), w.node("b", withTLS("b", settings("b")))
	l := listen(t, b, framework.PlaneRaft, someGroup)
	mine, theirs := link(t, a, "b", l, framework.PlaneRaft, someGroup)
	say(t, mine, theirs, "hello")
}

// Each wrong caller is refused with one line in the log, and the port lives on.
func TestWrongCallersOverTLS(t *testing.T) {
	p := newPKI(t)
	node := func(name string) certs.Identity { return certs.Identity{Role: certs.RoleNode, Name: name} }
	good := p.node(t, "b")
	nodeA := p.node(t, "a")
	thief := p.raw(t, "ca", p.leaf(t, "other-ca", "thief", certs.LeafOptions{Identity: node("a")}))
	old := p.raw(t, "ca", p.leaf(t, "ca", "old", certs.LeafOptions{Identity: node("a"), Now: time.Now().Add(-2 * time.Hour), Valid: time.Hour}))
	other := p.raw(t, "ca", p.leaf(t, "ca", "n3", certs.LeafOptions{Identity: node("n3")}))
	ann := p.raw(t, "ca", p.leaf(t, "ca", "ann", certs.LeafOptions{Identity: certs.Identity{Role: certs.RoleClient, Name: "a"}}))
	root := p.raw(t, "ca", p.leaf(t, "ca", "root", certs.LeafOptions{Identity: certs.Identity{Role: certs.RoleAdmin, Name: "a"}}))
	bare := p.raw(t, "ca", certs.Pair{})
	v12 := nodeA.Client.Clone()
	v12.MinVersion, v12.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	for name, c := range map[string]struct {
		client *tls.Config // nil: no TLS at all
		self   framework.NodeID
		says   string // the caller's name for itself
		code   framework.RefusalCode
		log    string
	}{
		"another authority":    {thief, "a", "a", 0, "certificate"},
		"expired":              {old, "a", "a", 0, "expired"},
		"no certificate":       {bare, "a", "a", 0, "certificate"},
		"TLS 1.2":              {v12, "a", "a", 0, "version"},
		"plain TCP":            {nil, "a", "a", framework.RefusedIdentity, "TLS"},
		"another node's":       {other, "a", "a", framework.RefusedIdentity, "n3"},
		"another node's, sure": {other, "a", "n3", framework.RefusedIdentity, "n3"}, // by NameOf alone
		"a client's":           {ann, "a", "a", framework.RefusedIdentity, "client"},
		"an administrator's":   {root, "a", "a", framework.RefusedIdentity, "admin"},
		"the right one":        {nodeA.Client, "a", "a", 255, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			b := w.node("b", withTLS("b", good), func(c *framework.StreamsConfig) {
				c.NameOf = func(id framework.NodeID) (string, bool) { return string(id), true }
			})
			l := listen(t, b, framework.PlaneRaft, someGroup)
			a := w.node(c.self, func(s *framework.StreamsConfig) {
				s.Name = c.says
				if c.client != nil {
					s.TLS = &framework.StreamTLS{Server: &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert}, Client: c.client}
				}
			})
			_, err := a.Dial(context.Background(), "b", framework.PlaneRaft, someGroup)
			if c.code == 255 {
				if err != nil {
					t.Fatal(err)
				}
				if _, err := l.Accept(); err != nil {
					t.Error(err)
				}
				return
			}
			t.Logf("the caller is told: %v", err)
			if err == nil {
				t.Fatal("connected")
			}
			if c.code != 0 {
				wantRefused(t, err, "b", c.code)
			}
			await(t, "a line in the log", func() bool { return strings.Contains(b.log.String(), "\n") })
			if log := b.log.String(); strings.Count(log, "\n") != 1 || !strings.Contains(log, c.log) {
				t.Errorf("not one line that says %q: %s", c.log, log)
			}
			right := w.node("right", withTLS("right", p.node(t, "right")))
			mine, theirs := link(t, right, "b", l, framework.PlaneRaft, someGroup)
			say(t, mine, theirs, "the port lives on")
		})
	}
}

// A node that dials is as careful about who answers.
func TestWrongServersOverTLS(t *testing.T) {
	p := newPKI(t)
	a := p.node(t, "a")
	node := func(name string) certs.Identity { return certs.Identity{Role: certs.RoleNode, Name: name} }
	thief := p.raw(t, "ca", p.leaf(t, "other-ca", "thief", certs.LeafOptions{Identity: node("b")}))
	old := p.raw(t, "ca", p.leaf(t, "ca", "old", certs.LeafOptions{Identity: node("b"), Now: time.Now().Add(-2 * time.Hour), Valid: time.Hour}))
	ann := p.raw(t, "ca", p.leaf(t, "ca", "ann", certs.LeafOptions{Identity: certs.Identity{Role: certs.RoleClient, Name: "b"}}))
	n3 := p.raw(t, "ca", p.leaf(t, "ca", "n3", certs.LeafOptions{Identity: node("n3")}))
	for name, c := range map[string]struct {
		server *tls.Config
		says   string
		want   string
	}{
		"another authority": {thief, "b", "unknown authority"},
		"expired":           {old, "b", "expired"},
		"a client's":        {ann, "b", "usage"},
		"another node's":    {n3, "n3", `"n3" and "b" is wanted`},
		"plain TCP":         {nil, "b", "TLS"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			b := w.node("b", func(s *framework.StreamsConfig) {
				s.Name = c.says
				if c.server != nil {
					s.TLS = &framework.StreamTLS{Server: c.server, Client: a.Client}
				}
			})
			listen(t, b, framework.PlaneRaft, someGroup)
			caller := w.node("a", withTLS("a", a), func(s *framework.StreamsConfig) {
				s.NameOf = func(id framework.NodeID) (string, bool) { return string(id), true }
			})
			_, err := caller.Dial(context.Background(), "b", framework.PlaneRaft, someGroup)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// A name may not be one thing in the certificate and another in the handshake.
func TestAServersNameIsItsCertificates(t *testing.T) {
	w, p := newWorld(t, nil), newPKI(t)
	a := w.node("a", withTLS("a", p.node(t, "a")))
	lying := p.raw(t, "ca", p.leaf(t, "ca", "n3", certs.LeafOptions{Identity: certs.Identity{Role: certs.RoleNode, Name: "n3"}}))
	b := w.node("b", withTLS("b", &framework.StreamTLS{Server: lying, Client: lying}))
	listen(t, b, framework.PlaneRaft, someGroup)
	_, err := a.Dial(context.Background(), "b", framework.PlaneRaft, someGroup)
	wantRefused(t, err, "b", framework.RefusedIdentity)
}

func TestUnsafeTLSSettingsDoNotStart(t *testing.T) {
	p := newPKI(t)
	good := p.node(t, "a")
	edit := func(f func(*framework.StreamTLS)) *framework.StreamTLS {
		c := &framework.StreamTLS{Server: good.Server.Clone(), Client: good.Client.Clone()}
		f(c)
		return c
	}
	for name, c := range map[string]struct {
		name string
		tls  *framework.StreamTLS
		want string
	}{
		"no client certificates": {"a", edit(func(s *framework.StreamTLS) { s.Server.ClientAuth = tls.RequestClientCert }), "client certificates"},
		"no verification":        {"a", edit(func(s *framework.StreamTLS) { s.Client.VerifyConnection = nil }), "must verify"},
		"another's certificate":  {"b", good, `for node "a" and this node is "b"`},
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s, err := framework.NewStreams(framework.StreamsConfig{Self: "x", Name: c.name, Listener: l, TLS: c.tls,
			Resolve: func(framework.NodeID) (string, bool) { return "", false }})
		if err == nil {
			_ = s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		_ = l.Close()
	}
}

// A caller who sends a mountain of certificates is stopped before it is read.
func TestATLSHandshakeHasABound(t *testing.T) {
	w, p := newWorld(t, nil), newPKI(t)
	b := w.node("b", withTLS("b", p.node(t, "b")))
	client := p.raw(t, "ca", p.leaf(t, "ca", "a", certs.LeafOptions{Identity: certs.Identity{Role: certs.RoleNode, Name: "a"}}))
	get := client.GetClientCertificate
	client.GetClientCertificate = func(r *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		c, err := get(r)
		fat := *c
		for range 200 {
			fat.Certificate = append(fat.Certificate, c.Certificate[0])
		}
		return &fat, err
	}
	conn, err := tls.Dial("tcp", b.Addr().String(), client)
	if err == nil {
		_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
		_, err = conn.Read(make([]byte, 1))
		_ = conn.Close()
	}
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the caller was heard out: %v", err)
	}
	await(t, "the count", func() bool { return b.value(t, "dropped_total/oversized") == 1 })
}

// Without NameOf a caller's certificate must still bear the name it gives itself.
func TestACallersNameIsItsCertificates(t *testing.T) {
	w, p := newWorld(t, nil), newPKI(t)
	b := w.node("b", withTLS("b", p.node(t, "b")))
	listen(t, b, framework.PlaneRaft, someGroup)
	lying := &framework.StreamTLS{Server: &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert}, Client: p.node(t, "n3").Client}
	a := w.node("a", withTLS("a", lying))
	_, err := a.Dial(context.Background(), "b", framework.PlaneRaft, someGroup)
	wantRefused(t, err, "b", framework.RefusedIdentity)
}

// Whatever the settings allow, the version is looked at.
func TestSettingsThatAllowAnOlderTLS(t *testing.T) {
	w, p := newWorld(t, nil), newPKI(t)
	settings := func(name string) *framework.StreamTLS {
		c := p.raw(t, "ca", p.leaf(t, "ca", name, certs.LeafOptions{Identity: certs.Identity{Role: certs.RoleNode, Name: name}}))
		c.MaxVersion = tls.VersionTLS12
		return &framework.StreamTLS{Server: c, Client: c}
	}
	a, b := w.node("a", withTLS("a", settings("a"))), w.node("b", withTLS("b", settings("b")))
	listen(t, b, framework.PlaneRaft, someGroup)
	_, err := a.Dial(context.Background(), "b", framework.PlaneRaft, someGroup)
	wantRefused(t, err, "b", framework.RefusedIdentity)
}

// The goodbye of TLS could wait for the other end's buffer to empty.
func TestCloseDoesNotWaitForAStalledPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := newWorld(t, memnet.New(1)), newPKI(t)
		// The bubble's clock stands in the year 2000.
		issued := func(name string) *framework.StreamTLS {
			id := certs.Identity{Role: certs.RoleNode, Name: name}
			c := p.raw(t, "then", p.leaf(t, "then", name, certs.LeafOptions{Identity: id, Now: time.Now()}))
			return &framework.StreamTLS{Server: c, Client: c}
		}
		if err := certs.CreateCA(p.pair("then"), certs.CAOptions{Now: time.Now()}); err != nil {
			t.Fatal(err)
		}
		a, b := w.node("a", withTLS("a", issued("a"))), w.node("b", withTLS("b", issued("b")))
		l := listen(t, b, framework.PlaneRaft, someGroup)
		mine, _ := link(t, a, "b", l, framework.PlaneRaft, someGroup)
		w.net.Cut("a", "b")
		_ = mine.SetWriteDeadline(time.Now().Add(time.Second))
		_, err := mine.Write(make([]byte, 1<<20))
		wantDeadline(t, err)
		start := time.Now()
		_ = a.Close()
		if d := time.Since(start); d != 0 {
			t.Errorf("the close took %v", d)
		}
	})
}

func TestTLSToAPlainPortAndBack(t *testing.T) {
	w, p := newWorld(t, nil), newPKI(t)
	plain := w.node("plain")
	listen(t, plain, framework.PlaneRaft, someGroup)
	a := w.node("a", withTLS("a", p.node(t, "a")))
	if _, err := a.Dial(context.Background(), "plain", framework.PlaneRaft, someGroup); err == nil {
		t.Error("TLS to a plain port connected")
	}
	await(t, "the plain side's line", func() bool { return strings.Contains(plain.log.String(), "that is TLS") })
	listen(t, a, framework.PlaneRaft, someGroup)
	_, err := plain.Dial(context.Background(), "a", framework.PlaneRaft, someGroup)
	wantRefused(t, err, "a", framework.RefusedIdentity)
	if !strings.Contains(err.Error(), "TLS") {
		t.Errorf("plain to a TLS port: %v", err)
	}
}

func TestANewCertificateIsUsedWithoutARestart(t *testing.T) {
	w, p := newWorld(t, nil), newPKI(t)
	a, b := w.node("a", withTLS("a", p.node(t, "a"))), w.node("b", withTLS("b", p.node(t, "b")))
	l := listen(t, b, framework.PlaneRaft, someGroup)
	mine, theirs := link(t, a, "b", l, framework.PlaneRaft, someGroup)

	// The whole cluster moves to another authority, by way of trusting both.
	both, err := os.ReadFile(p.pair("ca").Cert)
	if err != nil {
		t.Fatal(err)
	}
	next, err := os.ReadFile(p.pair("other-ca").Cert)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.pair("ca").Cert, append(both, next...), 0o644); err != nil {
		t.Fatal(err)
	}
	fresh := p.leaf(t, "other-ca", "a-new", certs.LeafOptions{Identity: certs.Identity{Role: certs.RoleNode, Name: "a"}})
	for from, to := range map[string]string{fresh.Key: p.pair("a").Key, fresh.Cert: p.pair("a").Cert} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	again, andTheirs := link(t, a, "b", l, framework.PlaneRaft, someGroup)
	say(t, again, andTheirs, "by the new authority")
	say(t, mine, theirs, "the old connection stays")
	if err := os.WriteFile(p.pair("ca").Cert, next, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Dial(context.Background(), "b", framework.PlaneRaft, someGroup); err == nil {
		t.Error("b's certificate is of an authority that is trusted no more")
	}
}
