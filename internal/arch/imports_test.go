package arch

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// rule is one row of the page's table.
type rule struct {
	pkg    string
	mustnt []string // patterns, see forbids
}

// rules reads the table of docs/architecture.md: rows of three cells, the first
// with one or more package names in backticks, the third with what they must
// not import in backticks.
func rules(t *testing.T) []rule {
	t.Helper()
	b, err := os.ReadFile("../../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	var out []rule
	for line := range strings.Lines(string(b)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 3 || !strings.Contains(cells[0], "`") {
			continue
		}
		for _, name := range ticked(cells[0]) {
			out = append(out, rule{name, ticked(cells[2])})
		}
	}
	if len(out) < 15 {
		t.Fatalf("only %d rows read from the table", len(out))
	}
	return out
}

// ticked gives what stands in backticks.
func ticked(s string) []string {
	var out []string
	for i, part := range strings.Split(s, "`") {
		if i%2 == 1 {
			out = append(out, part)
		}
	}
	return out
}

// forbids reports whether a pattern names an import. "std" alone means that
// nothing but the standard library is allowed; "here" is everything of this
// module, "here but a b" all of it but those; a name ending in / is a prefix.
func forbids(pattern, path string) bool {
	dir, ours := own(path)
	if rest, ok := strings.CutPrefix(pattern, "here but "); ok {
		return ours && !slices.Contains(strings.Fields(rest), dir)
	}
	switch {
	case pattern == "all but std":
		return strings.Contains(strings.SplitN(path, "/", 2)[0], ".")
	case pattern == "here":
		return ours
	case strings.HasSuffix(pattern, "/"):
		return ours && strings.HasPrefix(dir+"/", pattern) || strings.HasPrefix(path, pattern)
	}
	return ours && dir == pattern || path == pattern
}

// reach is everything that a package imports, through our own packages too,
// with the way it was reached.
func reach(all map[string]*pkg, from string) map[string][]string {
	way := map[string][]string{}
	var visit func(dir string, by []string)
	visit = func(dir string, by []string) {
		p := all[dir]
		if p == nil {
			return
		}
		for path := range p.imports {
			if _, seen := way[path]; seen {
				continue
			}
			way[path] = append(slices.Clone(by), path)
			if d, ours := own(path); ours {
				visit(d, way[path])
			}
		}
	}
	visit(from, nil)
	return way
}

func TestImportsAreAsThePageSays(t *testing.T) {
	all, _ := tree(t)
	for _, r := range rules(t) {
		if all[r.pkg] == nil {
			t.Errorf("the page names %s, which is not there", r.pkg)
			continue
		}
		for path, way := range reach(all, r.pkg) {
			for _, m := range r.mustnt {
				if forbids(m, path) {
					t.Errorf("%s must not import %s (%s): %s", r.pkg, path, m, strings.Join(way, " -> "))
				}
			}
		}
	}
}

func TestEveryPackageStandsOnThePage(t *testing.T) {
	all, _ := tree(t)
	named := map[string]bool{}
	for _, r := range rules(t) {
		named[r.pkg] = true
	}
	for dir := range all {
		inside := strings.Contains("/"+dir+"/", "/internal/") && !strings.HasPrefix(dir, "internal/")
		if !named[dir] && !inside && !strings.HasPrefix(dir, "examples/") {
			t.Errorf("package %s has no row in docs/architecture.md", dir)
		}
	}
}

func TestExamplesUseOnlyWhatEverybodyCan(t *testing.T) {
	all, _ := tree(t)
	for dir, p := range all {
		if !strings.HasPrefix(dir, "examples/") {
			continue
		}
		for path := range p.imports {
			if forbids("internal/", path) {
				t.Errorf("%s imports %s", dir, path)
			}
		}
	}
}

func TestForbids(t *testing.T) {
	for _, c := range []struct {
		pattern, path string
		want          bool
	}{
		{"all but std", "context", false},
		{"all but std", "github.com/x/y", true},
		{"here", module + "/fsm", true},
		{"here", "github.com/hashicorp/raft", false},
		{"here but fsm", module + "/fsm", false},
		{"here but fsm", module + "/framework", true},
		{"plugins/", module + "/plugins/sdk", true},
		{"plugins", module + "/plugins/sdk", false},
		{"github.com/hashicorp/raft", "github.com/hashicorp/raft", true},
		{"github.com/hashicorp/raft", "github.com/hashicorp/raft-wal", false},
	} {
		if got := forbids(c.pattern, c.path); got != c.want {
			t.Errorf("forbids(%q, %q) = %v", c.pattern, c.path, got)
		}
	}
}
