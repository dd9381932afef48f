package oversync

import (
	"bytes"
	"fmt"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// This file reads JSON text piece by piece, without building values. It accepts
// exactly what encoding/json accepts, and reads strings as encoding/json does:
// invalid UTF-8 and halves of surrogate pairs become U+FFFD. Where two texts must not
// become one, hasHalfSurrogate tells.

// maxJSONDepth is how many objects and arrays may be open at once. It is the
// limit of encoding/json, so that both judge a text alike.
const maxJSONDepth = 10_000

// jsonSyntaxError says where a text stops being JSON.
type jsonSyntaxError struct {
	offset int
	reason string
}

func (e *jsonSyntaxError) Error() string {
	return fmt.Sprintf("not valid JSON at byte %d: %s", e.offset, e.reason)
}

func syntaxError(text []byte, offset int, reason string) error {
	if offset >= len(text) {
		return &jsonSyntaxError{len(text), "the text ends too early"}
	}
	return &jsonSyntaxError{offset, reason}
}

// skipSpace returns the index of the first byte at or after i that is not white
// space.
func skipSpace(text []byte, i int) int {
	for i < len(text) && (text[i] == ' ' || text[i] == '\n' || text[i] == '\t' || text[i] == '\r') {
		i++
	}
	return i
}

// skipValue returns the index after the value that starts at i. depth is how
// many objects and arrays are open around it.
func skipValue(text []byte, i, depth int) (int, error) {
	if i >= len(text) {
		return i, syntaxError(text, i, "")
	}
	switch text[i] {
	case '{':
		return skipObject(text, i, depth)
	case '[':
		return skipArray(text, i, depth)
	case '"':
		end, _, err := skipString(text, i)
		return end, err
	case 't', 'f', 'n':
		return skipLiteral(text, i)
	default:
		n, err := scanNumber(text, i)
		return n.end, err
	}
}

func skipObject(text []byte, i, depth int) (int, error) {
	if depth >= maxJSONDepth {
		return i, syntaxError(text, i, "nested too deep")
	}
	i = skipSpace(text, i+1)
	if i < len(text) && text[i] == '}' {
		return i + 1, nil
	}
	for {
		if i >= len(text) || text[i] != '"' {
			return i, syntaxError(text, i, "expected a name in quotes")
		}
		end, _, err := skipString(text, i)
		if err != nil {
			return i, err
		}
		if i, err = skipColon(text, end); err != nil {
			return i, err
		}
		if i, err = skipValue(text, i, depth+1); err != nil {
			return i, err
		}
		var done bool
		if i, done, err = skipComma(text, i, '}'); err != nil || done {
			return i, err
		}
	}
}

func skipArray(text []byte, i, depth int) (int, error) {
	if depth >= maxJSONDepth {
		return i, syntaxError(text, i, "nested too deep")
	}
	i = skipSpace(text, i+1)
	if i < len(text) && text[i] == ']' {
		return i + 1, nil
	}
	for {
		var (
			done bool
			err  error
		)
		if i, err = skipValue(text, i, depth+1); err != nil {
			return i, err
		}
		if i, done, err = skipComma(text, i, ']'); err != nil || done {
			return i, err
		}
	}
}

// skipColon passes the colon after a name, with the white space around it.
func skipColon(text []byte, i int) (int, error) {
	i = skipSpace(text, i)
	if i >= len(text) || text[i] != ':' {
		return i, syntaxError(text, i, "expected a colon after a name")
	}
	return skipSpace(text, i+1), nil
}

// skipComma passes what follows an element: a comma, with the white space around
// it, or the closing bracket, and then done is true.
func skipComma(text []byte, i int, closing byte) (next int, done bool, err error) {
	i = skipSpace(text, i)
	switch {
	case i < len(text) && text[i] == closing:
		return i + 1, true, nil
	case i < len(text) && text[i] == ',':
		return skipSpace(text, i+1), false, nil
	case closing == '}':
		return i, false, syntaxError(text, i, "expected a comma or a closing brace")
	default:
		return i, false, syntaxError(text, i, "expected a comma or a closing bracket")
	}
}

func skipLiteral(text []byte, i int) (int, error) {
	for _, literal := range [...]string{"true", "false", "null"} {
		if len(text)-i >= len(literal) && string(text[i:i+len(literal)]) == literal {
			return i + len(literal), nil
		}
	}
	return i, syntaxError(text, i, "expected true, false or null")
}

// skipString returns the index after the string whose opening quote is at i.
// plain says that the string is ASCII without escapes, so that the bytes between
// the quotes are its value.
func skipString(text []byte, i int) (end int, plain bool, err error) {
	plain = true
	for i++; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			return i + 1, plain, nil
		case c == '\\':
			plain = false
			_, n, err := decodeEscape(text, i)
			if err != nil {
				return i, false, err
			}
			i += n - 1
		case c < ' ':
			return i, false, syntaxError(text, i, "a control character in a string must be escaped")
		case c >= utf8.RuneSelf:
			plain = false
		}
	}
	return i, false, syntaxError(text, i, "")
}

