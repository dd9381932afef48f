package device

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"time"
)

// Row is a row of an application table: column to value, the key column included. A value is nil, a string (text,
// json, numeric, timestamp), an int64, a float64, a bool or a []byte, as the column's type says.
type Row map[string]any

// readRow reads a row of the file; nil when there is none.
func readRow(ctx context.Context, tx *sql.Tx, t *Table, key string) (Row, error) {
	rows, err := tx.QueryContext(ctx, t.selectSQL()+` WHERE `+q(t.Key)+` = ?`, key)
	if err != nil {
		return nil, err
	}
	found, err := scanRows(rows, t)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return found[0], nil
}

// selectSQL reads the key and the columns. The unary + takes a column's declared type away from the driver,
// which would make a time of a TIMESTAMP and lose its digits.
func (t *Table) selectSQL() string {
	cols := []string{"+" + q(t.Key)}
	for _, c := range t.Columns {
		cols = append(cols, "+"+q(c.Name))
	}
	return `SELECT ` + strings.Join(cols, ", ") + ` FROM ` + q(t.Name)
}

func scanRows(rows *sql.Rows, t *Table) ([]Row, error) {
	defer func() { _ = rows.Close() }()
	var found []Row
	values := make([]any, 1+len(t.Columns))
	dest := make([]any, len(values))
	for i := range values {
		dest[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(dest...); err != nil {
			return nil, err
		}
		row := Row{t.Key: values[0]}
		for i := range t.Columns {
			row[t.Columns[i].Name] = fromSQLite(&t.Columns[i], values[i+1])
		}
		found = append(found, row)
	}
	return found, rows.Err()
}

// fromSQLite mends what SQLite's loose typing may hold: a flag as a number, bytes as text, digits as a number.
func fromSQLite(c *Column, v any) any {
	switch v := v.(type) {
	case int64:
		switch c.Type {
		case Bool:
			return v != 0
		case Real:
			return float64(v)
		case Text, Numeric, Timestamp, JSON:
			return strconv.FormatInt(v, 10)
		}
	case float64:
		switch c.Type {
		case Text, Numeric, Timestamp, JSON:
			return strconv.FormatFloat(v, 'g', -1, 64)
		}
	case string:
		if c.Type == Bytes {
			return []byte(v)
		}
	case []byte:
		if c.Type == Bytes {
			return append([]byte{}, v...) // an empty BLOB arrives as a nil slice, but it is not NULL
		}
		return string(v)
	}
	return v
}

// encodeValue writes a value of a column as JSON.
func encodeValue(c *Column, v any) (json.RawMessage, error) {
	fail := func() (json.RawMessage, error) {
		return nil, fmt.Errorf("column %s of type %s cannot hold the %T %v", c.Name, c.Type, v, v)
	}
	switch v := v.(type) {
	case nil:
		return json.RawMessage("null"), nil
	case string:
		switch c.Type {
		case JSON:
			if !json.Valid([]byte(v)) {
				return nil, fmt.Errorf("column %s does not hold JSON", c.Name)
			}
			return json.RawMessage(v), nil
		case Numeric:
			if isNumber(v) {
				return json.RawMessage(v), nil
			}
			return json.Marshal(v) // NaN, Infinity, or digits in a form that JSON does not have
		case Bool, Bytes, Integer:
			return fail()
		}
		return json.Marshal(v) // a Real may hold NaN or Infinity as text
	case int64:
		switch c.Type {
		case Integer, Real, Numeric:
			return strconv.AppendInt(nil, v, 10), nil
		}
	case float64:
		if c.Type != Real {
			return fail()
		}
		if math.IsInf(v, 0) || math.IsNaN(v) {
			return json.Marshal(map[bool]string{true: "-Infinity", false: "Infinity"}[v < 0])
		}
		return json.Marshal(v)
	case bool:
		if c.Type == Bool {
			return strconv.AppendBool(nil, v), nil
		}
	case []byte:
		if c.Type == Bytes {
			return json.Marshal(base64.StdEncoding.EncodeToString(v))
		}
	}
	return fail()
}

// isNumber says whether the text is a JSON number.
func isNumber(s string) bool {
	return s != "" && (s[0] == '-' || s[0] >= '0' && s[0] <= '9') && json.Valid([]byte(s))
}

// decodeValue reads the JSON of a column.
func decodeValue(c *Column, text json.RawMessage) (any, error) {
	if string(text) == "null" {
		return nil, nil
	}
	fail := func(err error) (any, error) {
		return nil, fmt.Errorf("column %s of type %s cannot be read from the server's value: %w", c.Name, c.Type, err)
	}
	var str string
	isString := len(text) > 0 && text[0] == '"'
	if isString {
		if err := json.Unmarshal(text, &str); err != nil {
			return fail(err)
		}
	}
	switch c.Type {
	case JSON:
		return string(text), nil
	case Numeric:
		if isString {
			return str, nil
		}
		return string(text), nil
	case Integer:
		n, err := strconv.ParseInt(strings.Trim(string(text), `"`), 10, 64)
		if err != nil {
			return fail(err)
		}
		return n, nil
	case Real:
		if isString {
			return str, nil // "NaN" and "Infinity" stay text: SQLite has no NaN
		}
		f, err := strconv.ParseFloat(string(text), 64)
		if err != nil {
			return fail(err)
		}
		return f, nil
	case Bool:
		b, err := strconv.ParseBool(string(text))
		if err != nil {
			return fail(err)
		}
		return b, nil
	case Bytes:
		b, err := base64.StdEncoding.DecodeString(str)
		if err != nil || !isString {
			return fail(errors.Join(err, errors.New("want base64 in a string")))
		}
		return b, nil
	}
	if !isString {
		return string(text), nil // a text column here may be a number or an object on the server
	}
	return str, nil
}

// encodeRow is the payload of a pushed row. The key column is left out: the server takes it from the key.
func (t *Table) encodeRow(row Row) (json.RawMessage, error) {
	payload := map[string]json.RawMessage{}
	for i := range t.Columns {
		c := &t.Columns[i]
		// Not only in an INSERT: a row that was changed again before the answer to its INSERT came, or that somebody else
		// made first, still has no value here when it is pushed as an UPDATE.
		if c.ServerDefault && row[c.Name] == nil {
			continue
		}
		text, err := encodeValue(c, row[c.Name])
		if err != nil {
			return nil, fmt.Errorf("device: %s %v: %w", t.Name, row[t.Key], err)
		}
		payload[c.Name] = text
	}
	return json.Marshal(payload)
}

// decodeRow reads a payload of the server. Columns that the device does not know are ignored, so that the server may
// add some; a column that the payload lacks is absent from the row.
func (t *Table) decodeRow(key string, payload json.RawMessage) (Row, error) {
	if len(payload) == 0 || string(payload) == "null" {
		return nil, nil
	}
	var values map[string]json.RawMessage
	if err := json.Unmarshal(payload, &values); err != nil {
		return nil, fmt.Errorf("device: payload of %s %s: %w", t.Name, key, err)
	}
	row := Row{t.Key: key}
	for i := range t.Columns {
		text, ok := values[t.Columns[i].Name]
		if !ok {
			continue
		}
		v, err := decodeValue(&t.Columns[i], text)
		if err != nil {
			return nil, fmt.Errorf("device: %s %s: %w", t.Name, key, err)
		}
		row[t.Columns[i].Name] = v
	}
	return row, nil
}

// equal says whether two rows hold the same values. Nil stands for a row that does not exist.
func (t *Table) equal(a, b Row) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	for i := range t.Columns {
		if c := &t.Columns[i]; !equalValue(c, a[c.Name], b[c.Name]) {
			return false
		}
	}
	return true
}

