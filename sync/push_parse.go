package oversync

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// pushedRow is a row as a client sent it, before it is judged. Its slices may be
// parts of the request's body.
type pushedRow struct {
	schema, table, op string
	baseVersion       int64
	key               pushedKey
	payload           []byte // JSON text; nil or null is none
}

// pushedKey is the key of a pushed row. column and text are those of the only
// column; with more or fewer they mean nothing.
type pushedKey struct {
	columns int
	column  string
	text    []byte
	isText  bool // false for a value that is no JSON string
}

// parsePushChunk reads a PushSessionChunkRequest from a request's body, as
// DecodeRequest does, but makes no values of what the database takes as text. It
// costs no allocation per row. Every failure is a *RequestBodyError. The rows
// hold parts of the body. Rows past maxRows are only counted, since a row can be
// three bytes of the body and takes many times that here.
func parsePushChunk(body []byte, maxRows int) (start int64, rows []pushedRow, count int, err error) {
	if !utf8.Valid(body) {
		return 0, nil, 0, &RequestBodyError{"it is not UTF-8: encode it so"}
	}
	p := chunkParser{body: body, maxRows: maxRows}
	err = p.envelope.body(body, func(i int) (int, error) {
		return p.object(body, i, 0, func(name string, i int) (int, error) {
			switch {
			case strings.EqualFold(name, "start_row_ordinal"):
				return p.integer(name, i, &p.start)
			case strings.EqualFold(name, "rows"):
				return p.list(i)
			default:
				return p.skip(name, i, 1)
			}
		})
	})
	return p.start, p.rows, p.count, requestBodyError(err)
}

// chunkParser goes once over the body of a chunk.
type chunkParser struct {
	envelope
	body    []byte
	maxRows int
	start   int64
	rows    []pushedRow
	count   int // of all rows, those past maxRows included
	// texts are the schemas, tables and operations so far. Few of them differ.
	texts map[string]string
}

// skip passes a member that the request does not have.
func (p *chunkParser) skip(name string, i, depth int) (int, error) {
	if strings.EqualFold(name, "payload") {
		return skipValue(p.body, i, depth)
	}
	return p.value(p.body, i, depth)
}

func (p *chunkParser) list(i int) (int, error) {
	if end, isNull := p.null(i); isNull {
		return end, nil
	}
	if p.byteAt(i) != '[' {
		return p.wrongType("rows", "an array of objects", i, 1)
	}
	return p.array(p.body, i, 1, func(i int) (int, error) {
		if p.count++; p.count > p.maxRows {
			return skipValue(p.body, i, 2)
		}
		p.rows = append(p.rows, pushedRow{})
		return p.row(i, &p.rows[len(p.rows)-1])
	})
}

func (p *chunkParser) row(i int, row *pushedRow) (int, error) {
	if end, isNull := p.null(i); isNull {
		return end, nil
	}
	if p.byteAt(i) != '{' {
		return p.wrongType("rows", "an array of objects", i, 2)
	}
	return p.object(p.body, i, 2, func(name string, i int) (int, error) {
		switch {
		case strings.EqualFold(name, "schema"):
			return p.text(name, i, &row.schema)
		case strings.EqualFold(name, "table"):
			return p.text(name, i, &row.table)
		case strings.EqualFold(name, "op"):
			return p.text(name, i, &row.op)
		case strings.EqualFold(name, "base_row_version"):
			return p.integer(name, i, &row.baseVersion)
		case strings.EqualFold(name, "key"):
			return p.key(i, &row.key)
		case strings.EqualFold(name, "payload"):
			end, err := skipValue(p.body, i, 3)
			if err == nil {
				row.payload = p.body[i:end]
			}
			return end, err
		default:
			return p.skip(name, i, 3)
		}
	})
}

func (p *chunkParser) key(i int, key *pushedKey) (int, error) {
	if end, isNull := p.null(i); isNull {
		return end, nil
	}
	if p.byteAt(i) != '{' {
		return p.wrongType("key", "an object of strings", i, 3)
	}
	return p.object(p.body, i, 3, func(name string, i int) (int, error) {
		key.columns++
		key.column = name
		if key.isText = p.byteAt(i) == '"'; !key.isText {
			return p.skip(name, i, 4)
		}
		end, plain, err := skipString(p.body, i)
		if err != nil {
			return i, err
		}
		if plain {
			key.text = p.body[i+1 : end-1]
			return end, nil
		}
		if err := refuseHalfSurrogate(p.body, i, end); err != nil {
			return i, err
		}
		key.text = appendStringValue(nil, p.body[i:end])
		return end, nil
	})
}

func (p *chunkParser) text(name string, i int, dst *string) (int, error) {
	if end, isNull := p.null(i); isNull {
		return end, nil
	}
	if p.byteAt(i) != '"' {
		return p.wrongType(name, "a string", i, 3)
	}
	raw, end, err := scanName(p.body, i)
	if err != nil {
		return i, err
	}
	known, ok := p.texts[string(raw)]
	if !ok {
		if p.texts == nil {
			p.texts = make(map[string]string)
		}
		known = string(raw)
		p.texts[known] = known
	}
	*dst = known
	return end, nil
}

func (p *chunkParser) integer(name string, i int, dst *int64) (int, error) {
	if end, isNull := p.null(i); isNull {
		return end, nil
	}
	if c := p.byteAt(i); c != '-' && (c < '0' || c > '9') {
		return p.wrongType(name, "a whole number, as digits alone", i, 3)
	}
	number, err := scanNumber(p.body, i)
	if err != nil {
		return i, err
	}
	n, err := strconv.ParseInt(string(p.body[i:number.end]), 10, 64)
	if err != nil {
		return p.wrongType(name, "a whole number, as digits alone", i, 3)
	}
	*dst = n
	return number.end, nil
}

// null passes the value at i if it is null, which leaves a field as it is.
func (p *chunkParser) null(i int) (end int, isNull bool) {
	if p.byteAt(i) != 'n' {
		return i, false
	}
	end, err := skipLiteral(p.body, i)
	return end, err == nil
}

// byteAt is 0 past the end of the body.
func (p *chunkParser) byteAt(i int) byte {
	if i >= len(p.body) {
		return 0
	}
	return p.body[i]
}

// wrongType refuses the value at i for not being what is wanted, or for being no JSON at all.
func (p *chunkParser) wrongType(name, wanted string, i, depth int) (int, error) {
	if _, err := skipValue(p.body, i, depth); err != nil {
		return i, err
	}
	return i, &RequestBodyError{fmt.Sprintf("%q at byte %d has the wrong type: send %s", shorten(name), i, wanted)}
}
