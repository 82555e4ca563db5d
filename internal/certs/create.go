package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// Defaults.
const (
	// CAValidity is how long an authority lasts when nothing else is said.
	CAValidity = 10 * 365 * 24 * time.Hour
	// LeafValidity is the same for a node or client.
	LeafValidity = 365 * 24 * time.Hour
	// backdated covers clocks that are a little behind the maker's.
	backdated = 5 * time.Minute
)

// Pair names the two files of a certificate and its key.
type Pair struct{ Cert, Key string }

// CAOptions say how an authority is to be made. Zero fields take defaults.
type CAOptions struct {
	Name  string // "Diarchy CA"
	Valid time.Duration
	// Now is when the validity begins; zero is the present.
	Now time.Time
}

// LeafOptions say what certificate is to be made.
type LeafOptions struct {
	Identity
	// DNS and IPs are the addresses under which clients reach the holder's
	// client port. Both empty: localhost and the loopback addresses. Nodes know
	// each other by Name alone.
	DNS   []string
	IPs   []net.IP
	Valid time.Duration
	Now   time.Time
}

// CreateCA makes an authority and writes its two files: the certificate for all
// to read, the key for its owner alone. A file that exists is never replaced.
func CreateCA(out Pair, o CAOptions) error {
	if o.Name == "" {
		o.Name = "Diarchy CA"
	}
	t, err := template(pkix.Name{CommonName: o.Name}, o.Now, o.Valid, CAValidity)
	if err != nil {
		return err
	}
	t.IsCA, t.BasicConstraintsValid, t.MaxPathLenZero = true, true, true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	return sign(out, t, t, nil)
}

// CreateLeaf makes a certificate signed by the authority in ca.
func CreateLeaf(ca, out Pair, o LeafOptions) error {
	if err := o.Identity.check(); err != nil {
		return err
	}
	parent, err := loadCert(ca.Cert)
	if err != nil {
		return err
	}
	key, err := loadKey(ca.Key)
	if err != nil {
		return err
	}
	if err := checkAuthority(ca, parent, key, o.Now); err != nil {
		return err
	}
	t, err := template(pkix.Name{CommonName: o.Name, OrganizationalUnit: []string{string(o.Role)}}, o.Now, o.Valid, LeafValidity)
	if err != nil {
		return err
	}
	if t.NotAfter.After(parent.NotAfter) {
		t.NotAfter = parent.NotAfter
	}
	t.BasicConstraintsValid = true
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	if o.Role != RoleNode {
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	t.URIs = []*url.URL{o.Identity.uri()}
	t.DNSNames, t.IPAddresses = o.DNS, o.IPs
	if len(o.DNS) == 0 && len(o.IPs) == 0 && o.Role == RoleNode {
		t.DNSNames, t.IPAddresses = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	}
	return sign(out, t, parent, key)
}

// checkAuthority says why nothing can be signed with an authority.
func checkAuthority(ca Pair, c *x509.Certificate, key crypto.Signer, now time.Time) error {
	if now.IsZero() {
		now = time.Now()
	}
	switch {
	case !c.IsCA:
		return fmt.Errorf("%s is not a certificate authority; make one with 'diarchy tls ca create'", ca.Cert)
	case !belongs(key, c):
		return fmt.Errorf("the key %s does not belong to the certificate %s", ca.Key, ca.Cert)
	case now.After(c.NotAfter):
		return expired(ca.Cert, c)
	}
	return nil
}

func template(subject pkix.Name, now time.Time, valid, byDefault time.Duration) (*x509.Certificate, error) {
	if valid < 0 {
		return nil, fmt.Errorf("the validity %v is negative", valid)
	}
	if valid == 0 {
		valid = byDefault
	}
	if now.IsZero() {
		now = time.Now()
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("draw a serial number: %w", err)
	}
	return &x509.Certificate{
		SerialNumber: serial.Add(serial, big.NewInt(1)), Subject: subject,
		NotBefore: now.Add(-backdated), NotAfter: now.Add(valid),
	}, nil
}

// sign makes a key, signs the template with the parent's (nil: its own) and
// writes both files, or neither.
func sign(out Pair, t, parent *x509.Certificate, parentKey crypto.Signer) error {
	if filepath.Clean(out.Cert) == filepath.Clean(out.Key) {
		return fmt.Errorf("certificate and key cannot both be written to %s", out.Cert)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	if parentKey == nil {
		parentKey = key
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, &key.PublicKey, parentKey)
	if err != nil {
		return fmt.Errorf("sign the certificate: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode the key: %w", err)
	}
	if err := writeNew(out.Key, "PRIVATE KEY", keyDER, 0o600); err != nil {
		return err
	}
	if err := writeNew(out.Cert, "CERTIFICATE", der, 0o644); err != nil {
		return errors.Join(err, os.Remove(out.Key))
	}
	return nil
}

// writeNew writes a PEM file that must not exist yet, durably.
func writeNew(path, kind string, der []byte, mode os.FileMode) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists already and is not overwritten; move it away or name another file", path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, pathCause(err))
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			err = errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(path))
		}
	}()
	if err := pem.Encode(f, &pem.Block{Type: kind, Bytes: der}); err != nil {
		return err
	}
	if err := f.Chmod(mode); err != nil { // the umask may have taken the readers away
		return err
	}
	return f.Sync()
}

// pathCause drops the path that the caller names itself.
func pathCause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
