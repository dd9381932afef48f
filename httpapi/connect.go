package httpapi

import (
	"net/http"

	oversync "github.com/oversync/oversync/sync"
)

// HandleConnect serves POST /sync/connect: it tells a source how to start in its
// scope. A body that is not one JSON object is invalid_request; connect_invalid
// is for a nil request in Go.
func (h *HTTPSyncHandlers) HandleConnect(w http.ResponseWriter, r *http.Request) {
	h.serveActor(w, r, http.MethodPost, "connect", func(w http.ResponseWriter, actor oversync.Actor) error {
		body, err := h.readBody(w, r)
		if err != nil {
			return err
		}
		var req oversync.ConnectRequest
		if err := oversync.DecodeRequest(body, &req); err != nil {
			return bodyFault(err, codeInvalidRequest)
		}
		resp, err := h.service.Connect(r.Context(), actor, &req)
		if err != nil {
			return err
		}
		return writeJSON(w, http.StatusOK, resp)
	})
}
