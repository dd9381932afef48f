package oversync_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/oversync/oversync/db/pgembed/pgtest"
	oversync "github.com/oversync/oversync/sync"
)

// watching is a config with the watch on.
func watching() oversync.ServiceConfig {
	return oversync.ServiceConfig{BundleChangeWatch: oversync.BundleChangeWatchConfig{Enabled: true}}
}

// newWatched returns a bootstrapped service with its watch on.
func newWatched(t testing.TB) (*oversync.SyncService, *pgxpool.Pool) {
	t.Helper()
	pool := pgtest.NewPool(t)
	config := watching()
	config.RegisteredTables = tables("app.notes")
	return newService(t, pool, notesDDL, &config), pool
}

// bootstrapped returns one more instance on a database.
func bootstrapped(t testing.TB, pool *pgxpool.Pool, config oversync.ServiceConfig) *oversync.SyncService {
	t.Helper()
	service := openService(t, pool, config, slog.New(slog.DiscardHandler))
	require.NoError(t, service.Bootstrap(t.Context()))
	return service
}

func subscribe(t testing.TB, service *oversync.SyncService, user string, after int64) *oversync.BundleChangeSubscription {
	t.Helper()
	subscription, err := service.SubscribeBundleChanges(t.Context(), oversync.Actor{UserID: user}, after)
	require.NoError(t, err)
	t.Cleanup(subscription.Close)
	return subscription
}

// nextChange waits for a change, longer than any that comes can take.
func nextChange(t testing.TB, subscription *oversync.BundleChangeSubscription) oversync.BundleChange {
	t.Helper()
	select {
	case change, ok := <-subscription.Changes():
		require.True(t, ok, "the subscription has ended")
		return change
	case <-time.After(time.Minute):
		t.Fatal("no change came")
		return oversync.BundleChange{}
	}
}

func requireNoChange(t testing.TB, subscription *oversync.BundleChangeSubscription) {
	t.Helper()
	select {
	case change, ok := <-subscription.Changes():
		t.Fatalf("unexpected: %+v %v", change, ok)
	default:
	}
}

func TestWatchReportsWhatIsNewer(t *testing.T) {
	t.Parallel()
	service, _ := newWatched(t)
	require.True(t, service.GetCapabilities().Features["bundle_change_watch"])
	phone := newDevice(t, service, "ann", "phone")
	empty := subscribe(t, service, "ann", 0)
	requireNoChange(t, empty)
	phone.mustPush(t, insertNote(1, "a"))
	require.Equal(t, oversync.BundleChange{BundleSeq: 1, SourceID: "phone", SourceBundleID: 1}, nextChange(t, empty))

	writeNote(t, service, "ann", 2, "b")
	want := oversync.BundleChange{BundleSeq: 2, SourceID: "server", SourceBundleID: 1}
	require.Equal(t, want, nextChange(t, empty))
	for after := range int64(2) {
		require.Equal(t, want, nextChange(t, subscribe(t, service, "ann", after)), "at once")
	}
	current := subscribe(t, service, "ann", 2)
	requireNoChange(t, current)

	// Another scope is none of its business.
	writeNote(t, service, "bob", 1, "b")
	writeNote(t, service, "ann", 3, "c")
	require.EqualValues(t, 3, nextChange(t, current).BundleSeq)
	requireNoChange(t, current)
}

func TestASlowWatcherFindsTheNewest(t *testing.T) {
	t.Parallel()
	service, _ := newWatched(t)
	writeNote(t, service, "ann", 1, "a")
	slow, quick := subscribe(t, service, "ann", 1), subscribe(t, service, "ann", 1)
	for n := range 5 {
		writeNote(t, service, "ann", n, "b")
		require.EqualValues(t, n+2, nextChange(t, quick).BundleSeq)
	}
	require.EqualValues(t, 6, nextChange(t, slow).BundleSeq)
	requireNoChange(t, slow)

	quick.Close()
	quick.Close()
	_, open := <-quick.Changes()
	require.False(t, open)
	writeNote(t, service, "ann", 9, "c")
	require.EqualValues(t, 7, nextChange(t, slow).BundleSeq, "one that leaves does not disturb the other")
}

