package server

import (
	"os"
	"path"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/diarchy/diarchy/server/servertest"
)

var rightWords = map[right]string{nobody: "none", reader: "read", admin: "admin"}

// docs/http-api.md has every route with the right it needs and every parameter
// it knows, and names the calls that the read-only token allows.
func TestDocsHaveEveryRoute(t *testing.T) {
	b, err := os.ReadFile("../docs/http-api.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(b)
	s, err := New(Config{Service: servertest.New(1).Node(0), Pprof: true, Gatherer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range s.routes {
		shown := strings.ReplaceAll(r.path, "...}", "}")
		if strings.HasPrefix(r.path, "/debug/pprof/") {
			shown = "/debug/pprof/…"
		}
		if r.path == directPath {
			continue // the Go client's; its ADR describes it
		}
		row := regexp.MustCompile(`(?m)^\| [^|]*` + r.method + `[^|]*` + regexp.QuoteMeta(shown) + "[`?][^|]*\\| " + rightWords[r.need] + ` \|`)
		if !row.MatchString(page) {
			t.Errorf("no row for %s %s with the right %q", r.method, shown, rightWords[r.need])
		}
		if strings.HasPrefix(r.path, "/v1/") {
			for _, p := range strings.Fields(r.params) {
				if !strings.Contains(page, "?"+p) && !strings.Contains(page, "&"+p) {
					t.Errorf("parameter %s of %s is nowhere", p, r.path)
				}
			}
		}
	}
	_, calls, _ := strings.Cut(page, "Which calls the read-only token allows:")
	calls, _, _ = strings.Cut(calls, "\n")
	for procedure, need := range procedures {
		name := path.Base(procedure)
		if !strings.HasPrefix(procedure, "/diarchy.v1.") {
			continue
		}
		if listed := strings.Contains(calls, "`"+name+"`"); listed != (need == reader) {
			t.Errorf("call %s: needs %s, listed as read-only: %v", name, rightWords[need], listed)
		}
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
