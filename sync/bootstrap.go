package oversync

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/oversync/oversync/db"
)

// Bootstrap registers the configured tables, all of them or none, reads the
// catalog, and starts the background work, which goes on until Close: it prunes
// history, removes expired sessions, follows changes of the catalog, and runs the
// listener of the watch. It needs the sync schema, which the migrations make.
// Tables that are registered already stay as they are, so it may run at every
// start, and in several processes at once.
//
// It fails with UnsupportedSchemaError, which names object and remedy, if a table
// cannot be synced.
func (s *SyncService) Bootstrap(ctx context.Context) error {
	end, err := s.begin()
	if err != nil {
		return err
	}
	defer end()
	if err := s.requireSchema(ctx); err != nil {
		return err
	}
	if len(s.config.RegisteredTables)+len(s.config.DependencyOverrides) > 0 {
		err := retry(ctx, func(int) error { return s.registerTables(ctx) })
		if err != nil {
			return bootstrapError(err)
		}
	}
	if _, err = s.reloadCatalog(ctx); err != nil {
		return err
	}
	if err := s.warnOfMissingGrants(ctx); err != nil {
		return err
	}
	s.startBackground()
	return nil
}

// warnOfMissingGrants says which tables the service's role cannot write: without it, the
// first to notice are the devices whose pushes fail.
func (s *SyncService) warnOfMissingGrants(ctx context.Context) error {
	grants, err := s.queries.ServerMissingGrants(ctx, s.pool)
	if err != nil {
		return fmt.Errorf("read what the role may do with the registered tables: %w", err)
	}
	for _, grant := range grants {
		s.logger.LogAttrs(ctx, slog.LevelWarn, "the role lacks privileges on a registered table: pushes of its rows will fail", slog.String("remedy", grant))
	}
	return nil
}

// requireSchema says what to do where the migrations have not run.
func (s *SyncService) requireSchema(ctx context.Context) error {
	_, err := s.queries.CatalogVersion(ctx, s.pool)
	if hasSQLState(err, pgerrcode.UndefinedTable) || hasSQLState(err, pgerrcode.InvalidSchemaName) {
		return &UnsupportedSchemaError{Message: "the database has no sync schema: run `oversync migrate up`, or goose with this project's migrations"}
	}
	return err
}

// registerTables is the transaction of Bootstrap.
func (s *SyncService) registerTables(ctx context.Context) error {
	return pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		for _, table := range s.config.RegisteredTables {
			params := db.CatalogRegisterParams{Relation: quotedName(Key(table.Schema, table.Table))}
			if len(table.SyncKeyColumns) == 1 {
				params.SyncKey = strings.ToLower(strings.TrimSpace(table.SyncKeyColumns[0]))
			}
			_, err := s.queries.CatalogRegister(ctx, tx, params)
			if hasSQLState(err, pgerrcode.UndefinedTable) || hasSQLState(err, pgerrcode.InvalidSchemaName) {
				return &UnsupportedSchemaError{Message: fmt.Sprintf("table %s does not exist: create it, or take it out of RegisteredTables", Key(table.Schema, table.Table))}
			} else if err != nil {
				return err
			}
		}
		changed := int64(0)
		var kept db.CatalogKeepOverridesParams
		for _, child := range slices.Sorted(maps.Keys(s.config.DependencyOverrides)) {
			for _, parent := range s.config.DependencyOverrides[child] {
				override := db.CatalogOverrideParams{Child: quotedName(foldedName(child)), Parent: quotedName(foldedName(parent))}
				added, err := s.queries.CatalogOverride(ctx, tx, override)
				if hasSQLState(err, pgerrcode.NotNullViolation) {
					return &UnsupportedSchemaError{Message: fmt.Sprintf("the dependency override %s after %s names a table that does not exist: create it or drop the override", child, parent)}
				} else if err != nil {
					return err
				}
				changed += added
				kept.Children, kept.Parents = append(kept.Children, override.Child), append(kept.Parents, override.Parent)
			}
		}
		for _, table := range s.config.RegisteredTables {
			kept.Tables = append(kept.Tables, quotedName(Key(table.Schema, table.Table)))
		}
		removed, err := s.queries.CatalogKeepOverrides(ctx, tx, kept)
		if err != nil {
			return err
		}
		if changed+removed > 0 {
			return s.queries.CatalogChanged(ctx, tx)
		}
		return nil
	})
}

// foldedName is Key for a name that is "schema.table" already, or a table alone.
func foldedName(name string) string {
	schema, table, qualified := strings.Cut(name, ".")
	if !qualified {
		schema, table = "", name
	}
	return Key(schema, table)
}

// quotedName is a table's name as SQL reads it. Only tables whose names are in
// lower case can be registered, so that folding loses nothing.
func quotedName(key string) string {
	schema, table, _ := strings.Cut(key, ".")
	return pgx.Identifier{schema, table}.Sanitize()
}

// bootstrapError turns what kept tables from being registered into
// UnsupportedSchemaError.
func bootstrapError(err error) error {
	if unsupported, ok := errors.AsType[*UnsupportedSchemaError](err); ok {
		return unsupported
	}
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return fmt.Errorf("register the configured tables: %w", err)
	}
	if pgErr.Code == pgerrcode.ReadOnlySQLTransaction {
		return fmt.Errorf("the tables cannot be registered in a read-only session: connect to the primary, with default_transaction_read_only = off: %w", err)
	}
	if pgErr.Code == pgerrcode.InsufficientPrivilege {
		return &UnsupportedSchemaError{Message: pgErr.Message + ": register the tables as their owner, with SELECT sync.register_table(…)"}
	}
	return typedError(err, Actor{}, "")
}

// IsTableRegistered says whether a table is registered, as far as the service
// knows: after Bootstrap, or once it served a request. An empty schema is public.
func (s *SyncService) IsTableRegistered(schemaName, tableName string) bool {
	known := s.catalog.Load()
	return known != nil && known.byName[Key(schemaName, tableName)] != nil
}
