package archtest

import (
	"go/ast"
	"path"
	"slices"
	"strconv"
	"strings"
)

// fsmDir is the package whose code must be deterministic.
const fsmDir = "fsm"

// impureImports are what the replicated state must not reach: the machine it
// runs on, chance, locks, and the layers above it. A package below one of
// these is forbidden as well.
var impureImports = []string{
	"os", "net", "syscall", "io/ioutil", "log", "sync",
	"math/rand", "crypto/rand", "hash/maphash", "runtime", "unsafe", "testing",
	"github.com/hashicorp", "github.com/gin-gonic", "github.com/danielgtaylor",
	"github.com/prometheus", "golang.org/x/sys",
}

// pureImports are exceptions from impureImports.
var pureImports = []string{"sync/atomic"}

// clockCalls are the names of package time that read a clock or wait.
var clockCalls = []string{
	"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker", "Local", "LoadLocation",
}

func checkFSMImports(c *checker, p *Package) {
	for _, f := range fsmSources(p) {
		importsOf(f, func(spec *ast.ImportSpec, name string) {
			if _, is := ours(name); is {
				c.report(f, spec.Pos(), "the replicated state must not import %s", name)
			}
			if slices.Contains(pureImports, name) {
				return
			}
			if slices.ContainsFunc(impureImports, func(bad string) bool { return within(name, bad) }) {
				c.report(f, spec.Pos(), "the replicated state must not import %s", name)
			}
		})
	}
}

func checkFSMClock(c *checker, p *Package) {
	for _, f := range fsmSources(p) {
		clock := importName(f, "time")
		if clock == "." {
			c.report(f, f.AST.Name.Pos(), "package time must not be imported with a dot")
		}
		ast.Inspect(f.AST, func(n ast.Node) bool {
			if name, ok := selectorOf(n, clock); ok && slices.Contains(clockCalls, name) {
				c.report(f, n.Pos(), "time.%s depends on the node; take Meta.Time", name)
			}
			return true
		})
	}
}

func checkFSMGoroutines(c *checker, p *Package) {
	for _, f := range fsmSources(p) {
		ast.Inspect(f.AST, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				c.report(f, n.Pos(), "the replicated state starts no goroutine")
			case *ast.SelectStmt:
				c.report(f, n.Pos(), "the replicated state waits for nothing")
			}
			return true
		})
	}
}

// fsmSources are the files that the purity rules look at.
func fsmSources(p *Package) []*File {
	if !within(p.Dir, fsmDir) {
		return nil
	}
	return p.sources()
}

// importName is the name by which a file knows an imported package, or "".
func importName(f *File, pkg string) string {
	name := ""
	importsOf(f, func(spec *ast.ImportSpec, p string) {
		if p != pkg {
			return
		}
		name = path.Base(pkg)
		if spec.Name != nil {
			name = spec.Name.Name
		}
	})
	return name
}

// selectorOf returns the name that n selects from a package, if n does.
func selectorOf(n ast.Node, pkg string) (string, bool) {
	sel, ok := n.(*ast.SelectorExpr)
	if !ok || pkg == "" {
		return "", false
	}
	x, ok := sel.X.(*ast.Ident)
	if !ok || x.Name != pkg {
		return "", false
	}
	return sel.Sel.Name, true
}

func checkInit(c *checker, p *Package) {
	for _, f := range p.Files {
		for _, d := range f.AST.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				c.report(f, fn.Pos(), "there is no init; build what is needed in a constructor or a table")
			}
		}
	}
}

func checkTestSleep(c *checker, p *Package) {
	helper := strings.HasSuffix(p.name(), "test")
	for _, f := range p.Files {
		clock := importName(f, "time")
		if !f.Test && !helper {
			continue
		}
		ast.Inspect(f.AST, func(n ast.Node) bool {
			if name, ok := selectorOf(n, clock); ok && name == "Sleep" {
				c.report(f, n.Pos(), "tests wait for a condition or use testing/synctest; they do not sleep")
			}
			return true
		})
	}
}

func checkExternalTests(c *checker, p *Package) {
	for _, f := range p.Files {
		name := f.AST.Name.Name
		// Package main can not be imported, and files named export_… are the
		// agreed door for a test that needs an unexported name.
		if !f.Test || name == "main" || strings.HasPrefix(path.Base(f.Path), "export_") {
			continue
		}
		if !strings.HasSuffix(name, "_test") {
			c.report(f, f.AST.Name.Pos(), "tests stand in package %s_test, not %s", name, strconv.Quote(name))
		}
	}
}
