package httpapi_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	oversync "github.com/oversync/oversync/sync"
)

func TestPushChunksFollowEachOther(t *testing.T) {
	t.Parallel()
	a := newAPI(t, func(c *oversync.ServiceConfig) { c.MaxRowsPerPushChunk = 3 })
	d := a.device("user", "source").initialized()
	pushID := d.create(1, 4, "").text("push_id")
	rows := make([]string, 5)
	for i := range rows {
		rows[i] = note(fmt.Sprint(i), "INSERT", 0)
	}
	d.chunk(pushID, 1, rows[1]).refused(409, "push_chunk_out_of_order")
	d.chunk(pushID, 0, rows[:2]...).is(200, `{"push_id":"`+pushID+`","next_expected_row_ordinal":2}`)
	for _, start := range []int{0, 1, 3, 1 << 40} {
		d.chunk(pushID, start, rows[2]).refused(409, "push_chunk_out_of_order", start)
	}
	d.chunk(pushID, 2, rows[2:]...).refused(400, "push_chunk_invalid", "more than planned")
	d.chunk(pushID, 2, rows[2], rows[3]).is(200, `{"push_id":"`+pushID+`","next_expected_row_ordinal":4}`)
	d.chunk(pushID, 4, rows[4]).refused(400, "push_chunk_invalid", "more than planned")
	d.chunk(pushID, 0, rows[:4]...).refused(400, "push_chunk_invalid", "more than a chunk may have")
	require.Equal(t, 4, d.commit(pushID).number("row_count"))
}

