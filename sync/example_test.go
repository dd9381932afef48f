package oversync_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/oversync/oversync/httpapi"
	oversync "github.com/oversync/oversync/sync"
)

// exampleConfig registers the one table that the examples sync.
func exampleConfig() *oversync.ServiceConfig {
	return &oversync.ServiceConfig{
		AppName:          "notes",
		RegisteredTables: []oversync.RegisteredTable{{Schema: "app", Table: "notes", SyncKeyColumns: []string{"id"}}},
	}
}

// The handlers in an application's own server, on a net/http mux, behind the
// authentication that the application has anyway.
func Example_ownServer() {
	pool, drop := newExamplePool()
	defer drop()
	ctx := context.Background()

	service, err := oversync.NewRuntimeService(pool, exampleConfig(), nil)
	check(err)
	defer func() { check(service.Close(ctx)) }()
	check(service.Bootstrap(ctx))

	// What the application has: a middleware that puts its user into the context.
	type sessionKey struct{}
	authenticated := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if cookie, err := r.Cookie("session"); err == nil {
				r = r.WithContext(context.WithValue(r.Context(), sessionKey{}, cookie.Value))
			}
			next.ServeHTTP(w, r)
		})
	}
	withActor := httpapi.ActorMiddleware(httpapi.ActorMiddlewareConfig{
		UserIDFromContext: func(ctx context.Context) (string, error) {
			user, ok := ctx.Value(sessionKey{}).(string)
			if !ok {
				return "", errors.New("no session")
			}
			return user, nil
		},
	})

	handlers := httpapi.NewHTTPSyncHandlers(service, nil)
	mux := http.NewServeMux()
	for pattern, handle := range map[string]http.HandlerFunc{
		"POST /sync/connect":                            handlers.HandleConnect,
		"GET /sync/capabilities":                        handlers.HandleCapabilities,
		"GET /sync/pull":                                handlers.HandlePull,
		"POST /sync/push-sessions":                      handlers.HandleCreatePushSession,
		"POST /sync/push-sessions/{push_id}/chunks":     handlers.HandlePushSessionChunk,
		"POST /sync/push-sessions/{push_id}/commit":     handlers.HandleCommitPushSession,
		"DELETE /sync/push-sessions/{push_id}":          handlers.HandleDeletePushSession,
		"GET /sync/committed-bundles/{bundle_seq}/rows": handlers.HandleGetCommittedBundleRows,
		"POST /sync/snapshot-sessions":                  handlers.HandleCreateSnapshotSession,
		"GET /sync/snapshot-sessions/{snapshot_id}":     handlers.HandleGetSnapshotChunk,
		"DELETE /sync/snapshot-sessions/{snapshot_id}":  handlers.HandleDeleteSnapshotSession,
	} {
		mux.Handle(pattern, authenticated(withActor(handle)))
	}
	mux.HandleFunc("GET /syncx/status", handlers.HandleStatus)
	mux.HandleFunc("GET /syncx/health", handlers.HandleHealth)
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "the application's own page") })
	server := httptest.NewServer(mux)
	defer server.Close()

	request := func(method, path, cookie, body string) {
		req, err := http.NewRequest(method, server.URL+path, strings.NewReader(body))
		check(err)
		req.Header.Set(oversync.SourceIDHeader, "phone")
		if cookie != "" {
			req.AddCookie(&http.Cookie{Name: "session", Value: cookie})
		}
		resp, err := server.Client().Do(req)
		check(err)
		defer func() { check(resp.Body.Close()) }()
		answer, err := io.ReadAll(resp.Body)
		check(err)
		fmt.Println(resp.StatusCode, string(answer))
	}
	request(http.MethodGet, "/", "", "")
	request(http.MethodPost, "/sync/connect", "", `{}`)
	request(http.MethodPost, "/sync/connect", "anna", `{}`)
	request(http.MethodGet, "/sync/pull", "anna", "")
	// Output:
	// 200 the application's own page
	// 401 {"error":"authentication_failed","message":"the request carries no authenticated user"}
	// 200 {"resolution":"initialize_empty"}
	// 200 {"stable_bundle_seq":0,"bundles":[],"has_more":false}
}

// A router with every route of the protocol, and an authenticator of one's own
// instead of JSON Web Tokens.
func Example_customAuthenticator() {
	pool, drop := newExamplePool()
	defer drop()
	ctx := context.Background()

	service, err := oversync.NewRuntimeService(pool, exampleConfig(), nil)
	check(err)
	defer func() { check(service.Close(ctx)) }()
	check(service.Bootstrap(ctx))

	userOfKey := map[string]string{"key-of-anna": "anna"}
	server := httptest.NewServer(httpapi.NewRouter(httpapi.RouterConfig{
		Service: service,
		Authenticator: httpapi.AuthenticatorFunc(func(r *http.Request) (context.Context, error) {
			user, ok := userOfKey[r.Header.Get("X-API-Key")]
			if !ok {
				return nil, errors.New("send a known key in the header X-API-Key")
			}
			return httpapi.ContextWithUserID(r.Context(), user), nil
		}),
	}))
	defer server.Close()

	for _, key := range []string{"key-of-anna", "some other key"} {
		req, err := http.NewRequest(http.MethodPost, server.URL+"/sync/connect", strings.NewReader(`{"has_local_pending_rows":false}`))
		check(err)
		req.Header.Set("X-API-Key", key)
		req.Header.Set(oversync.SourceIDHeader, "phone")
		resp, err := server.Client().Do(req)
		check(err)
		answer, err := io.ReadAll(resp.Body)
		check(err)
		check(resp.Body.Close())
		fmt.Println(resp.StatusCode, string(answer))
	}
	// Output:
	// 200 {"resolution":"initialize_empty"}
	// 401 {"error":"authentication_failed","message":"send a known key in the header X-API-Key"}
}

