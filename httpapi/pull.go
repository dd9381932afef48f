package httpapi

import (
	"net/http"

	oversync "github.com/oversync/oversync/sync"
)

// The page sizes of a pull, in bundles.
const (
	defaultBundlesPerPull = 1000
	maxBundlesPerPull     = 5000
)

// HandlePull serves GET /sync/pull: complete bundles after after_bundle_seq, in
// order, up to target_bundle_seq or the newest.
func (h *HTTPSyncHandlers) HandlePull(w http.ResponseWriter, r *http.Request) {
	h.serveActor(w, r, http.MethodGet, "pull", func(w http.ResponseWriter, actor oversync.Actor) error {
		query := newQueryNumbers(r, codeInvalidRequest)
		after, _ := query.number("after_bundle_seq", 0)
		target, _ := query.number("target_bundle_seq", 0)
		maxBundles, given := query.number("max_bundles", 1)
		if !given {
			maxBundles = defaultBundlesPerPull
		}
		if maxBundles > maxBundlesPerPull {
			query.fail("max_bundles must be at most %d", maxBundlesPerPull)
		}
		if query.err != nil {
			return query.err
		}
		return h.service.WritePull(r.Context(), actor, after, int(maxBundles), target, streamJSON{w})
	})
}
