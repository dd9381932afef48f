package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"path"
	"strings"
	"sync"
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
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { cancel() }})
	case killDuring:
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { restart.do(n.server) }})
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
	if f == killAfter {
		restart.do(n.server)
	}
	switch failure := restart.failure(); {
	case failure != nil:
		return nil, failure // no fault of the test's, so nothing that a client should get over
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
	mu  sync.Mutex
	err error
}

func (r *restart) do(s *server) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = s.killAndRestart()
}

// failure waits for the restart if there is one.
func (r *restart) failure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
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
