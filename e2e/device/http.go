package device

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// APIError is an answer of the server that is not a success.
type APIError struct {
	Status  int             // HTTP status
	Code    string          // the protocol's code, for example push_conflict; empty when a proxy answered
	Message string          // for a person
	Body    json.RawMessage // the whole answer, for the codes that carry more
	// RetryAfter is the wait that the server asked for; 0 when it did not.
	RetryAfter time.Duration
	RequestID  string // of the header X-Request-ID: the server's log has more under it
}

func (e *APIError) Error() string {
	return fmt.Sprintf("device: the server answered %d %s: %s (X-Request-ID %s)", e.Status, e.Code, e.Message, e.RequestID)
}

// hasCode says whether the error is an answer of the server with one of the codes.
func hasCode(err error, codes ...string) bool {
	var api *APIError
	if !errors.As(err, &api) {
		return false
	}
	for _, c := range codes {
		if api.Code == c {
			return true
		}
	}
	return false
}

type client struct {
	base, token, source string
	http                *http.Client
	backoff             Backoff
}

func newClient(cfg Config) *client {
	c := &client{base: strings.TrimRight(cfg.BaseURL, "/"), token: cfg.Token, http: cfg.HTTPClient, backoff: cfg.Backoff}
	if c.http == nil {
		c.http = &http.Client{Timeout: time.Minute}
	}
	b := &c.backoff
	if b.Attempts <= 0 {
		b.Attempts = 6
	}
	if b.Base <= 0 {
		b.Base = 200 * time.Millisecond
	}
	if b.Max <= 0 {
		b.Max = 10 * time.Second
	}
	if b.Sleep == nil {
		b.Sleep = func(ctx context.Context, d time.Duration) error {
			timer := time.NewTimer(d)
			defer timer.Stop()
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-timer.C:
				return nil
			}
		}
	}
	return c
}

// wait sleeps after the attempt (from 0), with jitter so that many devices do not come back in step, and never
// less than atLeast.
func (c *client) wait(ctx context.Context, attempt int, atLeast time.Duration) error {
	d := min(c.backoff.Max, c.backoff.Base<<min(attempt, 20))
	d = d/2 + rand.N(d/2+1) //nolint:gosec // jitter needs no secrecy
	return c.backoff.Sleep(ctx, max(d, atLeast))
}

// do sends a request, tries again what a retry can mend (429, 502, 503, 504 and a failed connection), and decodes
// the answer into out. Every request of the protocol may be repeated: either it has no effect of its own, or its
// repetition is answered with a code that the caller handles.
func (c *client) do(ctx context.Context, method, path string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return fmt.Errorf("device: encode request: %w", err)
		}
	}
	for attempt := 0; ; attempt++ {
		err := c.once(ctx, method, path, body, out)
		if err == nil || ctx.Err() != nil || attempt+1 >= c.backoff.Attempts {
			return err
		}
		var api *APIError
		var after time.Duration
		if errors.As(err, &api) {
			switch api.Status {
			case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
				after = api.RetryAfter
			default:
				return err // any other answer is final
			}
		}
		if err := c.wait(ctx, attempt, after); err != nil {
			return err
		}
	}
}

func (c *client) once(ctx context.Context, method, path string, body []byte, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("device: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Oversync-Source-ID", c.source)
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("device: %s %s: %w", method, path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("device: read the answer to %s %s: %w", method, path, err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		api := &APIError{Status: resp.StatusCode, Body: text, RetryAfter: retryAfter(resp.Header.Get("Retry-After")), RequestID: resp.Header.Get("X-Request-ID")}
		var fields struct{ Error, Message string }
		if json.Unmarshal(text, &fields) == nil {
			api.Code, api.Message = fields.Error, fields.Message
		} else {
			api.Message = http.StatusText(resp.StatusCode)
		}
		return api
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("device: the answer to %s %s is not as the protocol says: %w", method, path, err)
	}
	return nil
}

// retryAfter reads the header in both of its forms.
func retryAfter(header string) time.Duration {
	if seconds, err := strconv.Atoi(header); err == nil {
		return time.Duration(max(seconds, 0)) * time.Second
	}
	if at, err := http.ParseTime(header); err == nil {
		return max(time.Until(at), 0)
	}
	return 0
}
