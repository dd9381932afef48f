package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"path"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// fault is what becomes of one request.
type fault int

const (
	noFault    fault = iota
	cutBefore        // the connection breaks before the request leaves
	cutDuring        // it breaks when the request has left: whether it has an effect is open
	cutAfter         // it breaks when the server has answered: the request had its effect, nobody knows
	killDuring       // the server is killed when the request has left
	killAfter        // the server is killed when it has answered, and the answer is lost
)

var faults = map[string]fault{
	"cut before": cutBefore, "cut during": cutDuring, "cut after": cutAfter,
	"kill during": killDuring, "kill after": killAfter,
}

// errCut is what a client sees of every fault.
var errCut = errors.New("the connection broke")

// network is one client's way to the server. It follows the server through restarts, and breaks where told to.
type network struct {
	server *server

	mu     sync.Mutex
	decide func(r *http.Request) fault // nil is no fault
	seen   map[string]int              // requests by step
	broken int                         // faults so far
}

// breaks makes decide judge each request from now on.
func (n *network) breaks(decide func(r *http.Request) fault) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.decide = decide
}

// breaksAt makes the nth request of a step, counted from 1, meet a fault. 0 is any step, see stepOf.
func (n *network) breaksAt(step string, nth int, f fault) {
	hits := 0
	n.breaks(func(r *http.Request) fault {
		if step != "" && stepOf(r) != step {
			return noFault
		}
		if hits++; hits != nth {
			return noFault
		}
		return f
	})
}

// count returns how many requests of a step were made.
func (n *network) count(step string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.seen[step]
}

// faultsMet returns how many requests met a fault.
func (n *network) faultsMet() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.broken
}

// stepOf names the operation of a request.
func stepOf(r *http.Request) string {
	switch p := r.URL.Path; {
	case p == "/sync/push-sessions":
		return "create"
	case strings.HasSuffix(p, "/chunks"):
		return "chunk"
	case strings.HasSuffix(p, "/commit"):
		return "commit"
	case strings.HasPrefix(p, "/sync/push-sessions/"):
		return "abandon"
	case strings.HasSuffix(p, "/rows"):
		return "rows"
	case p == "/sync/snapshot-sessions":
		return "snapshot create"
	case strings.HasPrefix(p, "/sync/snapshot-sessions/") && r.Method == http.MethodGet:
		return "snapshot chunk"
	case strings.HasPrefix(p, "/sync/snapshot-sessions/"):
		return "snapshot end"
	default:
		return path.Base(p) // connect, pull, capabilities, status, health
	}
}

func (n *network) judge(r *http.Request) fault {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.seen == nil {
		n.seen = map[string]int{}
	}
	n.seen[stepOf(r)]++
	if n.decide == nil {
		return noFault
	}
	f := n.decide(r)
	if f != noFault {
		n.broken++
	}
	return f
}

// RoundTrip implements http.RoundTripper.
func (n *network) RoundTrip(r *http.Request) (*http.Response, error) {
	f := n.judge(r)
	if f == cutBefore {
		if r.Body != nil {
			_ = r.Body.Close()
		}
		return nil, errCut
	}
	address := n.server.baseURL()
	base, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(r.Context())
	var restart restart
	switch f {
	case cutDuring:
		ctx = whenLeft(ctx, cancel)
	case killDuring:
		ctx = whenLeft(ctx, func() { _ = restart.do(n.server) })
	}
	defer cancel()
	there := r.Clone(ctx)
	there.URL.Scheme, there.URL.Host, there.Host = base.Scheme, base.Host, base.Host
	resp, err := n.server.checked.RoundTrip(there)
	var body []byte
	if err == nil {
		// The whole answer is read here, so that a fault comes after the server has done with it.
		body, err = readAll(resp.Body)
	}
	if f == killDuring || f == killAfter {
		if failure := restart.do(n.server); failure != nil {
			return nil, failure // no fault of the test's, so nothing that a client should get over
		}
	}
	switch {
	case f != noFault:
		return nil, errCut
	case err != nil && n.server.baseURL() != address: // another client's fault has killed the server
		return nil, errors.Join(errCut, err)
	case err != nil:
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// restart is a kill that one goroutine makes and another wants to know the end of.
type restart struct {
	once sync.Once
	err  error
}

// do kills and restarts the server the first time it is called, and waits for the end of that the next.
func (r *restart) do(s *server) error {
	r.once.Do(func() { r.err = s.killAndRestart() })
	return r.err
}

// newTransport returns a transport that can tell when a request has left, see whenLeft.
func newTransport() *http.Transport {
	var dialer net.Dialer
	return &http.Transport{MaxIdleConnsPerHost: 8, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dialer.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &tellingConn{Conn: conn}, nil
	}}
}

// whenLeft returns a context for a request through newTransport. It calls then, once, when the request has been given to
// the kernel: the trace's WroteRequest comes before that for a request that fits into the transport's buffer.
func whenLeft(ctx context.Context, then func()) context.Context {
	var conn *tellingConn
	var start int64
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			conn = info.Conn.(*tellingConn)
			start = conn.count()
		},
		WroteRequest: func(httptrace.WroteRequestInfo) { conn.tellAfter(start, then) },
	})
}

// tellingConn tells of its writes.
type tellingConn struct {
	net.Conn

	mu      sync.Mutex
	written int64
	then    func() // for after the next write
}

func (c *tellingConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.mu.Lock()
	c.written += int64(n)
	then := c.then
	c.then = nil
	c.mu.Unlock()
	if then != nil {
		then()
	}
	return n, err
}

func (c *tellingConn) count() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.written
}

// tellAfter calls then now if something was written since start, as the transport does with all of a request that its
// buffer does not hold, or else after the next write.
func (c *tellingConn) tellAfter(start int64, then func()) {
	c.mu.Lock()
	isGone := c.written > start
	if !isGone {
		c.then = then
	}
	c.mu.Unlock()
	if isGone {
		then()
	}
}

// breaksAlways makes every request of a step meet a fault.
func (n *network) breaksAlways(step string, f fault) {
	n.breaks(func(r *http.Request) fault {
		if stepOf(r) == step {
			return f
		}
		return noFault
	})
}

// TestARequestThatIsCutHasLeft holds whenLeft to its word, for requests that the transport's buffer holds or not.
func TestARequestThatIsCutHasLeft(t *testing.T) {
	t.Parallel()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = listener.Close() }()
	transport := newTransport()
	for _, size := range []int{0, 100, 3900, 4096, 10_000, 1 << 20} {
		arrived := make(chan int, 1)
		go func() {
			n := -1
			defer func() { arrived <- n }()
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			defer func() { _ = conn.Close() }()
			if r, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				body, _ := io.ReadAll(r.Body)
				n = len(body)
			}
		}()
		ctx, cancel := context.WithCancel(t.Context())
		r, err := http.NewRequestWithContext(whenLeft(ctx, cancel), http.MethodPost, "http://"+listener.Addr().String(), bytes.NewReader(make([]byte, size)))
		require.NoError(t, err)
		_, err = transport.RoundTrip(r)
		require.Error(t, err)
		require.Equal(t, size, <-arrived)
	}
}
