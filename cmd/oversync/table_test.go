package main

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/oversync/oversync/db/pgembed/pgtest"
)

// shop is a database that was there before: 25,000 rows of 50 owners, and a table that finds its owner through them.
const shop = `
	CREATE TABLE public.shelves (id int PRIMARY KEY);
	CREATE TABLE public.items (id uuid PRIMARY KEY, owner_id int NOT NULL, shelf_id int REFERENCES public.shelves, name text NOT NULL);
	CREATE INDEX items_of_owner ON public.items (owner_id);
	CREATE TABLE public.labels (id text PRIMARY KEY, item_id uuid NOT NULL REFERENCES public.items, label text);
	INSERT INTO public.shelves VALUES (1);
	INSERT INTO public.items SELECT md5(i::text)::uuid, i % 50, 1, 'item ' || i FROM generate_series(1, 25000) AS i;
	INSERT INTO public.labels SELECT 'l' || i, md5(i::text)::uuid, 'new' FROM generate_series(1, 500) AS i;
	ANALYZE;`

func newShop(t *testing.T) (conn *pgx.Conn, on func(args ...string) result) {
	t.Helper()
	url := pgtest.NewDatabase(t)
	conn = connect(t, url)
	execute(t, conn, shop)
	return conn, func(args ...string) result {
		t.Helper()
		return oversyncCommand(t, append(args, "--database-url", url)...)
	}
}

func execute(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	_, err := conn.Exec(t.Context(), sql)
	require.NoError(t, err)
}

func number(t *testing.T, conn *pgx.Conn, sql string) (n int64) {
	t.Helper()
	require.NoError(t, conn.QueryRow(t.Context(), sql).Scan(&n))
	return n
}

// listed are the tables that a command with --json printed.
func listed(t *testing.T, r result) map[string]tableLine {
	t.Helper()
	var lines []tableLine
	require.NoError(t, json.Unmarshal([]byte(requireOK(t, r).stdout), &lines))
	tables := map[string]tableLine{}
	for _, line := range lines {
		tables[line.Table] = line
	}
	return tables
}

const loggedRows = `SELECT coalesce(sum(live_row_count), 0) FROM sync.user_state`

func TestTablesThatHaveRows(t *testing.T) {
	t.Parallel()
	conn, on := newShop(t)

	r := on("table", "register", "public.items", "--scope", "owner_id")
	require.Equal(t, exitFailed, r.status)
	require.Contains(t, r.stderr, "external_references")
	r = on("table", "register", "public.items", "--scope", "owner_id", "--external-references", "public.shelves", "--policy", "capture", "--batch-rows", "4000")
	require.Contains(t, requireOK(t, r).stderr, "public.items: 25000 rows\n")
	require.Regexp(t, `public\.items +id +uuid +owner_id +capture +- +-`, r.stdout)
	require.EqualValues(t, 25000, number(t, conn, loggedRows))
	require.EqualValues(t, 50, number(t, conn, `SELECT count(*) FROM sync.user_state`))

	tables := listed(t, on("--json", "table", "register", "public.labels", "--scope-via", "item_id", "--on-scope-change", "move"))
	require.Equal(t, tableLine{Table: "public.labels", SyncKey: "id", KeyType: "text", ScopeVia: "item_id", Policy: "reject"}, tables["public.labels"])
	require.EqualValues(t, 25500, number(t, conn, loggedRows))
	require.Regexp(t, `public\.labels +id +text +via item_id +reject`, requireOK(t, on("table", "list")).stdout)
	// Once more changes nothing.
	requireOK(t, on("table", "register", "public.labels", "--scope-via", "item_id", "--on-scope-change", "move"))
	require.Equal(t, "No rows are waiting.\n", requireOK(t, on("table", "adopt")).stdout)

	require.Equal(t, "capture", listed(t, on("--json", "table", "policy", "capture", "public.labels"))["public.labels"].Policy)
	execute(t, conn, `UPDATE public.labels SET label = 'plain SQL'`)
	require.Equal(t, "The log has every row as it is.\n", requireOK(t, on("verify", "--all")).stdout)

	r = on("table", "unregister", "public.items")
	require.Equal(t, exitFailed, r.status, "labels still find their owners through items")
	require.Empty(t, listed(t, on("--json", "table", "unregister", "public.items", "public.labels")))
	r = on("table", "unregister", "public.items")
	require.Equal(t, exitFailed, r.status)
	require.Contains(t, r.stderr, "public.items: it is not registered")
	r = on("table", "adopt", "public.items")
	require.Equal(t, exitFailed, r.status)
	require.Contains(t, r.stderr, "oversync table register public.items")
}

