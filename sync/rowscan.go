package oversync

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// RequestBodyError says why a request body is not the JSON object that was asked
// for. Message may be shown to the client.
type RequestBodyError struct {
	Message string
}

func (e *RequestBodyError) Error() string {
	return "the request body cannot be read: " + e.Message
}

// DecodeRequest reads a request body, which must be exactly one JSON object, into
// dst, a pointer to a struct. Every failure is a *RequestBodyError.
//
// It is stricter than encoding/json, which would let a client believe that it
// was understood: null, text after the object, a name that occurs twice in one
// object, and strings that are no Unicode text are refused. Names of the protocol that
// differ only in case count as the same, since a struct field takes both. The value of
// a member called "payload" is taken as it is. Members that dst does not have are
// ignored.
func DecodeRequest(body []byte, dst any) error {
	return decodeRequest(body, dst, false)
}

// DecodeRequestKnownFields is DecodeRequest, but refuses members that dst does
// not have.
func DecodeRequestKnownFields(body []byte, dst any) error {
	return decodeRequest(body, dst, true)
}

func decodeRequest(body []byte, dst any, knownFields bool) error {
	if !utf8.Valid(body) {
		return &RequestBodyError{"it is not UTF-8: encode it so"}
	}
	var e envelope
	err := e.body(body, func(i int) (int, error) { return e.value(body, i, 0) })
	if err != nil {
		return requestBodyError(err)
	}
	if !knownFields {
		return requestBodyError(json.Unmarshal(body, dst))
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	return requestBodyError(decoder.Decode(dst))
}

// requestBodyError turns what went wrong into words without names of Go types,
// which would mean nothing to a client.
func requestBodyError(err error) error {
	var (
		known     *RequestBodyError
		wrongType *json.UnmarshalTypeError
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &known):
		return known
	case errors.As(err, &wrongType):
		return &RequestBodyError{fmt.Sprintf("%q at byte %d has the wrong type: %s does not fit there",
			shorten(wrongType.Field), wrongType.Offset, shorten(wrongType.Value))}
	default:
		return &RequestBodyError{shorten(strings.TrimPrefix(err.Error(), "json: "))}
	}
}

// envelope checks the objects of a request body, payloads excepted, for names
// that occur twice.
type envelope struct {
	// names is a stack: the names so far of every object that is open.
	names []string
}

// manyNames is the number of names in one object from which on a map finds
// doubled ones faster than a comparison with each.
const manyNames = 16

// maxOpenNames bounds the names of all objects that are open at once, since each is
// kept until its object ends. No request has a hundredth of them. Objects may be
// nested as deep as JSON may be.
const maxOpenNames = 16_384

// body passes a whole body, which object passes from its opening brace on, and
// refuses one that is not exactly one object.
func (e *envelope) body(body []byte, object func(i int) (int, error)) error {
	i := skipSpace(body, 0)
	if i == len(body) {
		return &RequestBodyError{"it is empty: send one JSON object"}
	}
	if body[i] != '{' {
		if _, err := skipValue(body, i, 0); err != nil {
			return err
		}
		return &RequestBodyError{"it is not a JSON object: send one JSON object"}
	}
	i, err := object(i)
	if err != nil {
		return err
	}
	if i = skipSpace(body, i); i != len(body) {
		return &RequestBodyError{fmt.Sprintf("there is more text at byte %d: send one JSON object alone", i)}
	}
	return nil
}

// value passes one value of the body. depth is how many objects and arrays are
// open around it.
func (e *envelope) value(body []byte, i, depth int) (int, error) {
	switch {
	case i < len(body) && body[i] == '{':
		return e.object(body, i, depth, func(name string, i int) (int, error) {
			if strings.EqualFold(name, "payload") {
				return skipValue(body, i, depth+1)
			}
			return e.value(body, i, depth+1)
		})
	case i < len(body) && body[i] == '[':
		return e.array(body, i, depth, func(i int) (int, error) { return e.value(body, i, depth+1) })
	case i < len(body) && body[i] == '"':
		end, plain, err := skipString(body, i)
		if err == nil && !plain {
			err = refuseHalfSurrogate(body, i, end)
		}
		return end, err
	default:
		return skipValue(body, i, depth)
	}
}

