package main

import (
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"
	"text/tabwriter"
)

// print writes v as JSON if --json was given, else what human writes, whose
// tab-separated cells become columns.
func (a *app) print(v any, human func(w io.Writer)) error {
	if a.json {
		enc := json.NewEncoder(a.stdout)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(v)
	}
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	human(w)
	return w.Flush()
}

// row writes one line of a table.
func row(w io.Writer, cells ...any) {
	line := make([]string, len(cells))
	for i, cell := range cells {
		line[i] = fmt.Sprint(cell)
	}
	say(w, "%s\n", strings.Join(line, "\t"))
}

// say writes formatted text. Its error is dropped: a table's writer keeps it for
// its Flush, and for standard error there is nowhere else to tell it.
func say(w io.Writer, format string, args ...any) {
	_, _ = fmt.Fprintf(w, format, args...)
}

// plainWord is what a shell takes as it stands.
var plainWord = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./][A-Za-z0-9_@%+=:,./-]*$`)

// argument writes a value as an argument of a command line to copy. A value may come
// from a token, that is from anybody: a shell must not run it, nor may the command take
// it for a flag.
func argument(value string) string {
	switch {
	case plainWord.MatchString(value):
		return value
	case strings.HasPrefix(value, "-"):
		return "-- " + quoted(value)
	default:
		return quoted(value)
	}
}

// quoted is a value that no shell looks into.
func quoted(value string) string {
	return "'" + strings.ReplaceAll(value, "'", `'\''`) + "'"
}
