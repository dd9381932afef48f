package main

import (
	"context"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5"
)

// The shape of a grown database: scopes of 200 log rows in 10 bundles.
const (
	grownBundlesPerScope = 10
	grownRowsPerBundle   = 20
	grownScopesPerStep   = 2500
)

// growStep writes scopes $1 to $2 with their log, as their pushes would have left
// it. The rows go straight into the tables: through the API it would take a day.
const growStep = `
WITH scopes AS (
    INSERT INTO sync.user_state (user_id, state, next_bundle_seq, live_row_count, live_byte_count, bundle_byte_count, last_bundle_at)
    SELECT 'grown-' || n, 'initialized', 11, 200, 200 * 250, 200 * 400, now()
    FROM generate_series($1::bigint, $2::bigint) AS n
    RETURNING user_pk, user_id
), sources AS (
    INSERT INTO sync.source_state (user_pk, source_id, last_source_bundle_id)
    SELECT user_pk, user_id || '/device-1', 10 FROM scopes
), bundles AS (
    INSERT INTO sync.bundle_log (user_pk, bundle_seq, source_id, source_bundle_id, row_count, byte_count, bundle_hash)
    SELECT user_pk, b, user_id || '/device-1', b, 20, 8000, sha256(int8send(b))
    FROM scopes CROSS JOIN generate_series(1, 10) AS b
), rows AS (
    SELECT s.user_pk, s.user_id, b, o, gen_random_uuid() AS id
    FROM scopes s CROSS JOIN generate_series(1, 10) AS b CROSS JOIN generate_series(0, 19) AS o
), logged AS (
    INSERT INTO sync.bundle_rows (user_pk, bundle_seq, row_ordinal, table_id, op, key_bytes, payload)
    SELECT r.user_pk, r.b, r.o, t.table_id, 'I', uuid_send(r.id),
           format('{"done":false,"id":"%s","list_id":null,"note":"The ones at the window need more than the others; see \"care\" № %s","priority":3,"title":"Water the plants, part %s","updated_at":"2026-11-01T08:15:30.123456+00:00"}', r.id, r.o, r.b)
    FROM rows r CROSS JOIN sync.table_catalog t WHERE t.relation = 'bench.todos'::regclass
)
INSERT INTO bench.todos (_sync_scope_id, id, title, note, priority, updated_at)
SELECT r.user_id, r.id, 'Water the plants, part ' || r.b, 'The ones at the window need more than the others; see "care" № ' || r.o, 3, '2026-11-01 08:15:30.123456Z'
FROM rows r`

// grownIndexes are the indexes of the two large tables: what drops each, and what
// makes it again. To make one of a full table takes a fraction of what it takes to
// keep it while the table is filled.
const grownIndexes = `
SELECT CASE WHEN c.oid IS NULL THEN format('DROP INDEX %s', i.indexrelid::regclass)
            ELSE format('ALTER TABLE %s DROP CONSTRAINT %I', i.indrelid::regclass, c.conname) END,
       CASE WHEN c.oid IS NULL THEN pg_get_indexdef(i.indexrelid)
            ELSE format('ALTER TABLE %s ADD CONSTRAINT %I %s', i.indrelid::regclass, c.conname, pg_get_constraintdef(c.oid)) END
FROM pg_index i LEFT JOIN pg_constraint c ON c.conindid = i.indexrelid AND c.contype IN ('p', 'u')
WHERE i.indrelid IN ('sync.bundle_rows'::regclass, 'bench.todos'::regclass)`

// grow fills the database with scopes of 200 log rows and as many live rows.
func (s *site) grow(ctx context.Context, logRows int, progress io.Writer) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	// It goes back with a setting that must not outlive this.
	defer func() { _ = conn.Hijack().Close(ctx) }()
	// No capture: the log is written here.
	if _, err := conn.Exec(ctx, "SET session_replication_role = replica; SET maintenance_work_mem = '1GB'"); err != nil {
		return err
	}
	rows, err := conn.Query(ctx, grownIndexes)
	if err != nil {
		return err
	}
	indexes, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct{ Drop, Create string }])
	if err != nil {
		return err
	}
	var after []string
	for _, index := range indexes {
		if _, err := conn.Exec(ctx, index.Drop); err != nil {
			return err
		}
		after = append(after, index.Create)
	}
	scopes := (logRows + grownBundlesPerScope*grownRowsPerBundle - 1) / (grownBundlesPerScope * grownRowsPerBundle)
	for first := 1; first <= scopes; first += grownScopesPerStep {
		last := min(first+grownScopesPerStep-1, scopes)
		if _, err := conn.Exec(ctx, growStep, first, last); err != nil {
			return fmt.Errorf("grow the database: %w", err)
		}
		say(progress, "grown to %d of %d scopes\n", last, scopes)
	}
	for _, statement := range append(after, "VACUUM (ANALYZE)", "CHECKPOINT") {
		say(progress, "%s\n", statement)
		if _, err := conn.Exec(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}
