package arch

import (
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"slices"
	"strings"
	"testing"
)

// pure are the packages whose behaviour must be a function of their input
// alone: replicated machines, and the protocol core when it comes.
var pure = []string{"fsm/kv"}

// impure says what in a package depends on more than its input: a clock, a
// random source of the process, the order of a map, another goroutine.
func impure(set *token.FileSet, files []*ast.File, info *types.Info) []string {
	var out []string
	at := func(n ast.Node, format string, args ...any) {
		out = append(out, fmt.Sprintf("%s: %s", set.Position(n.Pos()), fmt.Sprintf(format, args...)))
	}
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				at(n, "starts a goroutine")
			case *ast.SelectStmt:
				at(n, "selects")
			case *ast.RangeStmt:
				if tv, ok := info.Types[n.X]; ok {
					if _, isMap := tv.Type.Underlying().(*types.Map); isMap {
						at(n, "ranges over a map")
					}
				}
			case *ast.SelectorExpr:
				if obj := info.Uses[n.Sel]; obj != nil && obj.Pkg() != nil && forbiddenCall(obj) {
					at(n, "uses %s.%s", obj.Pkg().Path(), obj.Name())
				}
			}
			return true
		})
	}
	return out
}

// forbiddenCall names what reads a clock or draws from the process's randomness.
func forbiddenCall(obj types.Object) bool {
	fn, ok := obj.(*types.Func)
	if !ok || fn.Signature().Recv() != nil {
		return false
	}
	switch fn.Pkg().Path() {
	case "time":
		return slices.Contains([]string{"Now", "Since", "Until", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick", "Sleep"}, fn.Name())
	case "math/rand", "math/rand/v2":
		return !strings.HasPrefix(fn.Name(), "New")
	case "crypto/rand", "os", "net", "hash/maphash":
		return true
	}
	return false
}

func check(t *testing.T, set *token.FileSet, files []*ast.File) []string {
	t.Helper()
	info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}, Uses: map[*ast.Ident]types.Object{}}
	conf := types.Config{Importer: importer.ForCompiler(set, "source", nil), Error: func(error) {}}
	if _, err := conf.Check("p", set, files, info); err != nil {
		t.Logf("types: %v", err)
	}
	return impure(set, files, info)
}

func TestPurePackagesArePure(t *testing.T) {
	all, set := tree(t)
	for _, dir := range pure {
		p := all[dir]
		if p == nil {
			t.Errorf("%s is not there", dir)
			continue
		}
		var files []*ast.File
		for _, f := range p.files {
			files = append(files, f)
		}
		for _, bad := range check(t, set, files) {
			t.Error(bad)
		}
	}
}

// A planted breach of each kind is found: the test above can fail.
func TestImpurityIsFound(t *testing.T) {
	const src = `package p
import ("crypto/rand"; mrand "math/rand/v2"; "time")
func f(m map[string]int, c chan int) {
	go f(m, c)
	select { case <-c: default: }
	for range m { }
	_ = time.Now()
	_ = mrand.Int()
	_, _ = rand.Read(nil)
	_ = mrand.New(mrand.NewPCG(1, 2)).Int()
	for range []int{1} { }
}`
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, "planted.go", src, 0)
	if err != nil {
		t.Fatal(err)
	}
	got := check(t, set, []*ast.File{f})
	if len(got) != 6 {
		t.Errorf("%d of 6 breaches found:\n%s", len(got), strings.Join(got, "\n"))
	}
}
