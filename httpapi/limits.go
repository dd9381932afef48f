package httpapi

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"time"
)

// DefaultMaxBodyBytes is the largest request body that is read when no other
// limit is configured: 64 MiB.
const DefaultMaxBodyBytes int64 = 64 << 20

// firstBodyBuffer bounds the memory that a Content-Length alone can claim. A
// longer body grows the buffer as it really arrives.
const firstBodyBuffer = 1 << 20

// readBody reads the whole body. A body over the limit is a
// *http.MaxBytesError, which the error table answers with 413; serve has refused one
// that announced its length.
func (h *HTTPSyncHandlers) readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	var buf bytes.Buffer
	if r.ContentLength > 0 {
		buf.Grow(int(min(r.ContentLength, firstBodyBuffer)) + bytes.MinRead)
	}
	if _, err := buf.ReadFrom(http.MaxBytesReader(w, r.Body, h.maxBodyBytes)); err != nil {
		return nil, bodyReadError(err)
	}
	return buf.Bytes(), nil
}

// discardBody reads and drops a body that the operation does not use, so that
// the connection can carry the next request. The limit holds all the same.
func (h *HTTPSyncHandlers) discardBody(w http.ResponseWriter, r *http.Request) error {
	if _, err := io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, h.maxBodyBytes)); err != nil {
		return bodyReadError(err)
	}
	return nil
}

// bodyReadError tells a body that did not arrive whole, which another try mends, from
// one that the client sent wrong.
func bodyReadError(err error) error {
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return tooLarge
	}
	if temporary(err) {
		return &bodyCutError{err}
	}
	return &requestError{code: codeInvalidRequest, message: "the request body cannot be read: send it with its length, or in well-formed chunks"}
}

// bodyCutError says that the connection failed, or was too slow, within a body.
type bodyCutError struct{ cause error }

func (e *bodyCutError) Error() string { return "the request body ended early: " + e.cause.Error() }

// stallTimeout cuts an answer whose reader takes no byte for d, however long
// the whole answer lasts. Without it a client that stops reading would hold its
// answer for ever, and a server-wide write timeout would cut long answers that
// flow well.
func stallTimeout(d time.Duration) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			sw := &stallWriter{ResponseWriter: w, control: http.NewResponseController(w), limit: d}
			next.ServeHTTP(sw, r)
			sw.end()
		})
	}
}

type stallWriter struct {
	http.ResponseWriter
	control  *http.ResponseController
	limit    time.Duration
	deadline time.Time
	isGone   bool // the connection is somebody else's
}

func (w *stallWriter) Write(p []byte) (int, error) {
	w.extend(time.Now())
	return w.ResponseWriter.Write(p)
}

func (w *stallWriter) extend(now time.Time) {
	w.deadline = now.Add(w.limit)
	// Writers that cannot do it (a recorder in a test) have no connection to cut.
	_ = w.control.SetWriteDeadline(w.deadline)
}

// end leaves a deadline to what net/http still holds of the answer. It lifts it
// before the connection's next request.
func (w *stallWriter) end() {
	if now := time.Now(); !w.isGone && w.deadline.Sub(now) < w.limit/2 {
		w.extend(now)
	}
}

// Hijack lets http.ResponseController take over the connection, and its deadlines.
func (w *stallWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := w.control.Hijack()
	w.isGone = err == nil
	return conn, rw, err
}

func (w *stallWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
