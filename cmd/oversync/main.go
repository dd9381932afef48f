// Command oversync runs a sync server on a PostgreSQL database, and looks after
// that database: schema, registered tables, tokens. oversync --help lists the
// commands; every setting is a flag or an environment variable.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"os/signal"
	"reflect"
	"slices"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/oversync/oversync/migrations"
)

// Exit statuses: scripts tell a wrong command line from a command that failed.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

type cli struct {
	JSON      bool   `name:"json" env:"OVERSYNC_JSON" help:"Print JSON instead of text for people."`
	LogLevel  string `enum:"debug,info,warn,error" default:"info" env:"OVERSYNC_LOG_LEVEL" help:"Least level that is logged: debug, info, warn or error."`
	LogFormat string `enum:"auto,json,text" default:"auto" env:"OVERSYNC_LOG_FORMAT" help:"Form of the log on standard error: json, text, or auto (text on a terminal)."`

	Serve   serveCmd   `cmd:"" help:"Serve the sync protocol."`
	Migrate migrateCmd `cmd:"" help:"Install, upgrade or remove the sync schema."`
	Table   tableCmd   `cmd:"" help:"Register tables, list those that are, and look after them."`
	Check   checkCmd   `cmd:"" help:"Say what is wrong with the set-up of the tables, and the SQL that mends it."`
	Verify  verifyCmd  `cmd:"" help:"Compare the rows of a scope with the log."`
	Repair  repairCmd  `cmd:"" help:"Enter what differs from the log into it."`
	Token   tokenCmd   `cmd:"" help:"Make a token for a user."`
	Dev     devCmd     `cmd:"" help:"Try it out: a database, a demo schema, a token and a server, from nothing."`
	Demo    demoCmd    `cmd:"" help:"Play devices against the server that dev runs."`
	Version versionCmd `cmd:"" help:"Say which version this is."`
}

// app is what every command gets to work with.
type app struct {
	program string // how this program was called, for lines to copy
	stdout  io.Writer
	stderr  io.Writer
	json    bool
	logger  *slog.Logger
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// After the first signal the second one kills, should the shutdown hang.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args, os.Stdout, os.Stderr))
}

// run is the program without the process around it. args starts with its name.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var c cli
	parser, err := kong.New(&c,
		kong.Name("oversync"),
		kong.Description("A sync engine that lives in PostgreSQL."),
		kong.Writers(stdout, stderr),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: false}),
		kong.PostBuild(ignoreEmptyVariables),
		kong.BindTo(ctx, (*context.Context)(nil)))
	if err != nil {
		say(stderr, "oversync: %v\n", err)
		return exitFailed
	}
	command, err := parser.Parse(args[1:])
	if err == nil {
		err = checkNumbers(command.Flags())
	}
	if err != nil {
		say(stderr, "oversync: %v\nRun %s --help to see what there is.\n", err, args[0])
		return exitUsage
	}
	a := &app{program: args[0], stdout: stdout, stderr: stderr, json: c.JSON, logger: newLogger(stderr, c.LogFormat, c.LogLevel)}
	if err := command.Run(a); err != nil {
		say(stderr, "oversync: %s\n", describe(err))
		if _, ok := errors.AsType[*pgconn.ParseConfigError](err); ok {
			return exitUsage
		}
		return exitFailed
	}
	return exitOK
}

// ignoreEmptyVariables makes an empty variable the same as none, as in a copy of
// example.env that is not filled in. Help names them all the same.
func ignoreEmptyVariables(k *kong.Kong) error {
	return kong.Visit(k.Model, func(node kong.Visitable, next kong.Next) error {
		if flag, ok := node.(*kong.Flag); ok {
			flag.Tag.Envs = slices.DeleteFunc(flag.Tag.Envs, func(name string) bool {
				if os.Getenv(name) != "" {
					return false // kong adds it to the help itself
				}
				flag.Help += " ($" + name + ")"
				return true
			})
		}
		return next(nil)
	})
}

