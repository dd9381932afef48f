package oversync

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/oversync/oversync/db"
)

// DiscoveredSchema is the order in which tables are written, and why. Tables are
// named "schema.table".
type DiscoveredSchema struct {
	// TableOrder has parents before children. The members of a cycle stand side
	// by side, by name.
	TableOrder []string
	// OrderIdx is each table's index in TableOrder.
	OrderIdx map[string]int
	// Dependencies has the tables that a table refers to, sorted, itself left out.
	Dependencies map[string][]string
	// CycleGroup has a number above 0 for each table that is in a cycle with
	// others; the same number is the same cycle.
	CycleGroup map[string]int
	// Cycles has the members of each cycle, sorted.
	Cycles map[int][]string
}

// ForeignKeyConstraint is one column of a foreign key.
type ForeignKeyConstraint struct {
	ConstraintName string // name of the constraint
	TableSchema    string // schema of the table that refers
	TableName      string // table that refers
	ColumnName     string // column that refers
	Ordinal        int    // place of the column in the constraint, from 1
	RefSchema      string // schema of the table referred to
	RefTable       string // table referred to
	RefColumn      string // column referred to
	MatchOption    string // SIMPLE, FULL or PARTIAL
	OnDeleteAction string // CASCADE, RESTRICT, SET NULL, SET DEFAULT or NO ACTION
	OnUpdateAction string // the same, for a changed key
}

// RegisteredTableRuntimeInfo is what discovery may be told of a registered table.
type RegisteredTableRuntimeInfo struct {
	// SyncKeyColumns are the columns that identify a row inside its scope.
	SyncKeyColumns []string
}

// SchemaDiscovery reads the relations between tables from the database. The work
// is the SQL function sync.discover, which DBAs can call as well.
type SchemaDiscovery struct {
	pool    *pgxpool.Pool
	queries *db.Queries
	logger  *slog.Logger
}

// NewSchemaDiscovery returns a discovery on a pool, whose database must have the
// sync schema. A nil logger is slog.Default().
func NewSchemaDiscovery(pool *pgxpool.Pool, logger *slog.Logger) *SchemaDiscovery {
	if logger == nil {
		logger = slog.Default()
	}
	return &SchemaDiscovery{pool: pool, queries: db.New(), logger: logger}
}

// DiscoverSchemaWithDependencyOverrides returns the order of the tables that
// registeredTables maps to true. dependencyOverrides adds dependencies, child to
// parents, that only bear on the order. Names are taken in any case, as Key takes
// them. registeredTableInfo is not needed for that and may be nil.
//
// It fails with UnsupportedSchemaError if a table, or one that an override names,
// does not exist or is not among registeredTables.
func (sd *SchemaDiscovery) DiscoverSchemaWithDependencyOverrides(
	ctx context.Context,
	registeredTables map[string]bool,
	_ map[string]RegisteredTableRuntimeInfo,
	dependencyOverrides map[string][]string,
) (*DiscoveredSchema, error) {
	wanted := make(map[string]bool)
	for name, registered := range registeredTables {
		if registered {
			wanted[foldedName(name)] = true
		}
	}
	tables := slices.Sorted(maps.Keys(wanted))
	overrides, err := overrideEdges(wanted, dependencyOverrides)
	if err != nil {
		return nil, err
	}
	rows, err := sd.queries.DiscoverOrder(ctx, sd.pool, db.DiscoverOrderParams{Tables: tables, Overrides: overrides})
	if err != nil {
		return nil, fmt.Errorf("discover the order of tables: %w", err)
	}
	schema := &DiscoveredSchema{
		OrderIdx: make(map[string]int), Dependencies: make(map[string][]string),
		CycleGroup: make(map[string]int), Cycles: make(map[int][]string),
	}
	for i, row := range rows {
		schema.TableOrder = append(schema.TableOrder, row.TableName)
		schema.OrderIdx[row.TableName] = i
		schema.Dependencies[row.TableName] = row.DependsOn
		if group := int(row.CycleGroup); group > 0 {
			schema.CycleGroup[row.TableName] = group
			schema.Cycles[group] = append(schema.Cycles[group], row.TableName)
		}
	}
	for _, name := range tables {
		if _, found := schema.OrderIdx[name]; !found {
			return nil, &UnsupportedSchemaError{Message: fmt.Sprintf("table %s does not exist: create it, or take it out of the registered tables", name)}
		}
	}
	sd.logger.DebugContext(ctx, "tables discovered", slog.Any("order", schema.TableOrder), slog.Int("cycles", len(schema.Cycles)))
	return schema, nil
}

// overrideEdges returns the overrides in the form that sync.discover reads.
func overrideEdges(registered map[string]bool, overrides map[string][]string) ([]byte, error) {
	type edge struct {
		Child  string `json:"child"`
		Parent string `json:"parent"`
	}
	edges := []edge{}
	for child, parents := range overrides {
		child = foldedName(child)
		for _, parent := range parents {
			parent = foldedName(parent)
			for _, name := range [...]string{child, parent} {
				if !registered[name] {
					return nil, &UnsupportedSchemaError{Message: fmt.Sprintf("the dependency override %s after %s names %s, which is not registered: register it or drop the override", child, parent, name)}
				}
			}
			edges = append(edges, edge{child, parent})
		}
	}
	return json.Marshal(edges)
}
