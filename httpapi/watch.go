package httpapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"time"

	oversync "github.com/oversync/oversync/sync"
)

// DefaultWatchHeartbeat is how often a watcher hears that it is still connected,
// if nothing else happens.
const DefaultWatchHeartbeat = 25 * time.Second

// WithWatchHeartbeat sets the time between the heartbeats of HandleWatch. Zero or
// less keeps DefaultWatchHeartbeat.
func WithWatchHeartbeat(d time.Duration) HandlerOption {
	return func(h *HTTPSyncHandlers) {
		if d > 0 {
			h.watchHeartbeat = d
		}
	}
}

// WithWatchWriteTimeout sets how long a watcher may take no byte before HandleWatch
// drops it. Zero or less keeps DefaultWriteStallTimeout.
func WithWatchWriteTimeout(d time.Duration) HandlerOption {
	return func(h *HTTPSyncHandlers) {
		if d > 0 {
			h.watchWriteTimeout = d
		}
	}
}

var heartbeat = []byte(": heartbeat\n\n")

// HandleWatch serves GET /sync/watch: server-sent events that say when the scope
// has a bundle after after_bundle_seq. The answer lasts until the client leaves,
// stops reading, or the service closes.
//
// Where the connection can be taken over (HTTP/1) it is, and the handler returns
// at once: a watcher waits for hours, and the server's buffers, the request and the
// handler's stack would wait with it. http.Server.Shutdown does not know of such a
// connection; SyncService.Close ends it.
func (h *HTTPSyncHandlers) HandleWatch(w http.ResponseWriter, r *http.Request) {
	h.serveActor(w, r, http.MethodGet, "bundle_change_watch", func(w http.ResponseWriter, actor oversync.Actor) error {
		query := newQueryNumbers(r, codeInvalidRequest)
		after, _ := query.number("after_bundle_seq", 0)
		if query.err != nil {
			return query.err
		}
		subscription, err := h.service.SubscribeBundleChanges(r.Context(), actor, after)
		if err != nil {
			return err
		}
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Cache-Control", "no-cache")
		w.Header().Set("X-Accel-Buffering", "no")
		control := http.NewResponseController(w)
		if conn, _, err := control.Hijack(); err == nil {
			h.watchHijacked(conn, w.Header(), r.ProtoMinor, subscription)
			return nil
		}
		defer subscription.Close()
		// A server's read timeout is meant for requests, and would end this one.
		_ = control.SetReadDeadline(time.Time{})
		w.WriteHeader(http.StatusOK)
		if err := control.Flush(); err != nil {
			return err
		}
		return watch{
			changes: subscription.Changes(), gone: r.Context().Done(), heartbeat: h.watchHeartbeat,
			write: func(event []byte) error {
				_ = control.SetWriteDeadline(time.Now().Add(h.watchWriteTimeout))
				if _, err := w.Write(event); err != nil {
					return err
				}
				return control.Flush()
			},
		}.run()
	})
}

// watchHijacked serves a watcher on its bare connection, in goroutines of its own.
// They end when the client leaves or subscription ends.
func (h *HTTPSyncHandlers) watchHijacked(conn net.Conn, header http.Header, protoMinor int, subscription *oversync.BundleChangeSubscription) {
	var head bytes.Buffer
	fmt.Fprintf(&head, "HTTP/1.%d 200 OK\r\nDate: %s\r\nConnection: close\r\n", protoMinor, time.Now().UTC().Format(http.TimeFormat))
	_ = header.Write(&head) // a buffer takes everything
	head.WriteString("\r\n")
	first := head.Bytes()

	gone := make(chan struct{})
	go func() {
		defer close(gone)
		// Nothing is expected from the client but its end.
		var discard [64]byte
		for {
			if _, err := conn.Read(discard[:]); err != nil {
				return
			}
		}
	}()
	timeout, interval := h.watchWriteTimeout, h.watchHeartbeat
	go func() {
		defer func() { _ = conn.Close() }()
		defer subscription.Close()
		write := func(data []byte) error {
			_ = conn.SetWriteDeadline(time.Now().Add(timeout))
			_, err := conn.Write(data)
			return err
		}
		if write(first) == nil {
			_ = watch{changes: subscription.Changes(), gone: gone, heartbeat: interval, write: write}.run()
		}
	}()
}

// watch is one watcher.
type watch struct {
	changes   <-chan oversync.BundleChange
	gone      <-chan struct{} // closed when the client left
	heartbeat time.Duration
	write     func(event []byte) error
}

// run writes events until the changes end, the client leaves or cannot be written
// to. Only the last is an error.
func (w watch) run() error {
	timer := time.NewTimer(w.heartbeat)
	defer timer.Stop()
	for {
		var event []byte
		select {
		case change, ok := <-w.changes:
			if !ok {
				return nil
			}
			event = bundleEvent(change)
		case <-timer.C:
			event = heartbeat
		case <-w.gone:
			return nil
		}
		if err := w.write(event); err != nil {
			return err
		}
		timer.Reset(w.heartbeat)
	}
}

// bundleEvent writes a change as a server-sent event. JSON has no line breaks.
func bundleEvent(change oversync.BundleChange) []byte {
	data, err := json.Marshal(change)
	if err != nil {
		panic(err) // numbers and a string always have a JSON form
	}
	event := make([]byte, 0, len("event: bundle\ndata: \n\n")+len(data))
	event = append(event, "event: bundle\ndata: "...)
	event = append(event, data...)
	return append(event, "\n\n"...)
}
