package certs_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/diarchy/diarchy/internal/certs"
)

type dir string

func (d dir) path(name string) string { return filepath.Join(string(d), name) }
func (d dir) pair(name string) certs.Pair {
	return certs.Pair{Cert: d.path(name + ".pem"), Key: d.path(name + "-key.pem")}
}
func (d dir) files(ca, name string) certs.Files {
	return certs.Files{CA: d.pair(ca).Cert, Cert: d.pair(name).Cert, Key: d.pair(name).Key}
}

func (d dir) ca(t *testing.T, name string) {
	t.Helper()
	if err := certs.CreateCA(d.pair(name), certs.CAOptions{}); err != nil {
		t.Fatal(err)
	}
}

func (d dir) leaf(t *testing.T, ca, name string, o certs.LeafOptions) {
	t.Helper()
	if o.Role == "" {
		o.Role = certs.RoleNode
	}
	if o.Name == "" {
		o.Name = name
	}
	if err := certs.CreateLeaf(d.pair(ca), d.pair(name), o); err != nil {
		t.Fatal(err)
	}
}

func parse(t *testing.T, path string) *x509.Certificate {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := pem.Decode(data)
	c, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestFilesAreNewAndHaveTheirModes(t *testing.T) {
	d := dir(t.TempDir())
	d.ca(t, "ca")
	d.leaf(t, "ca", "n1", certs.LeafOptions{})
	for name, mode := range map[string]os.FileMode{"ca.pem": 0o644, "ca-key.pem": 0o600, "n1.pem": 0o644, "n1-key.pem": 0o600} {
		if fi, err := os.Stat(d.path(name)); err != nil || fi.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", name, fi.Mode(), err)
		}
	}
	before, _ := os.ReadFile(d.path("n1.pem"))
	err := certs.CreateLeaf(d.pair("ca"), d.pair("n1"), certs.LeafOptions{Identity: certs.Identity{Role: certs.RoleNode, Name: "n1"}})
	if err == nil || !strings.Contains(err.Error(), "n1-key.pem exists already") {
		t.Errorf("overwriting: %v", err)
	}
	if err := certs.CreateCA(d.pair("ca"), certs.CAOptions{}); err == nil {
		t.Error("the authority was overwritten")
	}
	if after, _ := os.ReadFile(d.path("n1.pem")); !bytes.Equal(before, after) {
		t.Error("the refused call has changed the file")
	}
	// Where the certificate is in the way, no lone key is left behind.
	_ = os.Remove(d.path("n1-key.pem"))
	if err := certs.CreateLeaf(d.pair("ca"), d.pair("n1"), certs.LeafOptions{Identity: certs.Identity{Role: certs.RoleNode, Name: "n1"}}); err == nil {
		t.Error("the certificate was overwritten")
	}
	if _, err := os.Stat(d.path("n1-key.pem")); !os.IsNotExist(err) {
		t.Errorf("a key without certificate was left: %v", err)
	}
}

func TestWhatACertificateSays(t *testing.T) {
	d := dir(t.TempDir())
	d.ca(t, "ca")
	d.leaf(t, "ca", "n1", certs.LeafOptions{DNS: []string{"n1.example"}, IPs: []net.IP{net.IPv4(10, 0, 0, 1)}})
	d.leaf(t, "ca", "ann", certs.LeafOptions{Identity: certs.Identity{Role: certs.RoleClient}})
	c := parse(t, d.path("n1.pem"))
	if name, err := certs.RequireNode(c); err != nil || name != "n1" {
		t.Errorf("%q, %v", name, err)
	}
	if len(c.URIs) != 1 || c.URIs[0].String() != "diarchy://node/n1" || c.DNSNames[0] != "n1.example" || c.IsCA {
		t.Errorf("%v %v CA %v", c.URIs, c.DNSNames, c.IsCA)
	}
	if _, err := certs.RequireNode(parse(t, d.path("ann.pem"))); !errors.Is(err, certs.ErrNotNode) {
		t.Errorf("a client's certificate as a node's: %v", err)
	}
}

func TestIdentitiesThatAreNone(t *testing.T) {
	for _, uris := range [][]string{
		{}, {"https://node/n1"}, {"diarchy://node/n1", "diarchy://client/n1"}, {"diarchy://king/n1"}, {"diarchy://node/"},
		{"diarchy://node/a/b"}, {"diarchy://node/n1?x=1"}, {"diarchy://u@node/n1"}, {"diarchy:node/n1"}, {"diarchy://node/n%201"},
	} {
		c := &x509.Certificate{}
		for _, s := range uris {
			u, err := url.Parse(s)
			if err != nil {
				t.Fatal(err)
			}
			c.URIs = append(c.URIs, u)
		}
		if id, err := certs.IdentityOf(c); err == nil {
			t.Errorf("%v is taken for %v", uris, id)
		}
	}
}