// refuseHalfSurrogate refuses the string at i that stands for no Unicode text:
// different ones of them would become the same value.
func refuseHalfSurrogate(body []byte, i, end int) error {
	if !hasHalfSurrogate(body[i:end]) {
		return nil
	}
	return &RequestBodyError{fmt.Sprintf("the string at byte %d: half of a surrogate pair is no character", i)}
}

// array passes the array at i, whose elements element passes, each from its
// start to the index after it.
func (e *envelope) array(body []byte, i, depth int, element func(i int) (int, error)) (int, error) {
	if depth >= maxJSONDepth {
		return i, syntaxError(body, i, "nested too deep")
	}
	i = skipSpace(body, i+1)
	if i < len(body) && body[i] == ']' {
		return i + 1, nil
	}
	for {
		var (
			done bool
			err  error
		)
		if i, err = element(i); err != nil {
			return i, err
		}
		if i, done, err = skipComma(body, i, ']'); err != nil || done {
			return i, err
		}
	}
}

// object passes the object at i, whose values member passes, each from its start
// to the index after it.
func (e *envelope) object(body []byte, i, depth int, member func(name string, i int) (int, error)) (int, error) {
	if depth >= maxJSONDepth {
		return i, syntaxError(body, i, "nested too deep")
	}
	i = skipSpace(body, i+1)
	if i < len(body) && body[i] == '}' {
		return i + 1, nil
	}
	base := len(e.names)
	var seen map[string]bool // by memberName, once there are many
	for {
		raw, end, err := scanName(body, i)
		if err != nil {
			return i, err
		}
		if end-i > len(raw)+len(`""`) { // it holds escapes
			if err := refuseHalfSurrogate(body, i, end); err != nil {
				return i, err
			}
		}
		name := internName(raw)
		if seen, err = e.addName(name, base, seen); err != nil {
			return i, err
		}
		if i, err = skipColon(body, end); err != nil {
			return i, err
		}
		if i, err = member(name, i); err != nil {
			return i, err
		}
		var done bool
		if i, done, err = skipComma(body, i, '}'); err != nil {
			return i, err
		}
		if done {
			e.names = e.names[:base]
			return i, nil
		}
	}
}

// addName adds a name to the innermost object, whose names start at base. It
// returns the set to pass in with the object's next name.
func (e *envelope) addName(name string, base int, seen map[string]bool) (map[string]bool, error) {
	if len(e.names) == maxOpenNames {
		return seen, &RequestBodyError{"there are too many names in one object: send those that the request has"}
	}
	doubled := false
	if len(e.names)-base < manyNames {
		for _, other := range e.names[base:] {
			doubled = doubled || name == other || strings.EqualFold(name, other) && isRequestName(name)
		}
	} else {
		if seen == nil {
			seen = make(map[string]bool, 4*manyNames)
			for _, other := range e.names[base:] {
				seen[memberName(other)] = true
			}
		}
		member := memberName(name)
		doubled = seen[member]
		seen[member] = true
	}
	if doubled {
		return seen, &RequestBodyError{fmt.Sprintf("the name %q occurs twice in one object: send it once", shorten(name))}
	}
	e.names = append(e.names, name)
	return seen, nil
}

// requestNames are the members that the requests of the protocol have, folded.
// encoding/json takes them in any case, and all others are ignored.
var requestNames = func() map[string]bool {
	names := make(map[string]bool)
	for _, name := range []string{
		"has_local_pending_rows",
		"source_bundle_id", "planned_row_count", "initialization_id",
		"start_row_ordinal", "rows", "schema", "table", "key", "op", "base_row_version", "payload",
		"source_replacement", "previous_source_id", "new_source_id", "reason",
	} {
		names[foldName(name)] = true
	}
	return names
}()

