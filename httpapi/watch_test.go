package httpapi_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/oversync/oversync/httpapi"
	oversync "github.com/oversync/oversync/sync"
)

// newWatchAPI is newAPI with the watch on, and a scope of "ann" that is
// initialized.
func newWatchAPI(t testing.TB) *api {
	t.Helper()
	a := newAPI(t, func(config *oversync.ServiceConfig) {
		config.BundleChangeWatch.Enabled = true
		config.BundleChangeWatch.Authorize = func(_ context.Context, actor oversync.Actor) error {
			if actor.UserID == "eve" {
				return errors.New("secret reason")
			}
			return nil
		}
	})
	a.device("ann", "phone").initialized()
	return a
}

// watchRouter is a router with heartbeats and timeouts that a test can wait for.
func (a *api) watchRouter(heartbeat, stall time.Duration) http.Handler {
	return httpapi.NewRouter(httpapi.RouterConfig{
		Service: a.service, Authenticator: httpapi.AuthenticatorFunc(tokenIsUser), WatchHeartbeat: heartbeat, WriteStallTimeout: stall,
	})
}

// write commits a bundle of the source "server".
func (a *api) write(user, note string) {
	a.t.Helper()
	manager := oversync.NewScopeManager(a.service, oversync.ScopeManagerConfig{Logger: slog.New(slog.DiscardHandler)})
	_, err := manager.ExecWrite(context.Background(), user, oversync.ScopeWriteOptions{WriterID: "server"}, func(tx pgx.Tx) error {
		_, err := tx.Exec(context.Background(), `INSERT INTO business.notes (id, body) VALUES ($1, 'a')`, note)
		return err
	})
	require.NoError(a.t, err)
}

// watcher reads server-sent events.
type watcher struct {
	t     testing.TB
	resp  *http.Response
	lines *bufio.Scanner
}

func watchRequest(ctx context.Context, url, user, query string) *http.Request {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/sync/watch"+query, nil)
	if err != nil {
		panic(err) // the parts are ours
	}
	req.Header.Set("Authorization", "Bearer "+user)
	req.Header.Set(oversync.SourceIDHeader, "phone")
	return req
}

func openWatch(t testing.TB, client *http.Client, url, query string) *watcher {
	t.Helper()
	resp, err := client.Do(watchRequest(t.Context(), url, "ann", query))
	require.NoError(t, err)
	t.Cleanup(func() { _ = resp.Body.Close() })
	require.Equal(t, 200, resp.StatusCode)
	return &watcher{t: t, resp: resp, lines: bufio.NewScanner(resp.Body)}
}

// next returns the next event or comment, its lines joined by |. At the end it
// returns "".
func (w *watcher) next() string {
	var lines []string
	for w.lines.Scan() && w.lines.Text() != "" {
		lines = append(lines, w.lines.Text())
	}
	return strings.Join(lines, "|")
}

// nextIs requires a bundle's event after any number of heartbeats.
func (w *watcher) nextIs(seq, sourceBundleID int) {
	w.t.Helper()
	got := w.next()
	for start := time.Now(); got == ": heartbeat"; got = w.next() {
		require.Less(w.t, time.Since(start), time.Minute, "bundle %d is not told of", seq)
	}
	require.Equal(w.t, fmt.Sprintf(`event: bundle|data: {"bundle_seq":%d,"source_id":"server","source_bundle_id":%d}`, seq, sourceBundleID), got)
}

// Over HTTP/1 the connection is taken over, over HTTP/2 it cannot be.
func TestWatch(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*httptest.Server){
		"http1":     (*httptest.Server).Start,
		"http1-tls": (*httptest.Server).StartTLS,
		"http2": func(s *httptest.Server) {
			s.EnableHTTP2 = true
			s.StartTLS()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newWatchAPI(t)
			server := httptest.NewUnstartedServer(a.watchRouter(20*time.Millisecond, 0))
			server.Config.ReadTimeout = 5 * time.Second // a watcher must outlive it; a TLS handshake on a busy machine must not
			start(server)
			defer func() {
				_ = a.service.Close(context.WithoutCancel(t.Context())) // ends the watchers: a server waits for those over HTTP/2
				server.Close()
			}()

			w := openWatch(t, server.Client(), server.URL, "?after_bundle_seq=0")
			require.Equal(t, map[string]int{"http1": 1, "http1-tls": 1, "http2": 2}[name], w.resp.ProtoMajor)
			require.Equal(t, "text/event-stream", w.resp.Header.Get("Content-Type"))
			require.Equal(t, "no-cache", w.resp.Header.Get("Cache-Control"))
			require.Equal(t, "no", w.resp.Header.Get("X-Accel-Buffering"))
			require.NotEmpty(t, w.resp.Header.Get("Date"))
			require.NotEmpty(t, w.resp.Header.Get(httpapi.RequestIDHeader))
			a.write("ann", "n1")
			w.nextIs(1, 1)
			for start := time.Now(); time.Since(start) < server.Config.ReadTimeout+time.Second; {
				require.Equal(t, ": heartbeat", w.next())
			}
			a.write("ann", "n2")
			w.nextIs(2, 2)

			late := openWatch(t, server.Client(), server.URL, "?after_bundle_seq=1")
			late.nextIs(2, 2)
			require.NoError(t, a.service.Close(t.Context()))
			for _, w := range []*watcher{w, late} {
				for w.next() != "" {
				}
				require.NoError(t, w.lines.Err(), "a proper end")
			}
		})
	}
}

