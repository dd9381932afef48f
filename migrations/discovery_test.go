package migrations_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/oversync/oversync/db/pgembed/pgtest"
)

// edge says that a table refers to another one, by foreign key or by override.
type edge struct{ child, parent int }

// graph is a random set of tables that refer to each other.
type graph struct {
	tables    int
	keys      []edge // foreign keys; a table may refer to itself, and twice to another one
	overrides []edge
}

var anyGraph = rapid.Custom(func(t *rapid.T) graph {
	n := rapid.IntRange(1, 7).Draw(t, "tables")
	anyEdge := rapid.Custom(func(t *rapid.T) edge {
		return edge{rapid.IntRange(0, n-1).Draw(t, "child"), rapid.IntRange(0, n-1).Draw(t, "parent")}
	})
	return graph{n, rapid.SliceOfN(anyEdge, 0, 2*n).Draw(t, "foreign keys"), rapid.SliceOfN(anyEdge, 0, 2).Draw(t, "overrides")}
})

// reach says, for each pair of tables, whether the first one depends on the second, over any number of steps.
func (g graph) reach() [][]bool {
	reach := make([][]bool, g.tables)
	for i := range reach {
		reach[i] = make([]bool, g.tables)
	}
	for _, e := range slices.Concat(g.keys, g.overrides) {
		if e.child != e.parent {
			reach[e.child][e.parent] = true
		}
	}
	for via := range reach {
		for from := range reach {
			for to := range reach {
				reach[from][to] = reach[from][to] || reach[from][via] && reach[via][to]
			}
		}
	}
	return reach
}

// TestDiscoverAgainstOracle compares sync.discover with what can be said of an order by looking at every pair of tables.
func TestDiscoverAgainstOracle(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.NewDatabase(t))
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		tx, err := conn.Begin(ctx)
		require.NoError(t, err)
		defer func() { require.NoError(t, tx.Rollback(ctx)) }()
		g := anyGraph.Draw(t, "graph")

		ddl := "CREATE SCHEMA g;"
		for i := range g.tables {
			ddl += fmt.Sprintf("CREATE TABLE g.t%d (id integer PRIMARY KEY);", i)
		}
		parents := make([]map[string]bool, g.tables)
		for i := range parents {
			parents[i] = map[string]bool{}
		}
		for _, e := range g.keys {
			ddl += fmt.Sprintf("ALTER TABLE g.t%d ADD FOREIGN KEY (id) REFERENCES g.t%d;", e.child, e.parent)
		}
		overrides := []map[string]string{}
		for _, e := range g.overrides {
			overrides = append(overrides, map[string]string{"child": fmt.Sprintf("g.t%d", e.child), "parent": fmt.Sprintf("g.t%d", e.parent)})
		}
		for _, e := range slices.Concat(g.keys, g.overrides) {
			if e.child != e.parent {
				parents[e.child][fmt.Sprintf("g.t%d", e.parent)] = true
			}
		}
		_, err = tx.Exec(ctx, ddl)
		require.NoError(t, err)

		type found struct {
			Position, Cycle int
			DependsOn       []string
		}
		discovered := make([]found, g.tables)
		rows, err := tx.Query(ctx, `
			SELECT substr(d.relation::text, 4)::integer, d.table_position, d.cycle_group, d.depends_on::text[]
			FROM sync.discover((SELECT array_agg(c.oid) FROM pg_class c WHERE c.relnamespace = 'g'::regnamespace AND c.relkind = 'r'), $1) AS d`, overrides)
		require.NoError(t, err)
		var table int
		var f found
		tag, err := pgx.ForEachRow(rows, []any{&table, &f.Position, &f.Cycle, &f.DependsOn}, func() error {
			discovered[table] = f
			f.DependsOn = nil
			return nil
		})
		require.NoError(t, err)
		require.EqualValues(t, g.tables, tag.RowsAffected())

		reach := g.reach()
		at := make([]int, g.tables) // table by position
		seen := map[int]bool{}
		cycles := map[int]bool{}
		for i, d := range discovered {
			require.False(t, seen[d.Position])
			seen[d.Position] = true
			require.True(t, 1 <= d.Position && d.Position <= g.tables, "position %d", d.Position)
			at[d.Position-1] = i
			require.Equal(t, reach[i][i], d.Cycle > 0, "only tables in a cycle have a group: table %d", i)
			if d.Cycle > 0 {
				cycles[d.Cycle] = true
			}
			want := []string{}
			for name := range parents[i] {
				want = append(want, name)
			}
			slices.Sort(want)
			require.Equal(t, want, append([]string{}, d.DependsOn...))
			for j, other := range discovered {
				if i == j {
					continue
				}
				together := reach[i][j] && reach[j][i]
				require.Equal(t, together, d.Cycle > 0 && d.Cycle == other.Cycle, "tables %d and %d", i, j)
				if reach[i][j] && !together {
					require.Less(t, other.Position, d.Position, "table %d depends on table %d", i, j)
				}
			}
		}
		for group := range cycles {
			require.LessOrEqual(t, group, len(cycles), "groups are numbered without gaps")
		}
		// A cycle is met once, going through the order.
		left := map[int]bool{}
		for p, i := range at {
			group := discovered[i].Cycle
			require.False(t, group > 0 && left[group], "cycle %d is torn apart", group)
			if p+1 < len(at) && group > 0 && discovered[at[p+1]].Cycle != group {
				left[group] = true
			}
		}
	})
}

