package oversync

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"
)

// strictBase64 refuses what other decoders would read as something else.
var strictBase64 = base64.StdEncoding.Strict()

// judgeRows judges the rows of a chunk one by one, and makes them ready for the
// database. An error is a *PushChunkInvalidError that names the row. What is
// allocated does not grow with the number of rows, but for the size of arrays.
func (c *catalog) judgeRows(rows []pushedRow) (*stagedRows, error) {
	staged := &stagedRows{
		tableIDs: make([]int32, len(rows)), ops: make([]byte, len(rows)), baseVersions: make([]int64, len(rows)),
		keys: make([][]byte, len(rows)), payloads: make([]string, len(rows)),
	}
	// All keys and all payloads stand in one piece of memory each, cut into rows
	// once they have all been written and it moves no more.
	var (
		judge    = rowJudge{catalog: c, tables: make(map[*catalogTable]*judgedTable)}
		keys     = make([]byte, 0, len(rows)*len(uuid.UUID{}))
		payloads strings.Builder
		ends     = make([]struct{ key, payload int }, len(rows))
	)
	size := 0
	for i := range rows {
		size += len(rows[i].payload) + len(rows[i].key.text) + 16
	}
	payloads.Grow(size)
	for i := range rows {
		if err := judge.row(i, &rows[i]); err != nil {
			return nil, &PushChunkInvalidError{Message: fmt.Sprintf("row %d of the chunk: %v", i, err)}
		}
		staged.tableIDs[i], staged.ops[i], staged.baseVersions[i] = judge.table.id, judge.op, rows[i].baseVersion
		keys = append(keys, judge.key...)
		payloads.Write(judge.payload)
		ends[i].key, ends[i].payload = len(keys), payloads.Len()
	}
	type rowID struct {
		tableID int32
		key     string
	}
	keyTexts, payloadTexts := string(keys), payloads.String()
	seen := make(map[rowID]struct{}, len(rows))
	key, payload := 0, 0
	for i, end := range ends {
		id := rowID{staged.tableIDs[i], keyTexts[key:end.key]}
		if _, twice := seen[id]; twice {
			return nil, &PushChunkInvalidError{Message: fmt.Sprintf("row %d of the chunk: the same row is in the chunk twice: push each row once, in its final state", i)}
		}
		seen[id] = struct{}{}
		staged.keys[i], staged.payloads[i] = keys[key:end.key:end.key], payloadTexts[payload:end.payload]
		key, payload = end.key, end.payload
	}
	return staged, nil
}

// rowJudge judges one row after the other, with the scratch space that takes.
type rowJudge struct {
	catalog *catalog
	tables  map[*catalogTable]*judgedTable

	// Of the row before, whose table is often that of the next row too.
	schemaName, tableName string
	table                 *catalogTable
	columns               *judgedTable

	rowNumber int
	op        byte
	key       []byte
	payload   []byte // in the form that json_populate_record reads

	payloadDigits, chunkDigits int // that exponents stand for, of the row and of all so far

	keyBytes [16]byte
	text     []byte
	decoded  []byte
}

// judgedTable holds the columns of a table for the time of a chunk.
type judgedTable struct {
	columns map[string]*judgedColumn
	key     *judgedColumn
}

// judgedColumn remembers which row named it last, so that a column that is named
// twice is noticed.
type judgedColumn struct {
	catalogColumn
	name    string
	namedBy int // row number, counted from 1
}

func (j *rowJudge) row(number int, row *pushedRow) error {
	j.rowNumber = number + 1
	if err := j.findTable(row.schema, row.table); err != nil {
		return err
	}
	if err := j.judgeKey(&row.key); err != nil {
		return err
	}
	if row.baseVersion < 0 {
		return fmt.Errorf("base_row_version is negative: send the version that the change rests on, 0 if there is none")
	}
	hasPayload := row.payload != nil && !bytes.Equal(row.payload, []byte("null"))
	switch {
	case len(row.op) != len(OpInsert): // all three have; what only Unicode folds to one has more
		return fmt.Errorf("op %q is not INSERT, UPDATE or DELETE", shorten(row.op))
	case strings.EqualFold(row.op, OpInsert):
		j.op = 'I'
	case strings.EqualFold(row.op, OpUpdate):
		j.op = 'U'
	case strings.EqualFold(row.op, OpDelete):
		j.op = 'D'
		j.payload = j.payload[:0]
		if hasPayload {
			return fmt.Errorf("a DELETE has no payload: leave it out")
		}
		return nil
	default:
		return fmt.Errorf("op %q is not INSERT, UPDATE or DELETE", shorten(row.op))
	}
	if !hasPayload {
		return fmt.Errorf("the payload is missing: send an object of column names with their values")
	}
	return j.judgePayload(row.payload)
}

func (j *rowJudge) findTable(schema, table string) error {
	if j.table != nil && schema == j.schemaName && table == j.tableName {
		return nil
	}
	name := Key(schema, table)
	if j.table = j.catalog.byName[name]; j.table == nil {
		if strings.TrimSpace(table) == "" {
			return fmt.Errorf("its table is missing: name one of those that the capabilities list")
		}
		return fmt.Errorf("table %s is not registered: the capabilities list those that are", shorten(name))
	}
	j.schemaName, j.tableName = schema, table
	if j.columns = j.tables[j.table]; j.columns == nil {
		j.columns = &judgedTable{columns: make(map[string]*judgedColumn, len(j.table.columns))}
		for name, column := range j.table.columns {
			j.columns.columns[name] = &judgedColumn{catalogColumn: column, name: name}
		}
		if j.columns.key = j.columns.columns[j.table.keyColumn]; j.columns.key == nil {
			j.columns.key = &judgedColumn{name: j.table.keyColumn}
		}
		j.tables[j.table] = j.columns
	}
	return nil
}

