// Package certs makes and loads the certificates that nodes and clients prove
// themselves with: one authority for a cluster, one certificate for each node or
// client. A certificate says who it is by a URI, diarchy://ROLE/NAME, so names
// do not hang on addresses, and a client's certificate is never a node's.
//
// It is not a public key infrastructure: there are no intermediate authorities
// and no revocation lists; certificates are to be short-lived and replaced, which
// a running node notices by itself. Read identity.go, then create.go (files made)
// and load.go (files used).
package certs

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// Scheme is that of the URI which names a certificate's holder.
const Scheme = "diarchy"

// Role is what a certificate's holder may be taken for.
type Role string

// Roles.
const (
	// RoleNode is a node: it may speak to other nodes' peer ports.
	RoleNode Role = "node"
	// RoleClient is a user of the service.
	RoleClient Role = "client"
	// RoleAdmin is a user who administers the cluster.
	RoleAdmin Role = "admin"
)

func (r Role) valid() bool { return r == RoleNode || r == RoleClient || r == RoleAdmin }

// Identity is who a certificate speaks for.
type Identity struct {
	Role Role
	Name string
}

func (id Identity) String() string { return fmt.Sprintf("%s %q", id.Role, id.Name) }

func (id Identity) uri() *url.URL {
	return &url.URL{Scheme: Scheme, Host: string(id.Role), Path: "/" + id.Name}
}

// nameBytesMax is the longest name.
const nameBytesMax = 63

// check says what is wrong with an identity.
func (id Identity) check() error {
	if !id.Role.valid() {
		return fmt.Errorf("unknown role %q; use node, client or admin", id.Role)
	}
	if id.Name == "" || len(id.Name) > nameBytesMax {
		return fmt.Errorf("the name %q must have 1 to %d characters", id.Name, nameBytesMax)
	}
	for _, c := range id.Name {
		ok := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.'
		if !ok {
			return fmt.Errorf("the name %q may only have letters, digits, '-', '_' and '.'", id.Name)
		}
	}
	return nil
}

// IdentityOf reads who a certificate speaks for. Exactly one URI of our scheme
// must be in it: with two, who it is would depend on who asks.
func IdentityOf(c *x509.Certificate) (Identity, error) {
	var found []*url.URL
	for _, u := range c.URIs {
		if u.Scheme == Scheme {
			found = append(found, u)
		}
	}
	if len(found) != 1 {
		return Identity{}, fmt.Errorf("the certificate of %q has %d names of the form %s://node/NAME; it must have one: make it with 'diarchy tls cert create'",
			c.Subject.CommonName, len(found), Scheme)
	}
	u := found[0]
	id := Identity{Role: Role(u.Host), Name: strings.TrimPrefix(u.Path, "/")}
	if err := id.check(); err != nil {
		return Identity{}, fmt.Errorf("the certificate's name %s: %w", u, err)
	}
	if *u != *id.uri() {
		return Identity{}, fmt.Errorf("the certificate's name %s is not of the form %s://node/NAME", u, Scheme)
	}
	return id, nil
}

// ErrNotNode is matched by the errors of RequireNode about another role.
var ErrNotNode = errors.New("the certificate is not a node's")

// RequireNode answers the name of the node that a certificate speaks for; a
// client's or administrator's is refused.
func RequireNode(c *x509.Certificate) (string, error) {
	id, err := IdentityOf(c)
	if err != nil {
		return "", err
	}
	if id.Role != RoleNode {
		return "", fmt.Errorf("%w: it is for %s", ErrNotNode, id)
	}
	return id.Name, nil
}
