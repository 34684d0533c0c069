package archtest

import (
	"go/ast"
	"slices"
	"strconv"
	"strings"
)

// layer is a row of the import matrix: a directory with all below it, and the
// directories of ours that it may import besides its own.
type layer struct {
	dir      string
	may      []string
	testsMay []string
}

// everything is each layer that the wiring of a node may use.
var everything = []string{
	"fsm", "cluster", "scaling", "sharding", "routing", "httpapi", "client", "internal/sample",
}

// layers is the import matrix. The longest directory that fits a package
// decides; a package that fits none is reported.
var layers = []layer{
	{dir: "fsm"},
	{dir: "cluster", may: []string{"fsm"}},
	{dir: "scaling", may: []string{"fsm"}, testsMay: []string{"internal/fsmtest"}},
	{dir: "sharding", may: []string{"fsm"}},
	{dir: "routing", may: []string{"fsm"}, testsMay: []string{"internal/fsmtest"}},
	{dir: "client", may: []string{"fsm"}, testsMay: []string{"httpapi"}},
	{dir: "httpapi", may: []string{"fsm", "client"}, testsMay: []string{"internal/fsmtest"}},
	{dir: "httpapi/httpapitest", may: []string{"fsm", "client", "httpapi", "internal/fsmtest"}},
	// Beside fsm and not below it: it has what fsm must not, a clock and locks.
	{dir: "internal/fsmtest", may: []string{"fsm"}},
	{dir: "internal/sample"},
	{dir: "internal/archtest", testsMay: []string{"fsm"}},
	{dir: "internal/top", may: []string{"fsm", "client"}},
	{dir: "internal/cli", may: []string{"fsm", "client", "internal/top"}, testsMay: []string{"httpapi", "internal/fsmtest"}},
	{dir: "internal/demo", may: []string{"fsm", "client"}},
	{dir: "internal/node", may: everything},
	{dir: "internal/sim", may: append(slices.Clone(everything), "internal/node")},
	{dir: "cmd", may: []string{"fsm", "client", "internal/cli", "internal/demo", "internal/node", "internal/sample"}, testsMay: []string{"httpapi"}},
	{dir: "e2e", may: []string{"fsm", "client"}},
	{dir: "bench"},
	{dir: "tools"},
}

// owners names, for a library that shapes the code around it, the only layers
// that may know it.
var owners = []struct {
	library string
	layers  []string
}{
	{"github.com/hashicorp/raft", []string{"cluster", "internal/sim"}},
	{"github.com/hashicorp/raft-boltdb", []string{"cluster", "internal/sim"}},
	{"github.com/hashicorp/raft-wal", []string{"cluster", "internal/sim"}},
	{"github.com/hashicorp/memberlist", []string{"cluster", "internal/sim"}},
	{"github.com/gin-gonic/gin", []string{"httpapi"}},
	{"github.com/danielgtaylor/huma", []string{"httpapi"}},
	{"charm.land/bubbletea", []string{"internal/top"}},
	{"charm.land/lipgloss", []string{"internal/top"}},
	// The agent uses it in tests only, and bench is a module of its own.
	{"google.golang.org/grpc", []string{"routing/xds", "internal/node", "scaling/agent", "bench"}},
	{"github.com/envoyproxy", []string{"routing/xds", "internal/node"}},
	{"github.com/spf13/cobra", []string{"cmd", "internal/cli"}},
}

// importsOf calls visit for each import of a file.
func importsOf(f *File, visit func(spec *ast.ImportSpec, path string)) {
	for _, spec := range f.AST.Imports {
		if path, err := strconv.Unquote(spec.Path.Value); err == nil {
			visit(spec, path)
		}
	}
}

// within reports whether a slash-separated path is dir or below it.
func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, dir+"/")
}

// ours cuts the module's path off an import of ours.
func ours(path string) (dir string, ok bool) {
	if path == Module {
		return ".", true
	}
	return strings.CutPrefix(path, Module+"/")
}

// layerOf finds the row of the matrix for a directory.
func layerOf(dir string) (layer, bool) {
	var best layer
	for _, l := range layers {
		if within(dir, l.dir) && len(l.dir) > len(best.dir) {
			best = l
		}
	}
	return best, best.dir != ""
}

func checkImports(c *checker, p *Package) {
	l, known := layerOf(p.Dir)
	if !known {
		c.report(p.Files[0], p.Files[0].AST.Name.Pos(), "directory %q has no row in the import matrix of internal/archtest/imports.go", p.Dir)
		return
	}
	for _, f := range p.Files {
		importsOf(f, func(spec *ast.ImportSpec, path string) {
			dir, is := ours(path)
			if !is || within(dir, l.dir) || f.Test && allowed(l.testsMay, dir) || allowed(l.may, dir) {
				return
			}
			c.report(f, spec.Pos(), "%s must not import %s; it may import: %s", l.dir, dir, listOr(l.may, "nothing of ours"))
		})
	}
}

func allowed(dirs []string, dir string) bool {
	return slices.ContainsFunc(dirs, func(d string) bool { return within(dir, d) })
}

func listOr(items []string, none string) string {
	if len(items) == 0 {
		return none
	}
	return strings.Join(items, ", ")
}

func checkExternalImports(c *checker, p *Package) {
	for _, f := range p.Files {
		importsOf(f, func(spec *ast.ImportSpec, path string) {
			for _, o := range owners {
				if within(path, o.library) && !allowed(o.layers, p.Dir) {
					c.report(f, spec.Pos(), "%s is known to %s only", o.library, strings.Join(o.layers, ", "))
				}
			}
		})
	}
}