func (j *rowJudge) judgeKey(key *pushedKey) error {
	switch {
	case key.columns != 1 || key.column != j.table.keyColumn:
		return fmt.Errorf("the key must have the one column %s", j.table.keyColumn)
	case !key.isText:
		return fmt.Errorf("the key column %s must be a string", j.table.keyColumn)
	case bytes.IndexByte(key.text, 0) >= 0:
		return fmt.Errorf("the key has a character U+0000 in it, which the database cannot store")
	case !utf8.Valid(key.text):
		return fmt.Errorf("the key is not UTF-8")
	case !j.table.keyIsUUID:
		j.key = key.text
	default:
		parsed, ok := parseUUIDKey(key.text)
		if !ok {
			return fmt.Errorf("the key %q is not a UUID", shorten(string(key.text)))
		}
		j.keyBytes = parsed
		j.key = j.keyBytes[:]
	}
	return nil
}

// parseUUIDKey reads a uuid key in its dashed form.
func parseUUIDKey(text []byte) (_ uuid.UUID, ok bool) {
	if len(text) != 36 {
		return uuid.UUID{}, false
	}
	parsed, err := uuid.ParseBytes(text)
	return parsed, err == nil
}

// judgePayload checks the columns and writes the payload anew: names in lower
// case, key filled in, base64 as the database reads bytes.
func (j *rowJudge) judgePayload(payload []byte) error {
	j.payload, j.payloadDigits = append(j.payload[:0], '{'), 0
	if err := scanPayload(payload, j.judgeColumn); err != nil {
		return err
	}
	if j.columns.key.namedBy != j.rowNumber {
		j.startColumn(j.table.keyColumn)
		j.payload = j.table.appendKeyJSON(j.payload, j.key)
	}
	j.payload = append(j.payload, '}')
	return nil
}

func (j *rowJudge) startColumn(name string) {
	if len(j.payload) > 1 {
		j.payload = append(j.payload, ',')
	}
	j.payload = append(j.payload, '"')
	j.payload = append(j.payload, name...) // made of a-z 0-9 _ only
	j.payload = append(j.payload, '"', ':')
}

func (j *rowJudge) judgeColumn(rawName, value []byte) error {
	column := j.columns.columns[string(rawName)]
	if column == nil {
		column = j.columns.columns[strings.ToLower(string(rawName))]
	}
	switch {
	case column == nil || len(column.name) != len(rawName): // the latter is not ASCII, and only Unicode folds it to one
		return fmt.Errorf("table %s.%s has no column %q", j.table.schema, j.table.table, shorten(string(rawName)))
	case column.isHidden:
		return fmt.Errorf("column %s is the server's and must not be sent: leave it out", column.name)
	case column.namedBy == j.rowNumber:
		return fmt.Errorf("column %s is in the payload twice: send it once", column.name)
	}
	column.namedBy = j.rowNumber
	if jsonStringContainsNUL(value) {
		return fmt.Errorf("column %s has a character U+0000 in it, which the database cannot store", column.name)
	}
	if hasHalfSurrogate(value) {
		return fmt.Errorf("column %s has half of a surrogate pair in it, which is no character", column.name)
	}
	switch {
	case column.isKey:
		if !j.isKey(value) {
			return fmt.Errorf("column %s is not the same as in the key: leave it out", column.name)
		}
		j.startColumn(column.name)
		j.payload = j.table.appendKeyJSON(j.payload, j.key)
	case column.isReadOnly:
		// Sent to clients, and so sent back by them; the database makes its own.
	case column.isBytea && !bytes.Equal(value, []byte("null")):
		return j.judgeBytes(column, value)
	default:
		j.startColumn(column.name)
		j.payload = append(j.payload, value...)
		return j.countExponents(value)
	}
	return nil
}

// judgeBytes writes base64 in the form in which the database reads bytes.
func (j *rowJudge) judgeBytes(column *judgedColumn, value []byte) error {
	if value[0] != '"' {
		return fmt.Errorf("column %s must be a base64 string", column.name)
	}
	j.text = appendStringValue(j.text[:0], value)
	// The decoder passes over line breaks, which are no base64 here.
	if bytes.ContainsAny(j.text, "\r\n") {
		return fmt.Errorf("column %s is not standard base64 with padding", column.name)
	}
	decoded, err := strictBase64.AppendDecode(j.decoded[:0], j.text)
	if err != nil {
		return fmt.Errorf("column %s is not standard base64 with padding", column.name)
	}
	j.decoded = decoded
	j.startColumn(column.name)
	j.payload = append(j.payload, `"\\x`...)
	j.payload = hex.AppendEncode(j.payload, decoded)
	j.payload = append(j.payload, '"')
	return nil
}

// isKey says whether a JSON value names the row's own key.
func (j *rowJudge) isKey(value []byte) bool {
	if value[0] != '"' {
		return false
	}
	j.text = appendStringValue(j.text[:0], value)
	if !j.table.keyIsUUID {
		return bytes.Equal(j.text, j.key)
	}
	other, ok := parseUUIDKey(j.text)
	return ok && bytes.Equal(other[:], j.key)
}