// appendStringValue appends the value of a JSON string, quotes included in
// quoted. The string must have passed skipString.
func appendStringValue(dst, quoted []byte) []byte {
	for i := 1; i < len(quoted)-1; {
		switch c := quoted[i]; {
		case c == '\\':
			r, n, err := decodeEscape(quoted, i)
			if err != nil {
				return dst
			}
			dst = utf8.AppendRune(dst, r)
			i += n
		case c < utf8.RuneSelf:
			dst = append(dst, c)
			i++
		default:
			r, n := utf8.DecodeRune(quoted[i:])
			dst = utf8.AppendRune(dst, r)
			i += n
		}
	}
	return dst
}

// decodeEscape reads the escape whose backslash is at i, and returns the
// character it stands for and how many bytes it takes.
func decodeEscape(text []byte, i int) (r rune, n int, err error) {
	if i+1 >= len(text) {
		return 0, 0, syntaxError(text, len(text), "")
	}
	switch c := text[i+1]; c {
	case '"', '\\', '/':
		return rune(c), 2, nil
	case 'b':
		return '\b', 2, nil
	case 'f':
		return '\f', 2, nil
	case 'n':
		return '\n', 2, nil
	case 'r':
		return '\r', 2, nil
	case 't':
		return '\t', 2, nil
	case 'u':
		r, ok := decodeUnicodeEscape(text, i)
		if !ok {
			return 0, 0, syntaxError(text, i, "expected four hexadecimal digits after \\u")
		}
		if !utf16.IsSurrogate(r) {
			return r, 6, nil
		}
		if low, ok := decodeUnicodeEscape(text, i+6); ok {
			if pair := utf16.DecodeRune(r, low); pair != unicode.ReplacementChar {
				return pair, 12, nil
			}
		}
		return unicode.ReplacementChar, 6, nil
	default:
		return 0, 0, syntaxError(text, i, "unknown escape in a string")
	}
}

// hasHalfSurrogate says whether a string in a valid JSON text stands for no Unicode
// text, since it holds half of a surrogate pair. Backslashes are in strings alone.
func hasHalfSurrogate(quoted []byte) bool {
	for i := 0; ; {
		next := bytes.IndexByte(quoted[i:], '\\')
		if next < 0 {
			return false
		}
		i += next
		r, n, err := decodeEscape(quoted, i)
		if err != nil {
			return false
		}
		if unit, ok := decodeUnicodeEscape(quoted, i); ok && r == unicode.ReplacementChar && unit != r {
			return true
		}
		i += n
	}
}

// decodeUnicodeEscape reads the four hex digits of a \u escape at i.
func decodeUnicodeEscape(text []byte, i int) (rune, bool) {
	if len(text)-i < 6 || text[i] != '\\' || text[i+1] != 'u' {
		return 0, false
	}
	var r rune
	for _, c := range text[i+2 : i+6] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// numberText is the shape of a number's literal.
type numberText struct {
	start, end int
	// dot is the index of the decimal point, or 0 if there is none.
	dot      int
	exponent bool
}

// scanNumber reads the number that starts at i.
func scanNumber(text []byte, i int) (numberText, error) {
	n := numberText{start: i, end: i}
	if i < len(text) && text[i] == '-' {
		i++
	}
	switch {
	case i < len(text) && text[i] == '0':
		i++
	case i < len(text) && '1' <= text[i] && text[i] <= '9':
		i = skipDigits(text, i)
	case i > n.start:
		return n, syntaxError(text, i, "expected a digit after the minus")
	default:
		return n, syntaxError(text, i, "expected a value")
	}
	if i < len(text) && text[i] == '.' {
		n.dot = i
		i = skipDigits(text, i+1)
		if i == n.dot+1 {
			return n, syntaxError(text, i, "expected a digit after the decimal point")
		}
	}
	if i < len(text) && (text[i] == 'e' || text[i] == 'E') {
		n.exponent = true
		i++
		if i < len(text) && (text[i] == '+' || text[i] == '-') {
			i++
		}
		digits := i
		if i = skipDigits(text, i); i == digits {
			return n, syntaxError(text, i, "expected a digit in the exponent")
		}
	}
	n.end = i
	return n, nil
}

func skipDigits(text []byte, i int) int {
	for i < len(text) && '0' <= text[i] && text[i] <= '9' {
		i++
	}
	return i
}
