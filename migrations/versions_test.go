package migrations_test

import (
	"testing"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/oversync/oversync/db/pgembed/pgtest"
)

// versionOf returns the server's major version.
func versionOf(t *testing.T, conn *pgx.Conn) int {
	t.Helper()
	return value[int](t, conn, "SELECT current_setting('server_version_num')::int / 10000")
}

// TestStatementsOfNewerVersions: what a later PostgreSQL can write, capture sees. An earlier one refuses the statement.
func TestStatementsOfNewerVersions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		since int
		sql   string
		want  []string
	}{
		{
			"MERGE by source, returning", 17, `
			WITH merged AS (
				MERGE INTO public.note AS t USING (VALUES ('a', 'new'), ('d', 'new')) AS s(id, body) ON t._sync_scope_id = 'u' AND t.id = s.id
				WHEN MATCHED THEN UPDATE SET body = s.body
				WHEN NOT MATCHED THEN INSERT (_sync_scope_id, id, body) VALUES ('u', s.id, s.body)
				WHEN NOT MATCHED BY SOURCE AND t._sync_scope_id = 'u' AND t.id = 'b' THEN DELETE
				RETURNING merge_action(), t.id)
			SELECT * FROM merged`,
			[]string{"U a new", "I d new", "D b "},
		},
		{"COPY that passes over errors", 17, `COPY public.note (_sync_scope_id, id, n) FROM PROGRAM 'printf "u\\td\\t1\\nu\\te\\tnone\\n"' WITH (ON_ERROR ignore)`, []string{"I d "}},
		{"UPDATE that returns the old row", 18, "UPDATE public.note SET body = 'new' WHERE id = 'a' AND _sync_scope_id = 'u' RETURNING old.body, new.body", []string{"U a new"}},
		{"DELETE that returns the old row", 18, "DELETE FROM public.note WHERE id = 'a' AND _sync_scope_id = 'u' RETURNING old.id, new.id", []string{"D a "}},
		{
			"ON CONFLICT that returns the old row", 18,
			"INSERT INTO public.note (_sync_scope_id, id, body) VALUES ('u', 'a', 'new'), ('u', 'd', 'new') ON CONFLICT (_sync_scope_id, id) DO UPDATE SET body = excluded.body RETURNING old.body",
			[]string{"U a new", "I d new"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			conn := registered(t, note+"ALTER TABLE public.note ADD COLUMN n integer;", "public.note")
			writeBundle(t, conn, "u", "INSERT INTO public.note (id, body) VALUES ('a', 'old'), ('b', 'old'), ('c', 'old')")
			if versionOf(t, conn) < c.since {
				require.Contains(t, []string{pgerrcode.SyntaxError, pgerrcode.UndefinedTable, pgerrcode.UndefinedFunction}, refused(t, conn, c.sql).Code)
				return
			}
			require.Equal(t, "OV031", refused(t, conn, c.sql).Code, "outside a bundle")
			var inBundle []string
			for _, e := range writeBundle(t, conn, "u", c.sql) {
				inBundle = append(inBundle, e.op+" "+e.key+" "+bodyOf(t, conn, e.payload))
			}
			require.ElementsMatch(t, c.want, inBundle)
			require.Empty(t, column[string](t, conn, "SELECT concat_ws(' ', difference, key) FROM sync.verify('u')"))

			exec(t, conn, "SELECT sync.set_policy('public.note', 'capture')")
			writeBundle(t, conn, "u", "DELETE FROM public.note", "INSERT INTO public.note (id, body) VALUES ('a', 'old'), ('b', 'old'), ('c', 'old')")
			exec(t, conn, c.sql)
			require.ElementsMatch(t, c.want, column[string](t, conn, `
				SELECT concat(r.op, ' ', sync.key_text(r.table_id, r.key_bytes), ' ', r.payload::json ->> 'body') FROM sync.bundle_rows r JOIN sync.user_state u USING (user_pk)
				WHERE u.user_id = 'u' AND r.bundle_seq = u.next_bundle_seq - 1`))
			require.Empty(t, column[string](t, conn, "SELECT concat_ws(' ', difference, key) FROM sync.verify('u')"))
		})
	}
}

func bodyOf(t *testing.T, conn *pgx.Conn, payload string) string {
	t.Helper()
	return value[string](t, conn, "SELECT coalesce(nullif($1::text, '')::json ->> 'body', '')", payload)
}

