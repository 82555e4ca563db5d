package server

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"net/netip"
	"strings"

	pb "github.com/diarchy/diarchy/client/clientpb"
	"github.com/diarchy/diarchy/framework"
)

// right is what a request needs and what a token gives.
type right uint8

const (
	nobody right = iota // what /healthz needs
	reader
	admin
)

// keys compares tokens by their hashes: in constant time, whatever the length.
type keys struct {
	open          bool
	admin, reader [sha256.Size]byte
	hasReader     bool
}

func newKeys(adminToken, readToken string) keys {
	return keys{
		open:  adminToken == "",
		admin: sha256.Sum256([]byte(adminToken)), reader: sha256.Sum256([]byte(readToken)),
		hasReader: readToken != "",
	}
}

func (k *keys) rightOf(h http.Header) right {
	if k.open {
		return admin
	}
	token, ok := tokenOf(h)
	if !ok {
		return nobody
	}
	sum := sha256.Sum256([]byte(token))
	isAdmin := subtle.ConstantTimeCompare(sum[:], k.admin[:]) == 1
	isReader := subtle.ConstantTimeCompare(sum[:], k.reader[:]) == 1 && k.hasReader
	switch {
	case isAdmin:
		return admin
	case isReader:
		return reader
	}
	return nobody
}

func tokenOf(h http.Header) (string, bool) {
	if t := h.Get("X-Diarchy-Token"); t != "" {
		return t, true
	}
	scheme, t, ok := strings.Cut(h.Get("Authorization"), " ")
	t = strings.TrimSpace(t)
	return t, ok && strings.EqualFold(scheme, "Bearer") && t != ""
}

// allow says why a request with these rights may not do what needs want.
func allow(have, need right) error {
	switch {
	case have >= need:
		return nil
	case have == nobody:
		return errUnauthenticated
	}
	return framework.ErrDenied.Because("this needs the administrator token; the one given may only read")
}

var errUnauthenticated = &framework.Error{Code: pb.CodeUnauthenticated,
	Message: "a valid token is needed: send 'Authorization: Bearer TOKEN' (diarchy: --token-file or DIARCHY_TOKEN)"}

// guard keeps out what a foreign web page can make a browser send.
type guard struct {
	origin *http.CrossOriginProtection
	open   bool
	hosts  map[string]bool
}

func newGuard(c *Config) *guard {
	g := &guard{origin: http.NewCrossOriginProtection(), open: c.AdminToken == "", hosts: map[string]bool{}}
	for _, h := range c.Hosts {
		g.hosts[strings.ToLower(h)] = true
	}
	return g
}

func (g *guard) check(r *http.Request) error {
	if g.open && !g.hostIsOurs(r) {
		return &framework.Error{Code: pb.CodeCrossOrigin, Message: "requests to this node are for an address, localhost or one of its configured host names, not for " + quote(r.Host)}
	}
	if err := g.origin.Check(r); err != nil {
		return &framework.Error{Code: pb.CodeCrossOrigin, Message: "a page of another origin made this request: " + err.Error()}
	}
	if r.Method == http.MethodPost && foreignFormType(r.Header.Get("Content-Type")) && hasBody(r) {
		return &framework.Error{Code: pb.CodeMediaType, Message: "send 'Content-Type: application/octet-stream' (or application/json for calls): a POST of " +
			quote(r.Header.Get("Content-Type")) + " is what a foreign page could send"}
	}
	return nil
}

func hasBody(r *http.Request) bool { return r.ContentLength != 0 }

// foreignFormType tells the content types that a browser sends to other sites
// without asking them first.
func foreignFormType(contentType string) bool {
	kind, _, _ := strings.Cut(contentType, ";")
	switch strings.ToLower(strings.TrimSpace(kind)) {
	case "", "application/x-www-form-urlencoded", "multipart/form-data", "text/plain":
		return true
	}
	return false
}

// hostIsOurs is false when a request came over loopback for a name that no one
// gave this node: a name can be pointed at 127.0.0.1 by whoever owns it.
func (g *guard) hostIsOurs(r *http.Request) bool {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if local == nil {
		return true
	}
	if ap, err := netip.ParseAddrPort(local.String()); err != nil || !ap.Addr().Unmap().IsLoopback() {
		return true
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	return host == "" || isLoopbackHost(host) || g.hosts[host]
}

// door is what ServeHTTP hands on to a call: the right it found, and the
// connection's end of the answer.
type door struct {
	right right
	out   *stallWriter
}

type doorKey struct{}

func withDoor(ctx context.Context, d door) context.Context {
	return context.WithValue(ctx, doorKey{}, d)
}

// doorFrom is the zero door, which may do nothing, for a call that has not
// come through it.
func doorFrom(ctx context.Context) door {
	d, _ := ctx.Value(doorKey{}).(door)
	return d
}
