package oversync_test

import (
	"flag"
	"fmt"
	"go/ast"
	"go/build"
	"go/parser"
	"go/printer"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var updateSurface = flag.Bool("update-surface", false, "write the exported surface to testdata/surface.txt instead of comparing it")

// TestExportedSurface compares what the packages export, signatures, fields and
// tags included, with a list in the repository. Teams embed these packages, so a
// line that goes or changes breaks somebody's build, or a client on the wire. A
// new line needs nothing but:
//
//	go test ./sync -run TestExportedSurface -update-surface
func TestExportedSurface(t *testing.T) {
	t.Parallel()
	var lines []string
	for _, dir := range []string{".", filepath.Join("..", "httpapi")} {
		exported, err := exportedSurface(dir)
		require.NoError(t, err)
		lines = append(lines, exported...)
	}
	slices.Sort(lines)
	have := strings.Join(lines, "\n") + "\n"
	list := filepath.Join("testdata", "surface.txt")
	if *updateSurface {
		require.NoError(t, os.WriteFile(list, []byte(have), 0o644))
		return
	}
	want, err := os.ReadFile(list)
	require.NoError(t, err)
	require.Equal(t, string(want), have, "the exported surface differs from %s; if that is meant, run this test with -update-surface", list)
}

// exportedSurface lists the exported identifiers of a package, one a line, in the
// form of the lists under GOROOT/api. Names of parameters are left out: they may
// change.
func exportedSurface(dir string) ([]string, error) {
	files := token.NewFileSet()
	var lines []string
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		built, err := build.Default.MatchFile(dir, entry.Name())
		if err != nil {
			return nil, err
		}
		if !built || !strings.HasSuffix(entry.Name(), ".go") || strings.HasSuffix(entry.Name(), "_test.go") {
			continue
		}
		file, err := parser.ParseFile(files, filepath.Join(dir, entry.Name()), nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		s := surface{pkg: file.Name.Name}
		for _, decl := range file.Decls {
			s.decl(decl)
		}
		lines = append(lines, s.lines...)
	}
	return lines, nil
}

// surface collects the lines of one file.
type surface struct {
	pkg   string
	lines []string
}

func (s *surface) add(format string, args ...any) {
	s.lines = append(s.lines, "pkg "+s.pkg+", "+fmt.Sprintf(format, args...))
}

func (s *surface) decl(decl ast.Decl) {
	switch decl := decl.(type) {
	case *ast.FuncDecl:
		switch {
		case !decl.Name.IsExported():
		case decl.Recv == nil:
			s.add("func %s%s", decl.Name, signature(decl.Type))
		default:
			receiver := source(decl.Recv.List[0].Type)
			if ast.IsExported(strings.TrimLeft(receiver, "*")) {
				s.add("method (%s) %s%s", receiver, decl.Name, signature(decl.Type))
			}
		}
	case *ast.GenDecl:
		for _, spec := range decl.Specs {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				if spec.Name.IsExported() {
					s.typeSpec(spec)
				}
			case *ast.ValueSpec:
				s.values(decl.Tok, spec)
			}
		}
	}
}

func (s *surface) values(tok token.Token, spec *ast.ValueSpec) {
	for i, name := range spec.Names {
		switch {
		case !name.IsExported():
		case tok == token.CONST && i < len(spec.Values):
			// A constant's value is part of what others compiled in.
			s.add("const %s = %s", name, source(spec.Values[i]))
		default:
			s.add("%s %s %s", tok, name, source(spec.Type))
		}
	}
}

func (s *surface) typeSpec(spec *ast.TypeSpec) {
	name := spec.Name.Name
	switch body := spec.Type.(type) {
	case *ast.StructType:
		s.add("type %s struct", name)
		for _, field := range body.Fields.List {
			tag := ""
			if field.Tag != nil {
				tag = " " + field.Tag.Value
			}
			for _, fieldName := range field.Names {
				if fieldName.IsExported() {
					s.add("type %s struct, %s %s%s", name, fieldName, source(field.Type), tag)
				}
			}
			if len(field.Names) == 0 {
				s.add("type %s struct, embedded %s%s", name, source(field.Type), tag)
			}
		}
	case *ast.InterfaceType:
		s.add("type %s interface", name)
		for _, method := range body.Methods.List {
			for _, methodName := range method.Names {
				s.add("type %s interface, %s%s", name, methodName, signature(method.Type.(*ast.FuncType)))
			}
		}
	case *ast.FuncType:
		s.add("type %s func%s", name, signature(body))
	default:
		equals := ""
		if spec.Assign.IsValid() {
			equals = "= "
		}
		s.add("type %s %s%s", name, equals, source(spec.Type))
	}
}

// signature is the types of a function's parameters and results.
func signature(fn *ast.FuncType) string {
	params, results := fieldTypes(fn.Params), fieldTypes(fn.Results)
	text := "(" + strings.Join(params, ", ") + ")"
	switch {
	case len(results) == 1:
		text += " " + results[0]
	case len(results) > 1:
		text += " (" + strings.Join(results, ", ") + ")"
	}
	return text
}

func fieldTypes(list *ast.FieldList) []string {
	var types []string
	if list == nil {
		return nil
	}
	for _, field := range list.List {
		for range max(1, len(field.Names)) {
			types = append(types, source(field.Type))
		}
	}
	return types
}

// source is an expression on one line, function types without the names of their
// parameters.
func source(node ast.Expr) string {
	if node == nil {
		return ""
	}
	if fn, ok := node.(*ast.FuncType); ok {
		return "func" + signature(fn)
	}
	var text strings.Builder
	_ = printer.Fprint(&text, token.NewFileSet(), node) // a Builder does not fail
	return strings.Join(strings.Fields(text.String()), " ")
}