func TestWatchHeartbeats(t *testing.T) {
	t.Parallel()
	require.Equal(t, 25*time.Second, httpapi.DefaultWatchHeartbeat, "what proxies are set up for")
	a := newWatchAPI(t)
	server := httptest.NewServer(a.watchRouter(10*time.Millisecond, 0))
	defer server.Close()
	w := openWatch(t, server.Client(), server.URL, "")
	for range 3 {
		require.Equal(t, ": heartbeat", w.next())
	}
	require.NoError(t, a.service.Close(t.Context()))
}

// A watcher whose place in the history is no longer there, or not yet, is woken
// like any other: the pull that follows says that it must rebuild.
func TestWatchFromAPlaceThatIsNotThere(t *testing.T) {
	t.Parallel()
	a := newWatchAPI(t)
	server := httptest.NewServer(a.watchRouter(20*time.Millisecond, 0))
	defer server.Close()
	ahead := openWatch(t, server.Client(), server.URL, "?after_bundle_seq=1")
	require.Equal(t, ": heartbeat", ahead.next(), "there is no bundle to tell of")
	a.write("ann", "n1")
	ahead.nextIs(1, 1)
	for n := range 4 {
		a.write("ann", fmt.Sprint("m", n))
	}
	a.exec(`SELECT sync.prune(3)`)
	for _, after := range []string{"", "?after_bundle_seq=0", "?after_bundle_seq=1", "?after_bundle_seq=2", "?after_bundle_seq=4", "?after_bundle_seq=6", "?after_bundle_seq=9223372036854775807"} {
		openWatch(t, server.Client(), server.URL, after).nextIs(5, 5)
	}
	require.Equal(t, ": heartbeat", openWatch(t, server.Client(), server.URL, "?after_bundle_seq=5").next())
	require.NoError(t, a.service.Close(t.Context()))
}

func TestWatchRefusals(t *testing.T) {
	t.Parallel()
	newAPI(t, nil).device("ann", "phone").do("GET", "/sync/watch", "").refused(503, "bundle_change_watch_disabled")

	a := newWatchAPI(t)
	ann := a.device("ann", "phone")
	for _, after := range []string{"-1", "x", "1&after_bundle_seq=2"} {
		ann.do("GET", "/sync/watch?after_bundle_seq="+after, "").refused(400, "invalid_request", after)
	}
	ann.do("GET", "/sync/watch", "", oversync.SourceIDHeader, " ").refused(400, "invalid_request")
	ann.do("GET", "/sync/watch", "", "Authorization", "").refused(401, "authentication_failed")
	ann.do("POST", "/sync/watch", "").refused(405, "method_not_allowed")
	a.device("eve", "phone").do("GET", "/sync/watch", "").refused(403, "bundle_change_watch_forbidden")
	a.device("nobody", "phone").do("GET", "/sync/watch", "").refused(409, "scope_uninitialized")
	a.device("bob", "phone").connect(true).ok()
	a.device("bob", "phone").do("GET", "/sync/watch", "").refused(409, "scope_initializing")
	a.execAny(`alter schema sync rename to secret`)
	ann.do("GET", "/sync/watch?after_bundle_seq=5", "").refused(500, "bundle_change_watch_failed")
	a.forbidConnections()
	ann.do("GET", "/sync/watch?after_bundle_seq=5", "").refused(503, "service_unavailable")
	require.NoError(t, a.service.Close(t.Context()))
	ann.do("GET", "/sync/watch?after_bundle_seq=5", "").refused(503, "service_unavailable")
}

// closings tells when a server's connections are closed.
type closings struct {
	net.Listener
	closed chan struct{}
}

type closingConn struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *closings) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &closingConn{Conn: conn, closed: l.closed}, nil
}

func (c *closingConn) Close() error {
	c.once.Do(func() { c.closed <- struct{}{} })
	return c.Conn.Close()
}

