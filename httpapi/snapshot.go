package httpapi

import (
	"bytes"
	"net/http"

	oversync "github.com/oversync/oversync/sync"
)

// HandleCreateSnapshotSession serves POST /sync/snapshot-sessions: it freezes the
// scope at its newest bundle, and replaces the caller's source if the body asks
// for it. An empty body asks for nothing. Any fault of the body, unknown fields
// included, is snapshot_session_invalid.
func (h *HTTPSyncHandlers) HandleCreateSnapshotSession(w http.ResponseWriter, r *http.Request) {
	h.serveActor(w, r, http.MethodPost, "snapshot_session_create", func(w http.ResponseWriter, actor oversync.Actor) error {
		body, err := h.readBody(w, r)
		if err != nil {
			return err
		}
		var req oversync.SnapshotSessionCreateRequest
		if len(bytes.TrimSpace(body)) > 0 {
			if err := oversync.DecodeRequestKnownFields(body, &req); err != nil {
				return bodyFault(err, "snapshot_session_invalid")
			}
		}
		resp, err := h.service.CreateSnapshotSessionWithRequest(r.Context(), actor, &req)
		if err != nil {
			return err
		}
		return writeJSON(w, http.StatusOK, resp)
	})
}

// HandleGetSnapshotChunk serves GET /sync/snapshot-sessions/{snapshot_id}: rows of
// a frozen scope after after_row_ordinal. Any fault of the query is
// snapshot_chunk_invalid.
func (h *HTTPSyncHandlers) HandleGetSnapshotChunk(w http.ResponseWriter, r *http.Request) {
	h.serveActor(w, r, http.MethodGet, "snapshot_chunk", func(w http.ResponseWriter, actor oversync.Actor) error {
		query := newQueryNumbers(r, "snapshot_chunk_invalid")
		after, _ := query.number("after_row_ordinal", 0)
		maxRows := query.maxRows()
		if query.err != nil {
			return query.err
		}
		return h.service.WriteSnapshotChunk(r.Context(), actor, snapshotID(r), after, maxRows, streamJSON{w})
	})
}

// HandleDeleteSnapshotSession serves DELETE /sync/snapshot-sessions/{snapshot_id}:
// it lets a snapshot go before it expires.
func (h *HTTPSyncHandlers) HandleDeleteSnapshotSession(w http.ResponseWriter, r *http.Request) {
	h.serveActor(w, r, http.MethodDelete, "snapshot_session_delete", func(w http.ResponseWriter, actor oversync.Actor) error {
		if err := h.service.DeleteSnapshotSession(r.Context(), actor, snapshotID(r)); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
}

func snapshotID(r *http.Request) string {
	return pathParameter(r, "snapshot_id", "snapshot-sessions")
}