func TestForeignKeysView(t *testing.T) {
	t.Parallel()
	conn := registered(t, zoo+`
		CREATE TABLE app.odd (
			_sync_scope_id text NOT NULL, id text NOT NULL, low text, account uuid, event text, UNIQUE (_sync_scope_id, low), PRIMARY KEY (_sync_scope_id, id),
			CONSTRAINT backwards FOREIGN KEY (low, _sync_scope_id) REFERENCES app.odd (id, _sync_scope_id) ON DELETE RESTRICT DEFERRABLE,
			CONSTRAINT defaulting FOREIGN KEY (_sync_scope_id, account) REFERENCES app.account ON DELETE SET DEFAULT (account) ON UPDATE SET NULL DEFERRABLE,
			CONSTRAINT partitioned FOREIGN KEY (_sync_scope_id, event) REFERENCES app.event DEFERRABLE);`,
		append(zooRegistered(), "app.odd")...)
	require.Equal(t, []string{
		"event event__sync_scope_id_account_id_fkey {_sync_scope_id,account_id} -> app.account {_sync_scope_id,id} SIMPLE CASCADE CASCADE true false",
		"item item__sync_scope_id_account_id_fkey {_sync_scope_id,account_id} -> app.account {_sync_scope_id,id} SIMPLE CASCADE CASCADE true false",
		"item item__sync_scope_id_parent_id_fkey {_sync_scope_id,parent_id} -> app.item {_sync_scope_id,id} SIMPLE SET NULL CASCADE true true",
		"member member__sync_scope_id_team_id_fkey {_sync_scope_id,team_id} -> app.team {_sync_scope_id,id} SIMPLE CASCADE CASCADE true false",
		"odd backwards {low,_sync_scope_id} -> app.odd {id,_sync_scope_id} SIMPLE RESTRICT NO ACTION true true",
		"odd defaulting {_sync_scope_id,account} -> app.account {_sync_scope_id,id} SIMPLE SET DEFAULT SET NULL true false",
		"odd partitioned {_sync_scope_id,event} -> app.event {_sync_scope_id,id} SIMPLE NO ACTION NO ACTION true false",
		"team team__sync_scope_id_captain_id_fkey {_sync_scope_id,captain_id} -> app.member {_sync_scope_id,id} SIMPLE SET NULL CASCADE true false",
	}, column[string](t, conn, `
		SELECT concat_ws(' ', f.table_name, f.constraint_name, f.columns, '->', f.parent_schema || '.' || f.parent_table, f.parent_columns,
		                 f.match_option, f.on_delete, f.on_update, f.is_deferrable::text, f.is_self_reference::text)
		FROM sync.foreign_keys f
		JOIN sync.table_catalog c ON (c.table_id, c.schema_name, c.table_name) = (f.table_id, f.schema_name, f.table_name)
		JOIN sync.table_catalog p ON (p.table_id, p.schema_name, p.table_name) = (f.parent_table_id, f.parent_schema, f.parent_table)
		ORDER BY 1`))
}

func TestTableOrderView(t *testing.T) {
	t.Parallel()
	conn := registered(t, zoo, zooRegistered()...)
	order := func() []string {
		return column[string](t, conn, "SELECT concat_ws(' ', o.table_position, o.schema_name, o.table_name, o.cycle_group, o.depends_on::text) FROM sync.table_order o")
	}
	require.Equal(t, []string{"1 app account 0 {}", "2 app member 1 {app.team}", "3 app team 1 {app.member}", "4 app event 0 {app.account}", "5 app item 0 {app.account}"}, order())
	// An override moves the cycle behind event, and member with it.
	exec(t, conn, "INSERT INTO sync.table_order_overrides (child, parent) VALUES ('app.team', 'app.event')")
	require.Equal(t, []string{"1 app account 0 {}", "2 app event 0 {app.account}", "3 app item 0 {app.account}", "4 app member 1 {app.team}", "5 app team 1 {app.event,app.member}"}, order())
	// An override that closes a cycle makes one group of it.
	exec(t, conn, "INSERT INTO sync.table_order_overrides (child, parent) VALUES ('app.account', 'app.item')")
	require.Equal(t, []string{"1 app account 1 {app.item}", "2 app item 1 {app.account}", "3 app event 0 {app.account}", "4 app member 2 {app.team}", "5 app team 2 {app.event,app.member}"}, order())
	exec(t, conn, "SELECT sync.unregister_table('app.event')")
	require.Empty(t, column[string](t, conn, "SELECT o::text FROM sync.table_order_overrides o WHERE 'app.event'::regclass IN (child, parent)"))
	require.Equal(t, column[string](t, conn, "SELECT table_name FROM sync.table_order"),
		column[string](t, conn, "SELECT table_name FROM sync.table_catalog WHERE unregistered_at IS NULL ORDER BY apply_order"))
}

func TestTableColumnsView(t *testing.T) {
	t.Parallel()
	conn := registered(t, `
		CREATE DOMAIN public.digest AS bytea;
		CREATE TABLE public.t (gone text, id uuid NOT NULL, _sync_scope_id text NOT NULL, data bytea, digest public.digest, n numeric(9, 2), g bigint GENERATED ALWAYS AS (1) STORED,
			i bigint GENERATED BY DEFAULT AS IDENTITY, j bigint GENERATED ALWAYS AS IDENTITY, PRIMARY KEY (_sync_scope_id, id));
		ALTER TABLE public.t DROP COLUMN gone;`, "public.t")
	exec(t, conn, "SET search_path = ''")
	require.Equal(t, []string{
		"_sync_scope_id text f f t f", "data bytea t f f f", "digest public.digest t f f f", "g bigint f f f t", "i bigint f f f f", "id uuid f t f f", "j bigint f f f t", "n numeric(9,2) f f f f",
	}, column[string](t, conn, "SELECT concat_ws(' ', c.column_name, c.data_type, c.is_bytea, c.is_key, c.is_scope, c.is_generated) FROM sync.table_columns c ORDER BY 1"))
}
