package archtest

import (
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"slices"
)

// sorters take a sequence in any order and return it in order.
var sorters = []string{"Sorted", "SortedFunc", "SortedStableFunc"}

// mapWalks are the ways to walk a map in its own order.
var mapWalks = []string{"Keys", "Values", "All"}

// reflectWalks are the same in package reflect and sync.
var reflectWalks = []string{"MapRange", "MapKeys"}

func checkFSMMapRange(c *checker, p *Package) {
	files := fsmSources(p)
	if len(files) == 0 {
		return
	}
	info := c.typesOf(p.Dir, files)
	for _, f := range files {
		pkgMaps, pkgSlices := importName(f, "maps"), importName(f, "slices")
		sorted := map[ast.Expr]bool{}
		ast.Inspect(f.AST, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.RangeStmt:
				if isMap(info.TypeOf(n.X)) {
					c.report(f, n.Pos(), "ranges over a map; range over slices.Sorted(maps.Keys(m))")
				}
			case *ast.CallExpr:
				if name, ok := selectorOf(n.Fun, pkgSlices); ok && slices.Contains(sorters, name) && len(n.Args) > 0 {
					sorted[n.Args[0]] = true
				}
				if name, ok := selectorOf(n.Fun, pkgMaps); ok && slices.Contains(mapWalks, name) && !sorted[n] {
					c.report(f, n.Pos(), "maps.%s has no order; wrap it in slices.Sorted", name)
				}
			case *ast.SelectorExpr:
				if slices.Contains(reflectWalks, n.Sel.Name) {
					c.report(f, n.Pos(), "%s has no order; sort the keys", n.Sel.Name)
				}
			}
			return true
		})
	}
}

// isMap reports whether a type, or some type that a type parameter stands for,
// is a map. The type of an expression that comes from an imported function is
// not known, and so not a map.
func isMap(t types.Type) bool {
	if t == nil {
		return false
	}
	if param, ok := types.Unalias(t).(*types.TypeParam); ok {
		bound, ok := param.Constraint().Underlying().(*types.Interface)
		return ok && boundHasMap(bound)
	}
	_, ok := t.Underlying().(*types.Map)
	return ok
}

func boundHasMap(bound *types.Interface) bool {
	for e := range bound.EmbeddedTypes() {
		union, ok := e.(*types.Union)
		if !ok {
			if isMap(e) {
				return true
			}
			continue
		}
		for term := range union.Terms() {
			if isMap(term.Type()) {
				return true
			}
		}
	}
	return false
}

// typesOf checks the types of a package as far as its own source tells.
// Imports are empty, so that no build is needed: what comes out of them has no
// known type, and the errors about that are expected.
func (t *Tree) typesOf(path string, files []*File) *types.Info {
	info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}, Defs: map[*ast.Ident]types.Object{}, Uses: map[*ast.Ident]types.Object{}}
	conf := types.Config{Importer: emptyImporter{}, Error: func(error) {}}
	asts := make([]*ast.File, len(files))
	for i, f := range files {
		asts[i] = f.AST
	}
	_, _ = conf.Check(path, t.fset, asts, info)
	return info
}

// mapsStub declares the functions of package maps which return a map, so that
// a cloned map is still known to be one.
const mapsStub = `package maps
func Clone[M ~map[K]V, K comparable, V any](m M) M { return m }
func Collect[K comparable, V any](seq func(yield func(K, V) bool)) map[K]V { return nil }
`

type emptyImporter struct{}

var _ types.Importer = emptyImporter{}

// Import implements [types.Importer].
func (emptyImporter) Import(name string) (*types.Package, error) {
	if name == "unsafe" {
		return importer.Default().Import(name)
	}
	if name == "maps" {
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, "maps.go", mapsStub, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		return (&types.Config{}).Check(name, fset, []*ast.File{f}, nil)
	}
	p := types.NewPackage(name, lastElement(name))
	p.MarkComplete()
	return p, nil
}
