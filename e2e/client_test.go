package e2e_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

// client speaks the protocol without the help of the device package, so that the two do not share a mistake.
type client struct {
	t      clientT
	net    *network
	user   string
	source string
	token  string
}

// change is a row of a push.
type change struct {
	Schema  string            `json:"schema"`
	Table   string            `json:"table"`
	Key     map[string]string `json:"key"`
	Op      string            `json:"op"`
	Base    int64             `json:"base_row_version"`
	Payload any               `json:"payload,omitempty"`
}

// effect is a row of a bundle or of a snapshot.
type effect struct {
	Schema  string            `json:"schema"`
	Table   string            `json:"table"`
	Key     map[string]string `json:"key"`
	Op      string            `json:"op"`
	Version int64             `json:"row_version"`
	Payload json.RawMessage   `json:"payload"`
}

// name is "table id" of a row.
func (e effect) name() string { return e.Table + " " + e.Key["id"] }

func names(rows []effect) []string {
	all := make([]string, len(rows))
	for i, row := range rows {
		all[i] = row.name()
	}
	return all
}

type bundle struct {
	Seq            int64    `json:"bundle_seq"`
	SourceID       string   `json:"source_id"`
	SourceBundleID int64    `json:"source_bundle_id"`
	RowCount       int64    `json:"row_count"`
	Hash           string   `json:"bundle_hash"`
	Rows           []effect `json:"rows"`
}

type object = map[string]any

func insert(table, id string, payload object) change {
	return change{Schema: "demo", Table: table, Key: map[string]string{"id": id}, Op: "INSERT", Payload: payload}
}

func recreate(table, id string, base int64, payload object) change {
	c := insert(table, id, payload)
	c.Base = base
	return c
}

func update(table, id string, base int64, payload object) change {
	return change{Schema: "demo", Table: table, Key: map[string]string{"id": id}, Op: "UPDATE", Base: base, Payload: payload}
}

func remove(table, id string, base int64) change {
	return change{Schema: "demo", Table: table, Key: map[string]string{"id": id}, Op: "DELETE", Base: base}
}

// client returns a client of a user as one source.
func (s *server) client(t clientT, user, source string) *client {
	t.Helper()
	return &client{t: t, net: &network{server: s}, user: user, source: source, token: mintToken(t, user)}
}

// initialized is client for a user whose scope is then initialized.
func (s *server) initialized(t testing.TB, user, source string) *client {
	t.Helper()
	c := s.client(t, user, source)
	c.ok(http.MethodPost, "/sync/connect", object{"has_local_pending_rows": false}, nil)
	return c
}

// as is the same user under another source.
func (c *client) as(source string) *client {
	other := *c
	other.source = source
	return &other
}

// do sends a request and returns the answer.
func (c *client) do(method, path string, in any) (status int, body []byte) {
	c.t.Helper()
	var payload []byte
	if in != nil {
		var err error
		payload, err = json.Marshal(in)
		require.NoError(c.t, err)
	}
	req, err := http.NewRequestWithContext(c.t.Context(), method, "http://server"+path, bytes.NewReader(payload))
	require.NoError(c.t, err)
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	req.Header.Set("Oversync-Source-ID", c.source)
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := (&http.Client{Transport: c.net}).Do(req)
	require.NoError(c.t, err)
	body, err = readAll(resp.Body)
	require.NoError(c.t, err)
	return resp.StatusCode, body
}

// ok sends a request that must succeed, and decodes the answer unless out is nil.
func (c *client) ok(method, path string, in, out any) {
	c.t.Helper()
	status, body := c.do(method, path, in)
	require.Contains(c.t, []int{http.StatusOK, http.StatusNoContent}, status, "%s %s: %s", method, path, body)
	if out != nil {
		require.NoError(c.t, json.Unmarshal(body, out), "%s %s: %s", method, path, body)
	}
}