// TestVirtualColumns: a column that is computed when it is read goes to devices as a stored one does, and a push passes over it.
func TestVirtualColumns(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.NewDatabase(t))
	const ddl = "ALTER TABLE public.note ADD COLUMN n integer, ADD COLUMN twice integer GENERATED ALWAYS AS (n * 2) VIRTUAL"
	exec(t, conn, note)
	if versionOf(t, conn) < 18 {
		require.Equal(t, pgerrcode.SyntaxError, refused(t, conn, ddl).Code)
		return
	}
	exec(t, conn, ddl)
	exec(t, conn, "SELECT sync.register_table('public.note', policy => 'capture')")
	initialized(t, conn, "u")
	require.Nil(t, push(t, conn, "u", "phone", stagedRow{"public.note", "I", 0, "a", `{"id":"a","body":"x","n":21,"twice":1}`}))
	require.Nil(t, push(t, conn, "u", "phone", stagedRow{"public.note", "U", 1, "a", `{"id":"a","body":"y","n":22,"twice":1}`}))
	exec(t, conn, "UPDATE public.note SET n = 23")
	exec(t, conn, "INSERT INTO public.note (_sync_scope_id, id) VALUES ('u', 'b')")
	log := func() []string {
		return column[string](t, conn, "SELECT r.payload FROM sync.bundle_rows r ORDER BY r.bundle_seq, r.row_ordinal")
	}
	want := []string{
		`{"body":"x","id":"a","n":21,"twice":42}`, `{"body":"y","id":"a","n":22,"twice":44}`,
		`{"body":"y","id":"a","n":23,"twice":46}`, `{"body":null,"id":"b","n":null,"twice":null}`,
	}
	require.Equal(t, want, log())
	require.Empty(t, column[string](t, conn, "SELECT concat_ws(' ', difference, key) FROM sync.verify('u')"))

	// One that is changed changes every row without a write.
	exec(t, conn, "ALTER TABLE public.note ALTER COLUMN twice SET EXPRESSION AS (n * 2 + 1)")
	require.Equal(t, []string{"a"}, column[string](t, conn, "SELECT key FROM sync.verify('u')"))
	exec(t, conn, "SELECT sync.refresh_table('public.note')")
	require.Equal(t, append(want, `{"body":"y","id":"a","n":23,"twice":47}`), log())
	require.Empty(t, column[string](t, conn, "SELECT concat_ws(': ', severity, object, problem) FROM sync.check()"))
}

// TestNotNullThatIsNotValid: PostgreSQL 18 may mark a column NOT NULL whose rows have nulls still. Such a column is no scope.
func TestNotNullThatIsNotValid(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.NewDatabase(t))
	exec(t, conn, `
		CREATE TABLE public.t (owner text, id uuid PRIMARY KEY);
		INSERT INTO public.t (id) VALUES (gen_random_uuid())`)
	const ddl = "ALTER TABLE public.t ADD CONSTRAINT owner_is_set NOT NULL owner NOT VALID"
	if versionOf(t, conn) < 18 {
		require.Equal(t, pgerrcode.SyntaxError, refused(t, conn, ddl).Code)
		return
	}
	exec(t, conn, ddl)
	refusal := refused(t, conn, "SELECT sync.register_table('public.t', scope => 'owner')")
	require.Contains(t, refusal.Message, "column owner of public.t may be null")
	require.Equal(t, "ALTER TABLE public.t ALTER COLUMN owner SET NOT NULL;", refusal.Hint)
	exec(t, conn, "UPDATE public.t SET owner = 'u'")
	exec(t, conn, refusal.Hint)
	exec(t, conn, "SELECT sync.register_table('public.t', scope => 'owner')")
}

// TestForeignKeysOfNewerVersions: what PostgreSQL 18 has beside the foreign keys of old is refused where sync could not keep it.
func TestForeignKeysOfNewerVersions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, ddl, register, message, hint string }{
		{
			name: "not enforced", ddl: `
				CREATE TABLE public.parent (owner text NOT NULL, id text PRIMARY KEY);
				CREATE TABLE public.child (id text PRIMARY KEY, parent_id text NOT NULL CONSTRAINT fk REFERENCES public.parent NOT ENFORCED)`,
			register: "SELECT sync.register_table('public.child', scope_via => 'parent_id')",
			message:  "the scope of public.child is found through foreign key fk, which is not valid", hint: "ALTER TABLE public.child ALTER CONSTRAINT fk ENFORCED;",
		}, {
			name: "for a period", ddl: `
				CREATE TABLE public.parent (owner text NOT NULL, id text PRIMARY KEY, rooms int4range, days daterange, UNIQUE (rooms, days WITHOUT OVERLAPS));
				CREATE TABLE public.child (owner text NOT NULL, id text PRIMARY KEY, rooms int4range, days daterange, CONSTRAINT fk FOREIGN KEY (rooms, PERIOD days) REFERENCES public.parent (rooms, PERIOD days))`,
			register: "SELECT sync.register_table('public.child', scope => 'owner')",
			message:  "foreign key fk of public.child holds for a period", hint: "ALTER TABLE public.child DROP CONSTRAINT fk;",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			conn := connect(t, pgtest.NewDatabase(t))
			if versionOf(t, conn) < 18 {
				require.Equal(t, pgerrcode.SyntaxError, refused(t, conn, c.ddl).Code)
				return
			}
			exec(t, conn, c.ddl)
			register := "SELECT sync.register_table('public.parent', scope => 'owner'); " + c.register
			exec(t, conn, "BEGIN; "+register)
			refusal := refused(t, conn, "COMMIT")
			require.Equal(t, "OV030", refusal.Code)
			require.Equal(t, c.message, refusal.Message)
			require.Equal(t, c.hint, refusal.Hint)
			exec(t, conn, refusal.Hint)
			exec(t, conn, "BEGIN; "+register+"; COMMIT")
		})
	}
}