func TestWatchAcrossInstances(t *testing.T) {
	t.Parallel()
	first, pool := newWatched(t)
	second := openService(t, pool, watching(), slog.New(slog.DiscardHandler))
	oversync.SetWatchPollInterval(second, 24*time.Hour) // notifications alone bring them
	require.NoError(t, second.Bootstrap(t.Context()))
	newDevice(t, first, "ann", "phone")
	there := subscribe(t, second, "ann", 0)
	for n := range 21 {
		writeNote(t, first, "ann", n, "a")
		require.Equal(t, oversync.BundleChange{BundleSeq: int64(n) + 1, SourceID: "server", SourceBundleID: int64(n) + 1}, nextChange(t, there))
	}
}

func TestWatchFindsWhatNobodyTold(t *testing.T) {
	t.Parallel()
	service, pool := newWatched(t)
	silent := openService(t, pool, oversync.ServiceConfig{}, nil)
	newDevice(t, service, "ann", "phone")
	subscription := subscribe(t, service, "ann", 0)
	writeNote(t, silent, "ann", 1, "a")
	require.Equal(t, oversync.BundleChange{BundleSeq: 1, SourceID: "server", SourceBundleID: 1}, nextChange(t, subscription))
	require.False(t, silent.GetCapabilities().Features["bundle_change_watch"])
}

func TestTheListenerComesBack(t *testing.T) {
	t.Parallel()
	first, pool := newWatched(t)
	second := bootstrapped(t, pool, watching())
	newDevice(t, first, "ann", "phone")
	subscription := subscribe(t, second, "ann", 0)
	const listeners = `SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE datname = current_database() AND query LIKE '-- name: WatchListen%' AND pid <> ALL ($1)`
	both := func(except []int32) func() bool {
		return func() bool { return scalar[int64](t, pool, listeners, except) == 2 }
	}
	require.Eventually(t, both([]int32{}), time.Minute, 10*time.Millisecond)
	killed := scalar[[]int32](t, pool, `SELECT array_agg(pid) FROM pg_catalog.pg_stat_activity
		WHERE datname = current_database() AND query LIKE '-- name: WatchListen%' AND pg_terminate_backend(pid)`)
	require.Len(t, killed, 2, "one connection an instance")
	writeNote(t, first, "ann", 1, "while nobody listens")
	require.EqualValues(t, 1, nextChange(t, subscription).BundleSeq)
	require.Eventually(t, both(killed), time.Minute, 10*time.Millisecond)
	writeNote(t, first, "ann", 2, "a")
	require.EqualValues(t, 2, nextChange(t, subscription).BundleSeq)
}

func TestWatchersHoldNoConnection(t *testing.T) {
	t.Parallel()
	pool := newPoolWith(t, twoConnections)
	settings := watching()
	settings.RegisteredTables = tables("app.notes")
	service := newService(t, pool, notesDDL, &settings)
	newDevice(t, service, "ann", "phone")
	var all []*oversync.BundleChangeSubscription
	for range 100 {
		all = append(all, subscribe(t, service, "ann", 0))
	}
	writeNote(t, service, "ann", 1, "a")
	for _, subscription := range all {
		require.EqualValues(t, 1, nextChange(t, subscription).BundleSeq)
	}
	require.LessOrEqual(t, pool.Stat().TotalConns(), int32(2))
}

func TestWatchRefusals(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	reason := errors.New("not on this plan")
	config := watching()
	config.BundleChangeWatch.Authorize = func(_ context.Context, actor oversync.Actor) error {
		if actor.UserID == "eve" {
			return reason
		}
		return nil
	}
	config.RegisteredTables = tables("app.notes")
	pool := pgtest.NewPool(t)
	service := newService(t, pool, notesDDL, &config)
	off := openService(t, pool, oversync.ServiceConfig{}, nil)
	_, err := service.Connect(ctx, oversync.Actor{UserID: "bob", SourceID: "phone"}, &oversync.ConnectRequest{HasLocalPendingRows: true})
	require.NoError(t, err)
	refusal := func(service *oversync.SyncService, user string, after int64) error {
		_, err := service.SubscribeBundleChanges(ctx, oversync.Actor{UserID: user}, after)
		return err
	}
	requireType[*oversync.BundleChangeWatchDisabledError](t, refusal(off, "ann", 5))
	requireType[*oversync.BundleChangeWatchDisabledError](t, off.RunBundleChangeListener(ctx))
	requireType[*oversync.BundleChangeWatchForbiddenError](t, refusal(service, "eve", 0))
	require.ErrorIs(t, refusal(service, "eve", 0), reason)
	requireType[*oversync.ScopeUninitializedError](t, refusal(service, "nobody", 0))
	requireType[*oversync.ScopeInitializingError](t, refusal(service, "bob", 0))
	requireType[*oversync.RequestInvalidError](t, refusal(service, "ann", -1))
	requireType[*oversync.RequestInvalidError](t, refusal(service, " ", 0))
	require.NoError(t, service.Close(ctx))
	requireType[*oversync.ServiceClosedError](t, refusal(service, "ann", 5))
}

