package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"

	oversync "github.com/oversync/oversync/sync"
)

// maxIDBytes is the longest user or source id that is accepted.
const maxIDBytes = 255

// ActorMiddlewareConfig says where ActorMiddleware finds the user.
type ActorMiddlewareConfig struct {
	// UserIDFromContext returns the authenticated user of a request. An error or
	// a blank id answers 401. Nil means the UserIDFromContext of this package,
	// which is what AuthMiddleware fills.
	UserIDFromContext func(context.Context) (string, error)
}

// ActorMiddleware puts an oversync.Actor into the context of each request: the
// user from the authentication that ran before it, the source from the
// Oversync-Source-ID header, both without surrounding white space.
//
// It answers 401 authentication_failed without a user, and 400 invalid_request
// when the header is missing, blank or there with different values, or when either id is longer than 255
// bytes, is not UTF-8 or holds a control character.
func ActorMiddleware(cfg ActorMiddlewareConfig) func(http.Handler) http.Handler {
	userID := cfg.UserIDFromContext
	if userID == nil {
		userID = UserIDFromContext
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			user, err := userID(r.Context())
			if user = strings.TrimSpace(user); err != nil || user == "" {
				writeUnauthenticated(w, "the request carries no authenticated user")
				return
			}
			header, ok := singleHeader(r, oversync.SourceIDHeader)
			if !ok {
				writeError(w, http.StatusBadRequest, codeInvalidRequest,
					"the header "+oversync.SourceIDHeader+" is there with different values: send one")
				return
			}
			source := strings.TrimSpace(header)
			if source == "" {
				writeError(w, http.StatusBadRequest, codeInvalidRequest,
					"send the header "+oversync.SourceIDHeader+" with the id of this device")
				return
			}
			if err := checkID("the user id", user); err != nil {
				writeError(w, http.StatusBadRequest, codeInvalidRequest, err.Error())
				return
			}
			if err := checkID("the header "+oversync.SourceIDHeader, source); err != nil {
				writeError(w, http.StatusBadRequest, codeInvalidRequest, err.Error())
				return
			}
			actor := oversync.Actor{UserID: user, SourceID: source}
			next.ServeHTTP(w, r.WithContext(oversync.ContextWithActor(r.Context(), actor)))
		})
	}
}

// singleHeader returns the value of a header. ok is false if there are different ones:
// a proxy that judges by another than this server would be deceived.
func singleHeader(r *http.Request, name string) (value string, ok bool) {
	values := r.Header.Values(name)
	for _, other := range values {
		if other != values[0] {
			return "", false
		}
	}
	return r.Header.Get(name), true
}

// checkID refuses what the database or a log line could not hold faithfully.
func checkID(what, id string) error {
	switch {
	case len(id) > maxIDBytes:
		return fmt.Errorf("%s is longer than %d bytes: choose a shorter one", what, maxIDBytes)
	case !utf8.ValidString(id):
		return fmt.Errorf("%s is not valid UTF-8: encode it so", what)
	case strings.ContainsFunc(id, unicode.IsControl):
		return fmt.Errorf("%s holds a control character: choose one without", what)
	}
	return nil
}
