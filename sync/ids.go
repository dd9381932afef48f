package oversync

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
)

// maxIDBytes bounds user and source ids. The database has the same bound.
const maxIDBytes = 255

// RequestInvalidError refuses a request for something that no endpoint has a
// code of its own for, such as an id that is too long or a page size out of
// range.
type RequestInvalidError struct {
	Message string
}

func (e *RequestInvalidError) Error() string {
	return messageOr(e.Message, "the request is not valid: correct it and send it again")
}

// validateID trims an id and refuses one that is empty, longer than 255 bytes,
// not UTF-8, or has control characters in it.
func validateID(what, id string) (string, error) {
	id = strings.TrimSpace(id)
	switch {
	case id == "":
		return "", &RequestInvalidError{Message: what + " is missing"}
	case len(id) > maxIDBytes:
		return "", &RequestInvalidError{Message: fmt.Sprintf("%s has %d bytes: choose one of at most %d", what, len(id), maxIDBytes)}
	case !utf8.ValidString(id):
		return "", &RequestInvalidError{Message: what + " is not UTF-8: encode it so"}
	case strings.ContainsFunc(id, unicode.IsControl):
		return "", &RequestInvalidError{Message: what + " has control characters in it: choose one without"}
	}
	return id, nil
}

// reservedSources begin the names that the database gives to its own writers. They
// write many scopes at once, so what a device says of its source must not touch them.
var reservedSources = []string{"sql:", "oversync:"}

// validateSource is validateID for the source of a device.
func validateSource(what, id string) (string, error) {
	id, err := validateID(what, id)
	for _, prefix := range reservedSources {
		if err == nil && strings.HasPrefix(id, prefix) {
			err = &RequestInvalidError{Message: fmt.Sprintf("%s begins with %s, which is kept for writers inside the database: choose another id", what, prefix)}
		}
	}
	return id, err
}

// parseSessionID reads a session id of ours. ok is false for what no session can
// have: the caller then answers that there is none.
func parseSessionID(id string) (_ uuid.UUID, ok bool) {
	parsed, err := uuid.Parse(id)
	return parsed, err == nil && len(id) == 36
}
