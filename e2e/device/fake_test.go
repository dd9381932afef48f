package device

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// fake is just enough of a server, in memory and for one scope, to see what the client does. It checks that the client
// keeps the rules a server relies on; what the real server does is for the tests against the real one.
type fake struct {
	mu          sync.Mutex
	initialized bool
	bundles     []fakeBundle
	floor       int64
	rows        map[string]fakeRow // by table/key
	next        map[string]int64   // by source
	retired     map[string]string
	sessions    map[string]*fakeSession
	snapshots   map[string][]wireRow
	ids         int

	// refuse, when set, may answer a request before the server looks at it. cut, when set, may lose the answer after.
	refuse func(r *http.Request) (status int, body string)
	cut    func(r *http.Request) bool
	log    []string // method and path of each request
}

type fakeRow struct {
	version int64
	deleted bool
	payload map[string]json.RawMessage
}

type fakeBundle struct {
	committed
	Rows []wireRow `json:"rows"`
}

type fakeSession struct {
	source  string
	bundle  int64
	planned int
	rows    []pushRow
}

func newFake() *fake {
	return &fake{
		rows: map[string]fakeRow{}, next: map[string]int64{}, retired: map[string]string{},
		sessions: map[string]*fakeSession{}, snapshots: map[string][]wireRow{},
	}
}

var errCut = errors.New("connection cut by the test")

// RoundTrip answers a request without a network.
func (f *fake) RoundTrip(r *http.Request) (*http.Response, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	f.log = append(f.log, r.Method+" "+r.URL.Path)
	w := httptest.NewRecorder()
	if f.refuse != nil {
		if status, body := f.refuse(r); status != 0 {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
			return w.Result(), nil
		}
	}
	f.serve(w, r)
	if f.cut != nil && f.cut(r) {
		return nil, errCut
	}
	return w.Result(), nil
}

func answer(w http.ResponseWriter, status int, body any) {
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		panic(err)
	}
}

func refuse(w http.ResponseWriter, status int, code string) {
	answer(w, status, map[string]string{"error": code, "message": "fake"})
}

func (f *fake) serve(w http.ResponseWriter, r *http.Request) {
	source := r.Header.Get("Oversync-Source-ID")
	var body []byte
	if r.Body != nil {
		body, _ = io.ReadAll(r.Body)
	}
	q := func(name string) int64 { n, _ := strconv.ParseInt(r.URL.Query().Get(name), 10, 64); return n }
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/sync/"), "/")
	switch {
	case parts[0] == "capabilities":
		answer(w, 200, map[string]any{"bundle_limits": map[string]int{"max_rows_per_push_chunk": 2}})
	case parts[0] == "connect":
		var in struct {
			Pending bool `json:"has_local_pending_rows"`
		}
		_ = json.Unmarshal(body, &in)
		switch {
		case f.initialized:
			answer(w, 200, map[string]string{"resolution": "remote_authoritative"})
		case in.Pending:
			answer(w, 200, map[string]string{"resolution": "initialize_local", "initialization_id": "lease"})
		default:
			f.initialized = true
			answer(w, 200, map[string]string{"resolution": "initialize_empty"})
		}
	case parts[0] == "push-sessions" && len(parts) == 1:
		f.create(w, source, body)
	case parts[0] == "push-sessions" && r.Method == http.MethodDelete:
		delete(f.sessions, parts[1])
		w.WriteHeader(204)
	case parts[0] == "push-sessions":
		s := f.sessions[parts[1]]
		switch {
		case s == nil:
			refuse(w, 404, "push_session_not_found")
		case parts[2] == "chunks":
			f.chunk(w, s, body)
		default:
			f.commit(w, parts[1], s)
		}
	case parts[0] == "committed-bundles":
		seq, _ := strconv.Atoi(parts[1])
		f.committedRows(w, r.URL.Query().Has("after_row_ordinal"), int(q("after_row_ordinal")), int(q("max_rows")), seq)
	case parts[0] == "pull":
		f.pull(w, q("after_bundle_seq"), int(q("max_bundles")), q("target_bundle_seq"))
	case parts[0] == "snapshot-sessions" && r.Method == http.MethodPost:
		f.snapshot(w, body)
	case parts[0] == "snapshot-sessions" && r.Method == http.MethodGet:
		rows, ok := f.snapshots[parts[1]]
		if !ok {
			refuse(w, 404, "snapshot_session_not_found")
			return
		}
		from := int(q("after_row_ordinal"))
		to := min(from+2, len(rows))
		answer(w, 200, map[string]any{"rows": rows[from:to], "next_row_ordinal": to, "has_more": to < len(rows)})
	default:
		delete(f.snapshots, parts[len(parts)-1])
		w.WriteHeader(204)
	}
}

