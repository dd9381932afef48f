package pgtest

import (
	"context"
	"fmt"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// tiny is a set of migrations that no other test uses, so that its template is made here.
func tiny(t *testing.T) fstest.MapFS {
	t.Helper()
	return fstest.MapFS{"00001_note.sql": &fstest.MapFile{Data: fmt.Appendf(nil, `-- %s
-- +goose Up
CREATE TABLE public.note (id bigint PRIMARY KEY);
INSERT INTO public.note VALUES (42);
-- +goose Down
DROP TABLE public.note;
`, t.Name())}}
}

func TestConcurrentClonesComeFromOneTemplate(t *testing.T) {
	t.Parallel()
	files := tiny(t)
	server, err := serverURL()
	require.NoError(t, err)
	dropTemplate(t, server, files)

	const clones = 8
	failures := make(chan error, clones)
	names := make(chan string, clones)
	for range clones {
		go func() {
			failures <- withAdmin(server, func(ctx context.Context, admin *pgx.Conn) error {
				name, err := template(ctx, admin, server, files)
				names <- name
				return err
			})
		}()
	}
	seen := map[string]bool{}
	for range clones {
		require.NoError(t, <-failures)
		seen[<-names] = true
	}
	require.Len(t, seen, 1)

	for i := range 3 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			target := newDatabase(t, func(ctx context.Context, admin *pgx.Conn, server string) (string, error) {
				return template(ctx, admin, server, files)
			})
			conn, err := pgx.Connect(t.Context(), target)
			require.NoError(t, err)
			var id, applied int
			require.NoError(t, conn.QueryRow(t.Context(), "SELECT id FROM public.note").Scan(&id))
			require.Equal(t, 42, id)
			require.NoError(t, conn.QueryRow(t.Context(), "SELECT max(version_id) FROM "+VersionTable).Scan(&applied))
			require.Equal(t, 1, applied)
			_, err = conn.Exec(t.Context(), "DELETE FROM public.note") // invisible to the others
			require.NoError(t, err)
			require.NoError(t, conn.Close(t.Context()))
		})
	}
}

func TestUnfinishedTemplateIsMadeAnew(t *testing.T) {
	t.Parallel()
	files := tiny(t)
	server, err := serverURL()
	require.NoError(t, err)
	dropTemplate(t, server, files)
	sum, err := hash(files)
	require.NoError(t, err)
	require.NoError(t, withAdmin(server, func(ctx context.Context, admin *pgx.Conn) error {
		// What a process leaves that was killed while migrating.
		if err := clone(ctx, admin, "oversync_template_"+sum+"_draft", "template0"); err != nil {
			return err
		}
		_, err := template(ctx, admin, server, files)
		return err
	}))
}

func TestDatabaseIsDroppedWithItsTest(t *testing.T) {
	t.Parallel()
	var target string
	t.Run("user", func(t *testing.T) {
		target = NewEmptyDatabase(t)
		conn, err := pgx.Connect(t.Context(), target)
		require.NoError(t, err)
		// Left open on purpose: a forgotten connection must not keep the database.
		_, err = conn.Exec(t.Context(), "CREATE TABLE public.note (id bigint)")
		require.NoError(t, err)
	})
	_, err := pgx.Connect(t.Context(), target)
	require.ErrorContains(t, err, "does not exist")
}

func TestPoolHasAnEmptySearchPath(t *testing.T) {
	t.Parallel()
	pool := NewPool(t)
	var path string
	require.NoError(t, pool.QueryRow(t.Context(), "SHOW search_path").Scan(&path))
	require.Empty(t, path)
	var applied int
	require.NoError(t, pool.QueryRow(t.Context(), "SELECT count(*) FROM "+VersionTable).Scan(&applied))
	require.Positive(t, applied)
}

func TestWithDatabase(t *testing.T) {
	t.Parallel()
	got, err := withDatabase("postgres://u:p@h:1/x?sslmode=disable&dbname=y", "z")
	require.NoError(t, err)
	require.Equal(t, "postgres://u:p@h:1/z?sslmode=disable", got)
	_, err = withDatabase("host=h dbname=x", "z")
	require.ErrorContains(t, err, "must have the form")
}

func BenchmarkNewDatabase(b *testing.B) {
	for b.Loop() {
		NewEmptyDatabase(b)
	}
}

// dropTemplate removes what an earlier run left on a server that outlives the tests.
func dropTemplate(t *testing.T, server string, files fstest.MapFS) {
	t.Helper()
	sum, err := hash(files)
	require.NoError(t, err)
	require.NoError(t, withAdmin(server, func(ctx context.Context, admin *pgx.Conn) error {
		_, err := admin.Exec(ctx, "DROP DATABASE IF EXISTS "+pgx.Identifier{"oversync_template_" + sum}.Sanitize()+" WITH (FORCE)")
		return err
	}))
}
