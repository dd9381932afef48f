package oversync

import (
	"crypto/sha256"
	"hash"
	"strconv"
)

// bundleHasher computes the hash and size of a bundle's canonical JSON from its
// rows, one at a time and in order. It holds one row in memory, and is not safe
// for concurrent use.
type bundleHasher struct {
	canonicalizer canonicalizer
	digest        hash.Hash
	row           []byte
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
