package openapitest

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// recorder stands in for a test, so that a test can see what would fail it.
type recorder struct {
	testing.TB
	failures []string
}

func (r *recorder) Errorf(format string, args ...any) {
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// exchange sends one request to a server that gives one answer, and returns what
// the transport had to say about it.
func exchange(t *testing.T, method, target, request string, status int, answer string, headers ...string) []string {
	t.Helper()
	seen := &recorder{TB: t}
	client := &http.Client{Transport: Wrap(seen, roundTripper(func(req *http.Request) (*http.Response, error) {
		got, err := io.ReadAll(req.Body)
		require.NoError(t, err)
		require.Equal(t, request, string(got), "the server must see the body as it was sent")
		header := http.Header{"Content-Type": {"application/json"}}
		for i := 0; i < len(headers); i += 2 {
			header.Set(headers[i], headers[i+1])
		}
		return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(answer)), Request: req}, nil
	}))}
	req, err := http.NewRequest(method, "http://localhost:1"+target, strings.NewReader(request))
	require.NoError(t, err)
	req.Header.Set("Oversync-Source-ID", "device-a")
	if request != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := client.Do(req)
	require.NoError(t, err)
	got, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, answer, string(got), "the caller must see the answer as it was given")
	return seen.failures
}

func TestWhatTheDocumentAllows(t *testing.T) {
	t.Parallel()
	row := `{"schema":"s","table":"t","key":{"id":"k"},"op":"DELETE","row_version":1}`
	bundle := `{"bundle_seq":1,"source_id":"a","source_bundle_id":1,"row_count":1,"bundle_hash":"` + strings.Repeat("0", 64) + `","rows":[` + row + `]}`
	for _, tc := range []struct {
		method, target, request string
		status                  int
		answer                  string
		headers                 []string
	}{
		{"POST", "/sync/connect", `{}`, 200, `{"resolution":"initialize_empty"}`, nil},
		{"POST", "/sync/connect", `nonsense`, 400, `{"error":"invalid_request","message":"m"}`, nil},
		{"GET", "/sync/connect", ``, 405, `{"error":"method_not_allowed","message":"m"}`, []string{"Allow", "POST"}},
		{"GET", "/nowhere", ``, 404, `{"error":"not_found","message":"m"}`, nil},
		{"GET", "/sync/pull?after_bundle_seq=0", ``, 200, `{"stable_bundle_seq":1,"bundles":[` + bundle + `],"has_more":false}`, nil},
		{"DELETE", "/sync/push-sessions/0198f2a0-0000-7000-8000-000000000001", ``, 204, ``, nil},
		{"GET", "/sync/pull", ``, 401, `{"error":"authentication_failed","message":"m"}`, []string{"WWW-Authenticate", "Bearer"}},
		{"GET", "/sync/pull", ``, 503, `{"error":"service_unavailable","message":"m"}`, []string{"Retry-After", "1"}},
		{"GET", "/sync/watch", ``, 200, "event: bundle\n", []string{"Content-Type", "text/event-stream", "Cache-Control", "no-cache", "X-Accel-Buffering", "no"}},
		{
			"POST", "/sync/push-sessions/0198f2a0-0000-7000-8000-000000000001/chunks",
			`{"start_row_ordinal":0,"rows":[{"schema":"s","table":"t","key":{"id":"k"},"op":"insert","base_row_version":0,"payload":{"n":1e400}}]}`,
			200, `{"push_id":"0198f2a0-0000-7000-8000-000000000001","next_expected_row_ordinal":1}`, nil,
		},
		{"POST", "/sync/push-sessions", `{"source_bundle_id":1,"planned_row_count":1}`, 409, `{"error":"source_retired","message":"m","source_id":"a"}`, nil},
	} {
		require.Empty(t, exchange(t, tc.method, tc.target, tc.request, tc.status, tc.answer, tc.headers...), tc.target)
	}
}

func TestWhatTheDocumentRefuses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, method, target, request string
		status                        int
		answer                        string
		headers                       []string
	}{
		{"an unknown field", "POST", "/sync/connect", `{}`, 200, `{"resolution":"initialize_empty","more":1}`, nil},
		{"another endpoint's code", "POST", "/sync/connect", `{}`, 400, `{"error":"push_session_invalid","message":"m"}`, nil},
		{"an error with a field too many", "POST", "/sync/connect", `{}`, 400, `{"error":"invalid_request","message":"m","x":1}`, nil},
		{"an unknown status", "POST", "/sync/connect", `{}`, 418, `{}`, nil},
		{"another content type", "POST", "/sync/connect", `{}`, 200, `{"resolution":"initialize_empty"}`, []string{"Content-Type", "text/plain"}},
		{"an accepted bad body", "POST", "/sync/connect", `{"has_local_pending_rows":1}`, 200, `{"resolution":"initialize_empty"}`, nil},
		{"an accepted bad query", "GET", "/sync/pull?max_bundles=0", ``, 200, `{"stable_bundle_seq":1,"bundles":[],"has_more":false}`, nil},
		{"null for an array", "GET", "/sync/pull", ``, 200, `{"stable_bundle_seq":1,"bundles":null,"has_more":false}`, nil},
		{"no Retry-After", "GET", "/sync/pull", ``, 503, `{"error":"service_unavailable","message":"m"}`, nil},
		{"no Allow", "GET", "/sync/connect", ``, 405, `{"error":"method_not_allowed","message":"m"}`, nil},
		{"an unknown path that is served", "GET", "/nowhere", ``, 200, `{}`, nil},
		{"a buffered stream", "GET", "/sync/watch", ``, 200, "", []string{"Content-Type", "text/event-stream"}},
		{
			"a payload on a DELETE", "POST", "/sync/push-sessions/0198f2a0-0000-7000-8000-000000000001/chunks",
			`{"rows":[{"table":"t","key":{"id":"k"},"op":"DELETE","payload":{}}]}`,
			200, `{"push_id":"0198f2a0-0000-7000-8000-000000000001","next_expected_row_ordinal":1}`, nil,
		},
	} {
		require.NotEmpty(t, exchange(t, tc.method, tc.target, tc.request, tc.status, tc.answer, tc.headers...), tc.name)
	}
}

func TestABrokenAnswerIsPassedOn(t *testing.T) {
	t.Parallel()
	seen := &recorder{TB: t}
	client := &http.Client{Transport: Wrap(seen, roundTripper(func(req *http.Request) (*http.Response, error) {
		body := io.NopCloser(io.MultiReader(strings.NewReader(`{"sta`), failingReader{io.ErrUnexpectedEOF}))
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: body, Request: req}, nil
	}))}
	resp, err := client.Get("http://localhost:1/sync/pull")
	require.NoError(t, err)
	got, err := io.ReadAll(resp.Body)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.Equal(t, `{"sta`, string(got))
	require.Empty(t, seen.failures)
}
