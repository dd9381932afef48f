package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/gorilla/mux"
	"github.com/stretchr/testify/require"

	oversync "github.com/oversync/oversync/sync"
)

// routes lists the protocol's paths with their methods.
var routes = []struct {
	path, methods string
	public        bool
	operations    string // a method each
}{
	{"/sync/connect", "POST", false, "connect"},
	{"/sync/push-sessions", "POST", false, "push_session_create"},
	{"/sync/push-sessions/p/chunks", "POST", false, "push_chunk"},
	{"/sync/push-sessions/p/commit", "POST", false, "push_session_commit"},
	{"/sync/push-sessions/p", "DELETE", false, "push_session_delete"},
	{"/sync/committed-bundles/1/rows", "GET", false, "committed_bundle_rows"},
	{"/sync/pull", "GET", false, "pull"},
	{"/sync/watch", "GET", false, "bundle_change_watch"},
	{"/sync/snapshot-sessions", "POST", false, "snapshot_session_create"},
	{"/sync/snapshot-sessions/s", "DELETE, GET", false, "snapshot_session_delete, snapshot_chunk"},
	{"/sync/capabilities", "GET", false, "capabilities"},
	{"/syncx/status", "GET", true, "status"},
	{"/syncx/health", "GET", true, "health"},
}

type client struct {
	handler http.Handler
	token   string
}

func newClient(t *testing.T, cfg RouterConfig) client {
	t.Helper()
	auth, err := NewHS256(HS256Config{Secret: testSecret})
	require.NoError(t, err)
	cfg.Authenticator = auth
	token := mint(t, jwt.SigningMethodHS256, testSecret, jwt.MapClaims{"sub": "user-1", "exp": time.Now().Add(time.Hour).Unix()})
	return client{handler: NewRouter(cfg), token: token}
}

func (c client) do(method, path, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+c.token)
	r.Header.Set(oversync.SourceIDHeader, "device-a")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	rec := httptest.NewRecorder()
	c.handler.ServeHTTP(rec, r)
	return rec
}

func requireError(t *testing.T, rec *httptest.ResponseRecorder, status int, code string, msg ...any) {
	t.Helper()
	require.Equal(t, status, rec.Code, msg...)
	require.Equal(t, "application/json", rec.Header().Get("Content-Type"), msg...)
	require.True(t, strings.HasPrefix(rec.Body.String(), `{"error":"`+code+`","message":"`), rec.Body.String())
}

func TestRoutesTakeTheirMethodsAlone(t *testing.T) {
	t.Parallel()
	c := newClient(t, RouterConfig{})
	for _, route := range routes {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"} {
			if strings.Contains(route.methods, method) {
				continue
			}
			rec := c.do(method, route.path, "")
			requireError(t, rec, 405, "method_not_allowed", method+" "+route.path)
			require.Equal(t, route.methods, rec.Header().Get("Allow"))
		}
		for method := range strings.SplitSeq(route.methods, ", ") {
			if route.public {
				continue
			}
			requireError(t, c.do(method, route.path, "", "Authorization", ""), 401, "authentication_failed", route.path)
			requireError(t, c.do(method, route.path, "", "Authorization", "", oversync.SourceIDHeader, ""), 401, "authentication_failed")
			requireError(t, c.do(method, route.path, "", oversync.SourceIDHeader, " "), 400, "invalid_request", route.path)
		}
	}
}

// A message is read by who writes the client, and says what to send instead.
func TestRefusalsOfAQuerySayWhatToSend(t *testing.T) {
	t.Parallel()
	c := newClient(t, RouterConfig{})
	for query, remedy := range map[string]string{
		"after_bundle_seq=9223372036854775808":  "from 0 to 9223372036854775807",
		"max_bundles=0":                         "from 1 to",
		"after_bundle_seq=1&after_bundle_seq=1": "send it once",
		"after_bundle_seq=%zz":                  "percent-encoded",
	} {
		rec := c.do("GET", "/sync/pull?"+query, "")
		requireError(t, rec, 400, "invalid_request", query)
		require.Contains(t, rec.Body.String(), remedy, query)
	}
}

