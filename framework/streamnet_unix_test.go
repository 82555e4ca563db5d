//go:build unix

package framework

import (
	"net"
	"syscall"
	"testing"
)

func TestTCPIsKeptLively(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := (&net.Dialer{KeepAlive: -1}).Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.(*net.TCPConn).SetNoDelay(false)
	option := func(level, name int) (v int) {
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if err := raw.Control(func(fd uintptr) { v, err = syscall.GetsockoptInt(int(fd), level, name) }); err != nil {
			t.Fatal(err)
		}
		return v
	}
	alive := func() bool { return option(syscall.SOL_SOCKET, syscall.SO_KEEPALIVE) != 0 }
	noDelay := func() bool { return option(syscall.IPPROTO_TCP, syscall.TCP_NODELAY) != 0 }
	if alive() || noDelay() {
		t.Fatal("both are on already")
	}
	keepLively(c)
	if !alive() || !noDelay() {
		t.Errorf("keepalive %v, no delay %v", alive(), noDelay())
	}
}
