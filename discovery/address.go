package discovery

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// interfaceAddrs is replaced by tests of machines that this one is not.
var interfaceAddrs = net.InterfaceAddrs

// hostBytesMax is above the longest host name there is, with its port.
const hostBytesMax = 300

// splitAddr takes "host", "host:port", "[v6]:port" or a bare v6 address apart.
func splitAddr(addr string, defaultPort uint16) (host string, port uint16, err error) {
	if len(addr) > hostBytesMax || !printable(addr) || strings.Contains(addr, " ") {
		return "", 0, invalid("address %.80q: expected host:port, for IPv6 [address]:port", addr)
	}
	if ip, e := netip.ParseAddr(addr); e == nil {
		return ip.String(), defaultPort, nil
	}
	host, p, err := net.SplitHostPort(addr)
	if err != nil {
		if _, _, e := net.SplitHostPort(addr + ":1"); e != nil || addr == "" {
			return "", 0, invalid("address %q: expected host:port, for IPv6 [address]:port", addr)
		}
		return addr, defaultPort, nil
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return "", 0, invalid("address %q: the port must be a number from 0 to 65535", addr)
	}
	return host, uint16(n), nil
}

// lookup turns a host into addresses, IPv4 first.
func lookup(ctx context.Context, r *net.Resolver, host string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip.Unmap()}, nil
	}
	found, err := r.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	var v4, v6 []netip.Addr
	for _, ip := range found {
		if ip = ip.Unmap(); ip.Is4() {
			v4 = append(v4, ip)
		} else {
			v6 = append(v6, ip)
		}
	}
	return append(v4, v6...), nil
}

// resolveBind gives the address to listen on. memberlist would take a name
// that it cannot parse for "all interfaces", so names end here.
func resolveBind(ctx context.Context, r *net.Resolver, bind string) (netip.Addr, uint16, error) {
	host, port, err := splitAddr(bind, DefaultPort)
	if err != nil {
		return netip.Addr{}, 0, err
	}
	if host == "" {
		return netip.IPv4Unspecified(), port, nil
	}
	ips, err := lookup(ctx, r, host)
	if err != nil || len(ips) == 0 {
		return netip.Addr{}, 0, invalid("gossip bind address %q does not resolve: %v", bind, err)
	}
	return ips[0], port, nil
}

// chooseAdvertise gives the address that others are told. bound is where the
// sockets really are.
func chooseAdvertise(ctx context.Context, r *net.Resolver, advertise string, bound netip.AddrPort) (netip.AddrPort, error) {
	if advertise == "" {
		if !bound.Addr().IsUnspecified() {
			return bound, nil
		}
		ip, err := privateAddr(bound.Addr())
		if err != nil {
			return netip.AddrPort{}, err
		}
		return netip.AddrPortFrom(ip, bound.Port()), nil
	}
	host, port, err := splitAddr(advertise, bound.Port())
	if err != nil {
		return netip.AddrPort{}, err
	}
	ips, err := lookup(ctx, r, host)
	if err != nil || len(ips) == 0 {
		return netip.AddrPort{}, invalid("gossip advertise address %q does not resolve: %v", advertise, err)
	}
	ip := ips[0]
	for _, x := range ips { // of several, one of the family that we listen on
		if x.Is4() == bound.Addr().Is4() {
			ip = x
			break
		}
	}
	if ip.IsUnspecified() || port == 0 {
		return netip.AddrPort{}, invalid("gossip advertise address %q: expected an address that other nodes can reach, not the unspecified one", advertise)
	}
	return netip.AddrPortFrom(ip, port), nil
}

// privateAddr picks this machine's private address, IPv4 before IPv6 where the
// socket takes both.
func privateAddr(bind netip.Addr) (netip.Addr, error) {
	all, err := interfaceAddrs()
	if err != nil {
		return netip.Addr{}, invalid("gossip is bound to %s and the machine's addresses cannot be read (%v): set gossip.advertise", bind, err)
	}
	var v6 netip.Addr
	for _, a := range all {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		ip, ok := netip.AddrFromSlice(n.IP)
		if ip = ip.Unmap(); !ok || !ip.IsPrivate() {
			continue
		}
		if ip.Is4() {
			return ip, nil
		}
		if !v6.IsValid() && !bind.Is4() {
			v6 = ip
		}
	}
	if v6.IsValid() {
		return v6, nil
	}
	return netip.Addr{}, invalid("gossip is bound to %s (all interfaces) and this machine has no private address to tell others: set gossip.advertise to the address at which they reach it", bind)
}

// ownAddrs are the addresses at which a node with these sockets answers itself.
func ownAddrs(bound, advertised netip.AddrPort) map[netip.AddrPort]bool {
	own := map[netip.AddrPort]bool{bound: true, advertised: true}
	if !bound.Addr().IsUnspecified() {
		return own
	}
	own[netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), bound.Port())] = true
	own[netip.AddrPortFrom(netip.IPv6Loopback(), bound.Port())] = true
	all, err := interfaceAddrs()
	if err != nil {
		return own
	}
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok {
				own[netip.AddrPortFrom(ip.Unmap(), bound.Port())] = true
			}
		}
	}
	return own
}
