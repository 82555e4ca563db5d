package server

import (
	"net/http"
	"net/http/pprof"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	pb "github.com/diarchy/diarchy/client/clientpb"
	"github.com/diarchy/diarchy/framework"
)

// Headers of the plain HTTP routes.
const (
	headerIndex    = "Diarchy-Index"
	headerHistory  = "Diarchy-History"
	headerRevision = "Diarchy-Revision"
	headerExpires  = "Diarchy-Expires"
	headerAge      = "Diarchy-Age"
	headerRepeated = "Diarchy-Duplicate"
	headerSession  = "Diarchy-Session"
	headerSeq      = "Diarchy-Seq"
	headerAcked    = "Diarchy-Acked"
)

// A route is one line of the plain HTTP interface. In path a segment in braces
// takes any one segment; as the last one, with dots, all that is left.
type route struct {
	method, path string
	need         right
	// params are the query parameters that it knows: a misspelt ?cas must not
	// become a write without a condition.
	params string
	serve  func(w http.ResponseWriter, r *request) error
}

// routeTable is the whole plain HTTP interface; docs/http-api.md describes it.
func (s *Server) routeTable() []route {
	table := []route{
		{"GET", "/healthz", nobody, "", s.healthz},
		{"GET", "/readyz", nobody, "", s.readyz},
		{"GET", "/v1/status", reader, "", s.getStatus},
		{"GET", "/v1/nodes", reader, "", s.getNodes},
		{"GET", "/v1/groups", reader, "", s.getGroups},
		{"GET", "/v1/groups/{group}", reader, "local", s.getGroup},
		{"GET", "/v1/groups/{group}/checksum", reader, "", s.getChecksum},
		{"GET", "/v1/groups/{group}/tail", reader, "from", s.getTail},
		{"GET", "/v1/groups/{group}/snapshot", reader, "", s.getSnapshot},
		{"PUT", "/v1/groups/{group}/snapshot", admin, "", s.putSnapshot},
		{"PUT", "/v1/groups/{group}/sessions/{session}", admin, "ordered timeout", s.putSession},
		{"DELETE", "/v1/groups/{group}/sessions/{session}", admin, "timeout", s.deleteSession},
		{"POST", "/v1/groups/{group}/propose", admin, "timeout no_forward", s.postPropose},
		{"POST", "/v1/groups/{group}/query", reader, "consistency timeout no_forward", s.postQuery},
		{"GET", "/v1/groups/{group}/kv", reader, "prefix after limit keys_only consistency index wait timeout no_forward", s.listKeys},
		{"GET", "/v1/groups/{group}/kv/{key...}", reader, "consistency index wait timeout no_forward", s.getKey},
		{"PUT", "/v1/groups/{group}/kv/{key...}", admin, "cas ttl timeout no_forward", s.putKey},
		{"DELETE", "/v1/groups/{group}/kv/{key...}", admin, "cas timeout no_forward", s.deleteKey},
		{"GET", directPath, reader, "", s.getDirect},
	}
	if s.cfg.Gatherer != nil {
		h := promhttp.HandlerFor(s.cfg.Gatherer, promhttp.HandlerOpts{})
		table = append(table, route{"GET", "/metrics", reader, "name[]", plain(h.ServeHTTP)})
	}
	if s.cfg.Pprof {
		table = append(table,
			route{"GET", "/debug/pprof/cmdline", admin, "debug seconds gc", plain(pprof.Cmdline)},
			route{"GET", "/debug/pprof/profile", admin, "debug seconds gc", plain(pprof.Profile)},
			route{"GET", "/debug/pprof/trace", admin, "debug seconds gc", plain(pprof.Trace)},
			route{"GET", "/debug/pprof/{name...}", admin, "debug seconds gc", plain(pprof.Index)})
	}
	return table
}

func plain(f http.HandlerFunc) func(http.ResponseWriter, *request) error {
	return func(w http.ResponseWriter, r *request) error {
		f(w, r.Request)
		return nil
	}
}

// request is what a route gets: the names in the path are taken apart.
type request struct {
	*http.Request
	vars
	query url.Values
}

// vars is what the braces of a path took.
type vars struct{ group, session, key string }

func (v *vars) set(name, value string) {
	switch name {
	case "group":
		v.group = value
	case "session":
		v.session = value
	case "key":
		v.key = value
	}
}

