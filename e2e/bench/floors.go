package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
)

const insertOne = `INSERT INTO bench.plain_todos (_sync_scope_id, id, list_id, title, note, done, priority, updated_at)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`

const insertMany = `INSERT INTO bench.plain_todos (_sync_scope_id, id, list_id, title, note, done, priority, updated_at)
	SELECT $1, r.id, r.list_id, r.title, r.note, r.done, r.priority, r.updated_at
	FROM json_to_recordset($2::json) AS r(id uuid, list_id uuid, title text, note text, done boolean, priority integer, updated_at timestamptz)`

const selectJSON = `SELECT row_to_json(t) FROM (
	SELECT id, list_id, title, note, done, priority, updated_at FROM bench.todos WHERE _sync_scope_id = $1) AS t`

// plainWriter is one connection that writes the unregistered tables.
type plainWriter struct {
	conn      *pgxpool.Conn
	scope     string
	maker     *maker
	updatedAt time.Time
}

// newPlainWriters takes n connections, each with a scope and its list.
func (s *site) newPlainWriters(ctx context.Context, n int) ([]*plainWriter, error) {
	writers := make([]*plainWriter, n)
	for i := range writers {
		scope := s.lab.newUser()
		list := uuid.NewSHA1(uuid.Nil, []byte(scope))
		if _, err := s.pool.Exec(ctx, `INSERT INTO bench.plain_lists VALUES ($1, $2, 'Home')`, scope, list); err != nil {
			return nil, err
		}
		writers[i] = &plainWriter{scope: scope, maker: newMaker(uint64(s.lab.users), list), updatedAt: time.Now()} //nolint:gosec // a count
	}
	return writers, nil
}

// floorA is the rate of one-row inserts, each committed, by as many connections.
func (s *site) floorA(ctx context.Context, connections int, window time.Duration) (func(ctx context.Context) (float64, error), error) {
	writers, err := s.newPlainWriters(ctx, connections)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (float64, error) {
		return s.plainRate(ctx, writers, window, func(ctx context.Context, w *plainWriter) (int, error) {
			row := w.maker.todo()
			_, err := w.conn.Exec(ctx, insertOne, w.scope, row.id, row.listID, row.title, row.note, row.done, row.priority, w.updatedAt)
			return 1, err
		})
	}, nil
}

// floorB is the rate of rows inserted from JSON, so many a statement and commit.
func (s *site) floorB(ctx context.Context, connections, rows int, window time.Duration) (func(ctx context.Context) (float64, error), error) {
	writers, err := s.newPlainWriters(ctx, connections)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (float64, error) {
		return s.plainRate(ctx, writers, window, func(ctx context.Context, w *plainWriter) (int, error) {
			tag, err := w.conn.Exec(ctx, insertMany, w.scope, w.maker.jsonArray(rows))
			if err == nil && tag.RowsAffected() != int64(rows) {
				err = fmt.Errorf("%d rows were inserted, not %d", tag.RowsAffected(), rows)
			}
			return rows, err
		})
	}, nil
}

// bulkB is floor B for one large statement, whose JSON is made before the clock
// starts.
func (s *site) bulkB(ctx context.Context, rows int) (func(ctx context.Context) (float64, error), error) {
	writers, err := s.newPlainWriters(ctx, 1)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (float64, error) {
		document := writers[0].maker.jsonArray(rows)
		start := time.Now()
		tag, err := s.pool.Exec(ctx, insertMany, writers[0].scope, document)
		elapsed := time.Since(start)
		if err == nil && tag.RowsAffected() != int64(rows) {
			err = fmt.Errorf("%d rows were inserted, not %d", tag.RowsAffected(), rows)
		}
		return float64(rows) / elapsed.Seconds(), err
	}, nil
}

// plainRate gives each writer a connection while it measures.
func (s *site) plainRate(ctx context.Context, writers []*plainWriter, window time.Duration, work func(context.Context, *plainWriter) (int, error)) (float64, error) {
	for _, w := range writers {
		var err error
		if w.conn, err = s.pool.Acquire(ctx); err != nil {
			return 0, err
		}
		defer w.conn.Release()
	}
	return perSecond(ctx, len(writers), window, func(ctx context.Context, worker int) (int, error) {
		return work(ctx, writers[worker])
	})
}

// floorC is the rate at which a scope's rows reach a Go client as JSON.
func (s *site) floorC(scope string, rows int, window time.Duration) func(ctx context.Context) (float64, error) {
	return func(ctx context.Context) (float64, error) {
		return perSecond(ctx, 1, window, func(ctx context.Context, _ int) (int, error) {
			result, err := s.pool.Query(ctx, selectJSON, scope)
			if err != nil {
				return 0, err
			}
			seen := 0
			defer result.Close()
			for result.Next() {
				if len(result.RawValues()[0]) == 0 {
					return 0, fmt.Errorf("an empty row came")
				}
				seen++
			}
			if err := result.Err(); err != nil {
				return 0, err
			}
			if seen != rows {
				return 0, fmt.Errorf("%d rows came, not %d", seen, rows)
			}
			return seen, nil
		})
	}
}

// floorD is the rate of requests to a handler that does nothing.
func floorD(empty *process, connectionCount int, window time.Duration) func(ctx context.Context) (float64, error) {
	return func(ctx context.Context) (float64, error) {
		return perSecond(ctx, connectionCount, window, func(ctx context.Context, _ int) (int, error) {
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, empty.url, http.NoBody)
			if err != nil {
				return 0, err
			}
			response, err := connections.Do(request)
			if err != nil {
				return 0, err
			}
			_, err = io.Copy(io.Discard, response.Body)
			_ = response.Body.Close() // it was read to its end, or the error is known
			return 1, err
		})
	}
}
