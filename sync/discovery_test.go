package oversync_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/oversync/oversync/db/pgembed/pgtest"
	oversync "github.com/oversync/oversync/sync"
)

// discoveryDDL has a chain, a cycle of two, a table that refers to itself, and two
// tables by themselves.
const discoveryDDL = `
CREATE SCHEMA app;
CREATE TABLE app.a_child (id int PRIMARY KEY, parent_id int, grandparent_id int);
CREATE TABLE app.b_parent (id int PRIMARY KEY, parent_id int);
CREATE TABLE app.c_grandparent (id int PRIMARY KEY, self_id int REFERENCES app.c_grandparent);
ALTER TABLE app.a_child ADD FOREIGN KEY (parent_id) REFERENCES app.b_parent, ADD FOREIGN KEY (grandparent_id) REFERENCES app.c_grandparent;
ALTER TABLE app.b_parent ADD FOREIGN KEY (parent_id) REFERENCES app.c_grandparent;
CREATE TABLE app.hen (id int PRIMARY KEY, egg_id int, farm_id int);
CREATE TABLE app.egg (id int PRIMARY KEY, hen_id int REFERENCES app.hen);
CREATE TABLE app.farm (id int PRIMARY KEY);
ALTER TABLE app.hen ADD FOREIGN KEY (egg_id) REFERENCES app.egg, ADD FOREIGN KEY (farm_id) REFERENCES app.farm;
CREATE TABLE app.zoo (id int PRIMARY KEY, egg_id int REFERENCES app.egg);
CREATE TABLE app.alone (id int PRIMARY KEY);`

func TestDiscoverSchema(t *testing.T) {
	t.Parallel()
	pool := pgtest.NewPool(t)
	_, err := pool.Exec(t.Context(), discoveryDDL)
	require.NoError(t, err)
	discovery := oversync.NewSchemaDiscovery(pool, nil)
	registered := map[string]bool{
		"app.a_child": true, "app.b_parent": true, "app.c_grandparent": true, "app.hen": true, "app.egg": true,
		"app.farm": true, "app.zoo": true, "app.alone": true, "app.not_wanted": false,
	}
	schema, err := discovery.DiscoverSchemaWithDependencyOverrides(t.Context(), registered, nil, nil)
	require.NoError(t, err)
	require.Len(t, schema.TableOrder, 8)
	for i, name := range schema.TableOrder {
		require.Equal(t, i, schema.OrderIdx[name])
	}
	before := func(schema *oversync.DiscoveredSchema, parent, child string) {
		t.Helper()
		require.Less(t, schema.OrderIdx[parent], schema.OrderIdx[child], "%v", schema.TableOrder)
	}
	before(schema, "app.c_grandparent", "app.b_parent")
	before(schema, "app.b_parent", "app.a_child")
	before(schema, "app.farm", "app.hen")
	before(schema, "app.farm", "app.egg")
	before(schema, "app.hen", "app.zoo")
	require.Equal(t, schema.OrderIdx["app.egg"]+1, schema.OrderIdx["app.hen"], "the members of a cycle stand side by side, by name")
	require.Equal(t, map[string]int{"app.egg": 1, "app.hen": 1}, schema.CycleGroup, "a table that refers to itself is no cycle")
	require.Equal(t, map[int][]string{1: {"app.egg", "app.hen"}}, schema.Cycles)
	require.Equal(t, []string{"app.b_parent", "app.c_grandparent"}, schema.Dependencies["app.a_child"])
	require.Equal(t, []string{"app.egg", "app.farm"}, schema.Dependencies["app.hen"])
	require.Empty(t, schema.Dependencies["app.c_grandparent"])

	again, err := discovery.DiscoverSchemaWithDependencyOverrides(t.Context(), registered, nil, nil)
	require.NoError(t, err)
	require.Equal(t, schema, again, "the same every time")

	// Overrides change the order, and can make a cycle.
	schema, err = discovery.DiscoverSchemaWithDependencyOverrides(t.Context(), registered, nil, map[string][]string{"app.alone": {"app.zoo"}, "app.farm": {"app.a_child"}})
	require.NoError(t, err)
	before(schema, "app.zoo", "app.alone")
	before(schema, "app.a_child", "app.farm")
	require.Equal(t, []string{"app.zoo"}, schema.Dependencies["app.alone"])
	schema, err = discovery.DiscoverSchemaWithDependencyOverrides(t.Context(), registered, nil, map[string][]string{"app.c_grandparent": {"app.a_child"}})
	require.NoError(t, err)
	require.Equal(t, []string{"app.a_child", "app.b_parent", "app.c_grandparent"}, schema.Cycles[schema.CycleGroup["app.a_child"]])

	// A table that is left out leaves its foreign keys out.
	schema, err = discovery.DiscoverSchemaWithDependencyOverrides(t.Context(), map[string]bool{"app.a_child": true, "app.c_grandparent": true}, nil, nil)
	require.NoError(t, err)
	require.Equal(t, []string{"app.c_grandparent", "app.a_child"}, schema.TableOrder)
	require.Equal(t, []string{"app.c_grandparent"}, schema.Dependencies["app.a_child"])

	for name, c := range map[string]struct {
		registered map[string]bool
		overrides  map[string][]string
	}{
		"app.nothing":  {registered: map[string]bool{"app.nothing": true}},
		"app.stranger": {registered: map[string]bool{"app.alone": true}, overrides: map[string][]string{"app.alone": {"app.stranger"}}},
	} {
		_, err = discovery.DiscoverSchemaWithDependencyOverrides(t.Context(), c.registered, nil, c.overrides)
		require.ErrorIs(t, err, &oversync.UnsupportedSchemaError{})
		require.ErrorContains(t, err, name)
	}
}