// serveRoute answers a plain HTTP request and says which route it was.
func (s *Server) serveRoute(w *statusWriter, r *http.Request) string {
	rt, v, err := s.find(r)
	name := "none"
	if rt != nil {
		name = rt.path
	}
	if err == nil && rt.need != nobody {
		if err = s.guard.check(r); err == nil {
			err = allow(s.keys.rightOf(r.Header), rt.need)
		}
		if err == nil && s.stopping() {
			err = errStopping
		}
	}
	if err == nil {
		var q url.Values
		if q, err = rt.parse(r.URL.RawQuery); err == nil {
			err = rt.serve(w, &request{Request: r, vars: v, query: q})
		}
	}
	if err == nil {
		return name
	}
	if w.wrote {
		// The status is out. A connection that breaks is the only way left to
		// say that the body is not whole.
		s.count(name, w)
		panic(http.ErrAbortHandler)
	}
	var e *framework.Error
	if asMethod(err, &e) {
		w.Header().Set("Allow", s.allowed(r))
	}
	writeError(w, err)
	return name
}

func (rt *route) parse(raw string) (url.Values, error) {
	q, err := url.ParseQuery(raw)
	if err != nil {
		return nil, framework.ErrInvalid.Because("the query string is malformed: %s", err)
	}
	known := strings.Fields(rt.params)
	for name := range q {
		if !slices.Contains(known, name) {
			return nil, framework.ErrInvalid.Because("unknown parameter %s; this path knows: %s", quote(name), strings.Join(known, ", "))
		}
	}
	return q, nil
}

func asMethod(err error, e **framework.Error) bool {
	*e = asError(err)
	return (*e).Code == pb.CodeMethodNotAllowed
}

// find takes the first route that fits. Paths are matched as they were sent,
// segment by segment and then unescaped: a key may hold any byte, also "/",
// "//" and "..", which net/http's mux would clean away.
func (s *Server) find(r *http.Request) (*route, vars, error) {
	escaped := r.URL.EscapedPath()
	known := false
	for i := range s.routes {
		rt := &s.routes[i]
		v, ok := match(rt.path, escaped)
		if !ok {
			continue
		}
		known = true
		if rt.method == r.Method || rt.method == http.MethodGet && r.Method == http.MethodHead {
			return rt, v, nil
		}
	}
	if known {
		return nil, vars{}, errMethod(r, s.allowed(r))
	}
	return nil, vars{}, &framework.Error{Code: pb.CodeNotFound, Message: "no such path: " + quote(r.URL.Path) + "; see docs/http-api.md"}
}

func (s *Server) allowed(r *http.Request) string {
	var out []string
	for i := range s.routes {
		if _, ok := match(s.routes[i].path, r.URL.EscapedPath()); ok && !slices.Contains(out, s.routes[i].method) {
			out = append(out, s.routes[i].method)
		}
	}
	return strings.Join(out, ", ")
}

// match fits an escaped path to a pattern and unescapes what the braces took.
func match(pattern, path string) (v vars, ok bool) {
	for pattern != "" {
		want, patternRest, _ := strings.Cut(strings.TrimPrefix(pattern, "/"), "/")
		if !strings.HasPrefix(path, "/") {
			return vars{}, false
		}
		got, pathRest := path[1:], ""
		name, isVar := strings.CutPrefix(want, "{")
		name = strings.TrimSuffix(name, "}")
		name, rest := strings.CutSuffix(name, "...")
		if i := strings.IndexByte(got, '/'); i >= 0 && !rest {
			got, pathRest = got[:i], got[i:]
		}
		switch {
		case isVar:
			value, err := url.PathUnescape(got)
			if err != nil || value == "" && !rest {
				return vars{}, false
			}
			v.set(name, value)
		case got != want:
			return vars{}, false
		}
		path = pathRest
		if pattern = patternRest; pattern != "" {
			pattern = "/" + pattern
		}
	}
	return v, path == ""
}

// flag reads ?name, ?name=1 and ?name=true.
func (r *request) flag(name string) (bool, error) {
	if !r.query.Has(name) {
		return false, nil
	}
	switch v := r.query.Get(name); v {
	case "", "1", "true":
		return true, nil
	case "0", "false":
		return false, nil
	default:
		return false, framework.ErrInvalid.Because("?%s=%s: expected true or false", name, quote(v))
	}
}

// duration reads ?name=30s; zero when it is not there.
func (r *request) duration(name string) (time.Duration, error) {
	v := r.query.Get(name)
	if v == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(v)
	if err != nil || d <= 0 {
		return 0, framework.ErrInvalid.Because("?%s=%s: expected a duration above zero such as 30s or 5m", name, quote(v))
	}
	return d, nil
}
