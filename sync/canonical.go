package oversync

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"strconv"
	"sync"
	"unicode"
	"unicode/utf8"
)

// Clients recompute the hash of every bundle from the rows they receive, so the
// text that is hashed is part of the protocol, to the byte. It is what Go's
// encoding/json would write after reading a value into an any: no white space,
// members sorted by name, HTML characters escaped, every number a float64.
// The code here goes from text to text instead, because building the values
// would cost more than everything else in a commit.

// errNotFinite says that a number has no canonical form.
var errNotFinite = errors.New("a number is too large for an IEEE-754 double: send a smaller number, or send it as text")

// exactFloatInt is the largest integer up to which every integer is a double.
const exactFloatInt = 1 << 53

// exactFloatDigits is how many decimal digits survive the way into a double and
// back, whatever they are.
const exactFloatDigits = 15

// canonicalizers keeps scratch space between calls of appendCanonicalJSON.
var canonicalizers = sync.Pool{New: func() any { return new(canonicalizer) }}

// appendCanonicalJSON appends the canonical form of one JSON text. Of members
// with the same name the last one counts. It fails with a *jsonSyntaxError or
// with errNotFinite, and then returns dst as it was.
func appendCanonicalJSON(dst, raw []byte) ([]byte, error) {
	c := canonicalizers.Get().(*canonicalizer)
	dst, err := c.append(dst, raw)
	if c.small() {
		canonicalizers.Put(c)
	}
	return dst, err
}

// canonicalizer writes canonical JSON. It writes members in the order in which
// they come, and notes for each object whether that order was right. Only if one
// was wrong, it goes over the text a second time and puts members in their
// places. Each byte is moved at most twice, however deep objects are nested.
type canonicalizer struct {
	// objects holds, by start, the objects whose members are out of order, and the
	// objects that hold such ones.
	objects []canonicalObject
	// members holds the members of the objects out of order, one object after the
	// other.
	members []canonicalMember
	// pending is a stack: the members so far of every object that is open.
	pending []canonicalMember
	// keys holds the values of names that are written with escapes.
	keys []byte
	// text is what the second pass reads, and base the place that its first byte
	// had in the first pass.
	text []byte
	base int
	// unsorted says that some object is out of order.
	unsorted bool
}

// canonicalObject is an object that the second pass must look at. All positions
// are those of the first pass.
type canonicalObject struct {
	start, end int
	// sorted says that only objects further in are out of order.
	sorted bool
	// after is the index of the first object that starts behind this one's end.
	after int
	// firstMember and lastMember delimit its members.
	firstMember, lastMember int
}

type canonicalMember struct {
	// start and end delimit name and value.
	start, end int
	// keyStart and keyEnd delimit the name's value: in keys if escaped, else in the
	// text.
	keyStart, keyEnd int
	escaped          bool
	// firstObject is the index of the first object that can lie in the value.
	firstObject int
}

// small says whether the scratch space is worth keeping. One huge value must not
// hold its memory for ever.
func (c *canonicalizer) small() bool {
	const limit = 1 << 14
	return cap(c.objects) < limit && cap(c.members) < limit && cap(c.pending) < limit &&
		cap(c.keys) < 4*limit && cap(c.text) < 16*limit
}

func (c *canonicalizer) append(dst, raw []byte) ([]byte, error) {
	c.objects, c.members, c.pending = c.objects[:0], c.members[:0], c.pending[:0]
	c.keys, c.unsorted, c.base = c.keys[:0], false, len(dst)

	out, i, err := c.value(dst, raw, skipSpace(raw, 0), 0)
	if err != nil {
		return dst, err
	}
	if i = skipSpace(raw, i); i < len(raw) {
		return dst, syntaxError(raw, i, "expected nothing after the value")
	}
	if c.unsorted {
		c.text = append(c.text[:0], out[c.base:]...)
		out = c.rewrite(out[:c.base], c.base, c.base+len(c.text), 0)
	}
	return out, nil
}

func (c *canonicalizer) value(dst, raw []byte, i, depth int) ([]byte, int, error) {
	if i >= len(raw) {
		return dst, i, syntaxError(raw, i, "")
	}
	switch raw[i] {
	case '{':
		return c.object(dst, raw, i, depth)
	case '[':
		return c.array(dst, raw, i, depth)
	case '"':
		return appendCanonicalString(dst, raw, i)
	case 't', 'f', 'n':
		end, err := skipLiteral(raw, i)
		return append(dst, raw[i:end]...), end, err
	default:
		return appendCanonicalNumber(dst, raw, i)
	}
}

func (c *canonicalizer) array(dst, raw []byte, i, depth int) ([]byte, int, error) {
	if depth >= maxJSONDepth {
		return dst, i, syntaxError(raw, i, "nested too deep")
	}
	dst = append(dst, '[')
	i = skipSpace(raw, i+1)
	if i < len(raw) && raw[i] == ']' {
		return append(dst, ']'), i + 1, nil
	}
	for {
		var (
			done bool
			err  error
		)
		if dst, i, err = c.value(dst, raw, i, depth+1); err != nil {
			return dst, i, err
		}
		if i, done, err = skipComma(raw, i, ']'); err != nil {
			return dst, i, err
		}
		if done {
			return append(dst, ']'), i, nil
		}
		dst = append(dst, ',')
	}
}

