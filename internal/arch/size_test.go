package arch

import (
	"go/ast"
	"go/token"
	"maps"
	"slices"
	"strings"
	"testing"
)

const (
	fileLinesMax = 500
	funcLinesMax = 70
)

// longer lists what is longer than it should be, with its length. Entries may
// shrink and go; none may grow, and none may come.
var longer = map[string]int{}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	all, _ := tree(t)
	for _, dir := range slices.Sorted(maps.Keys(all)) {
		doc := ""
		for name, f := range all[dir].files {
			if f.Doc != nil && !generated(name) {
				doc += f.Doc.Text()
			}
		}
		if len(strings.Fields(doc)) < 5 {
			t.Errorf("%s has no package documentation", dir)
		}
	}
}

func TestFilesAndFunctionsAreShort(t *testing.T) {
	all, set := tree(t)
	found := map[string]int{}
	for _, p := range all {
		for name, f := range p.files {
			if generated(name) {
				continue
			}
			if n := set.File(f.Pos()).LineCount(); n > fileLinesMax {
				found[name] = n
			}
			for _, d := range f.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok {
					if n := lines(set, fn); n > funcLinesMax {
						found[name+" "+fn.Name.Name] = n
					}
				}
			}
		}
	}
	for what, n := range found {
		if allowed, ok := longer[what]; !ok || n > allowed {
			t.Errorf("%s has %d lines (files: %d, functions: %d)", what, n, fileLinesMax, funcLinesMax)
		}
	}
	for what, n := range longer {
		if found[what] < n {
			t.Errorf("%s has shrunk to %d: say so in the list, or take it out", what, found[what])
		}
	}
}

func lines(set *token.FileSet, n ast.Node) int {
	return set.Position(n.End()).Line - set.Position(n.Pos()).Line + 1
}
