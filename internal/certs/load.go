package certs

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"
)

// Files are what a node or client is given.
type Files struct {
	// CA holds the authority, or several while one is being replaced.
	CA string
	// Cert and Key may both be empty for a client that shows none.
	Cert, Key string
}

// fileBytesMax is the longest file read; a certificate has about 1 KiB.
const fileBytesMax = 1 << 20

// material is what the files held at one moment.
type material struct {
	roots  *x509.CertPool
	cert   *tls.Certificate // nil without one
	id     Identity
	stamps [3]stamp
}

// stamp tells a file's versions apart.
type stamp struct {
	mtime time.Time
	size  int64
	err   bool
}

// Source serves TLS settings from files and reads them again when they change:
// each handshake looks at the files' times. Files that have become unusable are
// logged and the last good ones kept. Safe for concurrent use.
type Source struct {
	files  Files
	logger *slog.Logger

	mu   sync.Mutex
	good *material
	seen [3]stamp // the versions last tried
}

// Load reads the files. Its errors name the file and what is wrong with it.
// The logger may be nil.
func Load(f Files, logger *slog.Logger) (*Source, error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	m, err := read(f, time.Now())
	if err != nil {
		return nil, err
	}
	return &Source{files: f, logger: logger, good: m, seen: m.stamps}, nil
}

// LoadNode is Load for a node: the certificate must be there and be a node's.
func LoadNode(f Files, logger *slog.Logger) (*Source, error) {
	s, err := Load(f, logger)
	if err != nil {
		return nil, err
	}
	if s.good.cert == nil {
		return nil, errors.New("a node needs a certificate and a key (cert_file, key_file); make them with 'diarchy tls cert create'")
	}
	if s.good.id.Role != RoleNode {
		return nil, fmt.Errorf("%s: %w: it is for %s", f.Cert, ErrNotNode, s.good.id)
	}
	return s, nil
}

// Identity is who the certificate speaks for; zero without one.
func (s *Source) Identity() Identity { return s.current().id }

// current is the material of now.
func (s *Source) current() *material {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := stampsOf(s.files)
	if now == s.seen {
		return s.good
	}
	s.seen = now
	m, err := read(s.files, time.Now())
	switch {
	case err != nil:
		s.logger.Warn("the TLS files have changed and cannot be used; going on with the ones before", "error", err)
	case m.id != s.good.id:
		s.logger.Warn("the TLS certificate now names somebody else; going on with the one before",
			"file", s.files.Cert, "was", s.good.id.String(), "is", m.id.String())
	default:
		s.logger.Info("the TLS files have changed and are in use", "certificate", s.files.Cert)
		s.good = m
	}
	return s.good
}

// PeerServer is for the peer port: the other end must show a certificate of our
// authority. Whether it is a node's is for the caller to check (RequireNode).
func (s *Source) PeerServer() *tls.Config {
	return s.reloading(func(m *material) *tls.Config {
		return &tls.Config{
			MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*m.cert},
			ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: m.roots, SessionTicketsDisabled: true,
		}
	})
}

// PeerClient is for dialing peer ports. Nodes are known by name, not by the
// address dialed, so the address is not compared; the authority, the times and
// the usage are. Whether it is the node wanted is for the caller to check.
func (s *Source) PeerClient() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return s.current().cert, nil
		},
		InsecureSkipVerify: true, // VerifyConnection does all but the address
		VerifyConnection:   s.verifyServer,
	}
}

func (s *Source) verifyServer(cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		return errors.New("the other end showed no certificate")
	}
	o := x509.VerifyOptions{Roots: s.current().roots, Intermediates: x509.NewCertPool()}
	for _, c := range cs.PeerCertificates[1:] {
		o.Intermediates.AddCert(c)
	}
	if _, err := cs.PeerCertificates[0].Verify(o); err != nil {
		return &tls.CertificateVerificationError{UnverifiedCertificates: cs.PeerCertificates, Err: err}
	}
	return nil
}

// Server is for the client port: a certificate is checked if the client shows
// one, and need not be shown.
func (s *Source) Server() *tls.Config {
	return s.reloading(func(m *material) *tls.Config {
		return &tls.Config{
			MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*m.cert},
			ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: m.roots, SessionTicketsDisabled: true,
			NextProtos: []string{"h2", "http/1.1"},
		}
	})
}

// Client is for dialing client ports: the server's certificate must be of our
// authority, as the file has it now, and name the host dialed.
func (s *Source) Client() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: s.current().roots,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if m := s.current(); m.cert != nil {
				return m.cert, nil
			}
			return &tls.Certificate{}, nil // none to show
		},
	}
}

// reloading wraps settings for a server so that each connection gets them from
// the material of its moment.
func (s *Source) reloading(settings func(*material) *tls.Config) *tls.Config {
	outer := settings(s.current())
	outer.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return settings(s.current()), nil
	}
	return outer
}