// A connection that is cut instead is a network error to clients, which repeat the
// request for ever.
func TestAPanicBeforeTheHandlerIsAnswered(t *testing.T) {
	t.Parallel()
	var logs bytes.Buffer
	handler := NewRouter(RouterConfig{
		Authenticator: AuthenticatorFunc(func(*http.Request) (context.Context, error) { panic("boom") }),
		Logger:        slog.New(slog.NewTextHandler(&logs, nil)),
	})
	for _, route := range routes {
		if route.public {
			continue
		}
		operations := strings.Split(route.operations, ", ")
		for i, method := range strings.Split(route.methods, ", ") {
			logs.Reset()
			rec := httptest.NewRecorder()
			handler.ServeHTTP(rec, httptest.NewRequest(method, route.path, nil))
			requireError(t, rec, 500, operations[i]+"_failed", method+" "+route.path)
			require.NotContains(t, rec.Body.String(), "boom")
			require.Contains(t, logs.String(), "operation="+operations[i]+" ")
			require.Contains(t, logs.String(), "boom")
			require.Equal(t, 1, strings.Count(logs.String(), "level=ERROR"))
		}
	}
}

// A panic that ends a request on purpose is net/http's to handle.
func TestAnAuthenticatorMayCutTheConnection(t *testing.T) {
	t.Parallel()
	handler := NewRouter(RouterConfig{Authenticator: AuthenticatorFunc(func(*http.Request) (context.Context, error) { panic(http.ErrAbortHandler) })})
	require.PanicsWithValue(t, http.ErrAbortHandler, func() {
		handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/sync/pull", nil))
	})
}

func TestUnknownPaths(t *testing.T) {
	t.Parallel()
	c := newClient(t, RouterConfig{})
	for _, path := range []string{"/", "/sync", "/sync/pull/", "/sync//pull", "/sync/push-sessions//commit", "/sync/watchers", "/metrics"} {
		requireError(t, c.do("GET", path, ""), 404, "not_found", path)
		requireError(t, c.do("POST", path, ""), 404, "not_found", path)
	}
}

func TestWithoutAuthenticatorNobodyComesIn(t *testing.T) {
	t.Parallel()
	rec := httptest.NewRecorder()
	NewRouter(RouterConfig{}).ServeHTTP(rec, httptest.NewRequest("GET", "/sync/pull", nil))
	requireError(t, rec, 401, "authentication_failed")
	require.Equal(t, "Bearer", rec.Header().Get("WWW-Authenticate"))
}

func TestQueriesAreRefusedWithTheEndpointsCode(t *testing.T) {
	t.Parallel()
	c := newClient(t, RouterConfig{})
	cases := map[string]struct {
		path   string
		values []string
	}{
		"invalid_request": {"/sync/pull", []string{
			"after_bundle_seq", "target_bundle_seq", "max_bundles",
		}},
		"committed_bundle_chunk_invalid": {"/sync/committed-bundles/1/rows", []string{"after_row_ordinal", "max_rows"}},
		"snapshot_chunk_invalid":         {"/sync/snapshot-sessions/s", []string{"after_row_ordinal", "max_rows"}},
	}
	for code, tc := range cases {
		for _, name := range tc.values {
			for _, value := range []string{"-1", "x", "1.0", "1e3", "%2B1", "+1", "0x1", "1_000", "1&" + name + "=1", "%zz", "%D9%A1"} {
				requireError(t, c.do("GET", tc.path+"?"+name+"="+value, ""), 400, code, name+"="+value)
			}
			if name != "max_rows" { // which is lowered
				requireError(t, c.do("GET", tc.path+"?"+name+"=9223372036854775808", ""), 400, code, name)
			}
			if strings.HasPrefix(name, "max_") {
				requireError(t, c.do("GET", tc.path+"?"+name+"=0", ""), 400, code, name)
			}
		}
	}
	for _, seq := range []string{"0", "-1", "x", "1.5", "99999999999999999999"} {
		requireError(t, c.do("GET", "/sync/committed-bundles/"+seq+"/rows", ""), 400, "committed_bundle_chunk_invalid", seq)
	}
}

