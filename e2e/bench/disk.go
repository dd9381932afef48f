package main

import (
	"context"
)

var diskScenarios = []scenario{
	{
		name: "wal", what: "WAL of a push of 100,000 rows, against the business table alone", unit: "MiB", target: atMost(3.5), single: true,
		setup: walOfPush,
	},
	{
		name: "disk", what: "sync on disk after a push of 100,000 rows, against the business table", unit: "MiB", target: atMost(2.5), single: true,
		setup: diskOfPush,
	},
}

// walOfPush measures in a database of its own, where both tables start empty.
func walOfPush(ctx context.Context, b *bench) (round, error) {
	s, err := b.newSite(ctx)
	if err != nil {
		return nil, err
	}
	plain, err := s.bulkB(ctx, b.size.bulk)
	if err != nil {
		return nil, err
	}
	devices, err := s.newDevices(ctx, 1)
	if err != nil {
		return nil, err
	}
	chunks := bulkChunks(devices[0].maker, b.size.bulk)
	return func(ctx context.Context) (m sample, err error) {
		if m.Floor, err = s.walOf(ctx, func() error { _, err := plain(ctx); return err }); err != nil {
			return m, err
		}
		m.Figure, err = s.walOf(ctx, func() error {
			_, err := devices[0].pushBodies(ctx, b.size.bulk, chunks)
			return err
		})
		return m, err
	}, nil
}

// walOf returns how many MiB of WAL are written while work runs. It starts after
// a checkpoint, so that both sides pay for the first touch of their pages.
func (s *site) walOf(ctx context.Context, work func() error) (float64, error) {
	if _, err := s.pool.Exec(ctx, "CHECKPOINT"); err != nil {
		return 0, err
	}
	var before string
	if err := s.pool.QueryRow(ctx, "SELECT pg_current_wal_insert_lsn()::text").Scan(&before); err != nil {
		return 0, err
	}
	if err := work(); err != nil {
		return 0, err
	}
	var written float64
	err := s.pool.QueryRow(ctx, "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), $1::text::pg_lsn)::float8", before).Scan(&written)
	return written / (1 << 20), err
}

// diskOfPush measures in a database of its own, after VACUUM.
func diskOfPush(ctx context.Context, b *bench) (round, error) {
	s, err := b.newSite(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := s.filledDevice(ctx, b.size.bulk); err != nil {
		return nil, err
	}
	if _, err := s.pool.Exec(ctx, "VACUUM"); err != nil {
		return nil, err
	}
	return func(ctx context.Context) (m sample, err error) {
		const query = `SELECT sum(pg_total_relation_size(c.oid))::float8 / 1048576
			FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE c.relkind = 'r' AND (n.nspname = $1 OR c.oid = to_regclass($1))`
		if err := s.pool.QueryRow(ctx, query, "bench.todos").Scan(&m.Floor); err != nil {
			return m, err
		}
		err = s.pool.QueryRow(ctx, query, "sync").Scan(&m.Figure)
		return m, err
	}, nil
}