// equalValue compares values, not spellings: 1.50 is 1.5, and an instant has many forms.
func equalValue(c *Column, a, b any) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	as, aIsString := a.(string)
	bs, bIsString := b.(string)
	if aIsString && bIsString && as != bs {
		switch c.Type {
		case Numeric:
			x, okX := new(big.Rat).SetString(as)
			y, okY := new(big.Rat).SetString(bs)
			return okX && okY && x.Cmp(y) == 0
		case JSON:
			x, errX := Canonical([]byte(as))
			y, errY := Canonical([]byte(bs))
			return errX == nil && errY == nil && string(x) == string(y)
		case Timestamp:
			x, errX := time.Parse(time.RFC3339Nano, as)
			y, errY := time.Parse(time.RFC3339Nano, bs)
			return errX == nil && errY == nil && x.Equal(y)
		}
		return false
	}
	if ab, ok := a.([]byte); ok {
		bb, ok := b.([]byte)
		return ok && string(ab) == string(bb)
	}
	return a == b
}

// writeRow makes the row of the file what row says, and leaves columns that row lacks alone. Nil deletes it.
func writeRow(ctx context.Context, tx *sql.Tx, t *Table, key string, row Row) error {
	if row == nil {
		_, err := tx.ExecContext(ctx, `DELETE FROM `+q(t.Name)+` WHERE `+q(t.Key)+` = ?`, key)
		return err
	}
	cols, marks, sets, args := []string{q(t.Key)}, []string{"?"}, []string(nil), []any{key}
	for _, c := range t.Columns {
		v, ok := row[c.Name]
		if !ok {
			continue
		}
		cols, marks, args = append(cols, q(c.Name)), append(marks, "?"), append(args, v)
		sets = append(sets, q(c.Name)+" = excluded."+q(c.Name))
	}
	conflict := " DO NOTHING"
	if len(sets) > 0 {
		conflict = " DO UPDATE SET " + strings.Join(sets, ", ")
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO `+q(t.Name)+` (`+strings.Join(cols, ", ")+`) VALUES (`+strings.Join(marks, ", ")+`)
		ON CONFLICT (`+q(t.Key)+`)`+conflict, args...)
	if err != nil {
		return fmt.Errorf("device: write %s %s: %w", t.Name, key, err)
	}
	return nil
}