func (c *canonicalizer) object(dst, raw []byte, i, depth int) ([]byte, int, error) {
	if depth >= maxJSONDepth {
		return dst, i, syntaxError(raw, i, "nested too deep")
	}
	self, base, sorted := len(c.objects), len(c.pending), true
	start := len(dst)
	dst = append(dst, '{')
	i = skipSpace(raw, i+1)
	if i < len(raw) && raw[i] == '}' {
		return append(dst, '}'), i + 1, nil
	}
	// The place in objects is taken before the members are read, because objects
	// are in order of their start.
	c.objects = append(c.objects, canonicalObject{start: start})
	for {
		if i >= len(raw) || raw[i] != '"' {
			return dst, i, syntaxError(raw, i, "expected a name in quotes")
		}
		m := canonicalMember{start: len(dst), firstObject: len(c.objects)}
		var (
			done bool
			err  error
		)
		if dst, i, err = appendCanonicalString(dst, raw, i); err != nil {
			return dst, i, err
		}
		c.noteKey(&m, dst)
		if sorted && len(c.pending) > base {
			previous := &c.pending[len(c.pending)-1]
			sorted = bytes.Compare(c.key(previous, dst), c.key(&m, dst)) < 0
		}
		if i, err = skipColon(raw, i); err != nil {
			return dst, i, err
		}
		dst = append(dst, ':')
		if dst, i, err = c.value(dst, raw, i, depth+1); err != nil {
			return dst, i, err
		}
		m.end = len(dst)
		c.pending = append(c.pending, m)
		if i, done, err = skipComma(raw, i, '}'); err != nil {
			return dst, i, err
		}
		if done {
			break
		}
		dst = append(dst, ',')
	}
	dst = append(dst, '}')
	c.closeObject(self, base, sorted, len(dst))
	return dst, i, nil
}

// closeObject notes what the second pass has to know of an object, if anything.
func (c *canonicalizer) closeObject(self, base int, sorted bool, end int) {
	o := &c.objects[self]
	switch {
	case sorted && len(c.objects) == self+1:
		c.objects = c.objects[:self]
	case sorted:
		o.sorted = true
	default:
		c.unsorted = true
		o.end, o.after, o.firstMember = end, len(c.objects), len(c.members)
		c.members = append(c.members, c.pending[base:]...)
		o.lastMember = len(c.members)
	}
	c.pending = c.pending[:base]
}

// noteKey sets where the value of m's name is. The name is the last thing in
// dst. The order is that of the values, so a name with escapes is decoded.
func (c *canonicalizer) noteKey(m *canonicalMember, dst []byte) {
	m.keyStart, m.keyEnd = m.start+1, len(dst)-1
	if bytes.IndexByte(dst[m.keyStart:m.keyEnd], '\\') < 0 {
		return
	}
	m.escaped, m.keyStart = true, len(c.keys)
	c.keys = appendStringValue(c.keys, dst[m.start:])
	m.keyEnd = len(c.keys)
}

// key returns the value of m's name. text begins where the first pass began to
// write, or earlier.
func (c *canonicalizer) key(m *canonicalMember, text []byte) []byte {
	if m.escaped {
		return c.keys[m.keyStart:m.keyEnd]
	}
	return text[m.keyStart:m.keyEnd]
}

// rewrite appends the part of the text from start to end, with the members of
// its objects in order. object is the index of the first object that can lie in
// that part.
func (c *canonicalizer) rewrite(dst []byte, start, end, object int) []byte {
	for object < len(c.objects) && c.objects[object].start < end {
		o := &c.objects[object]
		if o.sorted {
			object++
			continue
		}
		dst = append(dst, c.text[start-c.base:o.start-c.base]...)
		dst = c.rewriteObject(dst, c.members[o.firstMember:o.lastMember])
		start, object = o.end, o.after
	}
	return append(dst, c.text[start-c.base:end-c.base]...)
}

func (c *canonicalizer) rewriteObject(dst []byte, members []canonicalMember) []byte {
	for i := range members {
		if m := &members[i]; !m.escaped {
			m.keyStart -= c.base
			m.keyEnd -= c.base
		}
	}
	slices.SortFunc(members, func(a, b canonicalMember) int {
		if order := bytes.Compare(c.key(&a, c.text), c.key(&b, c.text)); order != 0 {
			return order
		}
		return a.start - b.start
	})
	dst = append(dst, '{')
	written := false
	for i := range members {
		m := &members[i]
		if i+1 < len(members) && bytes.Equal(c.key(m, c.text), c.key(&members[i+1], c.text)) {
			continue // the last member of a name counts
		}
		if written {
			dst = append(dst, ',')
		}
		written = true
		dst = c.rewrite(dst, m.start, m.end, m.firstObject)
	}
	return append(dst, '}')
}

