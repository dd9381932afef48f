package httpapi

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/gorilla/mux"
)

// queryNumbers reads whole-number query values. It keeps the first fault, so
// that a handler reads all its values and checks once.
type queryNumbers struct {
	values url.Values
	code   string // the code that the endpoint names for its query
	err    error
}

func newQueryNumbers(r *http.Request, code string) *queryNumbers {
	// Not r.URL.Query(): that drops malformed pairs, and a dropped cursor would
	// silently start over.
	values, err := url.ParseQuery(r.URL.RawQuery)
	q := &queryNumbers{values: values, code: code}
	if err != nil {
		q.fail("the query string is malformed: send name=value pairs, percent-encoded and joined by &")
	}
	return q
}

func (q *queryNumbers) fail(format string, args ...any) {
	if q.err == nil {
		q.err = &requestError{code: q.code, message: fmt.Sprintf(format, args...)}
	}
}

// number returns the value of name, and whether there was one. An absent or
// empty value is none.
func (q *queryNumbers) number(name string, least int64) (int64, bool) {
	given := q.values[name]
	if len(given) > 1 {
		q.fail("%s is given more than once: send it once", name)
		return 0, false
	}
	if len(given) == 0 || given[0] == "" {
		return 0, false
	}
	n, ok := parseNumber(given[0])
	if !ok || n < least {
		q.fail("%s must be a whole number from %d to %d", name, least, math.MaxInt64)
		return 0, false
	}
	return n, true
}

// maxRows returns the value of max_rows, or 0 if there is none. One that no number
// holds is the largest: the service lowers it to what it gives at a time.
func (q *queryNumbers) maxRows() int {
	if given := q.values["max_rows"]; len(given) == 1 && isDigits(given[0]) {
		if _, err := strconv.ParseInt(given[0], 10, 64); errors.Is(err, strconv.ErrRange) {
			return math.MaxInt32
		}
	}
	n, _ := q.number("max_rows", 1)
	return int(min(n, math.MaxInt32))
}

// parseNumber reads decimal digits alone: no sign, space or underscore.
func parseNumber(s string) (int64, bool) {
	if !isDigits(s) {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

func isDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// pathParameter finds a parameter of the path whatever router chose the
// handler: gorilla/mux, a net/http pattern (or a router that fills PathValue),
// or else by position, as the segment that follows collection.
func pathParameter(r *http.Request, name, collection string) string {
	if v := mux.Vars(r)[name]; v != "" {
		// Encoded or not, as the router was told. No id holds a percent sign, so
		// that decoding once too often changes nothing.
		if decoded, err := url.PathUnescape(v); err == nil {
			return decoded
		}
		return v
	}
	if v := r.PathValue(name); v != "" {
		return v
	}
	segments := strings.Split(r.URL.Path, "/")
	for i := len(segments) - 2; i >= 0; i-- {
		if segments[i] == collection {
			return segments[i+1]
		}
	}
	return ""
}