func TestAWatcherThatLeavesIsForgotten(t *testing.T) {
	t.Parallel()
	a := newWatchAPI(t)
	server := httptest.NewUnstartedServer(a.watchRouter(time.Hour, 0))
	listener := &closings{Listener: server.Listener, closed: make(chan struct{}, 1)}
	server.Listener = listener
	server.Start()
	defer server.Close()
	w := openWatch(t, server.Client(), server.URL, "")
	require.NoError(t, w.resp.Body.Close())
	select {
	case <-listener.closed:
	case <-time.After(time.Minute):
		t.Fatal("the server keeps a connection that the client has left")
	}
}

// pipes is a listener whose connections have no buffer, so that a client that does
// not read is noticed at once.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	conn, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (p pipes) Close() error {
	close(p)
	return nil
}

func (p pipes) Addr() net.Addr { return &net.UnixAddr{} }

func TestAWatcherThatDoesNotReadIsDropped(t *testing.T) {
	t.Parallel()
	a := newWatchAPI(t)
	listener := make(pipes)
	server := &http.Server{Handler: a.watchRouter(time.Hour, time.Second), ReadHeaderTimeout: time.Minute}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	here, there := net.Pipe()
	listener <- there
	require.NoError(t, watchRequest(t.Context(), "http://server", "ann", "").Write(here))
	reader := bufio.NewReader(here)
	resp, err := http.ReadResponse(reader, nil)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	a.write("ann", "n1")
	// Not reading, but writing, which fails once the server has given up.
	require.Eventually(t, func() bool {
		_, err := here.Write([]byte("x"))
		return err != nil
	}, time.Minute, 10*time.Millisecond)
	require.NoError(t, server.Close())
	require.ErrorIs(t, <-served, http.ErrServerClosed)
}

const (
	// maxBytesPerWatcher is what one watcher may take of the server's heap and stacks.
	maxBytesPerWatcher = 20 << 10
	manyWatchers       = 2000
)

func TestManyWatchersTakeLittleMemoryAndWakeSoon(t *testing.T) {
	// Not parallel: it measures memory and time of the whole process.
	a := newWatchAPI(t)
	server := httptest.NewServer(a.watchRouter(0, 0))
	defer server.Close()
	conns, perWatcher := openManyWatchers(t, server.Listener.Addr().String(), manyWatchers)
	t.Logf("%d bytes a watcher", perWatcher)
	require.Less(t, perWatcher, int64(maxBytesPerWatcher))

	delay := wakeAll(t, a, conns, "n1")
	t.Logf("all %d woken within %v", len(conns), delay)
	require.NoError(t, a.service.Close(t.Context()))
	for _, conn := range conns {
		_, err := conn.Read(make([]byte, 1))
		require.Error(t, err)
		require.NoError(t, conn.Close())
	}
}

// BenchmarkWatchers reports the memory that a watcher takes, the client's socket
// in the same process included, and how long it takes to wake all of them.
func BenchmarkWatchers(b *testing.B) {
	a := newWatchAPI(b)
	server := httptest.NewServer(a.watchRouter(0, 0))
	defer server.Close()
	conns, perWatcher := openManyWatchers(b, server.Listener.Addr().String(), manyWatchers)
	defer func() {
		for _, conn := range conns {
			_ = conn.Close()
		}
	}()
	n := 0
	b.ResetTimer()
	for b.Loop() {
		n++
		wakeAll(b, a, conns, fmt.Sprint("n", n))
	}
	b.ReportMetric(float64(perWatcher), "B/watcher")
}

// openManyWatchers opens watchers on bare sockets, and returns the bytes of heap and
// stack that each takes once all that is garbage is gone.
func openManyWatchers(t testing.TB, addr string, n int) (conns []net.Conn, perWatcher int64) {
	t.Helper()
	before := heapAndStacks()
	var head [1024]byte
	for range n {
		conn, err := net.Dial("tcp", addr)
		require.NoError(t, err)
		conns = append(conns, conn)
		_, err = fmt.Fprintf(conn, "GET /sync/watch HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ann\r\n%s: phone\r\n\r\n", oversync.SourceIDHeader)
		require.NoError(t, err)
		size, err := conn.Read(head[:])
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(string(head[:size]), "HTTP/1.1 200 OK\r\n"), "%s", head[:size])
	}
	return conns, (heapAndStacks() - before) / int64(n)
}

func heapAndStacks() int64 {
	// Twice, since stacks shrink and pools empty in the second.
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc + stats.StackInuse)
}

// wakeAll commits a bundle and returns how long it took until the last watcher
// had its event.
func wakeAll(t testing.TB, a *api, conns []net.Conn, note string) time.Duration {
	t.Helper()
	a.write("ann", note)
	start := time.Now()
	var event [256]byte
	for _, conn := range conns {
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(time.Minute)))
		n, err := conn.Read(event[:])
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(string(event[:n]), "event: bundle\n"), "%s", event[:n])
	}
	return time.Since(start)
}
