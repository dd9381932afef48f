package e2e_test

import (
	"context"
	"database/sql"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/stretchr/testify/require"

	"github.com/oversync/oversync/db/pgembed/pgtest"
	"github.com/oversync/oversync/migrations"
)

var updateSchema = flag.Bool("update-schema", false, "write testdata/schema.sql instead of comparing with it")

const (
	schemaFile = "testdata/schema.sql"

	// schemaMajor is the version whose dump is kept. The others print the same schema in other
	// words.
	schemaMajor = 15
)

// TestSchemaDump compares a freshly migrated database with the dump in testdata, which shows a
// reviewer what a change of the migrations amounts to.
func TestSchemaDump(t *testing.T) {
	t.Parallel()
	target := pgtest.NewDatabase(t)
	if major := serverMajor(t, target); major != schemaMajor {
		require.False(t, *updateSchema, "the dump is made on PostgreSQL %d, this server is %d", schemaMajor, major)
		t.Logf("nothing to compare: the dump is of PostgreSQL %d, this server is %d", schemaMajor, major)
		return
	}
	got := dumpSchema(t, target)
	if *updateSchema {
		require.NoError(t, os.WriteFile(schemaFile, []byte(got), 0o644))
		return
	}
	want, err := os.ReadFile(schemaFile)
	require.NoError(t, err, "run make db/dump")
	require.Equal(t, string(want), got, "the schema has changed: run make db/dump and review the difference")
}

// TestMigrationsGoDownAndUp checks that Down leaves nothing behind and that Up after it makes the
// same schema again.
func TestMigrationsGoDownAndUp(t *testing.T) {
	t.Parallel()
	db, err := sql.Open("pgx", pgtest.NewEmptyDatabase(t))
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	provider, err := goose.NewProvider(goose.DialectPostgres, db, migrations.FS, goose.WithTableName(pgtest.VersionTable))
	require.NoError(t, err)

	empty := objects(t, db)
	_, err = provider.Up(t.Context())
	require.NoError(t, err)
	full := objects(t, db)
	require.NotEqual(t, empty, full)
	_, err = provider.DownTo(t.Context(), 0)
	require.NoError(t, err)
	require.Equal(t, empty, objects(t, db))
	_, err = provider.Up(t.Context())
	require.NoError(t, err)
	require.Equal(t, full, objects(t, db))
}

// objects describes all that migrations can make, one line each, without goose's own table.
func objects(t *testing.T, db *sql.DB) []string {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), `
		WITH ours AS (
			SELECT oid FROM pg_catalog.pg_namespace
			WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
		), relation AS (
			SELECT c.oid, c.relkind FROM pg_catalog.pg_class AS c
			WHERE c.relnamespace IN (SELECT oid FROM ours) AND c.relname !~ '^oversync_goose_version'
		)
		SELECT 'schema ' || n.nspname || coalesce(' ' || n.nspacl::text, '') || coalesce(' ' || obj_description(n.oid, 'pg_namespace'), '')
		FROM pg_catalog.pg_namespace AS n WHERE n.oid IN (SELECT oid FROM ours) AND n.nspname <> 'public'
		UNION ALL
		SELECT 'relation ' || r.oid::regclass || ' ' || r.relkind::text || coalesce(' ' || c.relacl::text, '') || coalesce(' ' || obj_description(r.oid, 'pg_class'), '')
			|| CASE WHEN r.relkind = 'v' THEN ' ' || pg_get_viewdef(r.oid) WHEN r.relkind = 'i' THEN ' ' || pg_get_indexdef(r.oid) ELSE '' END
		FROM relation AS r JOIN pg_catalog.pg_class AS c ON c.oid = r.oid
		UNION ALL
		SELECT 'column ' || r.oid::regclass || ' ' || a.attnum || ' ' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
			|| ' ' || a.attnotnull || coalesce(' ' || pg_get_expr(d.adbin, d.adrelid), '') || coalesce(' ' || col_description(r.oid, a.attnum), '')
		FROM relation AS r
		JOIN pg_catalog.pg_attribute AS a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
		LEFT JOIN pg_catalog.pg_attrdef AS d ON d.adrelid = r.oid AND d.adnum = a.attnum
		UNION ALL
		SELECT 'constraint ' || r.oid::regclass || ' ' || k.conname || ' ' || pg_get_constraintdef(k.oid)
		FROM relation AS r JOIN pg_catalog.pg_constraint AS k ON k.conrelid = r.oid
		UNION ALL
		SELECT 'trigger ' || pg_get_triggerdef(g.oid) || ' ' || g.tgenabled::text
		FROM relation AS r JOIN pg_catalog.pg_trigger AS g ON g.tgrelid = r.oid AND NOT g.tgisinternal
		UNION ALL
		SELECT 'function ' || pg_get_functiondef(p.oid) || coalesce(' ' || p.proacl::text, '') || coalesce(' ' || obj_description(p.oid, 'pg_proc'), '')
		FROM pg_catalog.pg_proc AS p WHERE p.pronamespace IN (SELECT oid FROM ours) AND p.prokind IN ('f', 'p')
		UNION ALL
		SELECT 'type ' || y.oid::regtype || ' ' || y.typtype::text
			|| coalesce((SELECT string_agg(' ' || e.enumlabel, '' ORDER BY e.enumsortorder) FROM pg_catalog.pg_enum AS e WHERE e.enumtypid = y.oid), '')
		FROM pg_catalog.pg_type AS y
		WHERE y.typnamespace IN (SELECT oid FROM ours) AND y.typtype <> 'b' AND y.typname !~ '^oversync_goose_version'
		UNION ALL
		SELECT 'event trigger ' || v.evtname || ' ' || v.evtevent || ' ' || v.evtfoid::regproc FROM pg_catalog.pg_event_trigger AS v
		UNION ALL
		SELECT 'extension ' || x.extname FROM pg_catalog.pg_extension AS x
		ORDER BY 1`)
	require.NoError(t, err)
	defer func() { require.NoError(t, rows.Close()) }()
	var found []string
	for rows.Next() {
		var line string
		require.NoError(t, rows.Scan(&line))
		found = append(found, line)
	}
	require.NoError(t, rows.Err())
	return found
}

// noise matches what a dump says about itself rather than about the schema.
var noise = regexp.MustCompile(`^(--.*|SET .*|SELECT pg_catalog\.set_config.*|\\(un)?restrict .*|\s*)$`)

// dumpSchema returns pg_dump's account of the schema, normalised.
func dumpSchema(t *testing.T, target string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), pgtest.Program(t, "pg_dump", schemaMajor), "--schema-only", "--no-owner",
		"--exclude-table=public.oversync_goose_version*", "--dbname="+target)
	var failure strings.Builder
	cmd.Stderr = &failure
	out, err := cmd.Output()
	require.NoError(t, err, failure.String())
	dump := &strings.Builder{}
	fmt.Fprintf(dump, "-- The schema on PostgreSQL %d. Written by make db/dump.\n", schemaMajor)
	for line := range strings.Lines(string(out)) {
		if !noise.MatchString(strings.TrimRight(line, "\n")) {
			dump.WriteString(line)
		}
	}
	return dump.String()
}

func serverMajor(t *testing.T, target string) int {
	t.Helper()
	db, err := sql.Open("pgx", target)
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	var major int
	require.NoError(t, db.QueryRowContext(context.Background(), "SELECT current_setting('server_version_num')::int / 10000").Scan(&major))
	return major
}
