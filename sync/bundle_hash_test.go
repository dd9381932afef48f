package oversync

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestBundleHasher(t *testing.T) {
	t.Parallel()

	h := newBundleHasher()
	require.NoError(t, h.addRow("business", "users", "id", []byte(`"a<b"`), OpInsert, 7, []byte(`{"name":"Ada","id":"a<b","n":9007199254740993}`)))
	require.NoError(t, h.addRow("business", "posts", "id", []byte(`"p1"`), OpDelete, 7, nil))
	sum, byteCount, rows := h.sum()

	const want = `[{"key":{"id":"a\u003cb"},"op":"INSERT","payload":{"id":"a\u003cb","n":9007199254740992,"name":"Ada"},"row_ordinal":0,"row_version":7,"schema":"business","table":"users"},` +
		`{"key":{"id":"p1"},"op":"DELETE","payload":null,"row_ordinal":1,"row_version":7,"schema":"business","table":"posts"}]`
	require.Equal(t, sha256.Sum256([]byte(want)), sum)
	require.Equal(t, "bcfff26c5b31f22535ec9369bbe4e6f6dcef4447c488fe8b438c9419c33f27cc", hex.EncodeToString(sum[:]))
	require.EqualValues(t, len(want), byteCount)
	require.EqualValues(t, 2, rows)
}

func TestBundleHasherWithoutRows(t *testing.T) {
	t.Parallel()

	sum, byteCount, rows := newBundleHasher().sum()
	require.Equal(t, sha256.Sum256([]byte("[]")), sum)
	require.EqualValues(t, 2, byteCount)
	require.Zero(t, rows)
}

func TestBundleHasherKeepsItsStateOnError(t *testing.T) {
	t.Parallel()

	h, clean := newBundleHasher(), newBundleHasher()
	require.NoError(t, h.addRow("s", "t", "id", []byte(`"1"`), OpInsert, 1, []byte(`{}`)))
	require.ErrorIs(t, h.addRow("s", "t", "id", []byte(`"2"`), OpInsert, 1, []byte(`{"n":1e400}`)), errNotFinite)
	require.Error(t, h.addRow("s", "t", "id", []byte(`2`+`x`), OpDelete, 1, nil))
	require.NoError(t, h.addRow("s", "t", "id", []byte(`"3"`), OpDelete, 1, nil))

	require.NoError(t, clean.addRow("s", "t", "id", []byte(`"1"`), OpInsert, 1, []byte(`{}`)))
	require.NoError(t, clean.addRow("s", "t", "id", []byte(`"3"`), OpDelete, 1, nil))

	gotSum, gotBytes, gotRows := h.sum()
	wantSum, wantBytes, wantRows := clean.sum()
	require.Equal(t, wantSum, gotSum)
	require.Equal(t, wantBytes, gotBytes)
	require.Equal(t, wantRows, gotRows)
}

// TestBundleHasherProperty compares with what a client does: decode the rows it
// received, add the ordinals, and encode the whole.
func TestBundleHasherProperty(t *testing.T) {
	t.Parallel()

	texts := jsonText()
	rapid.Check(t, func(t *rapid.T) {
		h := newBundleHasher()
		rows := []any{}
		for i := range rapid.IntRange(0, 4).Draw(t, "rows") {
			var (
				schema  = rapid.SampledFrom([]string{"public", "business", `odd"<name>`}).Draw(t, "schema")
				table   = rapid.String().Draw(t, "table")
				column  = rapid.SampledFrom([]string{"id", "user_id", "ü"}).Draw(t, "column")
				key     = rapid.String().Draw(t, "key")
				op      = rapid.SampledFrom([]string{OpInsert, OpUpdate, OpDelete}).Draw(t, "op")
				version = rapid.Int64().Draw(t, "version")
				payload any
				raw     []byte
			)
			if op != OpDelete {
				raw = []byte(`{"value":` + texts.Draw(t, "value") + `,"id":1}`)
				if err := json.Unmarshal(raw, &payload); err != nil {
					t.Fatal(err)
				}
			}
			quoted, _ := json.Marshal(key)
			if err := h.addRow(schema, table, column, quoted, op, version, raw); err != nil {
				t.Fatal(err)
			}
			rows = append(rows, map[string]any{
				"schema": schema, "table": table, "key": map[string]any{column: key}, "op": op,
				"row_version": float64(version), "row_ordinal": i, "payload": payload,
			})
		}
		want, err := json.Marshal(rows)
		if err != nil {
			t.Fatal(err)
		}
		sum, byteCount, count := h.sum()
		if sum != sha256.Sum256(want) || byteCount != int64(len(want)) || count != int64(len(rows)) {
			t.Fatalf("differs from %s", want)
		}
	})
}

func BenchmarkBundleHasher(b *testing.B) {
	h := newBundleHasher()
	key, payload := []byte(`"0197a2c4-8f3e-7b6a-9c1d-2e4f60718293"`), []byte(benchPayload)
	b.ReportAllocs()
	for b.Loop() {
		if err := h.addRow("business", "users", "id", key, OpUpdate, 157, payload); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}