// checkNumbers refuses what no number among the flags may be: none is negative, and
// those with the tag positive are above 0, since 0 has no meaning there.
func checkNumbers(flags []*kong.Flag) error {
	for _, flag := range flags {
		var n float64
		switch value := reflect.Indirect(flag.Target); {
		case value.CanInt():
			n = float64(value.Int())
		case value.CanFloat():
			n = value.Float()
		}
		switch {
		case math.IsNaN(n) || math.IsInf(n, 0):
			return fmt.Errorf("--%s must be a number", flag.Name)
		case n < 0:
			return fmt.Errorf("--%s must not be negative", flag.Name)
		case n == 0 && flag.Tag.Has("positive"):
			return fmt.Errorf("--%s must be above 0", flag.Name)
		}
	}
	return nil
}

// describe adds what PostgreSQL says beside its message: the refusals of the
// sync schema carry their remedy in the hint. To its own refusal of a role or of a
// name, and to a database that cannot be reached, it adds where the remedy is.
func describe(err error) string {
	text := err.Error()
	if _, ok := errors.AsType[*pgconn.ParseConfigError](err); ok {
		return text + "\n  hint: Write it as postgres://user:password@host:5432/database; in a password, write @ / : # ? % as %40 %2F %3A %23 %3F %25."
	}
	if strings.Contains(text, "unsupported startup parameter") {
		return text + "\n  hint: " + poolerHint
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		text += "\n  hint: Compare DATABASE_URL with the server: its host and port, the database, the role and its password."
	}
	if errors.Is(err, errStandby) {
		text += "\n  hint: " + standbyHint
	}
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		if e.Detail != "" {
			text += "\n  detail: " + e.Detail
		}
		hint := e.Hint
		switch {
		case hint != "":
		case refusedByStandby(e):
			hint = standbyHint
		case e.Code == pgerrcode.DuplicatePreparedStatement || e.Code == pgerrcode.InvalidSQLStatementName:
			hint = poolerHint
		case e.Code == pgerrcode.DuplicateSchema:
			hint = "The schema is there, but " + migrations.VersionTable + " does not say so. Perhaps goose made it without -table " + migrations.VersionTable +
				"; docs/operations.md, Install."
		case e.Code == pgerrcode.InsufficientPrivilege && strings.HasPrefix(e.Message, "must be owner"):
			hint = "Run it as the owner of that object, or as a member of that role: whoever registers or unregisters owns the table and the schema sync; " +
				"docs/operations.md, Privileges."
		case e.Code == pgerrcode.InsufficientPrivilege:
			hint = "The role of DATABASE_URL lacks a privilege. Migrating needs CREATE on the database and on schema public; " +
				"docs/operations.md, Privileges, has the GRANT statements for the rest."
		case slices.Contains([]string{pgerrcode.UndefinedTable, pgerrcode.InvalidSchemaName, pgerrcode.InvalidName}, e.Code):
			hint = `Name a table that is there, as schema.table: \d in psql lists them.`
		}
		if hint != "" {
			text += "\n  hint: " + hint
		}
	}
	return text
}

const poolerHint = "A pooler stands before the database, PgBouncer for one: docs/operations.md, Install, says how to set it up, and what to add to DATABASE_URL."

const standbyHint = "DATABASE_URL leads to a standby, or to a database that is read-only: name the primary, " +
	"or several hosts with target_session_attrs=read-write."

// refusedByStandby says whether PostgreSQL refuses because it takes no writes. A
// standby cannot read an unlogged table either, as those of staged pushes are.
func refusedByStandby(e *pgconn.PgError) bool {
	return e.Code == pgerrcode.ReadOnlySQLTransaction || e.Code == pgerrcode.FeatureNotSupported && e.Routine == "get_relation_info"
}

func newLogger(w io.Writer, format, level string) *slog.Logger {
	var options slog.HandlerOptions
	var least slog.Level
	if err := least.UnmarshalText([]byte(level)); err == nil { // kong has checked it
		options.Level = least
	}
	if format == "text" || format == "auto" && isTerminal(w) {
		return slog.New(slog.NewTextHandler(w, &options))
	}
	return slog.New(slog.NewJSONHandler(w, &options))
}

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