func (f *fake) create(w http.ResponseWriter, source string, body []byte) {
	var in struct {
		Bundle  int64  `json:"source_bundle_id"`
		Planned int    `json:"planned_row_count"`
		Lease   string `json:"initialization_id"`
	}
	_ = json.Unmarshal(body, &in)
	for _, b := range f.bundles {
		if b.SourceID == source && b.SourceBundleID == in.Bundle && b.BundleSeq > f.floor {
			answer(w, 200, struct {
				Status string `json:"status"`
				fakeBundle
			}{"already_committed", fakeBundle{committed: b.committed}})
			return
		}
	}
	switch next := f.next[source] + 1; {
	case f.initialized == (in.Lease != ""):
		refuse(w, 400, "push_session_invalid")
	case f.retired[source] != "":
		refuse(w, 409, "source_retired")
	case in.Bundle < next:
		refuse(w, 409, "history_pruned")
	case in.Bundle > next:
		refuse(w, 409, "source_sequence_out_of_order")
	default:
		f.ids++
		id := fmt.Sprint("push-", f.ids)
		f.sessions[id] = &fakeSession{source: source, bundle: in.Bundle, planned: in.Planned}
		answer(w, 200, map[string]any{"push_id": id, "status": "staging"})
	}
}

func (f *fake) chunk(w http.ResponseWriter, s *fakeSession, body []byte) {
	var in struct {
		Start int       `json:"start_row_ordinal"`
		Rows  []pushRow `json:"rows"`
	}
	_ = json.Unmarshal(body, &in)
	switch {
	case in.Start != len(s.rows):
		refuse(w, 409, "push_chunk_out_of_order")
	case len(in.Rows) == 0 || len(in.Rows) > 2 || len(s.rows)+len(in.Rows) > s.planned:
		refuse(w, 400, "push_chunk_invalid")
	default:
		s.rows = append(s.rows, in.Rows...)
		answer(w, 200, map[string]any{"next_expected_row_ordinal": len(s.rows)})
	}
}

func (f *fake) commit(w http.ResponseWriter, id string, s *fakeSession) {
	if len(s.rows) != s.planned {
		refuse(w, 400, "push_commit_invalid")
		return
	}
	for _, p := range s.rows {
		now := f.rows[p.Table+"/"+p.Key["id"]]
		live := now.version > 0 && !now.deleted
		if (p.Op == opInsert) == live || p.BaseRowVersion != now.version {
			var row any
			if live {
				row = now.payload
			}
			answer(w, 409, map[string]any{"error": "push_conflict", "message": "fake", "conflict": map[string]any{
				"schema": p.Schema, "table": p.Table, "key": p.Key, "op": p.Op, "base_row_version": p.BaseRowVersion,
				"server_row_version": now.version, "server_row_deleted": now.deleted, "server_row": row,
			}})
			return
		}
	}
	delete(f.sessions, id)
	f.initialized = true
	f.next[s.source]++
	var rows []wireRow
	for _, p := range s.rows {
		rows = append(rows, f.effect(p.Table, p.Key["id"], p.Op, p.Payload))
	}
	answer(w, 200, f.bundle(s.source, s.bundle, rows).committed)
}