func TestTableNamesAreTakenInAnyCase(t *testing.T) {
	t.Parallel()
	pool := pgtest.NewPool(t)
	_, err := pool.Exec(t.Context(), notesDDL+`
CREATE TABLE public."order" (_sync_scope_id text NOT NULL, id text NOT NULL, PRIMARY KEY (_sync_scope_id, id));`)
	require.NoError(t, err)
	overrides := map[string][]string{"App.Notes": {"Order"}}
	schema, err := oversync.NewSchemaDiscovery(pool, nil).DiscoverSchemaWithDependencyOverrides(t.Context(),
		map[string]bool{"APP.notes": true, "public.Order": true}, nil, overrides)
	require.NoError(t, err)
	require.Equal(t, []string{"public.order", "app.notes"}, schema.TableOrder)
	require.Equal(t, []string{"public.order"}, schema.Dependencies["app.notes"])

	service, err := oversync.NewRuntimeService(pool, &oversync.ServiceConfig{
		RegisteredTables:    []oversync.RegisteredTable{{Schema: "App", Table: " NOTES", SyncKeyColumns: []string{"ID"}}, {Table: "Order"}},
		DependencyOverrides: overrides,
	}, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, service.Close(context.Background())) })
	require.NoError(t, service.Bootstrap(t.Context()))
	require.Equal(t, []string{"app.notes", "public.order"}, service.GetCapabilities().RegisteredTables)
	require.Equal(t, "public.\"order\"", scalar[string](t, pool, "SELECT parent::regclass::text FROM sync.table_order_overrides"))
}

// TestDependencyOverridesAreThoseOfTheConfig: an override that is taken out ends with the next Bootstrap, and those of
// tables that were registered in SQL count too.
func TestDependencyOverridesAreThoseOfTheConfig(t *testing.T) {
	t.Parallel()
	pool := pgtest.NewPool(t)
	_, err := pool.Exec(t.Context(), `CREATE SCHEMA app`)
	require.NoError(t, err)
	for _, name := range []string{"a", "b", "c"} {
		_, err = pool.Exec(t.Context(), "CREATE TABLE app."+name+" (_sync_scope_id text NOT NULL, id uuid PRIMARY KEY)")
		require.NoError(t, err)
	}
	_, err = pool.Exec(t.Context(), "SELECT sync.register_table('app.c')")
	require.NoError(t, err)
	for _, c := range []struct {
		registered []oversync.RegisteredTable
		overrides  map[string][]string
		order      string
	}{
		{tables("app.a", "app.b"), map[string][]string{"app.a": {"app.b", "app.c"}, "app.b": {"app.c"}}, "c b a"},
		{tables("app.a", "app.b"), map[string][]string{"app.a": {"app.c"}}, "b c a"},
		{tables("app.a", "app.b"), nil, "a b c"},
		{nil, map[string][]string{"app.b": {"app.c"}}, "a c b"},
		{tables("app.a"), nil, "a c b"}, // not of a table of this service
		{tables("app.b"), nil, "a b c"},
	} {
		service, err := oversync.NewRuntimeService(pool, &oversync.ServiceConfig{RegisteredTables: c.registered, DependencyOverrides: c.overrides}, nil)
		require.NoError(t, err)
		for range 2 { // the second changes nothing
			require.NoError(t, service.Bootstrap(t.Context()))
			require.Equal(t, c.order, scalar[string](t, pool, "SELECT string_agg(table_name, ' ' ORDER BY apply_order) FROM sync.table_catalog"), c)
		}
		require.NoError(t, service.Close(t.Context()))
	}
}