func TestBodiesAreRefusedWithTheEndpointsCode(t *testing.T) {
	t.Parallel()
	c := newClient(t, RouterConfig{})
	bad := []string{"null", "[]", "1", `"x"`, "{", "{} {}", "{}x", "not json", `{"a":1,"a":2}`}
	for path, code := range map[string]string{
		"/sync/connect":           "invalid_request",
		"/sync/push-sessions":     "push_session_invalid",
		"/sync/snapshot-sessions": "snapshot_session_invalid",
	} {
		for _, body := range bad {
			requireError(t, c.do("POST", path, body), 400, code, path+" "+body)
		}
	}
	requireError(t, c.do("POST", "/sync/connect", ""), 400, "invalid_request")
	requireError(t, c.do("POST", "/sync/connect", `{"has_local_pending_rows":"yes"}`), 400, "invalid_request")
	requireError(t, c.do("POST", "/sync/push-sessions", ""), 400, "push_session_invalid")
	requireError(t, c.do("POST", "/sync/push-sessions", `{"source_bundle_id":"1"}`), 400, "push_session_invalid")
	requireError(t, c.do("POST", "/sync/snapshot-sessions", `{"replace":1}`), 400, "snapshot_session_invalid")
	requireError(t, c.do("POST", "/sync/snapshot-sessions", `{"source_replacement":{"extra":1}}`), 400, "snapshot_session_invalid")
}

func TestTheRateIsThatOfAUser(t *testing.T) {
	t.Parallel()
	c := newClient(t, RouterConfig{RateLimit: RateLimit{PerSecond: 1e-5, Burst: 1}})
	other := client{handler: c.handler, token: mint(t, jwt.SigningMethodHS256, testSecret, jwt.MapClaims{"sub": "user-2", "exp": time.Now().Add(time.Hour).Unix()})}
	for range 3 { // which are nobody's
		requireError(t, c.do("GET", "/sync/pull", "", "Authorization", ""), 401, "authentication_failed")
		requireError(t, c.do("GET", "/sync/pull", "", oversync.SourceIDHeader, " "), 400, "invalid_request")
	}
	for _, c := range []client{c, other} {
		requireError(t, c.do("POST", "/sync/connect", "null"), 400, "invalid_request", "it passes")
		for _, route := range routes {
			for method := range strings.SplitSeq(route.methods, ", ") {
				if route.public {
					continue
				}
				rec := c.do(method, route.path, "", oversync.SourceIDHeader, "device-b")
				requireError(t, rec, 429, "rate_limited", method+" "+route.path)
				require.NotEmpty(t, rec.Header().Get("Retry-After"))
			}
		}
		requireError(t, c.do("POST", "/syncx/health", ""), 405, "method_not_allowed", "who looks after the server is not counted")
	}
}

func TestBodiesOverTheLimit(t *testing.T) {
	t.Parallel()
	c := newClient(t, RouterConfig{MaxBodyBytes: 100})
	server := httptest.NewServer(c.handler)
	defer server.Close()
	for _, path := range []string{"/sync/connect", "/sync/push-sessions", "/sync/push-sessions/p/chunks", "/sync/push-sessions/p/commit", "/sync/snapshot-sessions"} {
		body := strings.Repeat(" ", 101)
		requireError(t, c.do("POST", path, body), 413, "request_too_large", path)

		// Chunked, so that the length is not announced.
		req, err := http.NewRequest("POST", server.URL+path, io.MultiReader(strings.NewReader(body)))
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+c.token)
		req.Header.Set(oversync.SourceIDHeader, "device-a")
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		require.Equal(t, 413, resp.StatusCode, path)
		require.NoError(t, resp.Body.Close())
	}
	for _, route := range routes { // those that read no body too
		for method := range strings.SplitSeq(route.methods, ", ") {
			requireError(t, c.do(method, route.path, strings.Repeat(" ", 101)), 413, "request_too_large", method+" "+route.path)
		}
	}
	requireError(t, c.do("POST", "/sync/connect", "{"+strings.Repeat(" ", 99)), 400, "invalid_request", "exactly the limit is read")
}

