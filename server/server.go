package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	pb "github.com/diarchy/diarchy/client/clientpb"
	"github.com/diarchy/diarchy/framework"
)

// Server serves one client port.
//
// Invariant: everything that was started ends by Close; stop is closed before
// any of it is waited for.
type Server struct {
	cfg     Config
	svc     framework.Service
	metrics *metrics
	keys    keyRing
	guard   *guard
	rpc     map[string]http.Handler // by path prefix up to the method
	routes  []route
	rpcErr  *connect.ErrorWriter
	http    *http.Server
	direct  *directServer
	kinds   machineKinds

	ctx  context.Context // ends when streams are to be given up
	give context.CancelFunc
	stop chan struct{}   // closed when nothing new is taken on
	wait context.Context // ends with stop, for waits that are to end early
	once func()
}

// New makes a server; Serve starts it.
func New(c Config) (*Server, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	m, err := newMetrics(c.Metrics)
	if err != nil {
		return nil, fmt.Errorf("server metrics: %w", err)
	}
	s := &Server{
		cfg: c, svc: c.Service, metrics: m,
		guard:  newGuard(&c),
		rpcErr: connect.NewErrorWriter(), stop: make(chan struct{}),
	}
	s.keys.set(newKeys(c.AdminToken, c.ReadToken))
	s.ctx, s.give = context.WithCancel(context.Background())
	var endWaits context.CancelFunc
	s.wait, endWaits = context.WithCancel(s.ctx)
	s.once = sync.OnceFunc(func() {
		close(s.stop)
		endWaits()
	})
	s.rpc = s.rpcHandlers()
	s.routes = s.routeTable()
	s.direct = newDirectServer(s)
	s.http = s.httpServer()
	return s, nil
}

func (s *Server) httpServer() *http.Server {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetHTTP2(true)
	p.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:           s,
		Protocols:         p,
		ReadHeaderTimeout: s.cfg.HeaderTimeout,
		IdleTimeout:       s.cfg.IdleTimeout,
		MaxHeaderBytes:    32 << 10,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 1024,
			SendPingTimeout:      s.cfg.IdleTimeout,
			PingTimeout:          s.cfg.HeaderTimeout,
		},
		BaseContext: func(net.Listener) context.Context { return s.ctx },
		ErrorLog:    slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelDebug),
	}
}

// Serve serves l until Close; it closes l. It returns nil after Close.
func (s *Server) Serve(l net.Listener) error {
	l = newCappedListener(l, s.cfg.ConnsMax, s.metrics.refused)
	if s.cfg.TLS != nil {
		t := s.cfg.TLS.Clone()
		t.NextProtos = []string{"h2", "http/1.1"}
		l = tls.NewListener(l, t)
	}
	err := s.http.Serve(l)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Close takes nothing new, lets what was accepted finish until ctx ends, then
// closes every connection.
func (s *Server) Close(ctx context.Context) error {
	s.once()
	defer s.give()
	s.direct.close(ctx)
	if err := s.http.Shutdown(ctx); err != nil {
		s.give()
		return s.http.Close()
	}
	return nil
}

func (s *Server) stopping() bool {
	select {
	case <-s.stop:
		return true
	default:
		return false
	}
}

var errStopping = framework.ErrStopped.Because("this node is stopping; ask another")

// ServeHTTP is the door: limits, then who is asking, then where to.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	prefix, isRPC := s.rpcPrefix(r.URL.Path)
	readStalls := !isRPC || !isOpenEnded(r.URL.Path)
	sw, r := s.guardStalls(w, r, readStalls)
	status := &statusWriter{stallWriter: sw}
	defer sw.finish()
	defer s.recovered(status, r)
	if isRPC {
		s.serveRPC(status, r, prefix)
		s.count(rpcRoute(r.URL.Path), status)
		return
	}
	s.count(s.serveRoute(status, r), status)
}

func (s *Server) count(route string, w *statusWriter) {
	status := w.status
	if status == 0 {
		status = http.StatusOK
	}
	s.metrics.requests.WithLabelValues(route, strconv.Itoa(status)).Inc()
}

// recovered turns a fault of ours into one failed request and a line in the log.
func (s *Server) recovered(w *statusWriter, r *http.Request) {
	v := recover()
	if v == nil {
		return
	}
	if v == http.ErrAbortHandler { //nolint:errorlint // the value itself is panicked with
		panic(v)
	}
	s.metrics.panics.Inc()
	s.cfg.Logger.Error("client request ended in a panic", "path", r.URL.Path, "panic", fmt.Sprint(v))
	if w.wrote {
		panic(http.ErrAbortHandler)
	}
	writeError(w, framework.ErrInternal.Because("internal error; the node's log says more"))
}

type statusWriter struct {
	*stallWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.stallWriter.WriteHeader(status)
}

// rpcPrefix splits "/pkg.Service/Method" when the service is one of ours.
func (s *Server) rpcPrefix(path string) (string, bool) {
	i := strings.LastIndexByte(path, '/')
	if i < 1 {
		return "", false
	}
	_, ok := s.rpc[path[:i+1]]
	return path[:i+1], ok
}

// isOpenEnded tells the methods whose request may pause for as long as the
// client likes.
func isOpenEnded(path string) bool {
	return path == pb.DiarchyStreamProcedure || strings.HasPrefix(path, "/grpc.reflection.")
}

func rpcRoute(path string) string {
	if _, ok := procedures[path]; ok {
		return path
	}
	return "rpc"
}

// serveRPC answers gRPC, gRPC-Web and connect's own protocol.
func (s *Server) serveRPC(w *statusWriter, r *http.Request, prefix string) {
	need, known := procedures[r.URL.Path]
	have := s.keys.rightOf(r.Header)
	var err error
	switch {
	case r.Method != http.MethodPost:
		w.Header().Set("Allow", http.MethodPost)
		writeError(w, errMethod(r, http.MethodPost))
		return
	case !s.rpcErr.IsSupported(r):
		writeError(w, &framework.Error{Code: pb.CodeMediaType,
			Message: "expected a content type of gRPC, gRPC-Web or application/json, got " + quote(r.Header.Get("Content-Type"))})
		return
	case !known:
		err = framework.ErrUnsupported.Because("no method %s; see docs/http-api.md", quote(r.URL.Path))
	default:
		if err = s.guard.check(r); err == nil {
			err = allow(have, need)
		}
	}
	if err == nil && s.stopping() {
		err = errStopping
	}
	if err != nil {
		_ = s.rpcErr.Write(w, r, toConnect(err))
		return
	}
	s.rpc[prefix].ServeHTTP(w, r.WithContext(withDoor(r.Context(), door{have, w.stallWriter})))
}

func errMethod(r *http.Request, allowed string) error {
	return &framework.Error{Code: pb.CodeMethodNotAllowed,
		Message: "method " + quote(r.Method) + " is not for this path; expected " + allowed}
}

// waiting bounds a wait for something to happen, which also ends when the server
// is to stop.
func (s *Server) waiting(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, min(d, waitMax))
	unhook := context.AfterFunc(s.wait, cancel)
	return ctx, func() { unhook(); cancel() }
}

// timeoutFor bounds a wait that a client asked for.
func (s *Server) timeoutFor(asked time.Duration) time.Duration {
	if asked <= 0 {
		return s.cfg.RequestTimeout
	}
	return min(asked, waitMax)
}