// Everything about a chunk that can be judged without the rows of the database.
func TestPushChunksThatAreNotWellFormed(t *testing.T) {
	t.Parallel()
	d := newAPI(t, nil).device("user", "source").initialized()
	pushID := d.create(1, 2, "").text("push_id")
	good := note("a", "INSERT", 0)
	path := "/sync/push-sessions/" + pushID + "/chunks"

	for name, body := range map[string]string{
		"empty":                       `{}`,
		"no rows":                     `{"start_row_ordinal":0,"rows":[]}`,
		"null rows":                   `{"start_row_ordinal":0,"rows":null}`,
		"rows that are no array":      `{"start_row_ordinal":0,"rows":{}}`,
		"a row that is no object":     `{"start_row_ordinal":0,"rows":[1]}`,
		"a row that is null":          `{"start_row_ordinal":0,"rows":[null]}`,
		"a negative start":            `{"start_row_ordinal":-1,"rows":[` + good + `]}`,
		"a start that is no number":   `{"start_row_ordinal":"0","rows":[` + good + `]}`,
		"a start that is no integer":  `{"start_row_ordinal":0.5,"rows":[` + good + `]}`,
		"a start past 64 bits":        `{"start_row_ordinal":9223372036854775808,"rows":[` + good + `]}`,
		"a doubled name":              `{"start_row_ordinal":0,"start_row_ordinal":0,"rows":[` + good + `]}`,
		"a doubled name in a row":     `{"start_row_ordinal":0,"rows":[` + strings.Replace(good, `"op"`, `"op":"INSERT","OP"`, 1) + `]}`,
		"a doubled name in a key":     `{"start_row_ordinal":0,"rows":[` + strings.Replace(good, `{"id":"a"}`, `{"id":"a","id":"a"}`, 1) + `]}`,
		"text after the object":       `{"start_row_ordinal":0,"rows":[` + good + `]}]`,
		"bytes that are no UTF-8":     `{"start_row_ordinal":0,"rows":[` + note("a\xff", "INSERT", 0) + `]}`,
		"no UTF-8 in an unknown name": `{"start_row_ordinal":0,"rows":[` + good + `],"x":"` + "\xc0" + `"}`,
		"a row number 2 that is bad":  `{"start_row_ordinal":0,"rows":[` + good + `,` + note("b", "NOTHING", 0) + `]}`,
		"the same row twice":          `{"start_row_ordinal":0,"rows":[` + good + `,` + good + `]}`,
		"the same row in other words": `{"start_row_ordinal":0,"rows":[` + row("users", strings.ToUpper("abcdef00-0000-4000-8000-000000000001"), "INSERT", 0, `{"name":"x"}`) +
			`,` + row("USERS", "abcdef00-0000-4000-8000-000000000001", "delete", 0, "") + `]}`,
	} {
		d.do("POST", path, body).refused(400, "push_chunk_invalid", name)
	}
	replaced := func(old, with string) string {
		require.Contains(t, good, old)
		return strings.Replace(good, old, with, 1)
	}
	key, payload := `"key":{"id":"a"}`, `"payload":{"body":"INSERT"}`
	for name, row := range map[string]string{
		"an unregistered table":         replaced(`"notes"`, `"others"`),
		"an unregistered schema":        replaced(`"business"`, `"public"`),
		"no schema":                     replaced(`"schema":"business",`, ``),
		"no table":                      replaced(`"table":"notes",`, ``),
		"a bad op":                      replaced(`"INSERT"`, `"UPSERT"`),
		"an op that folds to one":       replaced(`"INSERT"`, `"IN\u017fERT"`),
		"no op":                         replaced(`"op":"INSERT",`, ``),
		"an op that is no text":         replaced(`"op":"INSERT"`, `"op":1`),
		"no key":                        replaced(key+",", ``),
		"a null key":                    replaced(key, `"key":null`),
		"an empty key":                  replaced(key, `"key":{}`),
		"a key that is text":            replaced(key, `"key":"a"`),
		"another column in the key":     replaced(key, `"key":{"body":"a"}`),
		"a further column in the key":   replaced(key, `"key":{"id":"a","body":"b"}`),
		"a key that is a number":        replaced(key, `"key":{"id":1}`),
		"a key that is nothing":         replaced(key, `"key":{"id":null}`),
		"a key with U+0000":             replaced(key, `"key":{"id":"a\u0000"}`),
		"half a character in a key":     replaced(key, `"key":{"id":"a\ud800"}`),
		"half of one, and the whole":    row("notes", `\ufffd`, "INSERT", 0, `{"id":"\ud800"}`),
		"half a character in text":      replaced(payload, `"payload":{"body":"a\udc00"}`),
		"half a character in jsonb":     replaced(payload, `"payload":{"meta":{"a":["\ud800"]}}`),
		"half a character in a name":    replaced(payload, `"payload":{"meta":{"\ud800":1}}`),
		"a negative version":            replaced(`"base_row_version":0`, `"base_row_version":-1`),
		"a version that is no number":   replaced(`"base_row_version":0`, `"base_row_version":"0"`),
		"a version past 64 bits":        replaced(`"base_row_version":0`, `"base_row_version":9223372036854775808`),
		"a DELETE with a payload":       replaced(`"op":"INSERT"`, `"op":"DELETE"`),
		"a DELETE with an empty one":    row("notes", "a", "DELETE", 0, `{}`),
		"an INSERT without a payload":   row("notes", "a", "INSERT", 0, ""),
		"an UPDATE without a payload":   row("notes", "a", "UPDATE", 1, ""),
		"an UPDATE with a null payload": row("notes", "a", "UPDATE", 1, "null"),
		"a payload that is an array":    replaced(payload, `"payload":[]`),
		"a payload that is text":        replaced(payload, `"payload":"{}"`),
		"a payload that is a number":    replaced(payload, `"payload":1`),
		"an unknown column":             replaced(`"body"`, `"nothing"`),
		"a bad column":                  replaced(`"body"`, `"body\""`),
		"a column with a space":         replaced(`"body"`, `" body"`),
		"a column that folds to one":    replaced(payload, `"payload":{"\u0130d":"a"}`),
		"an empty column":               replaced(`"body"`, `""`),
		"the scope column":              replaced(payload, `"payload":{"_sync_scope_id":"user"}`),
		"the scope column in capitals":  replaced(payload, `"payload":{"_SYNC_scope_id":"user"}`),
		"a column twice":                replaced(payload, `"payload":{"body":"a","body":"a"}`),
		"a column twice in two cases":   replaced(payload, `"payload":{"body":"a","BODY":"a"}`),
		"a column twice by an escape":   replaced(payload, `"payload":{"body":"a","\u0062ody":"a"}`),
		"bad base64":                    replaced(payload, `"payload":{"data":"a"}`),
		"base64 with bits to spare":     replaced(payload, `"payload":{"data":"YR=="}`),
		"base64 without padding":        replaced(payload, `"payload":{"data":"YQ"}`),
		"base64 for URLs":               replaced(payload, `"payload":{"data":"_-8="}`),
		"base64 with a line break":      replaced(payload, `"payload":{"data":"YQ==\n"}`),
		"bytes that are a number":       replaced(payload, `"payload":{"data":1}`),
		"another key in the payload":    replaced(payload, `"payload":{"id":"b"}`),
		"a key in the payload as null":  replaced(payload, `"payload":{"id":null}`),
		"text with U+0000":              replaced(payload, `"payload":{"body":"a\u0000"}`),
		"jsonb with U+0000":             replaced(payload, `"payload":{"meta":{"a":["\u0000"]}}`),
		"jsonb with U+0000 in a name":   replaced(payload, `"payload":{"meta":{"\u0000":1}}`),
		"a uuid key that is none":       row("users", "a", "INSERT", 0, `{"name":"x"}`),
		"a uuid key in braces":          row("users", "{"+id(1)+"}", "INSERT", 0, `{"name":"x"}`),
		"a uuid key without dashes":     row("users", strings.ReplaceAll(id(1), "-", ""), "INSERT", 0, `{"name":"x"}`),
	} {
		d.chunk(pushID, 0, row).refused(400, "push_chunk_invalid", name)
	}
	// Nothing of all that moved the session, and these are as good as any.
	d.chunk(pushID, 0,
		`{"schema":"Business","table":"NOTES","key":{"id":"a\\u0000"},"op":"insert","later":{"x":[1]},"base_row_version":0,"payload":{"ID":"a\\u0000","Body":"\\u0000 \u00e9","data":null,"length":5}}`,
		`{"schema":"business","table":"notes","key":{"id":""},"op":"INSERT","payload":{}}`).ok()
	d.commit(pushID).ok()
	require.JSONEq(t, `{"schema":"business","table":"notes","key":{"id":"a\\u0000"},"op":"INSERT","row_version":1,
		"payload":{"id":"a\\u0000","body":"\\u0000 é","data":null,"meta":null,"at":null,"amount":null,"length":8}}`, d.firstRow(1))
}

// firstRow returns the first row of a committed bundle as JSON.
func (d device) firstRow(bundleSeq int) string {
	d.t.Helper()
	got := d.do("GET", fmt.Sprintf("/sync/committed-bundles/%d/rows?max_rows=1", bundleSeq), "")
	rows, ok := strings.CutPrefix(got.body, got.body[:strings.Index(got.body, `"rows":[`)+len(`"rows":[`)])
	require.True(d.t, ok)
	return rows[:strings.LastIndex(rows, `],"next_row_ordinal"`)]
}