// effect changes a row as part of the bundle that is about to be made.
func (f *fake) effect(table, key, op string, payload json.RawMessage) wireRow {
	seq := int64(len(f.bundles)) + 1
	row := fakeRow{version: seq, deleted: op == opDelete}
	r := wireRow{Schema: "app", Table: table, Key: map[string]string{"id": key}, Op: op, RowVersion: seq}
	if op != opDelete {
		row.payload = map[string]json.RawMessage{}
		for k, v := range f.rows[table+"/"+key].payload {
			row.payload[k] = v
		}
		if err := json.Unmarshal(payload, &row.payload); err != nil {
			panic(err)
		}
		row.payload["id"], _ = json.Marshal(key)
		r.Payload, _ = json.Marshal(row.payload)
	}
	f.rows[table+"/"+key] = row
	return r
}

func (f *fake) bundle(source string, id int64, rows []wireRow) fakeBundle {
	hash, err := bundleHash(rows)
	if err != nil {
		panic(err)
	}
	b := fakeBundle{Rows: rows, committed: committed{
		BundleSeq: int64(len(f.bundles)) + 1, SourceID: source,
		SourceBundleID: id, RowCount: int64(len(rows)), BundleHash: hash,
	}}
	f.bundles = append(f.bundles, b)
	return b
}

// remote is a change that somebody else makes.
func (f *fake) remote(changes ...pushRow) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.initialized = true
	var rows []wireRow
	for _, c := range changes {
		rows = append(rows, f.effect(c.Table, c.Key["id"], c.Op, c.Payload))
	}
	f.next["remote"]++
	f.bundle("remote", f.next["remote"], rows)
}

func (f *fake) committedRows(w http.ResponseWriter, hasAfter bool, after, limit, seq int) {
	if int64(seq) <= f.floor {
		refuse(w, 409, "history_pruned")
		return
	}
	b := f.bundles[seq-1]
	from := 0
	if hasAfter {
		from = after + 1
	}
	to := min(from+min(limit, 2), len(b.Rows))
	answer(w, 200, map[string]any{"rows": b.Rows[from:to], "next_row_ordinal": to - 1, "has_more": to < len(b.Rows)})
}

func (f *fake) pull(w http.ResponseWriter, after int64, limit int, target int64) {
	newest := int64(len(f.bundles))
	switch {
	case !f.initialized:
		refuse(w, 409, "scope_uninitialized")
		return
	case after > newest || f.floor > 0 && after <= f.floor:
		refuse(w, 409, "history_pruned")
		return
	}
	if target == 0 {
		target = newest
	}
	to := min(after+int64(limit), target)
	answer(w, 200, map[string]any{"stable_bundle_seq": target, "bundles": f.bundles[after:to], "has_more": to < target})
}

func (f *fake) snapshot(w http.ResponseWriter, body []byte) {
	var in struct {
		Replacement *sourceReplacement `json:"source_replacement"`
	}
	_ = json.Unmarshal(body, &in)
	if r := in.Replacement; r != nil {
		if known := f.retired[r.Previous]; known != "" && known != r.New {
			refuse(w, 409, "source_retired")
			return
		}
		f.retired[r.Previous] = r.New
	}
	rows := []wireRow{}
	for name, row := range f.rows {
		if row.deleted {
			continue
		}
		table, key, _ := strings.Cut(name, "/")
		payload, _ := json.Marshal(row.payload)
		rows = append(rows, wireRow{Schema: "app", Table: table, Key: map[string]string{"id": key}, RowVersion: row.version, Payload: payload})
	}
	slices.SortFunc(rows, func(a, b wireRow) int { return strings.Compare(a.Table+a.Key["id"], b.Table+b.Key["id"]) })
	f.ids++
	id := fmt.Sprint("snapshot-", f.ids)
	f.snapshots[id] = rows
	answer(w, 200, map[string]any{"snapshot_id": id, "snapshot_bundle_seq": len(f.bundles), "row_count": len(rows)})
}

// count says how many requests had the method and a path that ends so.
func (f *fake) count(method, suffix string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, l := range f.log {
		if strings.HasPrefix(l, method+" ") && strings.HasSuffix(l, suffix) {
			n++
		}
	}
	return n
}