// refused sends a request that must fail, and returns the fields of the answer.
func (c *client) refused(method, path string, in any, status int, code string) object {
	c.t.Helper()
	gotStatus, body := c.do(method, path, in)
	var fields object
	require.NoError(c.t, json.Unmarshal(body, &fields), "%s %s: %d %s", method, path, gotStatus, body)
	require.Equal(c.t, fmt.Sprint(status, " ", code), fmt.Sprint(gotStatus, " ", fields["error"]), "%s %s: %s", method, path, body)
	require.NotEmpty(c.t, fields["message"])
	return fields
}

// open begins a push.
func (c *client) open(id int64, planned int) (pushID string) {
	c.t.Helper()
	var session struct {
		PushID string `json:"push_id"`
		Status string `json:"status"`
	}
	c.ok(http.MethodPost, "/sync/push-sessions", object{"source_bundle_id": id, "planned_row_count": planned}, &session)
	require.Equal(c.t, "staging", session.Status)
	return session.PushID
}

// stage begins a push and uploads its rows, chunk rows at a time.
func (c *client) stage(id int64, chunk int, changes []change) (pushID string) {
	c.t.Helper()
	pushID = c.open(id, len(changes))
	for start := 0; start < len(changes); start += chunk {
		end := min(start+chunk, len(changes))
		var next struct {
			Next int `json:"next_expected_row_ordinal"`
		}
		c.ok(http.MethodPost, "/sync/push-sessions/"+pushID+"/chunks",
			object{"start_row_ordinal": start, "rows": changes[start:end]}, &next)
		require.Equal(c.t, end, next.Next)
	}
	return pushID
}

// push commits rows as one bundle and returns it as the server tells it, its hash recomputed.
func (c *client) push(id int64, changes ...change) bundle {
	c.t.Helper()
	return c.commit(c.stage(id, 1000, changes))
}

// pushRefused stages rows whose commit must fail.
func (c *client) pushRefused(id int64, status int, code string, changes ...change) object {
	c.t.Helper()
	return c.refused(http.MethodPost, "/sync/push-sessions/"+c.stage(id, 1000, changes)+"/commit", nil, status, code)
}

// commit ends a staged push and fetches the bundle that it became.
func (c *client) commit(pushID string) bundle {
	c.t.Helper()
	var done bundle
	c.ok(http.MethodPost, "/sync/push-sessions/"+pushID+"/commit", nil, &done)
	require.Equal(c.t, c.source, done.SourceID)
	got := c.committed(done.Seq, 1000)
	require.Equal(c.t, done.Hash, got.Hash)
	require.Equal(c.t, done.RowCount, got.RowCount)
	require.Equal(c.t, done.SourceBundleID, got.SourceBundleID)
	return got
}

// committed fetches a bundle, so many rows at a time, and checks its hash.
func (c *client) committed(seq int64, pageRows int) bundle {
	c.t.Helper()
	var all bundle
	for query := fmt.Sprintf("?max_rows=%d", pageRows); ; {
		var page struct {
			bundle
			Next    int64 `json:"next_row_ordinal"`
			HasMore bool  `json:"has_more"`
		}
		c.ok(http.MethodGet, fmt.Sprintf("/sync/committed-bundles/%d/rows%s", seq, query), nil, &page)
		rows := append(all.Rows, page.Rows...)
		all = page.bundle
		all.Rows = rows
		require.LessOrEqual(c.t, len(page.Rows), pageRows)
		if !page.HasMore {
			break
		}
		require.Equal(c.t, int64(len(rows)-1), page.Next, "next_row_ordinal is the ordinal of the last row")
		query = fmt.Sprintf("?after_row_ordinal=%d&max_rows=%d", page.Next, pageRows)
	}
	c.verify(all)
	return all
}

