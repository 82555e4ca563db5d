package discovery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Bounds on what one source may say.
const (
	sourceBytesMax = 64 << 10
	sourceAddrsMax = 256
	execTimeout    = 10 * time.Second
	dnsTimeout     = 5 * time.Second
)

// A Discoverer names addresses at which other nodes may be found. Addrs is
// called anew in every round of the search, by one goroutine at a time, and
// ends when ctx does. Addresses are "host:port" or "host"; those returned
// beside an error are used all the same.
type Discoverer interface {
	Addrs(ctx context.Context) ([]string, error)
	// String is the source as it was configured.
	String() string
}

// ParseSource reads one entry of gossip.join:
//
//	host:port             as it is, looked up in every round
//	dns://host:port       all A and AAAA records of host
//	dns+srv://name        the targets and ports of the SRV records of name
//	file://path           one address a line, '#' starts a comment; read in every round
//	exec://command args   the same from a command's output; no shell, 10 s at most
func ParseSource(s string) (Discoverer, error) { return parseSource(s, net.DefaultResolver) }

func parseSource(s string, r *net.Resolver) (Discoverer, error) {
	scheme, rest, found := strings.Cut(s, "://")
	if !found {
		if _, port, err := splitAddr(s, DefaultPort); err != nil {
			return nil, err
		} else if port == 0 {
			return nil, invalid("join address %q: port 0 cannot be joined", s)
		}
		return staticSource(s), nil
	}
	if rest == "" {
		return nil, invalid("join source %q names nothing after %s://", s, scheme)
	}
	switch scheme {
	case "dns":
		host, port, err := splitAddr(rest, DefaultPort)
		if err != nil || host == "" || port == 0 {
			return nil, invalid("join source %q: expected dns://host:port", s)
		}
		return &dnsSource{text: s, host: host, port: port, resolver: r}, nil
	case "dns+srv":
		if strings.ContainsAny(rest, "/: ") {
			return nil, invalid("join source %q: expected dns+srv://name, the ports come with the records", s)
		}
		return &srvSource{text: s, name: rest, resolver: r}, nil
	case "file":
		return &fileSource{text: s, path: rest}, nil
	case "exec":
		args, err := splitCommand(rest)
		if err != nil {
			return nil, invalid("join source %q: %v", s, err)
		}
		return &execSource{text: s, args: args, timeout: execTimeout}, nil
	}
	return nil, invalid("join source %q: %s:// is not known; expected host:port, dns://, dns+srv://, file:// or exec://", s, scheme)
}

type staticSource string

func (s staticSource) Addrs(context.Context) ([]string, error) { return []string{string(s)}, nil }
func (s staticSource) String() string                          { return string(s) }

type dnsSource struct {
	text, host string
	port       uint16
	resolver   *net.Resolver
}

func (s *dnsSource) String() string { return s.text }

func (s *dnsSource) Addrs(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, dnsTimeout)
	defer cancel()
	ips, err := lookup(ctx, s.resolver, s.host)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, ip := range ips[:min(len(ips), sourceAddrsMax)] {
		out = append(out, netip.AddrPortFrom(ip, s.port).String())
	}
	return out, nil
}

type srvSource struct {
	text, name string
	resolver   *net.Resolver
}

func (s *srvSource) String() string { return s.text }

func (s *srvSource) Addrs(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, dnsTimeout)
	defer cancel()
	_, records, err := s.resolver.LookupSRV(ctx, "", "", s.name)
	var out []string
	for _, r := range records[:min(len(records), sourceAddrsMax)] {
		out = append(out, net.JoinHostPort(strings.TrimSuffix(r.Target, "."), strconv.Itoa(int(r.Port))))
	}
	return out, err
}

type fileSource struct{ text, path string }

func (s *fileSource) String() string { return s.text }

func (s *fileSource) Addrs(context.Context) ([]string, error) {
	text, err := readSmallFile(s.path, sourceBytesMax)
	if err != nil {
		return nil, err
	}
	return parseAddrLines(text)
}

// parseAddrLines reads one address a line. Lines that are none are named in the
// error; the others count.
func parseAddrLines(text string) ([]string, error) {
	var out []string
	var errs []error
	for i, line := range strings.Split(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if len(out) == sourceAddrsMax {
			errs = append(errs, fmt.Errorf("line %d: more than %d addresses; the rest is ignored", i+1, sourceAddrsMax))
			break
		}
		if _, _, err := splitAddr(line, DefaultPort); err != nil {
			if len(errs) < 3 {
				errs = append(errs, fmt.Errorf("line %d: %w", i+1, err))
			}
			continue
		}
		out = append(out, line)
	}
	return out, errors.Join(errs...)
}

// splitCommand splits at spaces; single and double quotes keep them.
func splitCommand(s string) ([]string, error) {
	var args []string
	var word strings.Builder
	var quote rune
	inWord := false
	for _, r := range s {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, inWord = r, true
		case r == ' ' || r == '\t':
			if inWord {
				args, inWord = append(args, word.String()), false
				word.Reset()
			}
		default:
			inWord = true
			word.WriteRune(r)
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("a %c is not closed", quote)
	}
	if inWord {
		args = append(args, word.String())
	}
	if len(args) == 0 || args[0] == "" {
		return nil, errors.New("it names no command")
	}
	return args, nil
}
