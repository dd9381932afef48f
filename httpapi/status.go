package httpapi

import (
	"net/http"

	oversync "github.com/oversync/oversync/sync"
)

// HandleCapabilities serves GET /sync/capabilities: what a client can ask of this
// server.
func (h *HTTPSyncHandlers) HandleCapabilities(w http.ResponseWriter, r *http.Request) {
	h.serve(w, r, http.MethodGet, "capabilities", func(w http.ResponseWriter) error {
		if h.service.IsClosing() {
			return &oversync.ServiceClosedError{}
		}
		return writeJSON(w, http.StatusOK, h.service.GetCapabilities())
	})
}

// HandleStatus serves GET /syncx/status for operators. It needs no authentication
// and always answers 200 when the status could be read.
func (h *HTTPSyncHandlers) HandleStatus(w http.ResponseWriter, r *http.Request) {
	h.serve(w, r, http.MethodGet, "status", func(w http.ResponseWriter) error {
		status, err := h.service.GetStatus(r.Context())
		if err != nil {
			return err
		}
		return writeJSON(w, http.StatusOK, status)
	})
}

// HandleHealth serves GET /syncx/health for load balancers: the body of the
// status with 200 while the service is healthy and takes operations, else with
// 503.
func (h *HTTPSyncHandlers) HandleHealth(w http.ResponseWriter, r *http.Request) {
	h.serve(w, r, http.MethodGet, "health", func(w http.ResponseWriter) error {
		status, err := h.service.GetStatus(r.Context())
		if err != nil {
			return err
		}
		code := http.StatusOK
		if status.Status != "healthy" || !status.AcceptingOperations {
			code = http.StatusServiceUnavailable
		}
		return writeJSON(w, code, status)
	})
}
