package server

import (
	"net"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// cappedListener closes connections over the cap at once: one that waits to be
// accepted would look like a server that hangs.
type cappedListener struct {
	net.Listener
	room    chan struct{} // one element a connection
	refused prometheus.Counter
}

func newCappedListener(l net.Listener, most int, refused prometheus.Counter) *cappedListener {
	return &cappedListener{Listener: l, room: make(chan struct{}, most), refused: refused}
}

func (l *cappedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.room <- struct{}{}:
			return &cappedConn{Conn: c, leave: sync.OnceFunc(func() { <-l.room })}, nil
		default:
			l.refused.Inc()
			c.Close()
		}
	}
}

type cappedConn struct {
	net.Conn
	leave func()
}

func (c *cappedConn) Close() error {
	err := c.Conn.Close()
	c.leave()
	return err
}