// verbatim says of each byte whether it stands for itself in canonical strings.
// Bytes of characters beyond ASCII are not among them: they need a closer look.
var verbatim = func() (table [256]bool) {
	for c := ' '; c < utf8.RuneSelf; c++ {
		switch c {
		case '"', '\\', '<', '>', '&':
		default:
			table[c] = true
		}
	}
	return table
}()

// appendCanonicalString appends the canonical form of the JSON string whose
// opening quote is at i, and returns the index after its closing quote.
func appendCanonicalString(dst, raw []byte, i int) ([]byte, int, error) {
	start := i // the bytes from here to i are copied as they are
	for i++; i < len(raw); {
		c := raw[i]
		switch {
		case verbatim[c]:
			i++
		case c == '"':
			return append(dst, raw[start:i+1]...), i + 1, nil
		case c == '\\':
			r, n, err := decodeEscape(raw, i)
			if err != nil {
				return dst, i, err
			}
			dst = appendEscapedRune(append(dst, raw[start:i]...), r)
			i += n
			start = i
		case c < ' ':
			return dst, i, syntaxError(raw, i, "a control character in a string must be escaped")
		default:
			r, n := utf8.DecodeRune(raw[i:])
			if c < utf8.RuneSelf || r == '\u2028' || r == '\u2029' || (r == unicode.ReplacementChar && n == 1) {
				dst = appendEscapedRune(append(dst, raw[start:i]...), r)
				start = i + n
			}
			i += n
		}
	}
	return dst, i, syntaxError(raw, i, "")
}

// appendQuoted appends s as a canonical JSON string.
func appendQuoted(dst []byte, s string) []byte {
	dst = append(dst, '"')
	for _, r := range s {
		dst = appendEscapedRune(dst, r)
	}
	return append(dst, '"')
}

// appendEscapedRune appends one character as it stands in a canonical string.
func appendEscapedRune(dst []byte, r rune) []byte {
	const hex = "0123456789abcdef"
	switch r {
	case '"', '\\':
		return append(dst, '\\', byte(r))
	case '\b':
		return append(dst, '\\', 'b')
	case '\f':
		return append(dst, '\\', 'f')
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	case '\t':
		return append(dst, '\\', 't')
	case '<', '>', '&':
		return append(dst, '\\', 'u', '0', '0', hex[r>>4], hex[r&0xf])
	case '\u2028':
		return append(dst, `\u2028`...)
	case '\u2029':
		return append(dst, `\u2029`...)
	}
	if r < ' ' {
		return append(dst, '\\', 'u', '0', '0', hex[r>>4], hex[r&0xf])
	}
	return utf8.AppendRune(dst, r)
}

// appendCanonicalNumber appends the canonical form of the number at i, and
// returns the index after it.
func appendCanonicalNumber(dst, raw []byte, i int) ([]byte, int, error) {
	n, err := scanNumber(raw, i)
	if err != nil {
		return dst, i, err
	}
	literal := raw[n.start:n.end]
	if n.isCanonical(raw) {
		return append(dst, literal...), n.end, nil
	}
	f, err := strconv.ParseFloat(string(literal), 64)
	if err != nil {
		// The grammar was checked, so the only thing that can be wrong is the range.
		return dst, i, errNotFinite
	}
	return appendFloat(dst, f), n.end, nil
}

// isCanonical says that a number is already what appendFloat would write of it.
// It may say no to one that is. A decimal of at most 15 digits is the shortest
// that means its double, because no other of that length means the same one.
func (n numberText) isCanonical(raw []byte) bool {
	digits, first := n.end-n.start, n.start
	if raw[first] == '-' {
		digits--
		first++
	}
	if n.dot == 0 {
		return !n.exponent && digits <= exactFloatDigits
	}
	if n.exponent || digits-1 > exactFloatDigits || raw[n.end-1] == '0' {
		return false
	}
	if raw[first] != '0' {
		return true
	}
	// Below 1e-6 the exponent form begins.
	for _, c := range raw[n.dot+1 : min(n.dot+7, n.end)] {
		if c != '0' {
			return true
		}
	}
	return false
}

// appendFloat appends f, which must be finite, as encoding/json does.
func appendFloat(dst []byte, f float64) []byte {
	format := byte('f')
	if abs := math.Abs(f); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	dst = strconv.AppendFloat(dst, f, format, -1, 64)
	if format == 'e' {
		// strconv writes e-09 where the canonical form is e-9.
		if n := len(dst); n >= 4 && dst[n-4] == 'e' && dst[n-3] == '-' && dst[n-2] == '0' {
			dst[n-2] = dst[n-1]
			dst = dst[:n-1]
		}
	}
	return dst
}

// appendCanonicalInt appends n as a number of canonical JSON, which rounds it to
// a double.
func appendCanonicalInt(dst []byte, n int64) []byte {
	if -exactFloatInt <= n && n <= exactFloatInt {
		return strconv.AppendInt(dst, n, 10)
	}
	return appendFloat(dst, float64(n))
}
