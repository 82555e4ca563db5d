package dev

import (
	"fmt"
	"net"
	"strconv"
)

// Port returns a port of 127.0.0.1 that is free for TCP and UDP: the preferred
// one if it is, another if not. taken must hold the ports already given out,
// and gets the new one.
func Port(preferred int, taken map[int]bool) (int, error) {
	if preferred > 0 && !taken[preferred] && free(preferred) {
		taken[preferred] = true
		return preferred, nil
	}
	for range 100 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return 0, fmt.Errorf("find a free port: %w", err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		_ = l.Close()
		if !taken[port] && free(port) {
			taken[port] = true
			return port, nil
		}
	}
	return 0, fmt.Errorf("no port of 127.0.0.1 is free for TCP and UDP; end some of what is using them")
}

func free(port int) bool {
	addr := Loopback(port)
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return false
	}
	defer l.Close()
	u, err := net.ListenPacket("udp", addr)
	if err != nil {
		return false
	}
	_ = u.Close()
	return true
}

// Loopback is the address of a port on this machine.
func Loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
