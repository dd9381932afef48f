package httpapi

import (
	"net/http"

	oversync "github.com/oversync/oversync/sync"
)

// HandlePull serves GET /sync/pull: complete bundles after after_bundle_seq, in
// order, up to target_bundle_seq or the newest.
func (h *HTTPSyncHandlers) HandlePull(w http.ResponseWriter, r *http.Request) {
	h.serveActor(w, r, http.MethodGet, "pull", func(w http.ResponseWriter, actor oversync.Actor) error {
		query := newQueryNumbers(r, codeInvalidRequest)
		after, _ := query.number("after_bundle_seq", 0)
		target, _ := query.number("target_bundle_seq", 0)
		maxBundles, _ := query.number("max_bundles", 1) // 0, the default, if it is not given
		if query.err != nil {
			return query.err
		}
		return h.service.WritePull(r.Context(), actor, after, int(maxBundles), target, streamJSON{w})
	})
}