// A server-side job writes into a user's scope. Devices pull what it wrote like
// anything else.
func ExampleScopeManager_ExecWrite() {
	pool, drop := newExamplePool()
	defer drop()
	ctx := context.Background()

	service, err := oversync.NewRuntimeService(pool, exampleConfig(), nil)
	check(err)
	defer func() { check(service.Close(ctx)) }()
	check(service.Bootstrap(ctx))
	manager := oversync.NewScopeManager(service, oversync.ScopeManagerConfig{})

	result, err := manager.ExecWrite(ctx, "anna", oversync.ScopeWriteOptions{WriterID: "welcome-job"}, func(tx pgx.Tx) error {
		// The scope column is left out: in a bundle it has a default.
		_, err := tx.Exec(ctx, `INSERT INTO app.notes (id, title) VALUES ('01890a5d-ac96-774b-bcce-b302099a8057', 'Welcome!')`)
		return err
	})
	check(err)
	fmt.Println("bundle", result.Bundle.BundleSeq, "by", result.Bundle.SourceID, "initialized the scope:", result.AutoInitialized)
	for _, row := range result.Bundle.Rows {
		fmt.Println(row.Op, oversync.Key(row.Schema, row.Table), row.Key["id"], string(row.Payload))
	}

	// A write that changes nothing is told apart from one that failed.
	_, err = manager.ExecWrite(ctx, "anna", oversync.ScopeWriteOptions{WriterID: "welcome-job"}, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM app.notes WHERE title = 'no such title'`)
		return err
	})
	var nothing *oversync.ScopeWriteNoCapturedChangesError
	fmt.Println("nothing changed:", errors.As(err, &nothing))
	// Output:
	// bundle 1 by welcome-job initialized the scope: true
	// INSERT app.notes 01890a5d-ac96-774b-bcce-b302099a8057 {"id":"01890a5d-ac96-774b-bcce-b302099a8057","stars":0,"title":"Welcome!"}
	// nothing changed: true
}

// A producer that has numbers of its own, such as offsets of a queue, uses them to
// make its writes happen once.
func ExampleSyncService_WithinSyncBundle() {
	pool, drop := newExamplePool()
	defer drop()
	ctx := context.Background()

	service, err := oversync.NewRuntimeService(pool, exampleConfig(), nil)
	check(err)
	defer func() { check(service.Close(ctx)) }()
	check(service.Bootstrap(ctx))
	anna := oversync.Actor{UserID: "anna"}
	_, err = service.Connect(ctx, oversync.Actor{UserID: "anna", SourceID: "phone"}, &oversync.ConnectRequest{})
	check(err)

	for _, offset := range []int64{1, 2, 2} { // the queue delivers its second message twice
		err := service.WithinSyncBundle(ctx, anna, oversync.BundleSource{SourceID: "queue", SourceBundleID: offset}, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `INSERT INTO app.notes (id, title) VALUES (gen_random_uuid(), 'from the queue')`)
			return err
		})
		var outOfOrder *oversync.SourceSequenceOutOfOrderError
		switch {
		case errors.As(err, &outOfOrder):
			fmt.Println("message", offset, "is done already; next is", outOfOrder.Expected)
		case err != nil:
			check(err)
		default:
			fmt.Println("message", offset, "is one bundle")
		}
	}
	// Output:
	// message 1 is one bundle
	// message 2 is one bundle
	// message 2 is done already; next is 3
}

// The time that each part of an operation takes, for a histogram by operation and
// stage.
func ExampleStageMetricsRecorderFunc() {
	pool, drop := newExamplePool()
	defer drop()
	ctx := context.Background()

	var mu sync.Mutex
	var seen []string
	config := exampleConfig()
	config.StageMetrics = oversync.StageMetricsRecorderFunc(func(_ context.Context, timing oversync.StageTiming) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, fmt.Sprintf("%s/%s count=%d attempt=%d error=%t", timing.Operation, timing.Stage, timing.Count, timing.Attempt, timing.Error))
	})
	service, err := oversync.NewRuntimeService(pool, config, nil)
	check(err)
	defer func() { check(service.Close(ctx)) }()
	check(service.Bootstrap(ctx))

	phone := oversync.Actor{UserID: "anna", SourceID: "phone"}
	_, err = service.Connect(ctx, phone, &oversync.ConnectRequest{})
	check(err)
	_, err = service.ProcessPull(ctx, phone, 0, 0, 0)
	check(err)
	mu.Lock()
	defer mu.Unlock()
	for _, line := range seen {
		fmt.Println(line)
	}
	// Output:
	// connect/look count=1 attempt=1 error=false
	// connect/resolve count=1 attempt=1 error=false
	// pull/head count=1 attempt=1 error=false
}
