package arch

import (
	"os"
	"strings"
	"testing"
)

// TestEveryDependencyHasAReason holds go.mod to docs/dependencies.md.
func TestEveryDependencyHasAReason(t *testing.T) {
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for line := range strings.Lines(string(mod)) {
		f := strings.Fields(line)
		if len(f) != 2 || !strings.HasPrefix(line, "\t") || !strings.HasPrefix(f[1], "v") {
			continue
		}
		seen++
		name := strings.TrimPrefix(f[0], "github.com/")
		short := name[strings.LastIndex(name, "/")+1:]
		if !strings.Contains(string(page), name) && !strings.Contains(string(page), short) {
			t.Errorf("docs/dependencies.md does not say what %s is for", f[0])
		}
	}
	if seen < 10 {
		t.Fatalf("only %d direct dependencies read from go.mod", seen)
	}
}
