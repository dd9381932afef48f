package device

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
)

// wireRow is a row of a bundle as the server sends it.
type wireRow struct {
	Schema     string            `json:"schema"`
	Table      string            `json:"table"`
	Key        map[string]string `json:"key"`
	Op         string            `json:"op"`
	RowVersion int64             `json:"row_version"`
	Payload    json.RawMessage   `json:"payload"`
}

// Canonical returns the canonical form of a JSON text: no white space, keys sorted by their bytes, strings
// escaped and doubles written as encoding/json does. In another language these are the points to get right:
// < > & U+2028 U+2029 are escaped; numbers are rounded to a double, written with the shortest digits that read back
// as the same double, and in exponent form below 1e-6 and from 1e21 up. It fails on a number without a finite double.
func Canonical(text []byte) ([]byte, error) {
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		return nil, fmt.Errorf("device: canonical JSON: %w", err)
	}
	return json.Marshal(v)
}

// bundleHash is the lower-case hex SHA-256 of the canonical JSON of the rows.
func bundleHash(rows []wireRow) (string, error) {
	items := make([]any, len(rows)) // never nil: the empty list is written []
	for i, r := range rows {
		var payload any // nil, and so null, for a DELETE
		if len(r.Payload) > 0 {
			if err := json.Unmarshal(r.Payload, &payload); err != nil {
				return "", fmt.Errorf("device: payload of row %d: %w", i, err)
			}
		}
		items[i] = map[string]any{
			"key": r.Key, "op": r.Op, "payload": payload, "row_ordinal": i,
			"row_version": r.RowVersion, "schema": r.Schema, "table": r.Table,
		}
	}
	text, err := json.Marshal(items) // encoding/json sorts the keys of a map
	if err != nil {
		return "", fmt.Errorf("device: canonical JSON of a bundle: %w", err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}

// HashError says that rows do not match the hash that came with them. Nothing of the bundle was applied.
type HashError struct {
	BundleSeq      int64
	Sent, Computed string
	Rows           int
}

func (e *HashError) Error() string {
	return fmt.Sprintf("device: bundle %d: its %d rows hash to %s, the server says %s; sync again, and if it persists compare the canonical JSON",
		e.BundleSeq, e.Rows, e.Computed, e.Sent)
}

func verifyBundle(seq, rowCount int64, hash string, rows []wireRow) error {
	computed, err := bundleHash(rows)
	if err != nil {
		return fmt.Errorf("device: bundle %d: %w", seq, err)
	}
	if computed != hash || int64(len(rows)) != rowCount {
		return &HashError{BundleSeq: seq, Sent: hash, Computed: computed, Rows: len(rows)}
	}
	return nil
}
