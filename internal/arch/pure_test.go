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
// alone: replicated machines, and the protocol core.
var pure = []string{"fsm/kv", "vsrengine/vsr"}

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

// The core may import nothing else: no clock, no lock, no network, no file.
var coreImports = []string{
	"cmp", "encoding/binary", "errors", "fmt", "hash/crc32", "math", "math/bits", "math/rand/v2", "slices", "strconv",
	"github.com/cespare/xxhash/v2",
}

// stateful says what in a package could keep state outside of its values or share
// it: a channel, a map, a variable of the package that is written.
func stateful(set *token.FileSet, files []*ast.File, info *types.Info) []string {
	var out []string
	at := func(n ast.Node, format string, args ...any) {
		out = append(out, fmt.Sprintf("%s: %s", set.Position(n.Pos()), fmt.Sprintf(format, args...)))
	}
	written := func(e ast.Expr) {
		if v := rootVar(e, info); v != nil && v.Parent() == v.Pkg().Scope() {
			at(e, "writes the package variable %s", v.Name())
		}
	}
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.ChanType, *ast.SendStmt:
				at(n, "has a channel")
			case *ast.MapType:
				at(n, "has a map")
			case *ast.AssignStmt:
				for _, e := range n.Lhs {
					written(e)
				}
			case *ast.IncDecStmt:
				written(n.X)
			case *ast.UnaryExpr:
				if n.Op == token.AND {
					written(n.X)
				}
			}
			return true
		})
	}
	return out
}

// rootVar is the variable that an assignable expression is a part of.
func rootVar(e ast.Expr, info *types.Info) *types.Var {
	for {
		switch x := e.(type) {
		case *ast.Ident:
			v, _ := info.Uses[x].(*types.Var)
			if v == nil || v.Pkg() == nil || v.IsField() {
				return nil
			}
			return v
		case *ast.SelectorExpr:
			e = x.X
		case *ast.IndexExpr:
			e = x.X
		case *ast.ParenExpr:
			e = x.X
		default:
			return nil
		}
	}
}

func TestTheCoreIsAValue(t *testing.T) {
	all, set := tree(t)
	p := all["vsrengine/vsr"]
	if p == nil {
		t.Fatal("vsrengine/vsr is not there")
	}
	var files []*ast.File
	for _, f := range p.files {
		files = append(files, f)
	}
	for path := range p.imports {
		if !slices.Contains(coreImports, path) {
			t.Errorf("vsrengine/vsr imports %s", path)
		}
	}
	info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}, Uses: map[*ast.Ident]types.Object{}}
	conf := types.Config{Importer: importer.ForCompiler(set, "source", nil), Error: func(error) {}}
	if _, err := conf.Check("p", set, files, info); err != nil {
		t.Logf("types: %v", err)
	}
	for _, bad := range stateful(set, files, info) {
		t.Error(bad)
	}
}

// A planted breach of each kind is found.
func TestStateIsFound(t *testing.T) {
	const src = `package p
var shared struct{ n int }
var table [3]int
func f() {
	_ = make(chan int)
	_ = map[int]int{}
	shared.n++
	table[1] = 2
	_ = &shared
	local := table
	local[1] = 3
}`
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, "planted.go", src, 0)
	if err != nil {
		t.Fatal(err)
	}
	info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}, Uses: map[*ast.Ident]types.Object{}}
	conf := types.Config{Importer: importer.ForCompiler(set, "source", nil), Error: func(error) {}}
	if _, err := conf.Check("p", set, []*ast.File{f}, info); err != nil {
		t.Fatal(err)
	}
	if got := stateful(set, []*ast.File{f}, info); len(got) != 5 {
		t.Errorf("%d of 5 breaches found:\n%s", len(got), strings.Join(got, "\n"))
	}
}
