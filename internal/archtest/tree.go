package archtest

import (
	"bytes"
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Module is the import path of the repository's main module.
const Module = "github.com/pacelinehq/paceline"

// Tree is every Go package below one directory, parsed.
type Tree struct {
	// Root is the directory that was loaded.
	Root string
	// Packages are ordered by directory.
	Packages []*Package

	fset *token.FileSet
}

// Package is the Go files of one directory.
type Package struct {
	// Dir is relative to the tree's root, with slashes; "." is the root.
	Dir string
	// Files are ordered by name and include the tests.
	Files []*File
	// Design is DESIGN.md beside the files, or nil.
	Design []byte
}

// File is one parsed Go file.
type File struct {
	// Path is relative to the tree's root, with slashes.
	Path string
	// Test says that the go tool builds the file for tests only.
	Test bool
	// Generated says that a tool wrote the file.
	Generated bool
	// AST is the syntax tree, with comments.
	AST *ast.File
	// Lines is the number of lines.
	Lines int

	waivers map[int]string
}

// Violation is one broken rule at one place.
type Violation struct {
	Path    string
	Line    int
	Rule    string
	Message string
}

// String formats v as compilers do, so that editors can jump to it.
func (v Violation) String() string {
	return fmt.Sprintf("%s:%d: %s: %s", v.Path, v.Line, v.Rule, v.Message)
}

// skippedDirs are never looked into. "testdata" holds bad code on purpose.
var skippedDirs = []string{"testdata", "vendor", "node_modules"}

// outputDirs are not looked into at the root, where the Makefile writes them.
var outputDirs = []string{"bin", "build", "dist", "data"}

// Load parses every Go file below root.
func Load(root string) (*Tree, error) {
	t := &Tree{Root: root, fset: token.NewFileSet()}
	byDir := map[string]*Package{}
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name != root && skipped(root, name) {
				return filepath.SkipDir
			}
			return nil
		}
		if path.Ext(d.Name()) != ".go" {
			return nil
		}
		return t.add(byDir, name)
	})
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", root, err)
	}
	for _, dir := range slices.Sorted(maps.Keys(byDir)) {
		t.Packages = append(t.Packages, byDir[dir])
	}
	return t, nil
}

// skipped reports whether a directory below root holds no code of ours.
func skipped(root, name string) bool {
	base := filepath.Base(name)
	return strings.HasPrefix(base, ".") || slices.Contains(skippedDirs, base) ||
		filepath.Dir(name) == filepath.Clean(root) && slices.Contains(outputDirs, base)
}

// add parses one file into the package of its directory.
func (t *Tree) add(byDir map[string]*Package, name string) error {
	src, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(t.Root, name)
	if err != nil {
		return err
	}
	rel = filepath.ToSlash(rel)
	parsed, err := parser.ParseFile(t.fset, rel, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	f := &File{
		Path: rel, AST: parsed,
		Test:      strings.HasSuffix(rel, "_test.go"),
		Generated: ast.IsGenerated(parsed),
		Lines:     bytes.Count(src, []byte("\n")),
	}
	f.waivers = t.waiversOf(f)
	dir := path.Dir(rel)
	p := byDir[dir]
	if p == nil {
		p = &Package{Dir: dir}
		if p.Design, err = os.ReadFile(filepath.Join(filepath.Dir(name), "DESIGN.md")); err != nil && !os.IsNotExist(err) {
			return err
		}
		byDir[dir] = p
	}
	p.Files = append(p.Files, f)
	return nil
}

const waiverMark = "//archtest:ok"

// waiversOf maps the lines that a waiver stands on to its reason.
func (t *Tree) waiversOf(f *File) map[int]string {
	waivers := map[int]string{}
	for _, group := range f.AST.Comments {
		for _, c := range group.List {
			if reason, ok := strings.CutPrefix(c.Text, waiverMark); ok {
				waivers[t.fset.Position(c.Pos()).Line] = strings.TrimSpace(reason)
			}
		}
	}
	return waivers
}

// Check runs every rule and returns the violations in order of place.
func (t *Tree) Check() []Violation {
	var all []Violation
	for _, r := range Rules() {
		all = append(all, t.CheckRule(r)...)
	}
	sortViolations(all)
	return all
}

// CheckRule runs one rule, and drops what is waived with a reason.
func (t *Tree) CheckRule(r Rule) []Violation {
	c := &checker{Tree: t, rule: r}
	for _, p := range t.Packages {
		r.check(c, p)
	}
	sortViolations(c.found)
	return c.found
}

func sortViolations(vs []Violation) {
	slices.SortFunc(vs, func(a, b Violation) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Message, b.Message))
	})
}

// checker collects what one rule finds.
type checker struct {
	*Tree
	rule  Rule
	found []Violation
}

// report records a violation at a position of a file, unless it is waived.
func (c *checker) report(f *File, pos token.Pos, format string, args ...any) {
	line := c.fset.Position(pos).Line
	if c.rule.Waivable && (f.waivers[line] != "" || f.waivers[line-1] != "") {
		return
	}
	c.reportLine(f.Path, line, format, args...)
}

func (c *checker) reportLine(name string, line int, format string, args ...any) {
	c.found = append(c.found, Violation{Path: name, Line: line, Rule: c.rule.Name, Message: fmt.Sprintf(format, args...)})
}

// sources are the files of p that are part of the program.
func (p *Package) sources() []*File {
	return slices.DeleteFunc(slices.Clone(p.Files), func(f *File) bool { return f.Test })
}

// name is the package's name in its sources, or "" when it has only tests.
func (p *Package) name() string {
	if src := p.sources(); len(src) > 0 {
		return src[0].AST.Name.Name
	}
	return ""
}
