package main

import (
	"bufio"
	"context"
	"fmt"
	"math"
	"net/http"
	"os"
	"strings"
)

var statementScenarios = []scenario{
	{
		name: "statements-push", what: "statements of a push of 5,000 rows, against 1 row, as one chunk each", unit: "statements", target: atMost(1), single: true,
		setup: func(_ context.Context, b *bench) (round, error) {
			return func(ctx context.Context) (s sample, err error) {
				if s.Floor, err = pushStatements(ctx, b, 1); err != nil {
					return s, err
				}
				s.Figure, err = pushStatements(ctx, b, 5000)
				return s, err
			}, nil
		},
	},
	{
		name: "statements-push-1-row", what: "statements of a push: create, chunk and commit", unit: "statements", target: atMost(8), single: true,
		setup: func(_ context.Context, b *bench) (round, error) {
			return func(ctx context.Context) (s sample, err error) {
				s.Figure, err = pushStatements(ctx, b, 1)
				return s, err
			}, nil
		},
	},
	{
		name: "statements-pull", what: "statements of a pull of many bundles", unit: "statements", target: atMost(3), single: true,
		setup: readStatements(func(*device) (string, error) { return "/sync/pull?after_bundle_seq=0", nil }),
	},
	{
		name: "statements-committed-rows", what: "statements of a chunk of committed rows", unit: "statements", target: atMost(3), single: true,
		setup: readStatements(func(*device) (string, error) { return "/sync/committed-bundles/2/rows", nil }),
	},
	{
		name: "statements-snapshot-chunk", what: "statements of a chunk of a snapshot", unit: "statements", target: atMost(3), single: true,
		setup: readStatements(func(d *device) (string, error) {
			id, err := d.createSnapshot(context.Background(), 5000+1)
			return "/sync/snapshot-sessions/" + id + "?after_row_ordinal=1000", err
		}),
	},
}

// pushStatements counts the statements of one push of one chunk.
func pushStatements(ctx context.Context, b *bench, rows int) (float64, error) {
	devices, err := b.site.newDevices(ctx, 1)
	if err != nil {
		return 0, err
	}
	d := devices[0]
	return b.site.countStatements(ctx, func() error {
		body := appendChunk(nil, 0, d.maker.inserts(rows))
		_, err := d.pushBodies(ctx, rows, [][]byte{body})
		return err
	})
}

// readStatements counts the statements of one GET by a device that has pushed
// 5,000 rows. The path may need preparation.
func readStatements(path func(*device) (string, error)) func(context.Context, *bench) (round, error) {
	return func(ctx context.Context, b *bench) (round, error) {
		d, err := b.site.filledDevice(ctx, 5000)
		if err != nil {
			return nil, err
		}
		target, err := path(d)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context) (s sample, err error) {
			s.Figure, err = b.site.countStatements(ctx, func() error { return d.call(ctx, http.MethodGet, target, nil) })
			return s, err
		}, nil
	}
}

// countStatements counts the statements that the server under test sends while
// work runs. It has PostgreSQL log them, so that every one is seen, those that
// begin and end transactions too.
func (s *site) countStatements(ctx context.Context, work func() error) (float64, error) {
	if err := s.logStatements(ctx, true); err != nil {
		return 0, err
	}
	// The server also works in the background, so the least of a few counts is
	// that of the work alone.
	least := math.MaxInt
	for range 3 {
		before, err := os.Stat(s.lab.postgres.LogFile())
		if err != nil {
			return 0, err
		}
		if err := work(); err != nil {
			return 0, err
		}
		n, err := countLogged(s.lab.postgres.LogFile(), before.Size())
		if err != nil {
			return 0, err
		}
		least = min(least, n)
	}
	return float64(least), s.logStatements(ctx, false)
}

// logStatements switches the log of statements and waits until new statements are
// logged, or no longer.
func (s *site) logStatements(ctx context.Context, on bool) error {
	value, rule := "none", "ALTER SYSTEM RESET log_statement"
	if on {
		value, rule = "all", "ALTER SYSTEM SET log_statement = 'all'"
	}
	if _, err := s.pool.Exec(ctx, rule); err != nil {
		return err
	}
	if _, err := s.pool.Exec(ctx, "SELECT pg_reload_conf()"); err != nil {
		return err
	}
	for {
		// Once a session that is idle has heard of it, so will the server's before
		// their next statement.
		var now string
		if err := s.pool.QueryRow(ctx, "SELECT current_setting('log_statement')").Scan(&now); err != nil || now == value {
			return err
		}
	}
}

func countLogged(path string, from int64) (int, error) {
	file, err := os.Open(path) //nolint:gosec // PostgreSQL's own log
	if err != nil {
		return 0, err
	}
	defer func() { _ = file.Close() }()
	if _, err := file.Seek(from, 0); err != nil {
		return 0, err
	}
	n := 0
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 64<<20) // parameters are logged too
	for lines.Scan() {
		isStatement := strings.HasPrefix(lines.Text(), "LOG:  execute ") || strings.HasPrefix(lines.Text(), "LOG:  statement: ")
		// Watchers are told of many commits at once, a moment later.
		if isStatement && !strings.Contains(lines.Text(), "-- name: WatchNotify ") {
			n++
		}
	}
	if n == 0 && lines.Err() == nil {
		return 0, fmt.Errorf("no statement was logged in %s", path)
	}
	return n, lines.Err()
}