// An adoption is left for later, stopped in the middle, and goes on.
func TestAdoptionIsResumed(t *testing.T) {
	t.Parallel()
	conn, on := newShop(t)
	tables := listed(t, on("--json", "table", "register", "public.items", "--scope", "owner_id", "--external-references", "public.shelves",
		"--policy", "capture", "--adopt", "later"))
	require.Equal(t, &adoptionLine{Source: "oversync:adopt"}, tables["public.items"].Adoption)
	require.Regexp(t, `capture +- +waiting`, requireOK(t, on("table", "list")).stdout)
	require.Contains(t, requireOK(t, on("check")).stdout, "CALL sync.adopt_table('public.items');")
	require.Zero(t, number(t, conn, loggedRows))

	require.EqualValues(t, 3000, number(t, conn, `SELECT sync.adopt_batch(table_id, 3000) FROM sync.adoptions`))
	require.Regexp(t, `capture +- +3000 of 25000 rows`, requireOK(t, on("table", "list")).stdout)
	rows := int64(25000)
	require.Equal(t, &adoptionLine{Source: "oversync:adopt", Rows: &rows, RowsLeft: 22000}, listed(t, on("--json", "table", "list"))["public.items"].Adoption)
	execute(t, conn, `UPDATE public.items SET name = 'meanwhile' WHERE owner_id IN (0, 49)`) // adopted already, and still waiting

	// A signal comes while a batch runs: the batch is undone, those before it stay.
	url := conn.Config().ConnString()
	blocker := connect(t, url)
	execute(t, blocker, `BEGIN; SELECT FROM sync.user_state WHERE user_id = '0' FOR UPDATE; SELECT FROM sync.adoptions FOR UPDATE`)
	ctx, cancel := context.WithCancel(t.Context())
	exited := make(chan result, 1)
	go func() {
		var stdout, stderr bytes.Buffer
		status := run(ctx, []string{"oversync", "table", "adopt", "--database-url", url}, &stdout, &stderr)
		exited <- result{status, stdout.String(), stderr.String()}
	}()
	require.Eventually(t, func() bool {
		return number(t, conn, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'oversync-cli' AND wait_event_type = 'Lock'`) == 1
	}, patience, patience/10000)
	cancel()
	r := <-exited
	require.Equal(t, exitFailed, r.status)
	require.Contains(t, r.stderr, "Go on with: oversync table adopt")
	execute(t, blocker, `ROLLBACK`)

	var done []adopted
	require.NoError(t, json.Unmarshal([]byte(requireOK(t, on("--json", "table", "adopt", "public.items", "--batch-rows", "7000")).stdout), &done))
	require.Equal(t, []adopted{{Table: "public.items", Rows: 22000}}, done)
	require.EqualValues(t, 25000, number(t, conn, loggedRows))
	require.EqualValues(t, 25500, number(t, conn, `SELECT count(*) FROM sync.bundle_rows`), "what was changed meanwhile is there once")
	require.Equal(t, "[]\n", requireOK(t, on("--json", "verify", "--all")).stdout)
	require.Equal(t, "[]\n", requireOK(t, on("--json", "check")).stdout)
}

func TestRefreshCheckVerifyAndRepair(t *testing.T) {
	t.Parallel()
	conn, on := newShop(t)
	requireOK(t, on("table", "register", "public.items", "--scope", "owner_id", "--external-references", "public.shelves", "--policy", "capture"))
	require.Equal(t, "All is well.\n", requireOK(t, on("check")).stdout)

	execute(t, conn, `ALTER TABLE public.items ADD COLUMN weight numeric NOT NULL DEFAULT 1.50`)
	require.Contains(t, requireOK(t, on("check")).stdout, "SELECT sync.refresh_table('public.items');")
	r := on("verify", "7")
	require.Equal(t, exitFailed, r.status)
	require.Contains(t, r.stderr, "rows that differ from the log: 500")
	r = on("table", "refresh", "public.items", "--batch-rows", "9000")
	require.Contains(t, requireOK(t, r).stderr, "public.items: 25000 rows")
	require.Equal(t, "The log has every row as it is.\n", requireOK(t, on("verify", "--all")).stdout)
	require.Equal(t, "All is well.\n", requireOK(t, on("check")).stdout)

	// Past the triggers.
	execute(t, conn, `ALTER TABLE public.items DISABLE TRIGGER USER`)
	execute(t, conn, `UPDATE public.items SET name = 'unseen' WHERE id = md5('7')::uuid`)
	execute(t, conn, `DELETE FROM public.items WHERE id = md5('557')::uuid`)
	r = on("--json", "check")
	require.Equal(t, exitFailed, r.status)
	var findings []finding
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &findings))
	require.NotEmpty(t, findings)
	for _, f := range findings {
		require.Equal(t, "error", f.Severity)
		execute(t, conn, f.Remedy)
	}
	require.Equal(t, "All is well.\n", requireOK(t, on("check")).stdout)

	r = on("--json", "verify", "--all")
	require.Equal(t, exitFailed, r.status)
	require.Contains(t, r.stderr, "oversync repair 7")
	var differences []differenceLine
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &differences))
	require.Len(t, differences, 2)
	found := map[string]string{}
	for _, d := range differences {
		found[d.Difference] = d.Scope + " " + d.Table
		if d.Difference == "not the same" {
			require.Contains(t, string(d.Live), `"unseen"`)
			require.Contains(t, string(d.Log), `"item 7"`)
		}
	}
	require.Equal(t, map[string]string{"not the same": "7 public.items", "missing in the table": "7 public.items"}, found)
	require.Regexp(t, `7 +public\.items +\S+ +not the same`, on("verify", "7").stdout)

	require.Equal(t, "Rows of 7 that entered the log: 2\n", requireOK(t, on("repair", "7")).stdout)
	require.Equal(t, "{\n  \"user_id\": \"7\",\n  \"rows\": 0\n}\n", requireOK(t, on("--json", "repair", "7")).stdout)
	requireOK(t, on("verify", "--all"))

	// A user whose id the scope column cannot hold has no rows there, and is no reason to stop.
	execute(t, conn, `SELECT FROM sync.connect('alice', 'phone', false, '15 min'::interval)`)
	requireOK(t, on("verify", "--all"))
	require.Equal(t, exitUsage, on("verify").status)
	require.Equal(t, exitUsage, on("repair", " ").status)
	require.Equal(t, exitUsage, on("verify", "7", "--all").status)
	require.Equal(t, exitUsage, on("table", "adopt", "--batch-rows", "0").status)
	require.Equal(t, exitUsage, on("table", "register", "public.items", "--batch-rows", "0").status)
}

// Repair enters rows, and mends nothing else that verify finds.
func TestVerifySaysWhatMendsEachKind(t *testing.T) {
	t.Parallel()
	conn, on := newShop(t)
	requireOK(t, on("table", "register", "public.items", "--scope", "owner_id", "--external-references", "public.shelves", "--policy", "capture"))
	execute(t, conn, `DELETE FROM sync.bundle_log WHERE user_pk = (SELECT user_pk FROM sync.user_state WHERE user_id = '7')`)
	r := on("verify", "--all")
	require.Equal(t, exitFailed, r.status)
	require.Contains(t, r.stderr, "faults of the log in itself: 1; ")
	require.NotContains(t, r.stderr, "oversync repair")

	execute(t, conn, `ALTER TABLE public.items DROP COLUMN owner_id`)
	r = on("verify", "7")
	require.Equal(t, exitFailed, r.status)
	require.Contains(t, r.stderr, "tables that cannot be compared: 1; ")
	require.Contains(t, r.stderr, "faults of the log in itself: 1; ")
	require.NotContains(t, r.stderr, "oversync repair")
}

// A user's id comes from a token, and a remedy is there to be pasted into a shell.
func TestARemedyRunsNothingOfAnID(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]string{
		"7": "7", "a@b.example": "a@b.example", "$(id)": "'$(id)'", "it's": `'it'\''s'`, "a b": "'a b'", "-rf": "-- '-rf'", "": "''",
	} {
		require.Equal(t, want, argument(id))
	}
	url := pgtest.NewDatabase(t)
	conn := connect(t, url)
	execute(t, conn, `CREATE TABLE public.notes (id uuid PRIMARY KEY, owner text NOT NULL);
		SELECT sync.register_table('public.notes', scope => 'owner', policy => 'capture');
		ALTER TABLE public.notes DISABLE TRIGGER USER;
		INSERT INTO public.notes VALUES (gen_random_uuid(), '-$(id)')`)
	r := oversyncCommand(t, "verify", "--all", "--database-url", url)
	require.Contains(t, r.stderr, "oversync repair -- '-$(id)'")
	execute(t, conn, `ALTER TABLE public.notes ENABLE TRIGGER USER`)
	requireOK(t, oversyncCommand(t, "repair", "--database-url", url, "--", "-$(id)"))
	requireOK(t, oversyncCommand(t, "verify", "--all", "--database-url", url))
}

// A typing error, or a database where nothing is registered, must not look like good health.
func TestNothingToCheck(t *testing.T) {
	t.Parallel()
	_, on := newShop(t)
	for _, args := range [][]string{{"check"}, {"verify", "--all"}} {
		require.Equal(t, "No table is registered. Register one with: oversync table register schema.table\n", requireOK(t, on(args...)).stdout)
		require.Equal(t, "[]\n", requireOK(t, on(append(args, "--json")...)).stdout)
	}
	requireOK(t, on("table", "register", "public.items", "--scope", "owner_id", "--external-references", "public.shelves", "--policy", "capture"))
	for _, command := range []string{"verify", "repair"} {
		r := on(command, "nosuchuser")
		require.Equal(t, exitFailed, r.status)
		require.Contains(t, r.stderr, `there is no scope "nosuchuser"`)
		require.Empty(t, r.stdout)
	}
}

// On half of the schema, or on a newer one, a command would say what is not so.
func TestCommandsWantTheirSchema(t *testing.T) {
	t.Parallel()
	url := pgtest.NewEmptyDatabase(t)
	refused := func(why string) {
		t.Helper()
		for _, args := range [][]string{
			{"check"}, {"verify", "--all"}, {"repair", "u"}, {"table", "list"}, {"table", "adopt"}, {"table", "register", "public.items"}, {"table", "unregister", "public.items"},
		} {
			r := oversyncCommand(t, append(args, "--database-url", url)...)
			require.Equal(t, exitFailed, r.status, args)
			require.Contains(t, r.stderr, why, args)
			require.Empty(t, r.stdout, args)
		}
	}
	refused("no sync schema yet: run oversync migrate up")
	requireOK(t, oversyncCommand(t, "migrate", "up", "--database-url", url))
	requireOK(t, oversyncCommand(t, "migrate", "down", "--database-url", url))
	refused("lacks 1 migration(s)")
	requireOK(t, oversyncCommand(t, "migrate", "up", "--database-url", url))
	execute(t, connect(t, url), "INSERT INTO public.oversync_goose_version (version_id, is_applied) VALUES (99999, true)")
	refused("newer than this program")
	require.Contains(t, oversyncCommand(t, "migrate", "status", "--database-url", url).stdout, "00001_schema.sql")
}

func TestProgress(t *testing.T) {
	t.Parallel()
	var bar, lines bytes.Buffer
	p := newProgress(&bar, true, "public.items", 100)
	p.show(40)
	p.show(120) // rows that came meanwhile
	p.finish(120)
	require.Contains(t, bar.String(), "public.items")
	require.Contains(t, bar.String(), "100%")
	require.True(t, strings.HasSuffix(bar.String(), "\n"))

	p = newProgress(&lines, false, "public.items", 100)
	p.show(40)
	p.last = p.last.Add(-progressInterval)
	p.show(60)
	p.finish(100)
	require.Equal(t, "public.items: 60 of 100 rows\npublic.items: 100 rows\n", lines.String())
	var none *progress
	none.show(1)
	none.finish(1)
}
