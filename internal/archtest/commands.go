package archtest

import (
	"go/ast"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const (
	commandsFile = "commands.go"
	entryFunc    = "entry"
)

// command is a type of the replicated state that can stand in the log.
type command struct {
	typ  string
	name string
	file *File
	node *ast.FuncDecl
}

// Commands lists the names of all commands of the replicated state, as its
// source declares them, in the order of the table.
func (t *Tree) Commands() []string {
	var names []string
	for _, p := range t.Packages {
		if p.Dir != fsmDir {
			continue
		}
		declared := declaredCommands(p)
		for _, e := range tableEntries(p) {
			for _, d := range declared {
				if d.typ == e.typ {
					names = append(names, d.name)
				}
			}
		}
	}
	return names
}

// declaredCommands finds the types with the methods of a command.
func declaredCommands(p *Package) []command {
	names := map[string]string{}
	var found []command
	for _, f := range p.sources() {
		for _, d := range f.AST.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Recv == nil {
				continue
			}
			if fn.Name.Name == "Name" {
				names[receiver(fn)] = returnedString(fn)
			}
			if fn.Name.Name == "Apply" && takesTx(fn) {
				found = append(found, command{typ: receiver(fn), file: f, node: fn})
			}
		}
	}
	for i := range found {
		found[i].name = names[found[i].typ]
	}
	return slices.DeleteFunc(found, func(c command) bool { return c.name == "" })
}

// takesTx reports whether a method's only parameter is a *Tx.
func takesTx(fn *ast.FuncDecl) bool {
	if fn.Type.Params.NumFields() != 1 {
		return false
	}
	star, ok := fn.Type.Params.List[0].Type.(*ast.StarExpr)
	if !ok {
		return false
	}
	id, ok := star.X.(*ast.Ident)
	return ok && id.Name == "Tx"
}

// returnedString is the literal that a one-line function returns, or "".
func returnedString(fn *ast.FuncDecl) string {
	if fn.Body == nil || len(fn.Body.List) != 1 {
		return ""
	}
	ret, ok := fn.Body.List[0].(*ast.ReturnStmt)
	if !ok || len(ret.Results) != 1 {
		return ""
	}
	lit, ok := ret.Results[0].(*ast.BasicLit)
	if !ok {
		return ""
	}
	s, err := strconv.Unquote(lit.Value)
	if err != nil {
		return ""
	}
	return s
}

// tableEntry is one call of entry[X].
type tableEntry struct {
	typ  string
	file *File
	node ast.Node
}

// tableEntries finds the entries of the command table, wherever they stand.
func tableEntries(p *Package) []tableEntry {
	var found []tableEntry
	for _, f := range p.sources() {
		ast.Inspect(f.AST, func(n ast.Node) bool {
			index, ok := n.(*ast.IndexExpr)
			if !ok {
				return true
			}
			fn, ok := index.X.(*ast.Ident)
			if !ok || fn.Name != entryFunc {
				return true
			}
			if typ, ok := index.Index.(*ast.Ident); ok {
				found = append(found, tableEntry{typ: typ.Name, file: f, node: n})
			}
			return true
		})
	}
	return found
}

func checkCommandTable(c *checker, p *Package) {
	if p.Dir != fsmDir {
		return
	}
	listed := map[string]bool{}
	for _, e := range tableEntries(p) {
		if path.Base(e.file.Path) != commandsFile {
			c.report(e.file, e.node.Pos(), "%s belongs into the table of %s", e.typ, commandsFile)
		}
		if listed[e.typ] {
			c.report(e.file, e.node.Pos(), "%s stands in the table twice", e.typ)
		}
		listed[e.typ] = true
	}
	for _, d := range declaredCommands(p) {
		if !listed[d.typ] {
			c.report(d.file, d.node.Pos(), "command %s is missing from the table of %s", d.typ, commandsFile)
		}
	}
}

func checkCommandScripts(c *checker, p *Package) {
	if p.Dir != fsmDir {
		return
	}
	scripts, err := readScripts(filepath.Join(c.Root, fsmDir, "testdata"))
	if err != nil {
		c.reportLine(fsmDir+"/testdata", 0, "can not be read: %v", err)
		return
	}
	for _, d := range declaredCommands(p) {
		word := regexp.MustCompile(`\b` + regexp.QuoteMeta(d.name) + `\b`)
		if !word.MatchString(scripts) {
			c.report(d.file, d.node.Pos(), "command %s appears in no script of %s/testdata", d.name, fsmDir)
		}
	}
}

// readScripts joins every script below a directory.
func readScripts(dir string) (string, error) {
	var all strings.Builder
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if os.IsNotExist(err) && name == dir {
			return filepath.SkipAll
		}
		if err != nil || d.IsDir() || path.Ext(name) != ".txt" {
			return err
		}
		text, err := os.ReadFile(name)
		all.Write(text)
		all.WriteByte('\n')
		return err
	})
	return all.String(), err
}

// lastElement is the usual name of the package at an import path.
func lastElement(name string) string {
	base := path.Base(name)
	if v, ok := strings.CutPrefix(base, "v"); ok && strings.Trim(v, "0123456789") == "" && v != "" {
		return path.Base(path.Dir(name))
	}
	return base
}
