package oversync

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// bundleHasher computes the hash and size of a bundle's canonical JSON from its
// rows, one at a time and in order. It holds one row in memory, and is not safe
// for concurrent use.
type bundleHasher struct {
	canonicalizer canonicalizer
	digest        hash.Hash
	row, key      []byte
	rows          int64
	bytes         int64
}

func newBundleHasher() *bundleHasher {
	return &bundleHasher{digest: sha256.New()}
}

// addRow adds the next row. keyJSON is the key's value as a JSON string, with
// its quotes. payload is the row as a JSON object, and nil for a DELETE. An error
// means that the row has no canonical form, and leaves the hasher as it was: see
// appendCanonicalJSON.
func (h *bundleHasher) addRow(
	schema, table, keyColumn string, keyJSON []byte, op string, rowVersion int64, payload []byte,
) error {
	separator := byte(',')
	if h.rows == 0 {
		separator = '['
	}
	var err error
	b := append(h.row[:0], separator)
	b = append(b, `{"key":{`...)
	b = appendQuoted(b, keyColumn)
	b = append(b, ':')
	if b, err = h.canonicalizer.append(b, keyJSON); err != nil {
		return err
	}
	b = append(b, `},"op":`...)
	b = appendQuoted(b, op)
	b = append(b, `,"payload":`...)
	if payload == nil {
		b = append(b, "null"...)
	} else if b, err = h.canonicalizer.append(b, payload); err != nil {
		return err
	}
	b = append(b, `,"row_ordinal":`...)
	b = strconv.AppendInt(b, h.rows, 10)
	b = append(b, `,"row_version":`...)
	b = appendCanonicalInt(b, rowVersion)
	b = append(b, `,"schema":`...)
	b = appendQuoted(b, schema)
	b = append(b, `,"table":`...)
	b = appendQuoted(b, table)
	b = append(b, '}')

	h.row = b
	h.digest.Write(b) // a hash never fails to write
	h.rows++
	h.bytes += int64(len(b))
	return nil
}

// sum ends the array and returns the bundle's hash, the length of its canonical
// JSON in bytes, and how many rows it has. It may be called once, and no row may
// be added after it.
func (h *bundleHasher) sum() (sum [sha256.Size]byte, byteCount, rows int64) {
	end := "]"
	if h.rows == 0 {
		end = "[]"
	}
	h.digest.Write([]byte(end))
	h.bytes += int64(len(end))
	h.digest.Sum(sum[:0])
	return sum, h.bytes, h.rows
}

// addLogRow is addRow for a row of the log.
func (h *bundleHasher) addLogRow(row *logRow, table *catalogTable) error {
	h.key = table.appendKeyJSON(h.key[:0], row.key)
	if err := h.addRow(table.schema, table.table, table.keyColumn, h.key, wireOp(row.op), row.bundleSeq, row.payload); err != nil {
		return &notCanonicalError{table: table, key: table.keyString(row.key), err: err}
	}
	return nil
}

// hashRows reads the rows of a bundle in order and makes its hash. each, if not
// nil, sees every row; what it is given is valid only until it returns.
func (s *SyncService) hashRows(ctx context.Context, rows pgx.Rows, each func(*logRow, *catalogTable)) (*bundleHasher, error) {
	hasher := newBundleHasher()
	return hasher, s.forEachLogRow(ctx, rows, func(row *logRow, table *catalogTable) error {
		if err := hasher.addLogRow(row, table); err != nil {
			return err
		}
		if each != nil {
			each(row, table)
		}
		return nil
	})
}

// forEachLogRow reads rows of the log, each with its table, until use fails. What it
// is given is valid only until it returns.
func (s *SyncService) forEachLogRow(ctx context.Context, rows pgx.Rows, use func(*logRow, *catalogTable) error) error {
	defer rows.Close()
	known, err := s.currentCatalog(ctx)
	if err != nil {
		return err
	}
	var row logRow
	var table *catalogTable
	for rows.Next() {
		if err := row.scan(rows); err != nil {
			return err
		}
		if table == nil || table.id != row.tableID {
			if known, err = s.catalogWith(ctx, known, row.tableID); err != nil {
				return err
			}
			table = known.byID[row.tableID]
		}
		if err := use(&row, table); err != nil {
			return err
		}
	}
	return rows.Err()
}

// logRow is one row of the log, as the queries that stream it give it. Its
// slices belong to the driver, until the next row.
type logRow struct {
	bundleSeq int64
	ordinal   int32
	tableID   int32
	op        pgtype.DriverBytes
	key       pgtype.DriverBytes
	payload   pgtype.DriverBytes

	payloadBytes int32 // as sync.user_state counts them
}

func (r *logRow) scan(rows pgx.Rows) error {
	return rows.Scan(&r.bundleSeq, &r.ordinal, &r.tableID, &r.op, &r.key, &r.payload, &r.payloadBytes)
}

// notCanonicalError says that a row has a number without a finite double, so
// that no hash can be made of it.
type notCanonicalError struct {
	table *catalogTable
	key   string
	err   error
}

func (e *notCanonicalError) Error() string {
	return fmt.Sprintf("row %s of %s.%s: %v", e.key, e.table.schema, e.table.table, e.err)
}

func (e *notCanonicalError) Unwrap() error { return e.err }