func isRequestName(name string) bool { return requestNames[foldName(name)] }

// memberName gives the names of one member the same form.
func memberName(name string) string {
	if folded := foldName(name); requestNames[folded] {
		return folded
	}
	return name
}

// foldName gives names that strings.EqualFold takes for equal the same form: each
// character becomes the smallest one that differs from it only in case.
func foldName(name string) string {
	return strings.Map(func(r rune) rune {
		for {
			next := unicode.SimpleFold(r)
			if next <= r {
				return next
			}
			r = next
		}
	}, name)
}

// internName returns name as a string. The names that every row of a push has
// cost no allocation.
func internName(name []byte) string {
	switch string(name) {
	case "schema":
		return "schema"
	case "table":
		return "table"
	case "key":
		return "key"
	case "id":
		return "id"
	case "op":
		return "op"
	case "base_row_version":
		return "base_row_version"
	case "payload":
		return "payload"
	}
	return string(name)
}

// scanName reads the name of a member at i. The name is a part of text where it
// can be, and a copy where it holds escapes or characters beyond ASCII.
func scanName(text []byte, i int) (name []byte, end int, err error) {
	if i >= len(text) || text[i] != '"' {
		return nil, i, syntaxError(text, i, "expected a name in quotes")
	}
	end, plain, err := skipString(text, i)
	if err != nil {
		return nil, i, err
	}
	if plain {
		return text[i+1 : end-1], end, nil
	}
	return appendStringValue(nil, text[i:end]), end, nil
}

// payloadDepth is how deep the values of a payload count as nested: a client that
// reads a whole answer with encoding/json finds the payload some way in. Within the
// payload that leaves what sync.require_canonical leaves to plain SQL, which must be
// able to write every row that was pushed.
const payloadDepth = 11

// errPayloadNotObject says that a payload is some other JSON value.
var errPayloadNotObject = errors.New("the payload is not a JSON object: send column names with their values")

// scanPayload calls each for every member of a payload, in order: with the name,
// unescaped, and with the value's JSON text. Both are valid only during the call.
// It fails with errPayloadNotObject, a *jsonSyntaxError, or what each returns,
// and then stops. Doubled names are left to each. Only names that are not plain
// ASCII cost an allocation.
func scanPayload(payload []byte, each func(name, value []byte) error) error {
	i := skipSpace(payload, 0)
	if i >= len(payload) {
		return syntaxError(payload, i, "")
	}
	if payload[i] != '{' {
		return errPayloadNotObject
	}
	i = skipSpace(payload, i+1)
	if i < len(payload) && payload[i] == '}' {
		return endOfText(payload, i+1)
	}
	for {
		name, end, err := scanName(payload, i)
		if err != nil {
			return err
		}
		start, err := skipColon(payload, end)
		if err != nil {
			return err
		}
		if end, err = skipValue(payload, start, payloadDepth); err != nil {
			return err
		}
		if err := each(name, payload[start:end]); err != nil {
			return err
		}
		next, done, err := skipComma(payload, end, '}')
		if err != nil {
			return err
		}
		if done {
			return endOfText(payload, next)
		}
		i = next
	}
}

func endOfText(text []byte, i int) error {
	if i = skipSpace(text, i); i != len(text) {
		return syntaxError(text, i, "expected nothing after the value")
	}
	return nil
}

// jsonStringContainsNUL says whether a string in a valid JSON text holds the
// character U+0000, which PostgreSQL can store in no text. An escaped backslash
// before the letters u0000 is no such character.
func jsonStringContainsNUL(value []byte) bool {
	for i := 0; i < len(value); {
		next := bytes.IndexByte(value[i:], '\\')
		if next < 0 {
			return false
		}
		i += next
		if bytes.HasPrefix(value[i:], []byte(`\u0000`)) {
			return true
		}
		i += 2
	}
	return false
}