func TestMistakesInMaking(t *testing.T) {
	d := dir(t.TempDir())
	d.ca(t, "ca")
	d.ca(t, "other")
	d.leaf(t, "ca", "n1", certs.LeafOptions{})
	if err := certs.CreateCA(d.pair("old"), certs.CAOptions{Now: time.Now().Add(-48 * time.Hour), Valid: time.Hour}); err != nil {
		t.Fatal(err)
	}
	node := certs.Identity{Role: certs.RoleNode, Name: "n2"}
	mixed := certs.Pair{Cert: d.pair("ca").Cert, Key: d.pair("other").Key}
	same := certs.Pair{Cert: d.path("x"), Key: d.path("./x")}
	for _, c := range []struct {
		ca, out certs.Pair
		o       certs.LeafOptions
		want    string
	}{
		{d.pair("none"), d.pair("n2"), certs.LeafOptions{Identity: node}, "none.pem"},
		{d.pair("n1"), d.pair("n2"), certs.LeafOptions{Identity: node}, "n1.pem is not a certificate authority"},
		{mixed, d.pair("n2"), certs.LeafOptions{Identity: node}, "does not belong"},
		{d.pair("old"), d.pair("n2"), certs.LeafOptions{Identity: node}, "old.pem expired"},
		{d.pair("ca"), d.pair("n2"), certs.LeafOptions{Identity: certs.Identity{Role: "king", Name: "n2"}}, "unknown role"},
		{d.pair("ca"), d.pair("n2"), certs.LeafOptions{Identity: certs.Identity{Role: certs.RoleNode, Name: "a b"}}, "may only have"},
		{d.pair("ca"), d.pair("n2"), certs.LeafOptions{Identity: certs.Identity{Role: certs.RoleNode}}, "1 to 63"},
		{d.pair("ca"), d.pair("n2"), certs.LeafOptions{Identity: node, Valid: -1}, "negative"},
		{d.pair("ca"), same, certs.LeafOptions{Identity: node}, "cannot both"},
		{d.pair("ca"), d.pair("no/such/n2"), certs.LeafOptions{Identity: node}, "no/such/n2-key.pem"},
	} {
		if err := certs.CreateLeaf(c.ca, c.out, c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
	if left, _ := filepath.Glob(d.path("n2*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestLoadNamesTheFileAndTheFault(t *testing.T) {
	d := dir(t.TempDir())
	d.ca(t, "ca")
	d.ca(t, "other")
	d.leaf(t, "ca", "n1", certs.LeafOptions{})
	d.leaf(t, "ca", "n2", certs.LeafOptions{})
	d.leaf(t, "ca", "old", certs.LeafOptions{Now: time.Now().Add(-2 * time.Hour), Valid: time.Hour})
	d.leaf(t, "ca", "early", certs.LeafOptions{Now: time.Now().Add(time.Hour)})
	d.leaf(t, "ca", "ann", certs.LeafOptions{Identity: certs.Identity{Role: certs.RoleClient}})
	write := func(name, text string) string {
		if err := os.WriteFile(d.path(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return d.path(name)
	}
	text := write("text", "hello")
	damaged := write("damaged", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
	long := write("long", strings.Repeat("x", 2<<20))
	good := d.files("ca", "n1")
	for name, c := range map[string]struct {
		f    certs.Files
		want []string
	}{
		"missing":     {certs.Files{CA: good.CA, Cert: d.path("gone"), Key: good.Key}, []string{"gone", "no such file"}},
		"no ca":       {certs.Files{Cert: good.Cert, Key: good.Key}, []string{"no certificate file"}},
		"not PEM":     {certs.Files{CA: good.CA, Cert: text, Key: good.Key}, []string{text, "not a PEM"}},
		"damaged":     {certs.Files{CA: damaged, Cert: good.Cert, Key: good.Key}, []string{damaged, "damaged"}},
		"too long":    {certs.Files{CA: long, Cert: good.Cert, Key: good.Key}, []string{long, "longer"}},
		"ca no ca":    {certs.Files{CA: good.Cert, Cert: good.Cert, Key: good.Key}, []string{good.Cert, "not a certificate authority"}},
		"swapped":     {certs.Files{CA: good.CA, Cert: good.Key, Key: good.Cert}, []string{good.Key, `"PRIVATE KEY"`}},
		"cert as key": {certs.Files{CA: good.CA, Cert: good.Cert, Key: good.Cert}, []string{good.Cert, `"CERTIFICATE"`}},
		"mismatch":    {certs.Files{CA: good.CA, Cert: good.Cert, Key: d.pair("n2").Key}, []string{"n2-key.pem", "does not belong", "n1.pem"}},
		"half":        {certs.Files{CA: good.CA, Cert: good.Cert}, []string{"give both"}},
		"wrong ca":    {d.files("other", "n1"), []string{"n1.pem", "not signed by", "other.pem"}},
		"expired":     {d.files("ca", "old"), []string{"old.pem", "expired"}},
		"early":       {d.files("ca", "early"), []string{"early.pem", "clock"}},
		"no node":     {d.files("ca", "ann"), []string{"ann.pem", "not a node's", `client "ann"`}},
		"none":        {certs.Files{CA: good.CA}, []string{"needs a certificate"}},
	} {
		_, err := certs.LoadNode(c.f, nil)
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q does not say %q", name, err, want)
			}
		}
	}
	if s, err := certs.LoadNode(good, nil); err != nil || s.Identity().Name != "n1" {
		t.Errorf("the good files: %v", err)
	}
	if _, err := certs.Load(d.files("ca", "ann"), nil); err != nil {
		t.Errorf("a client's files: %v", err)
	}
}

// shake does a handshake over TCP and returns what each end saw of the other, and
// both ends' errors.
func shake(t *testing.T, server, client *tls.Config) (sawServer, sawClient *x509.Certificate, serverErr, clientErr error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			serverErr = err
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		s := tls.Server(c, server)
		if serverErr = s.Handshake(); serverErr == nil {
			if p := s.ConnectionState().PeerCertificates; len(p) > 0 {
				sawClient = p[0]
			}
			_, serverErr = s.Write([]byte("."))
		}
	}()
	c, err := tls.Dial("tcp", l.Addr().String(), client)
	if clientErr = err; err == nil {
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		sawServer = c.ConnectionState().PeerCertificates[0]
		_, clientErr = c.Read(make([]byte, 1))
		_ = c.Close()
	}
	<-done
	return sawServer, sawClient, serverErr, clientErr
}

func TestPeersProveThemselvesToEachOther(t *testing.T) {
	d := dir(t.TempDir())
	d.ca(t, "ca")
	d.ca(t, "other")
	d.leaf(t, "ca", "n1", certs.LeafOptions{DNS: []string{"not.the.address.dialed"}})
	d.leaf(t, "ca", "n2", certs.LeafOptions{})
	d.leaf(t, "other", "thief", certs.LeafOptions{Identity: certs.Identity{Name: "n2"}})
	d.leaf(t, "ca", "ann", certs.LeafOptions{Identity: certs.Identity{Role: certs.RoleClient}})
	load := func(ca, name string) *certs.Source {
		s, err := certs.Load(d.files(ca, name), nil)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	n1, n2, thief, ann := load("ca", "n1"), load("ca", "n2"), load("other", "thief"), load("ca", "ann")
	sawServer, sawClient, se, ce := shake(t, n1.PeerServer(), n2.PeerClient())
	if se != nil || ce != nil {
		t.Fatalf("%v, %v", se, ce)
	}
	if a, err := certs.RequireNode(sawServer); err != nil || a != "n1" {
		t.Errorf("the server is %q, %v", a, err)
	}
	if b, err := certs.RequireNode(sawClient); err != nil || b != "n2" {
		t.Errorf("the client is %q, %v", b, err)
	}
	if _, _, se, _ := shake(t, n1.PeerServer(), thief.PeerClient()); se == nil {
		t.Error("a client of another authority was taken")
	}
	if _, _, _, ce := shake(t, thief.PeerServer(), n1.PeerClient()); ce == nil {
		t.Error("a server of another authority was taken")
	}
	if _, _, _, ce := shake(t, ann.PeerServer(), n1.PeerClient()); ce == nil {
		t.Error("a client's certificate was taken for a server's")
	}
	bare := &tls.Config{InsecureSkipVerify: true}
	if _, _, se, _ := shake(t, n1.PeerServer(), bare); se == nil {
		t.Error("a client without a certificate was taken")
	}
	bare.MaxVersion = tls.VersionTLS12
	if _, _, se, _ := shake(t, n1.PeerServer(), bare); se == nil {
		t.Error("TLS 1.2 was taken")
	}
	if _, _, se, ce := shake(t, n2.Server(), ann.Client()); se != nil || ce != nil {
		t.Errorf("the client port: %v, %v", se, ce)
	}
	if _, _, _, ce := shake(t, n1.Server(), ann.Client()); ce == nil {
		t.Error("a client took a server whose certificate is for another address")
	}
	if _, _, se, ce := shake(t, n2.Server(), load("ca", "n2").Client()); se != nil || ce != nil {
		t.Errorf("the client port, as a node: %v, %v", se, ce)
	}
}

func TestChangedFilesAreUsedAndBrokenOnesAreNot(t *testing.T) {
	d := dir(t.TempDir())
	d.ca(t, "ca")
	d.leaf(t, "ca", "n1", certs.LeafOptions{})
	d.leaf(t, "ca", "n2", certs.LeafOptions{})
	var log bytes.Buffer
	s, err := certs.LoadNode(d.files("ca", "n1"), slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	other, err := certs.LoadNode(d.files("ca", "n2"), nil)
	if err != nil {
		t.Fatal(err)
	}
	server, client := s.PeerServer(), s.PeerClient()
	serial := func() (asServer, asClient string) {
		t.Helper()
		saw, _, se, ce := shake(t, server, other.PeerClient())
		if se != nil || ce != nil {
			t.Fatalf("%v, %v", se, ce)
		}
		_, sawClient, se, ce := shake(t, other.PeerServer(), client)
		if se != nil || ce != nil {
			t.Fatalf("%v, %v", se, ce)
		}
		return saw.SerialNumber.String(), sawClient.SerialNumber.String()
	}
	first, _ := serial()

	d.leaf(t, "ca", "new", certs.LeafOptions{Identity: certs.Identity{Name: "n1"}})
	replace := func(from, to string) {
		t.Helper()
		if err := os.Rename(d.path(from), d.path(to)); err != nil {
			t.Fatal(err)
		}
		// A later time than the old file's, whatever the file system's grain.
		at := time.Now().Add(time.Minute)
		if err := os.Chtimes(d.path(to), at, at); err != nil {
			t.Fatal(err)
		}
	}
	replace("new-key.pem", "n1-key.pem") // the pair does not fit at this moment
	if now, _ := serial(); now != first {
		t.Error("a key without its certificate was used")
	}
	if !strings.Contains(log.String(), "does not belong") {
		t.Errorf("the log does not say why: %s", &log)
	}
	replace("new.pem", "n1.pem")
	asServer, asClient := serial()
	if want := parse(t, d.path("n1.pem")).SerialNumber.String(); asServer != want || asClient != want {
		t.Errorf("serial %s and %s in use, %s on disk", asServer, asClient, want)
	}

	d.leaf(t, "ca", "stranger", certs.LeafOptions{})
	replace("stranger-key.pem", "n1-key.pem")
	replace("stranger.pem", "n1.pem")
	if now, _ := serial(); now != asServer {
		t.Error("a certificate of another name was used")
	}
	if !strings.Contains(log.String(), "names somebody else") {
		t.Errorf("the log does not say why: %s", &log)
	}
}

func TestAnAuthorityCanBeReplacedWhileRunning(t *testing.T) {
	d := dir(t.TempDir())
	d.ca(t, "ca")
	d.ca(t, "next")
	d.leaf(t, "ca", "n1", certs.LeafOptions{})
	d.leaf(t, "next", "n2", certs.LeafOptions{})
	n1, err := certs.LoadNode(d.files("ca", "n1"), nil)
	if err != nil {
		t.Fatal(err)
	}
	old, _ := os.ReadFile(d.path("ca.pem"))
	next, _ := os.ReadFile(d.path("next.pem"))
	if err := os.WriteFile(d.path("both.pem"), append(old, next...), 0o600); err != nil {
		t.Fatal(err)
	}
	n2, err := certs.LoadNode(d.files("both", "n2"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, se, _ := shake(t, n1.PeerServer(), n2.PeerClient()); se == nil {
		t.Error("the next authority was taken before its time")
	}
	if err := os.Rename(d.path("both.pem"), d.path("ca.pem")); err != nil {
		t.Fatal(err)
	}
	if _, _, se, ce := shake(t, n1.PeerServer(), n2.PeerClient()); se != nil || ce != nil {
		t.Errorf("%v, %v", se, ce)
	}
}