// TestBodiesThatDoNotArriveWhole tells the faults of a connection, which another try
// mends, from those of the client. Clients take 400 as final.
func TestBodiesThatDoNotArriveWhole(t *testing.T) {
	t.Parallel()
	c := newClient(t, RouterConfig{})
	server := httptest.NewUnstartedServer(c.handler)
	server.Config.ReadTimeout = 2 * time.Second
	server.Start()
	t.Cleanup(server.Close)
	for name, tc := range map[string]struct {
		rest   string // of the head, and the body
		closes bool
		status int
	}{
		"half closed":         {"Content-Length: 100\r\n\r\n{", true, 503},
		"half closed, chunks": {"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", true, 503},
		"too slow":            {"Content-Length: 100\r\n\r\n{", false, 503},
		"malformed chunks":    {"Transfer-Encoding: chunked\r\n\r\nx\r\n", true, 400},
		"truncated JSON":      {"Content-Length: 1\r\n\r\n{", true, 400},
	} {
		for _, path := range []string{"/sync/connect", "/sync/push-sessions/p/commit"} {
			if path != "/sync/connect" && name == "truncated JSON" {
				continue // that body is ignored
			}
			t.Run(name+path, func(t *testing.T) {
				t.Parallel()
				conn, err := net.Dial("tcp", server.Listener.Addr().String())
				require.NoError(t, err)
				defer func() { _ = conn.Close() }()
				_, err = io.WriteString(conn, "POST "+path+" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+c.token+"\r\n"+oversync.SourceIDHeader+": device-a\r\n"+tc.rest)
				require.NoError(t, err)
				if tc.closes {
					require.NoError(t, conn.(*net.TCPConn).CloseWrite())
				}
				resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
				require.NoError(t, err)
				body, err := io.ReadAll(resp.Body)
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
				require.Equal(t, tc.status, resp.StatusCode, "%s", body)
				code := map[int]string{400: "invalid_request", 503: "service_unavailable"}[tc.status]
				require.Contains(t, string(body), `{"error":"`+code+`"`)
				require.Equal(t, tc.status == 503, resp.Header.Get("Retry-After") != "")
			})
		}
	}
}

func TestAHandlerAloneNeedsAnActorAndItsMethod(t *testing.T) {
	t.Parallel()
	h, _ := testHandlers()
	rec := httptest.NewRecorder()
	h.HandlePull(rec, httptest.NewRequest("GET", "/sync/pull", nil))
	requireError(t, rec, 401, "authentication_failed")
	rec = httptest.NewRecorder()
	h.HandlePull(rec, httptest.NewRequest("POST", "/sync/pull", nil))
	requireError(t, rec, 405, "method_not_allowed")
}

func TestPathParametersInAnyRouter(t *testing.T) {
	t.Parallel()
	const want = "0198f2a0-0000-7000-8000-000000000001"
	var got string
	handle := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = pushID(r) })

	withMux := mux.NewRouter()
	withMux.Handle("/api/sync/push-sessions/{push_id}/chunks", handle)
	stdlib := http.NewServeMux()
	stdlib.Handle("POST /api/sync/push-sessions/{push_id}/chunks", handle)
	otherNames := http.NewServeMux()
	otherNames.Handle("POST /api/sync/push-sessions/{id}/chunks", handle)
	for name, router := range map[string]http.Handler{"mux": withMux, "stdlib": stdlib, "other names": otherNames, "none": handle} {
		got = ""
		router.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", "/api/sync/push-sessions/"+want+"/chunks", nil))
		require.Equal(t, want, got, name)
	}
	handle.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("DELETE", "/sync/push-sessions/"+want, nil))
	require.Equal(t, want, got)
}

