package oversync_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/oversync/oversync/db/pgembed/pgtest"
	oversync "github.com/oversync/oversync/sync"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

// notesDDL is the least table that can be synced.
const notesDDL = `
CREATE SCHEMA app;
CREATE TABLE app.notes (
    _sync_scope_id text NOT NULL,
    id             uuid NOT NULL,
    title          text NOT NULL,
    stars          bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (_sync_scope_id, id)
);`

// newNotes returns a service that syncs app.notes on a database of its own.
func newNotes(t testing.TB) *oversync.SyncService {
	t.Helper()
	return newService(t, pgtest.NewPool(t), notesDDL, &oversync.ServiceConfig{RegisteredTables: tables("app.notes")})
}

// newService runs ddl on the pool's database and bootstraps a service there.
func newService(t testing.TB, pool *pgxpool.Pool, ddl string, config *oversync.ServiceConfig) *oversync.SyncService {
	t.Helper()
	_, err := pool.Exec(t.Context(), ddl)
	require.NoError(t, err)
	service, err := oversync.NewRuntimeService(pool, config, nil)
	require.NoError(t, err)
	// Bootstrap starts goroutines, which must end before the pool is closed.
	t.Cleanup(func() { require.NoError(t, service.Close(context.Background())) })
	require.NoError(t, service.Bootstrap(t.Context()))
	return service
}

// newPoolWith returns a pool on a database of its own, with other settings.
func newPoolWith(t testing.TB, set func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	config := pgtest.NewPool(t).Config()
	set(config)
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// twoConnections is a setting for pools that must not run dry.
func twoConnections(config *pgxpool.Config) { config.MaxConns = 2 }

// tables makes registered tables of "schema.table" names.
func tables(names ...string) []oversync.RegisteredTable {
	registered := make([]oversync.RegisteredTable, len(names))
	for i, name := range names {
		registered[i].Schema, registered[i].Table, _ = strings.Cut(name, ".")
	}
	return registered
}

// noteID is the n-th id of a note.
func noteID(n int) string {
	return "00000000-0000-4000-8000-" + strings.Repeat("0", 12-len(strconv.Itoa(n))) + strconv.Itoa(n)
}

// insertNote is a new note as a device pushes it.
func insertNote(n int, title string) oversync.PushRequestRow {
	return noteRow(oversync.OpInsert, n, 0, title)
}

// updateNote is a changed note, known to the device at a version.
func updateNote(n int, version int64, title string) oversync.PushRequestRow {
	return noteRow(oversync.OpUpdate, n, version, title)
}

func noteRow(op string, n int, version int64, title string) oversync.PushRequestRow {
	payload, err := json.Marshal(map[string]any{"title": title})
	if err != nil {
		panic(err) // a map with a string always has a JSON form
	}
	return oversync.PushRequestRow{
		Schema: "app", Table: "notes", Key: oversync.SyncKey{"id": noteID(n)}, Op: op, BaseRowVersion: version, Payload: payload,
	}
}

// device is one source of one user. It keeps the number of its next bundle, and
// how far it has pulled.
type device struct {
	service *oversync.SyncService
	actor   oversync.Actor
	next    int64
	pulled  int64
}

// newDevice connects a device that has nothing to bring.
func newDevice(t testing.TB, service *oversync.SyncService, user, source string) *device {
	t.Helper()
	d := &device{service: service, actor: oversync.Actor{UserID: user, SourceID: source}, next: 1}
	_, err := service.Connect(t.Context(), d.actor, &oversync.ConnectRequest{})
	require.NoError(t, err)
	return d
}

// stage opens a session and uploads the rows. An answer that the bundle is
// committed already comes back as it is.
func (d *device) stage(ctx context.Context, rows ...oversync.PushRequestRow) (*oversync.PushSessionCreateResponse, error) {
	session, err := d.service.CreatePushSession(ctx, d.actor, &oversync.PushSessionCreateRequest{
		SourceBundleID: d.next, PlannedRowCount: int64(len(rows)),
	})
	if err != nil || session.PushID == "" {
		return session, err
	}
	start := 0
	for chunk := range slices.Chunk(rows, 1000) {
		_, err := d.service.UploadPushChunk(ctx, d.actor, session.PushID, &oversync.PushSessionChunkRequest{StartRowOrdinal: int64(start), Rows: chunk})
		if err != nil {
			return nil, err
		}
		start += len(chunk)
	}
	return session, nil
}

// push brings rows in as the next bundle.
func (d *device) push(ctx context.Context, rows ...oversync.PushRequestRow) (*oversync.PushSessionCommitResponse, error) {
	session, err := d.stage(ctx, rows...)
	if err != nil {
		return nil, err
	}
	if session.PushID == "" {
		d.next++
		return &oversync.PushSessionCommitResponse{
			BundleSeq: session.BundleSeq, SourceID: session.SourceID, SourceBundleID: session.SourceBundleID,
			RowCount: session.RowCount, BundleHash: session.BundleHash,
		}, nil
	}
	committed, err := d.service.CommitPushSession(ctx, d.actor, session.PushID)
	if err == nil {
		d.next++
	}
	return committed, err
}

// pull returns all bundles that are new to the device.
func (d *device) pull(ctx context.Context) ([]oversync.Bundle, error) {
	var bundles []oversync.Bundle
	target := int64(0)
	for {
		page, err := d.service.ProcessPull(ctx, d.actor, d.pulled, 0, target)
		if err != nil {
			return nil, err
		}
		bundles = append(bundles, page.Bundles...)
		if len(page.Bundles) > 0 {
			d.pulled = page.Bundles[len(page.Bundles)-1].BundleSeq
		}
		if target = page.StableBundleSeq; !page.HasMore {
			return bundles, nil
		}
	}
}

// mustPush is push for rows that nothing can be wrong with.
func (d *device) mustPush(t testing.TB, rows ...oversync.PushRequestRow) *oversync.PushSessionCommitResponse {
	t.Helper()
	committed, err := d.push(t.Context(), rows...)
	require.NoError(t, err)
	return committed
}

// mustPull is pull where nothing can go wrong.
func (d *device) mustPull(t testing.TB) []oversync.Bundle {
	t.Helper()
	bundles, err := d.pull(t.Context())
	require.NoError(t, err)
	return bundles
}

// scalar runs a query that gives one value.
func scalar[T any](t testing.TB, pool *pgxpool.Pool, query string, args ...any) T {
	t.Helper()
	var value T
	require.NoError(t, pool.QueryRow(t.Context(), query, args...).Scan(&value))
	return value
}

// requireAs checks that an error is of a type, and returns it as that.
func requireAs[E error](t testing.TB, err error) E {
	t.Helper()
	require.Error(t, err)
	target, ok := errors.AsType[E](err)
	require.True(t, ok, "%T: %v", err, err)
	return target
}

// requireType checks that an error is of a type.
func requireType[E error](t testing.TB, err error) {
	t.Helper()
	_ = requireAs[E](t, err)
}

// insertNoteSQL writes a note in a server-side bundle, its scope left to the
// column's default.
func insertNoteSQL(ctx context.Context, tx pgx.Tx, n int, title string) error {
	_, err := tx.Exec(ctx, "INSERT INTO app.notes (id, title) VALUES ($1, $2)", noteID(n), title)
	return err
}