func stampsOf(f Files) (out [3]stamp) {
	for i, path := range []string{f.CA, f.Cert, f.Key} {
		if path == "" {
			continue
		}
		fi, err := os.Stat(path)
		if err != nil {
			out[i].err = true
			continue
		}
		out[i] = stamp{mtime: fi.ModTime(), size: fi.Size()}
	}
	return out
}

// read loads all files and checks that they fit together at the time now.
func read(f Files, now time.Time) (*material, error) {
	m := &material{stamps: stampsOf(f)}
	authorities, err := loadCerts(f.CA)
	if err != nil {
		return nil, err
	}
	m.roots = x509.NewCertPool()
	for _, c := range authorities {
		if !c.IsCA {
			return nil, fmt.Errorf("%s is not a certificate authority (ca_file): it is the certificate of %q", f.CA, c.Subject.CommonName)
		}
		m.roots.AddCert(c)
	}
	if f.Cert == "" && f.Key == "" {
		return m, nil
	}
	if f.Cert == "" || f.Key == "" {
		return nil, errors.New("a certificate needs its key and a key its certificate: give both (cert_file, key_file) or none")
	}
	return m, m.readLeaf(f, now)
}

func (m *material) readLeaf(f Files, now time.Time) error {
	chain, err := loadCerts(f.Cert)
	if err != nil {
		return err
	}
	key, err := loadKey(f.Key)
	if err != nil {
		return err
	}
	leaf := chain[0]
	if err := checkLeaf(f, leaf, key, chain[1:], m.roots, now); err != nil {
		return err
	}
	if m.id, err = IdentityOf(leaf); err != nil {
		return fmt.Errorf("%s: %w", f.Cert, err)
	}
	m.cert = &tls.Certificate{PrivateKey: key, Leaf: leaf}
	for _, c := range chain {
		m.cert.Certificate = append(m.cert.Certificate, c.Raw)
	}
	return nil
}

func checkLeaf(f Files, leaf *x509.Certificate, key crypto.Signer, rest []*x509.Certificate, roots *x509.CertPool, now time.Time) error {
	switch {
	case !belongs(key, leaf):
		return fmt.Errorf("the key %s does not belong to the certificate %s", f.Key, f.Cert)
	case now.After(leaf.NotAfter):
		return expired(f.Cert, leaf)
	case now.Before(leaf.NotBefore):
		return fmt.Errorf("%s is valid only from %s on; is this machine's clock right (%s)?",
			f.Cert, leaf.NotBefore.Format(time.RFC3339), now.Format(time.RFC3339))
	}
	between := x509.NewCertPool()
	for _, c := range rest {
		between.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return fmt.Errorf("%s is not signed by the authority in %s: %w", f.Cert, f.CA, err)
	}
	return nil
}

func expired(path string, c *x509.Certificate) error {
	return fmt.Errorf("%s expired at %s; make a new one with 'diarchy tls'", path, c.NotAfter.Format(time.RFC3339))
}

func loadCert(path string) (*x509.Certificate, error) {
	all, err := loadCerts(path)
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// loadCerts reads all certificates of a PEM file, at least one.
func loadCerts(path string) ([]*x509.Certificate, error) {
	blocks, err := loadPEM(path, "certificate")
	if err != nil {
		return nil, err
	}
	var all []*x509.Certificate
	for _, b := range blocks {
		if b.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("%s should hold a certificate and holds a %q", path, b.Type)
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s holds a damaged certificate: %w", path, err)
		}
		all = append(all, c)
	}
	return all, nil
}

// loadKey reads a private key in any of the forms that tools write.
func loadKey(path string) (crypto.Signer, error) {
	blocks, err := loadPEM(path, "private key")
	if err != nil {
		return nil, err
	}
	var key any
	switch b := blocks[len(blocks)-1]; b.Type { // openssl puts EC PARAMETERS first
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(b.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(b.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(b.Bytes)
	default:
		return nil, fmt.Errorf("%s should hold a private key and holds a %q", path, b.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("%s holds a damaged key: %w", path, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s holds a key that cannot sign (%T)", path, key)
	}
	return signer, nil
}

// belongs tells whether a key is the one that a certificate speaks of.
func belongs(key crypto.Signer, c *x509.Certificate) bool {
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(c.PublicKey)
}

func loadPEM(path, what string) ([]*pem.Block, error) {
	if path == "" {
		return nil, fmt.Errorf("no %s file is given", what)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the %s %s: %w", what, path, pathCause(err))
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, fileBytesMax+1))
	if err != nil {
		return nil, fmt.Errorf("read the %s %s: %w", what, path, pathCause(err))
	}
	if len(data) > fileBytesMax {
		return nil, fmt.Errorf("%s is longer than any %s (over %d bytes)", path, what, fileBytesMax)
	}
	var blocks []*pem.Block
	for {
		var b *pem.Block
		if b, data = pem.Decode(data); b == nil {
			break
		}
		blocks = append(blocks, b)
	}
	if len(blocks) == 0 {
		return nil, fmt.Errorf("%s is not a PEM file: a %s was expected", path, what)
	}
	return blocks, nil
}
