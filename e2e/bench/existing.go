package main

import (
	"context"
	"fmt"
	"time"
)

// existingScenarios measure tables that an application writes by plain SQL: rows
// that were there before, and statements over many scopes.
var existingScenarios = []scenario{
	{
		name: "adopt-1000000-rows", what: "adoption of 1,000,000 rows of 10,000 scopes", unit: "rows/s", target: atLeast(1. / 3),
		single: true, setup: adoption,
	},
	{
		name: "captured-update", what: "UPDATE of 100,000 rows of 10,000 scopes by plain SQL, commit included", unit: "rows/s", target: atLeast(1. / 4),
		setup: captured("", `UPDATE %s SET priority = priority + 1`),
	},
	{
		name: "captured-insert", what: "INSERT of 100,000 rows of 10,000 scopes by plain SQL, commit included", unit: "rows/s", target: atLeast(1. / 4),
		setup: captured(`DELETE FROM %s`, fillExisting),
	},
	{
		name: "captured-delete", what: "DELETE of 100,000 rows of 10,000 scopes by plain SQL, commit included", unit: "rows/s", target: atLeast(1. / 4),
		setup: captured(`INSERT INTO %s SELECT * FROM bench.existing_source ON CONFLICT DO NOTHING`, `DELETE FROM %s`),
	},
}

const fillExisting = `INSERT INTO %s SELECT * FROM bench.existing_source`

const existingTables = `
	CREATE TABLE bench.existing (
		id         uuid PRIMARY KEY,
		owner_id   text NOT NULL,
		title      text NOT NULL,
		note       text,
		done       boolean NOT NULL DEFAULT false,
		priority   integer NOT NULL DEFAULT 0,
		updated_at timestamptz NOT NULL DEFAULT now()
	);
	CREATE INDEX existing_by_owner ON bench.existing (owner_id);
	CREATE TABLE bench.existing_plain (LIKE bench.existing INCLUDING ALL);
	CREATE TABLE bench.existing_source (LIKE bench.existing);`

// newExistingSite returns a database with a table of so many rows, and a twin for
// the floor. No server runs on it: it would adopt rows in the background.
func (b *bench) newExistingSite(ctx context.Context, rows, scopes int) (*site, error) {
	s, err := b.newSite(ctx)
	if err != nil {
		return nil, err
	}
	s.server.stop()
	s.server = nil
	if _, err := s.pool.Exec(ctx, existingTables); err != nil {
		return nil, err
	}
	_, err = s.pool.Exec(ctx, `INSERT INTO bench.existing_source
		SELECT gen_random_uuid(), 'owner-' || (hashint4(n) & 2147483647) % $2::integer, 'Water the plants, part ' || n,
			'The ones at the window need more than the others; see "care" № ' || n, n % 3 = 0, n % 7, '2026-11-01 08:15:30.123456+00'
		FROM generate_series(1, $1::integer) AS n`, rows, scopes)
	if err != nil {
		return nil, err
	}
	if _, err := s.pool.Exec(ctx, fmt.Sprintf(fillExisting, "bench.existing")); err != nil {
		return nil, err
	}
	_, err = s.pool.Exec(ctx, "VACUUM (ANALYZE) bench.existing, bench.existing_source")
	return s, err
}

// timed runs a statement of its own transaction and returns the rate of its rows.
func (s *site) timed(ctx context.Context, rows int, statement string) (float64, error) {
	start := time.Now()
	_, err := s.pool.Exec(ctx, statement)
	return float64(rows) / time.Since(start).Seconds(), err
}

// adoption enters a populated table into the log. The floor inserts the same rows
// into a table with the same indexes.
func adoption(ctx context.Context, b *bench) (round, error) {
	rows := b.size.million
	s, err := b.newExistingSite(ctx, rows, rows/100)
	if err != nil {
		return nil, err
	}
	if _, err := s.pool.Exec(ctx, `SELECT sync.register_table('bench.existing', scope => 'owner_id', policy => 'capture', adopt => 'later')`); err != nil {
		return nil, err
	}
	return against(func(ctx context.Context) (float64, error) {
		rate, err := s.timed(ctx, rows, `CALL sync.adopt_table('bench.existing')`)
		if err != nil {
			return 0, err
		}
		return rate, s.logged(ctx, 0, rows)
	}, func(ctx context.Context) (float64, error) {
		return s.timed(ctx, rows, fmt.Sprintf(fillExisting, "bench.existing_plain"))
	}), nil
}

// logged checks how many rows the log has more than before.
func (s *site) logged(ctx context.Context, before int64, rows int) error {
	after, err := s.count(ctx, "SELECT count(*) FROM sync.bundle_rows")
	if err == nil && after-before != int64(rows) {
		err = fmt.Errorf("%d rows were logged, not %d", after-before, rows)
	}
	return err
}

// captured runs a statement on the registered table and on its twin, each after
// another one that makes it possible and is not measured.
func captured(before, statement string) func(ctx context.Context, b *bench) (round, error) {
	return func(ctx context.Context, b *bench) (round, error) {
		rows := b.size.bulk
		s, err := b.newExistingSite(ctx, rows, rows/10)
		if err != nil {
			return nil, err
		}
		for _, prepare := range []string{
			fmt.Sprintf(fillExisting, "bench.existing_plain"),
			`SELECT sync.register_table('bench.existing', scope => 'owner_id', policy => 'capture', adopt => 'later')`,
			`CALL sync.adopt_table('bench.existing')`,
		} {
			if _, err := s.pool.Exec(ctx, prepare); err != nil {
				return nil, err
			}
		}
		measure := func(table string) func(ctx context.Context) (float64, error) {
			return func(ctx context.Context) (float64, error) {
				if before != "" {
					if _, err := s.pool.Exec(ctx, fmt.Sprintf(before, table)); err != nil {
						return 0, err
					}
				}
				if _, err := s.pool.Exec(ctx, "VACUUM "+table); err != nil {
					return 0, err
				}
				return s.timed(ctx, rows, fmt.Sprintf(statement, table))
			}
		}
		return against(func(ctx context.Context) (float64, error) {
			seen, err := s.count(ctx, "SELECT count(*) FROM sync.bundle_rows WHERE bundle_seq > 1")
			if err != nil {
				return 0, err
			}
			rate, err := measure("bench.existing")(ctx)
			if err != nil {
				return 0, err
			}
			// What came before is logged too.
			newest, err := s.count(ctx, "SELECT count(*) FROM sync.bundle_rows WHERE bundle_seq > 1")
			if err == nil && (newest-seen < int64(rows) || (newest-seen)%int64(rows) != 0) {
				err = fmt.Errorf("%d rows were logged, not %d", newest-seen, rows)
			}
			return rate, err
		}, measure("bench.existing_plain")), nil
	}
}
