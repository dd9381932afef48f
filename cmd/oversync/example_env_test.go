package main

import (
	"bytes"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"
)

// envLine is a setting in example.env: commented out when its default is as good
// as none.
var envLine = regexp.MustCompile(`^#?([A-Z][A-Z0-9_]*)=(.*)$`)

// readNotByKong are variables that no flag stands for.
var readNotByKong = map[string]string{
	"OVERSYNC_PG_BIN": "", // db/pgembed: where dev finds the programs of PostgreSQL
}

// TestExampleEnv checks that example.env has every variable with its default, and
// a line of meaning above each.
func TestExampleEnv(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../example.env")
	require.NoError(t, err)

	want := map[string]string{}
	for name, value := range readNotByKong {
		want[name] = value
	}
	parser, err := kong.New(&cli{})
	require.NoError(t, err)
	require.NoError(t, kong.Visit(parser.Model, func(node kong.Visitable, next kong.Next) error {
		if flag, ok := node.(*kong.Flag); ok {
			for _, name := range flag.Envs {
				value := flag.Default
				if flag.IsBool() && value == "" {
					value = "false"
				}
				if before, seen := want[name]; seen {
					require.Equal(t, before, value, "%s has two defaults", name)
				}
				want[name] = value
			}
		}
		return next(nil)
	}))

	got := map[string]string{}
	previous := ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\n")
		if match := envLine.FindStringSubmatch(line); match != nil {
			require.NotContains(t, got, match[1], "example.env has it twice")
			require.Regexp(t, `^# \S.*\.$`, previous, "%s needs a sentence above it that says what it means", match[1])
			got[match[1]] = match[2]
		}
		previous = line
	}
	require.Equal(t, want, got, "example.env and the flags of the program differ")
}

// TestSettingsOfServe holds together the three lists of what serve can be told: its help, example.env and docs/operations.md.
func TestSettingsOfServe(t *testing.T) {
	t.Parallel()
	examples, err := os.ReadFile("../../example.env")
	require.NoError(t, err)
	docs, err := os.ReadFile("../../docs/operations.md")
	require.NoError(t, err)
	var help bytes.Buffer
	parser, err := kong.New(&cli{}, kong.PostBuild(ignoreEmptyVariables), kong.Writers(&help, &help))
	require.NoError(t, err)
	usage, err := parser.Parse([]string{"serve"})
	require.NoError(t, err)
	require.NoError(t, usage.PrintUsage(false))
	parser, err = kong.New(&cli{})
	require.NoError(t, err)
	path, err := parser.Parse([]string{"serve"})
	require.NoError(t, err)
	count := 0
	for _, flag := range path.Flags() {
		for _, name := range flag.Envs {
			count++
			require.Contains(t, help.String(), "($"+name+")")
			require.Regexp(t, `(?m)^# `+regexp.QuoteMeta(flag.Help)+`\n#?`+name+`=`, string(examples))
			require.Regexp(t, "(?m)^\\| `"+name+"` \\| `--"+flag.Name+"` \\| .* \\| "+regexp.QuoteMeta(flag.Help), string(docs))
		}
	}
	require.Greater(t, count, 25)
}