func TestCloseEndsWatchersAtOnce(t *testing.T) {
	t.Parallel()
	service, _ := newWatched(t)
	newDevice(t, service, "ann", "phone")
	subscription := subscribe(t, service, "ann", 0)
	status, err := service.GetStatus(t.Context())
	require.NoError(t, err)
	require.Zero(t, status.InFlightOperations)

	// Even while an operation keeps Close from returning.
	release := make(chan struct{})
	started := make(chan struct{})
	written := make(chan error, 1)
	manager := oversync.NewScopeManager(service, oversync.ScopeManagerConfig{})
	go func() {
		_, err := manager.ExecWrite(context.Background(), "bob", oversync.ScopeWriteOptions{WriterID: "server"}, blockedWrite(started, release))
		written <- err
	}()
	<-started
	closed := make(chan error, 1)
	go func() { closed <- service.Close(context.Background()) }()
	_, open := <-subscription.Changes()
	require.False(t, open)
	close(release)
	require.NoError(t, <-written)
	require.NoError(t, <-closed)
	subscription.Close()
}

func TestTheListenerRunsWithoutBootstrap(t *testing.T) {
	t.Parallel()
	other, pool := newWatched(t)
	service := openService(t, pool, watching(), nil)
	newDevice(t, other, "ann", "phone")
	ctx, cancel := context.WithCancel(t.Context())
	first, second := make(chan error, 1), make(chan error, 1)
	go func() { first <- service.RunBundleChangeListener(ctx) }()
	go func() { second <- service.RunBundleChangeListener(context.Background()) }()
	subscription := subscribe(t, service, "ann", 0)
	writeNote(t, other, "ann", 1, "a")
	require.EqualValues(t, 1, nextChange(t, subscription).BundleSeq)
	cancel()
	require.NoError(t, <-first)
	writeNote(t, other, "ann", 2, "b")
	require.EqualValues(t, 2, nextChange(t, subscription).BundleSeq, "the one that waited takes over")
	require.NoError(t, service.Close(t.Context()))
	require.NoError(t, <-second)
}

// BenchmarkWatchedCommit shows what the watch adds to a commit: compare off with
// on, where 1000 others watch.
func BenchmarkWatchedCommit(b *testing.B) {
	for _, on := range []bool{false, true} {
		b.Run(fmt.Sprintf("on=%v", on), func(b *testing.B) {
			config := oversync.ServiceConfig{BundleChangeWatch: oversync.BundleChangeWatchConfig{Enabled: on}, RegisteredTables: tables("app.notes")}
			service := newService(b, pgtest.NewPool(b), notesDDL, &config)
			for n := range 1000 {
				user := fmt.Sprint("user-", n)
				newDevice(b, service, user, "phone")
				if on {
					subscribe(b, service, user, 0)
				}
			}
			n := 0
			b.ResetTimer()
			for b.Loop() {
				n++
				writeNote(b, service, fmt.Sprint("user-", n%1000), n, "a")
			}
		})
	}
}

// blockedWrite returns a callback that says that it has started, waits, and then
// writes a note.
func blockedWrite(started chan<- struct{}, release <-chan struct{}) func(tx pgx.Tx) error {
	return func(tx pgx.Tx) error {
		close(started)
		<-release
		return insertNoteSQL(context.Background(), tx, 1, "a")
	}
}