// pull fetches all bundles after a sequence, so many at a time.
func (c *client) pull(after int64, atATime int) []bundle {
	c.t.Helper()
	all := []bundle{}
	for target := int64(0); ; {
		var page struct {
			Stable  int64    `json:"stable_bundle_seq"`
			Bundles []bundle `json:"bundles"`
			HasMore bool     `json:"has_more"`
		}
		c.ok(http.MethodGet, fmt.Sprintf("/sync/pull?after_bundle_seq=%d&max_bundles=%d&target_bundle_seq=%d", after, atATime, target), nil, &page)
		require.LessOrEqual(c.t, len(page.Bundles), atATime)
		for _, b := range page.Bundles {
			require.Equal(c.t, after+1, b.Seq, "the sequence has no gaps")
			c.verify(b)
			after = b.Seq
		}
		all = append(all, page.Bundles...)
		if !page.HasMore {
			require.Equal(c.t, page.Stable, after)
			return all
		}
		require.NotEmpty(c.t, page.Bundles)
		target = page.Stable
	}
}

type snapshot struct {
	ID       string `json:"snapshot_id"`
	Seq      int64  `json:"snapshot_bundle_seq"`
	RowCount int64  `json:"row_count"`
}

type snapshotChunk struct {
	ID      string   `json:"snapshot_id"`
	Seq     int64    `json:"snapshot_bundle_seq"`
	Rows    []effect `json:"rows"`
	Next    int64    `json:"next_row_ordinal"`
	HasMore bool     `json:"has_more"`
}

func (c *client) snapshot() snapshot {
	c.t.Helper()
	var s snapshot
	c.ok(http.MethodPost, "/sync/snapshot-sessions", nil, &s)
	return s
}

func (c *client) snapshotChunk(s snapshot, after int64, rows int) snapshotChunk {
	c.t.Helper()
	var chunk snapshotChunk
	c.ok(http.MethodGet, fmt.Sprintf("/sync/snapshot-sessions/%s?after_row_ordinal=%d&max_rows=%d", s.ID, after, rows), nil, &chunk)
	require.Equal(c.t, s.ID, chunk.ID)
	require.Equal(c.t, s.Seq, chunk.Seq)
	require.LessOrEqual(c.t, len(chunk.Rows), rows)
	require.Equal(c.t, after+int64(len(chunk.Rows)), chunk.Next)
	return chunk
}

// snapshotRows reads a whole snapshot, so many rows at a time.
func (c *client) snapshotRows(s snapshot, atATime int) []effect {
	c.t.Helper()
	all := []effect{}
	for {
		chunk := c.snapshotChunk(s, int64(len(all)), atATime)
		all = append(all, chunk.Rows...)
		require.Equal(c.t, int64(len(all)) < s.RowCount, chunk.HasMore, "after %d of %d rows", len(all), s.RowCount)
		if !chunk.HasMore {
			return all
		}
	}
}

// verify recomputes the hash of a bundle from what was received.
func (c *client) verify(b bundle) {
	c.t.Helper()
	require.Len(c.t, b.Rows, int(b.RowCount), "bundle %d", b.Seq)
	rows := make([]any, len(b.Rows))
	for i, row := range b.Rows {
		require.Equal(c.t, b.Seq, row.Version)
		require.Equal(c.t, row.Op == "DELETE", row.Payload == nil, "a DELETE has no payload, the others have one")
		var payload any
		if row.Payload != nil {
			require.NoError(c.t, json.Unmarshal(row.Payload, &payload))
		}
		rows[i] = object{
			"key": row.Key, "op": row.Op, "payload": payload, "row_ordinal": i,
			"row_version": row.Version, "schema": row.Schema, "table": row.Table,
		}
	}
	canonical, err := json.Marshal(rows)
	require.NoError(c.t, err)
	sum := sha256.Sum256(canonical)
	require.Equal(c.t, hex.EncodeToString(sum[:]), b.Hash, "hash of bundle %d: %s", b.Seq, canonical)
}

// clientT is what a client needs of a test, which may be one of rapid.
type clientT interface {
	require.TestingT
	Helper()
	Context() context.Context
}
