package archtest

import (
	"go/ast"
	"path"
)

func checkFileSize(c *checker, p *Package) {
	for _, f := range p.Files {
		limit := maxFileLines
		if f.Test {
			limit = maxTestFileLines
		}
		if f.Lines > limit && !f.Generated {
			c.reportLine(f.Path, f.Lines, "the file has %d lines, at most %d are allowed", f.Lines, limit)
		}
	}
}

func checkFuncSize(c *checker, p *Package) {
	for _, f := range p.Files {
		if f.Generated {
			continue
		}
		limit := maxFuncLines
		if f.Test {
			limit = maxTestFuncLines
		}
		for _, d := range f.AST.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			// The comment above is not the function's length.
			if n := c.fset.Position(fn.End()).Line - c.fset.Position(fn.Name.Pos()).Line + 1; n > limit {
				c.report(f, fn.Name.Pos(), "%s has %d lines, at most %d are allowed", fn.Name.Name, n, limit)
			}
		}
	}
}

func checkMainSize(c *checker, p *Package) {
	for _, f := range p.sources() {
		if within(p.Dir, "cmd") && path.Base(f.Path) == "main.go" && f.Lines > maxMainLines {
			c.reportLine(f.Path, f.Lines, "main.go has %d lines, at most %d are allowed", f.Lines, maxMainLines)
		}
	}
}