func TestRequestID(t *testing.T) {
	t.Parallel()
	c := newClient(t, RouterConfig{})
	require.Equal(t, "abc-1", c.do("GET", "/", "", RequestIDHeader, "abc-1").Header().Get(RequestIDHeader))
	for _, bad := range []string{"", "a b", "a\"\x01", strings.Repeat("x", 129)} {
		id := c.do("GET", "/", "", RequestIDHeader, bad).Header().Get(RequestIDHeader)
		require.NotEqual(t, bad, id)
		require.Len(t, id, 36)
	}
}

// A reader that stops must not hold the handler; one that reads slowly must not
// be cut.
func TestAStalledReaderIsCutOff(t *testing.T) {
	t.Parallel()
	failed := make(chan error, 1)
	server := httptest.NewServer(stallTimeout(50 * time.Millisecond)(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		block := make([]byte, 1<<20)
		for {
			if _, err := w.Write(block); err != nil {
				failed <- err
				return
			}
		}
	})))
	defer server.Close()
	resp, err := http.Get(server.URL)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	select {
	case err := <-failed:
		require.ErrorContains(t, err, "timeout")
	case <-time.After(10 * time.Second):
		t.Fatal("the handler still waits for a reader that does not read")
	}
}

// A client that sends request after request and reads no answer: each is too small to
// leave the server before its handler has returned.
func TestAPipeliningClientThatDoesNotReadIsCutOff(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func(http.ResponseWriter){
		"body":    func(w http.ResponseWriter) { _, _ = w.Write(make([]byte, 1000)) },
		"no body": func(w http.ResponseWriter) { w.WriteHeader(http.StatusNoContent) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(stallTimeout(50 * time.Millisecond)(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w) })))
			defer server.Close()
			conn, err := net.Dial("tcp", server.Listener.Addr().String())
			require.NoError(t, err)
			defer func() { _ = conn.Close() }()
			require.NoError(t, conn.SetWriteDeadline(time.Now().Add(20*time.Second)))
			requests := bytes.Repeat([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), 1000)
			for err == nil {
				_, err = conn.Write(requests)
			}
			require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "the server still waits")
		})
	}
}

// An answer's deadline must not end what follows on its connection.
func TestAnIdleConnectionOutlivesTheStallLimit(t *testing.T) {
	t.Parallel()
	const limit = 500 * time.Millisecond // a busy machine must not take as long over an answer
	server := httptest.NewServer(stallTimeout(limit)(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })))
	defer server.Close()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	reader := bufio.NewReader(conn)
	for range 2 {
		_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		require.NoError(t, err)
		resp, err := http.ReadResponse(reader, nil)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		<-time.After(2 * limit)
	}
}

// hijackable is a writer whose connection can be taken over, and that counts the
// deadlines set on it.
type hijackable struct {
	*httptest.ResponseRecorder
	deadlines int
}

func (w *hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, nil }

func (w *hijackable) SetWriteDeadline(time.Time) error {
	w.deadlines++
	return nil
}

func TestStallTimeoutLeavesAConnectionThatWasTakenOver(t *testing.T) {
	t.Parallel()
	w := &hijackable{ResponseRecorder: httptest.NewRecorder()}
	stallTimeout(time.Minute)(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _, err := http.NewResponseController(w).Hijack()
		require.NoError(t, err)
	})).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	require.Zero(t, w.deadlines, "it is the watcher's")

	stallTimeout(time.Minute)(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "short")
	})).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	require.Equal(t, 1, w.deadlines)
}
