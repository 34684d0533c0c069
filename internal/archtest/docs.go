package archtest

import (
	"bytes"
	"go/ast"
	"regexp"
	"strings"
)

// todoPattern leaves context.TODO alone, which is a name and not a promise.
var todoPattern = regexp.MustCompile(`(?:^|[^.\w])(TODO|FIXME|XXX|HACK)\b`)

func checkPackageDoc(c *checker, p *Package) {
	src := p.sources()
	if len(src) == 0 {
		return
	}
	documented := 0
	for _, f := range src {
		doc := f.AST.Doc.Text()
		if doc == "" {
			continue
		}
		documented++
		if want := "Package " + p.name() + " "; p.name() != "main" && !strings.HasPrefix(doc, want) {
			c.report(f, f.AST.Name.Pos(), "the package comment must begin with %q", want)
		}
		if documented > 1 {
			c.report(f, f.AST.Name.Pos(), "the package has a second package comment here")
		}
	}
	if documented == 0 {
		c.report(src[0], src[0].AST.Name.Pos(), "package %s has no package comment", p.name())
	}
}

func checkExportedDocs(c *checker, p *Package) {
	for _, f := range p.sources() {
		for _, d := range f.AST.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				checkFuncDoc(c, f, d)
			case *ast.GenDecl:
				checkDeclDoc(c, f, d)
			}
		}
	}
}

func checkFuncDoc(c *checker, f *File, d *ast.FuncDecl) {
	if !d.Name.IsExported() || d.Recv != nil && !ast.IsExported(receiver(d)) {
		return
	}
	if d.Doc.Text() == "" {
		c.report(f, d.Pos(), "exported %s has no comment", d.Name.Name)
	}
}

// receiver is the name of a method's type.
func receiver(d *ast.FuncDecl) string {
	t := d.Recv.List[0].Type
	for {
		switch x := t.(type) {
		case *ast.StarExpr:
			t = x.X
		case *ast.IndexExpr:
			t = x.X
		case *ast.IndexListExpr:
			t = x.X
		case *ast.ParenExpr:
			t = x.X
		case *ast.Ident:
			return x.Name
		default:
			return ""
		}
	}
}

// checkDeclDoc accepts a comment on the whole declaration for constants and
// variables, which are often explained as a group, but not for types.
func checkDeclDoc(c *checker, f *File, d *ast.GenDecl) {
	for _, s := range d.Specs {
		switch s := s.(type) {
		case *ast.TypeSpec:
			alone := !d.Lparen.IsValid()
			if s.Name.IsExported() && s.Doc.Text() == "" && (!alone || d.Doc.Text() == "") {
				c.report(f, s.Pos(), "exported type %s has no comment", s.Name.Name)
			}
		case *ast.ValueSpec:
			if d.Doc.Text() != "" || s.Doc.Text() != "" || s.Comment.Text() != "" {
				continue
			}
			for _, n := range s.Names {
				if n.IsExported() {
					c.report(f, n.Pos(), "exported %s has no comment", n.Name)
				}
			}
		}
	}
}

func checkDesign(c *checker, p *Package) {
	src := p.sources()
	// The purpose of a test helper is explained by what it tests.
	helper := strings.HasSuffix(p.name(), "test") || p.name() == "fake"
	if len(src) == 0 || p.name() == "main" || helper && p.Design == nil {
		return
	}
	lines := 0
	for _, f := range src {
		lines += f.Lines
	}
	if p.Design == nil && lines >= designFrom {
		c.reportLine(p.Dir, 0, "the package has %d lines and no DESIGN.md", lines)
	}
	if n := bytes.Count(p.Design, []byte("\n")); n > maxDesignLines {
		c.reportLine(p.Dir+"/DESIGN.md", n, "has %d lines, at most %d are allowed", n, maxDesignLines)
	}
}

func checkTodo(c *checker, p *Package) {
	for _, f := range p.Files {
		for _, group := range f.AST.Comments {
			for _, line := range group.List {
				if m := todoPattern.FindStringSubmatch(line.Text); m != nil {
					c.report(f, line.Pos(), "%s: do it now, or open an issue", m[1])
				}
			}
		}
	}
}

func checkWaivers(c *checker, p *Package) {
	for _, f := range p.Files {
		for _, group := range f.AST.Comments {
			for _, line := range group.List {
				if line.Text == waiverMark || strings.HasPrefix(line.Text, waiverMark) && f.waivers[c.line(line)] == "" {
					c.report(f, line.Pos(), "a waiver needs its reason behind %q", waiverMark)
				}
			}
		}
	}
}

func (c *checker) line(n ast.Node) int { return c.fset.Position(n.Pos()).Line }
