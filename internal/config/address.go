package config

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

// addresses checks the three ports and fills what they advertise.
func (k *checker) addresses() {
	c := k.c
	ports := []struct {
		path string
		l    *Listener
	}{{"gossip", &c.Gossip.Listener}, {"peer", &c.Peer}, {"client", &c.Client.Listener}}
	for i, p := range ports {
		if !k.bind(p.path+".bind", p.l.Bind) {
			continue
		}
		k.advertise(p.path, p.l)
		for _, q := range ports[:i] {
			if clash(p.l.Bind, q.l.Bind) {
				k.refuse(p.path+".bind", "= %q is also %s.bind: give each its own port", p.l.Bind, q.path)
			}
		}
	}
}

func (k *checker) bind(path, addr string) bool {
	host, err := CheckAddress(addr)
	if err != nil {
		k.refuse(path, "= %q: %s", addr, err)
		return false
	}
	return host == "" || k.resolves(path, addr, host)
}

// resolves says whether a host is an address or a name that has one.
func (k *checker) resolves(path, addr, host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	resolve := k.known.Resolve
	if resolve == nil {
		resolve = lookup
	}
	if err := resolve(host); err != nil {
		k.refuse(path, "= %q: the name does not resolve (%s): expected an address of this machine or a name that has one", addr, err)
		return false
	}
	return true
}

func lookup(host string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, err := net.DefaultResolver.LookupHost(ctx, host)
	return err
}

func (k *checker) advertise(name string, l *Listener) {
	path := name + ".advertise"
	if l.Advertise != "" {
		host, err := CheckAddress(l.Advertise)
		switch {
		case err != nil:
			k.refuse(path, "= %q: %s", l.Advertise, err)
		case wildcard(host):
			k.refuse(path, "= %q: expected the address that other nodes reach this one by, not every address", l.Advertise)
		default:
			k.resolves(path, l.Advertise, host)
		}
		return
	}
	host, port, _ := net.SplitHostPort(l.Bind)
	if !wildcard(host) {
		l.Advertise = l.Bind
		return
	}
	ip, err := k.onlyAddress(host)
	if err != nil {
		k.refuse(name+".bind", "= %q is every address and %s is not set: %s; set %s to the address that other nodes reach this one by", l.Bind, path, err, path)
		return
	}
	l.Advertise = net.JoinHostPort(ip, port)
}

// onlyAddress is this machine's address beyond loopback, if it has just one of
// the family that the wildcard host asks for.
func (k *checker) onlyAddress(host string) (string, error) {
	list := k.known.Addrs
	if list == nil {
		list = systemAddrs
	}
	ips, err := list()
	if err != nil {
		return "", fmt.Errorf("this machine's addresses cannot be listed (%w)", err)
	}
	var found []string
	for _, ip := range ips {
		if v4 := ip.To4() != nil; v4 == (host != "::") && ip.IsGlobalUnicast() {
			found = append(found, ip.String())
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", errors.New("this machine has no address beyond loopback")
	}
	return "", fmt.Errorf("this machine has several (%s)", strings.Join(found, ", "))
}

func systemAddrs() ([]net.IP, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var out []net.IP
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			out = append(out, n.IP)
		}
	}
	return out, nil
}

// CheckAddress reads HOST:PORT with a numeric port from 1 on and returns the
// host; an empty host stands for every address.
func CheckAddress(addr string) (host string, err error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		if ip, perr := netip.ParseAddr(strings.Trim(addr, "[]")); perr == nil && ip.Is6() {
			return "", fmt.Errorf(`an IPv6 address goes in brackets, with a port: expected "[%s]:PORT"`, ip)
		}
		if strings.Count(addr, ":") > 1 && !strings.Contains(addr, "]") {
			return "", errors.New(`an IPv6 address goes in brackets: expected "[HOST]:PORT"`)
		}
		if strings.Contains(err.Error(), "missing port") {
			return "", errors.New(`the port is missing: expected "HOST:PORT"`)
		}
		return "", errors.New(`expected "HOST:PORT"`)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return "", fmt.Errorf("port %q: expected a number from 1 to 65535", port)
	}
	if host != "" && !plausibleHost(host) {
		return "", fmt.Errorf("host %q: expected an address or a host name", host)
	}
	return host, nil
}

// plausibleHost takes addresses and host names; a name of digits and dots alone
// is a broken address, not a name.
func plausibleHost(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	if len(host) > 253 || strings.Trim(host, "0123456789.") == "" {
		return false
	}
	for _, label := range strings.Split(strings.TrimSuffix(host, "."), ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, letters) != "" || label[0] == '-' {
			return false
		}
	}
	return true
}

const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"

func wildcard(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && ip.IsUnspecified()
}

// loopback says whether an address is reached from this machine alone. One that
// cannot be read is not said to be exposed: it is refused elsewhere.
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

func clash(a, b string) bool {
	ha, pa, erra := net.SplitHostPort(a)
	hb, pb, errb := net.SplitHostPort(b)
	return erra == nil && errb == nil && pa == pb && (ha == hb || wildcard(ha) || wildcard(hb))
}
