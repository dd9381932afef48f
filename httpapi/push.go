package httpapi

import (
	"net/http"

	oversync "github.com/oversync/oversync/sync"
)

// HandleCreatePushSession serves POST /sync/push-sessions: it opens a session,
// or says that the bundle is already committed. Any fault of the body is
// push_session_invalid, the code that the endpoint names.
func (h *HTTPSyncHandlers) HandleCreatePushSession(w http.ResponseWriter, r *http.Request) {
	h.serveActor(w, r, http.MethodPost, "push_session_create", func(w http.ResponseWriter, actor oversync.Actor) error {
		body, err := h.readBody(w, r)
		if err != nil {
			return err
		}
		var req oversync.PushSessionCreateRequest
		if err := oversync.DecodeRequest(body, &req); err != nil {
			return bodyFault(err, "push_session_invalid")
		}
		resp, err := h.service.CreatePushSession(r.Context(), actor, &req)
		if err != nil {
			return err
		}
		return writeJSON(w, http.StatusOK, resp)
	})
}

// HandlePushSessionChunk serves POST /sync/push-sessions/{push_id}/chunks: it
// stages the next rows of a session. Any fault of the body is
// push_chunk_invalid.
func (h *HTTPSyncHandlers) HandlePushSessionChunk(w http.ResponseWriter, r *http.Request) {
	h.serveActor(w, r, http.MethodPost, "push_chunk", func(w http.ResponseWriter, actor oversync.Actor) error {
		body, err := h.readBody(w, r)
		if err != nil {
			return err
		}
		// The service reads the JSON itself: payloads pass through as bytes.
		resp, err := h.service.UploadPushChunkJSON(r.Context(), actor, pushID(r), body)
		if err != nil {
			return bodyFault(err, "push_chunk_invalid")
		}
		return writeJSON(w, http.StatusOK, resp)
	})
}

// HandleCommitPushSession serves POST /sync/push-sessions/{push_id}/commit: it
// makes the staged rows one bundle, or changes nothing. A body is ignored.
func (h *HTTPSyncHandlers) HandleCommitPushSession(w http.ResponseWriter, r *http.Request) {
	h.serveActor(w, r, http.MethodPost, "push_session_commit", func(w http.ResponseWriter, actor oversync.Actor) error {
		if err := h.discardBody(w, r); err != nil {
			return err
		}
		resp, err := h.service.CommitPushSession(r.Context(), actor, pushID(r))
		if err != nil {
			return err
		}
		return writeJSON(w, http.StatusOK, resp)
	})
}

// HandleDeletePushSession serves DELETE /sync/push-sessions/{push_id}: it drops
// a session that will not be committed.
func (h *HTTPSyncHandlers) HandleDeletePushSession(w http.ResponseWriter, r *http.Request) {
	h.serveActor(w, r, http.MethodDelete, "push_session_delete", func(w http.ResponseWriter, actor oversync.Actor) error {
		if err := h.service.DeletePushSession(r.Context(), actor, pushID(r)); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
}

// HandleGetCommittedBundleRows serves GET /sync/committed-bundles/{bundle_seq}/rows:
// the rows of one committed bundle, from after_row_ordinal on. Any fault of the
// path or the query is committed_bundle_chunk_invalid.
func (h *HTTPSyncHandlers) HandleGetCommittedBundleRows(w http.ResponseWriter, r *http.Request) {
	const code = "committed_bundle_chunk_invalid"
	h.serveActor(w, r, http.MethodGet, "committed_bundle_rows", func(w http.ResponseWriter, actor oversync.Actor) error {
		bundleSeq, ok := parseNumber(pathParameter(r, "bundle_seq", "committed-bundles"))
		if !ok || bundleSeq < 1 {
			return &requestError{code: code, message: "the bundle sequence in the path must be a whole number from 1 to 9223372036854775807"}
		}
		query := newQueryNumbers(r, code)
		var after *int64 // nil starts before the first row, whose ordinal is 0
		if n, given := query.number("after_row_ordinal", 0); given {
			after = &n
		}
		maxRows := query.maxRows()
		if query.err != nil {
			return query.err
		}
		return h.service.WriteCommittedBundleRows(r.Context(), actor, bundleSeq, after, maxRows, streamJSON{w})
	})
}

func pushID(r *http.Request) string { return pathParameter(r, "push_id", "push-sessions") }
