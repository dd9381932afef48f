package e2e_test

import (
	"crypto/sha256"
	"encoding/hex"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/oversync/oversync/e2e/device"
)

const errorsDoc = "../docs/errors.md"

var (
	// sqlCode is one of our SQLSTATEs.
	sqlCode = regexp.MustCompile(`\bOV[0-9]{3}\b`)
	// sqlRow is a row of the table of SQLSTATEs, and httpRow one of the table of answers over HTTP.
	sqlRow  = regexp.MustCompile("(?m)^\\| `(OV[0-9]{3})` \\|")
	httpRow = regexp.MustCompile("(?m)^\\| [0-9]{3} \\| `([a-z_]+)` \\|")
)

// TestErrorsDocHasEverySQLState holds together what the migrations raise, what the service knows and
// what docs/errors.md explains.
func TestErrorsDocHasEverySQLState(t *testing.T) {
	t.Parallel()
	migrations, err := filepath.Glob("../migrations/*.sql")
	require.NoError(t, err)
	require.NotEmpty(t, migrations)
	inCode := map[string]bool{}
	for _, file := range append(migrations, "../sync/sql_errors.go") {
		for _, code := range sqlCode.FindAllString(readFile(t, file), -1) {
			inCode[code] = true
		}
	}
	require.Equal(t, slices.Sorted(maps.Keys(inCode)), rowsOf(t, sqlRow),
		"docs/errors.md must have one row for each SQLSTATE of the migrations and of sync/sql_errors.go, in order")
}

// TestErrorsDocHasEveryHTTPCode holds docs/errors.md and the codes that httpapi answers together.
func TestErrorsDocHasEveryHTTPCode(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../httpapi/*.go")
	require.NoError(t, err)
	inCode := map[string]bool{}
	for _, file := range files {
		if !strings.HasSuffix(file, "_test.go") {
			collectHTTPCodes(t, file, inCode)
		}
	}
	require.Contains(t, inCode, "push_conflict", "the codes are not found any more")
	require.Contains(t, inCode, "pull_failed", "the names of operations are not found any more")
	documented := rowsOf(t, httpRow)
	slices.Sort(documented)
	require.Equal(t, slices.Sorted(maps.Keys(inCode)), documented,
		"docs/errors.md must have one row for each code that httpapi answers")
}

// TestProtocolDocVectors checks the worked examples of canonical JSON: each is canonical, and its size and
// hash are in the text after it.
func TestProtocolDocVectors(t *testing.T) {
	t.Parallel()
	vectors := regexp.MustCompile(`(?m)^    (\[\{"key".*)$`).FindAllStringSubmatch(readFile(t, "../docs/protocol.md"), -1)
	require.GreaterOrEqual(t, len(vectors), 2)
	for _, vector := range vectors {
		canonical, err := device.Canonical([]byte(vector[1]))
		require.NoError(t, err)
		require.Equal(t, vector[1], string(canonical))
		hash := sha256.Sum256(canonical)
		require.Contains(t, readFile(t, "../docs/protocol.md"), hex.EncodeToString(hash[:]))
		require.Contains(t, readFile(t, "../docs/protocol.md"), strconv.Itoa(len(canonical))+" bytes")
	}
}

// collectHTTPCodes finds error codes by the places where httpapi has them: constants named code…,
// coded[E](status, code), a response's field Error, and the operation's name that serve and
// serveActor make <operation>_failed of.
func collectHTTPCodes(t *testing.T, file string, codes map[string]bool) {
	t.Helper()
	add := func(expr ast.Expr, suffix string) {
		if literal, ok := expr.(*ast.BasicLit); ok && literal.Kind == token.STRING {
			text, err := strconv.Unquote(literal.Value)
			require.NoError(t, err)
			codes[text+suffix] = true
		}
	}
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	require.NoError(t, err)
	ast.Inspect(parsed, func(node ast.Node) bool {
		switch n := node.(type) {
		case *ast.ValueSpec:
			for i, name := range n.Names {
				if strings.HasPrefix(name.Name, "code") && i < len(n.Values) {
					add(n.Values[i], "")
				}
			}
		case *ast.KeyValueExpr:
			if key, ok := n.Key.(*ast.Ident); ok && key.Name == "Error" {
				add(n.Value, "")
			}
		case *ast.CallExpr:
			switch calledName(n) {
			case "coded":
				add(n.Args[1], "")
			case "serve", "serveActor":
				if len(n.Args) > 3 {
					add(n.Args[3], "_failed")
				}
			}
		}
		return true
	})
}

// calledName is the bare name of the function or method that is called.
func calledName(call *ast.CallExpr) string {
	fun := call.Fun
	if index, ok := fun.(*ast.IndexExpr); ok {
		fun = index.X
	}
	switch f := fun.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		return f.Sel.Name
	default:
		return ""
	}
}

// rowsOf returns what the tables of docs/errors.md have in the place that row captures.
func rowsOf(t *testing.T, row *regexp.Regexp) []string {
	t.Helper()
	var found []string
	for _, match := range row.FindAllStringSubmatch(readFile(t, errorsDoc), -1) {
		found = append(found, match[1])
	}
	return found
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	require.NoError(t, err)
	return string(text)
}
