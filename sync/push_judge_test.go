package oversync

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// judgeCatalog knows a table with a uuid key and one with a text key.
func judgeCatalog() *catalog {
	users := &catalogTable{id: 1, schema: "business", table: "users", keyColumn: "id", keyIsUUID: true, columns: map[string]catalogColumn{
		"id": {isKey: true}, "_sync_scope_id": {isHidden: true}, "length": {isReadOnly: true}, "data": {isBytea: true},
	}}
	for _, name := range []string{"name", "email", "age", "created_at", "score", "active", "tags", "note"} {
		users.columns[name] = catalogColumn{}
	}
	notes := &catalogTable{id: 2, schema: "public", table: "notes", keyColumn: "slug", columns: map[string]catalogColumn{
		"slug": {isKey: true}, "_sync_scope_id": {isHidden: true}, "body": {}, "data": {isBytea: true},
	}}
	return &catalog{byName: map[string]*catalogTable{"business.users": users, "public.notes": notes}}
}

// judgeBody judges a request's body as UploadPushChunkJSON does.
func judgeBody(c *catalog, body []byte) (int64, *stagedRows, error) {
	start, rows, _, err := parsePushChunk(body, maxChunkRows)
	if err != nil {
		return 0, nil, err
	}
	staged, err := c.judgeRows(rows)
	return start, staged, err
}

// judgeDecoded judges the same body by way of the request type.
func judgeDecoded(c *catalog, body []byte) (int64, *stagedRows, error) {
	var req PushSessionChunkRequest
	if err := DecodeRequest(body, &req); err != nil {
		return 0, nil, err
	}
	staged, err := c.judgeRows(pushedRows(req.Rows))
	return req.StartRowOrdinal, staged, err
}

// checkBothWays holds the parser of chunks to encoding/json.
func checkBothWays(t testing.TB, body []byte) {
	t.Helper()
	c := judgeCatalog()
	start, staged, err := judgeBody(c, body)
	wantStart, want, wantErr := judgeDecoded(c, body)
	if (err == nil) != (wantErr == nil) {
		t.Fatalf("%q: the parser says %v, encoding/json %v", body, err, wantErr)
	}
	var body1, body2 *RequestBodyError
	if errors.As(err, &body1) != errors.As(wantErr, &body2) {
		// A key with a number that no double can hold is refused by encoding/json
		// as it reads, and by the judge for not being text.
		if !strings.Contains(wantErr.Error(), `rows.key`) {
			t.Fatalf("%q: the parser says %v, encoding/json %v", body, err, wantErr)
		}
	}
	if err == nil && (start != wantStart || !reflect.DeepEqual(staged, want)) {
		t.Fatalf("%q: got %d %+v, want %d %+v", body, start, staged, wantStart, want)
	}
}

var chunkBodies = []string{
	``, ` `, `null`, `[]`, `{}`, `{} x`, `{"rows":null}`, `{"rows":[]}`, `{"rows":{}}`, `{"rows":[null]}`, `{"rows":[1]}`, `{"rows":[[]]}`, `{"rows":"x"}`,
	`{"start_row_ordinal":null,"rows":[]}`, `{"start_row_ordinal":-0,"rows":[]}`, `{"start_row_ordinal":1.0}`, `{"start_row_ordinal":1e2}`, `{"start_row_ordinal":"1"}`,
	`{"start_row_ordinal":9223372036854775807}`, `{"start_row_ordinal":9223372036854775808}`, `{"start_row_ordinal":-}`, `{"start_row_ordinal":01}`, `{"start_row_ordinal":true}`,
	`{"START_row_ordinal":7,"Rows":[{"TABLE":"notes","Key":{"slug":"a"},"OP":"Delete","Base_Row_Version":2}]}`,
	`{"ſtart_row_ordinal":7,"rowſ":[{"ſchema":"public","table":"notes","\u212aey":{"slug":"a"},"op":"DELETE"}]}`,
	`{"rows":[{"table":"notes","key":{"slug":"a"},"op":"INSERT","payload":{"body":"\u00e9","Data":"YQ==","data2":1}}]}`,
	`{"rows":[{"table":"notes","key":{"slug":"a"},"op":"INSERT","payload":{"body":{"a":[1e400,"x"]},"DATA":"YWI="}}]}`,
	`{"rows":[{"table":"notes","key":{"slug":"a"},"op":"INSERT","payload":{"body":1,"BODY":2}}]}`,
	`{"rows":[{"table":"notes","key":{"slug":"a\ud800\u0041"},"op":"INSERT","payload":{"slug":"a\ufffdA"}}]}`,
	`{"rows":[{"table":"notes","key":{"slug":"a"},"op":"INSERT","payload":{"body":"\ud800"},"\ud800":1}]}`, `{"more":"\ud800","rows":[{"table":"notes","key":{"slug":"x"},"op":"delete"}]}`,
	`{"rows":[{"table":"notes","key":{"slug":"a\u0000"},"op":"INSERT","payload":{}}]}`,
	`{"rows":[{"table":"notes","key":{"slug":1e999},"op":"INSERT","payload":{}}]}`,
	`{"rows":[{"table":"notes","key":{"slug":{"payload":{"a":1,"a":2}}},"op":"INSERT","payload":{}}]}`,
	`{"rows":[{"table":"notes","key":{"slug":"a","b":"c"},"op":"INSERT","payload":{}}]}`,
	`{"rows":[{"table":"notes","key":{"slug":"a","slug":"a"},"op":"INSERT","payload":{}}]}`,
	`{"rows":[{"table":"notes","key":null,"op":"INSERT","payload":{}}]}`, `{"rows":[{"table":"notes","key":[],"op":"INSERT"}]}`, `{"rows":[{"table":"notes","key":{},"op":null}]}`,
	`{"rows":[{"table":"notes","key":{"payload":{"a":1,"a":1}},"op":"INSERT"}]}`, `{"payload":{"a":1,"a":1},"more":{"b":1},"rows":[{"table":"notes","key":{"slug":"x"},"op":"delete"}]}`,
	`{"more":{"b":1,"B":1},"rows":[{"table":"notes","key":{"slug":"x"},"op":"delete"}]}`,
	`{"rows":[{"table":"notes","key":{"slug":"x"},"op":"delete","payload":null},{"table":"notes","key":{"slug":"y"},"op":"delete","payload": null }]}`,
	`{"rows":[{"table":"notes","key":{"slug":"x"},"op":"delete"},{"schema":"","table":" Notes ","key":{"slug":"x"},"op":"DELETE"}]}`,
	`{"rows":[{"schema":"business","table":"users","key":{"id":"ABCDEF00-0000-4000-8000-000000000001"},"op":"update","payload":{"id":"abcdef00-0000-4000-8000-000000000001","length":4,"name":"x"}}]}`,
	`{"rows":[{"schema":"business","table":"users","key":{"id":"abcdef00-0000-4000-8000-000000000001"},"op":"update","payload":[]}]}`,
	`{"rows":[{"schema":"business","table":"users","key":{"id":"{bcdef00-0000-4000-8000-00000000000}"},"op":"update","payload":{}}]}`,
	`{"rows":[{"schema":1,"table":"users","key":{"id":"x"},"op":"update","payload":{}}]}`, `{"rows":[{"schema":"business","table":"users","base_row_version":-1,"key":{"id":"x"}}]}`,
	`{"rows":[{"payload":` + strings.Repeat("[", 9_997) + strings.Repeat("]", 9_997) + `}]}`, `{"rows":[{"payload":` + strings.Repeat("[", 9_998) + strings.Repeat("]", 9_998) + `}]}`,
	`{"rows":` + strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000) + `}`, `{"x":` + strings.Repeat("[", 9_999) + strings.Repeat("]", 9_999) + `}`,
}

func TestChunksAreReadAlikeBothWays(t *testing.T) {
	t.Parallel()
	for _, body := range chunkBodies {
		checkBothWays(t, []byte(body))
	}
}

func FuzzPushChunk(f *testing.F) {
	for _, body := range chunkBodies {
		if len(body) < 1000 {
			f.Add([]byte(body))
		}
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if utf8.Valid(body) {
			checkBothWays(t, body)
		}
	})
}

func TestJudgedRows(t *testing.T) {
	t.Parallel()
	_, staged, err := judgeBody(judgeCatalog(), []byte(`{"rows":[
		{"schema":"Business","table":"USERS","key":{"id":"ABCDEF00-0000-4000-8000-000000000001"},"op":"insert","base_row_version":7,
		 "payload":{"Name":"\u00e9 <","data":"\u0059WI=","length":1,"score":1.50}},
		{"table":"notes","key":{"slug":"a\"é"},"op":"UPDATE","payload":{"SLUG":"a\u0022é","body":null}},
		{"table":"notes","key":{"slug":"b"},"op":"Delete","base_row_version":9},
		{"table":"notes","key":{"slug":""},"op":"INSERT","payload":{}}]}`))
	require.NoError(t, err)
	require.Equal(t, []int32{1, 2, 2, 2}, staged.tableIDs)
	require.Equal(t, "IUDI", string(staged.ops))
	require.Equal(t, []int64{7, 0, 9, 0}, staged.baseVersions)
	require.Equal(t, [][]byte{[]byte("\xab\xcd\xef\x00\x00\x00\x40\x00\x80\x00\x00\x00\x00\x00\x00\x01"), []byte(`a"é`), []byte("b"), {}}, staged.keys)
	require.Equal(t, []string{
		`{"name":"\u00e9 <","data":"\\x6162","score":1.50,"id":"abcdef00-0000-4000-8000-000000000001"}`,
		`{"slug":"a\"é","body":null}`, ``, `{"slug":""}`,
	}, staged.payloads)
}

// A message is read by who writes the client, and says what to send instead.
func TestRefusalsOfAChunkSayWhatToSend(t *testing.T) {
	t.Parallel()
	for body, remedy := range map[string]string{
		"\xff":                        "encode it so",
		`{"start_row_ordinal":1.5}`:   "send a whole number",
		`{"rows":{}}`:                 "send an array of objects",
		`{"rows":[1]}`:                "send an array of objects",
		`{"rows":[{"op":1}]}`:         "send a string",
		`{"rows":[{"key":"a"}]}`:      "send an object of strings",
		`{"rows":[null]}`:             "its table is missing",
		`{"rows":[{"table":"none"}]}`: "the capabilities list those that are",
		`{"rows":[{"table":"notes","key":{"slug":"a"},"op":"DELETE","base_row_version":-1}]}`:             "send the version that the change rests on",
		`{"rows":[{"table":"notes","key":{"slug":"a"},"op":"DELETE","payload":{}}]}`:                      "leave it out",
		`{"rows":[{"table":"notes","key":{"slug":"a"},"op":"INSERT"}]}`:                                   "send an object of column names",
		`{"rows":[{"table":"notes","key":{"slug":"a"},"op":"INSERT","payload":{"slug":"b"}}]}`:            "leave it out",
		`{"rows":[{"table":"notes","key":{"slug":"a"},"op":"INSERT","payload":{"body":"a","BODY":"b"}}]}`: "send it once",
	} {
		_, _, err := judgeBody(judgeCatalog(), []byte(body))
		require.ErrorContains(t, err, remedy, body)
	}
}

// A caller in Go can pass what no body has: a text of nothing, or of more than its value.
func TestPayloadsOfNothingAreNone(t *testing.T) {
	t.Parallel()
	judge := func(op, payload string) (*stagedRows, error) {
		return judgeCatalog().judgeRows(pushedRows([]PushRequestRow{{Table: "notes", Key: SyncKey{"slug": "a"}, Op: op, Payload: json.RawMessage(payload)}}))
	}
	for _, none := range []string{"", " ", "\n null\t"} {
		_, err := judge(OpDelete, none)
		require.NoError(t, err, none)
		_, err = judge(OpInsert, none)
		require.ErrorContains(t, err, "payload is missing", none)
	}
	staged, err := judge(OpInsert, " {} ")
	require.NoError(t, err)
	require.Equal(t, []string{`{"slug":"a"}`}, staged.payloads)
}

// A row takes more memory than it may have bytes in the body.
func TestRowsPastTheLimitAreOnlyCounted(t *testing.T) {
	t.Parallel()
	const rows = 1_000_000
	body := []byte(`{"rows":[{}` + strings.Repeat(`,{}`, rows-1) + `],"start_row_ordinal":7}`)
	start, kept, count, err := parsePushChunk(body, 10)
	require.NoError(t, err)
	require.EqualValues(t, 7, start)
	require.Equal(t, rows, count)
	require.Len(t, kept, 10)
	require.LessOrEqual(t, cap(kept), 20)

	_, _, _, err = parsePushChunk([]byte(`{"rows":[{},{},{]}`), 2)
	requireBodyError(t, err, "not valid JSON")
}

func TestNamesInARequestAreBounded(t *testing.T) {
	t.Parallel()
	var names strings.Builder
	for i := range maxOpenNames {
		fmt.Fprintf(&names, `"n%d":1,`, i)
	}
	for _, body := range []string{
		`{"rows":[{"key":{` + names.String() + `"last":1}}]}`, `{"rows":[{` + names.String() + `"last":1}]}`, `{` + names.String() + `"last":1}`,
	} {
		_, _, _, err := parsePushChunk([]byte(body), maxChunkRows)
		requireBodyError(t, err, "too many names")
		requireBodyError(t, DecodeRequest([]byte(body), &ConnectRequest{}), "too many names")
	}
	// A payload is judged by the columns of its table.
	_, _, _, err := parsePushChunk([]byte(`{"rows":[{"payload":{`+names.String()+`"last":1}}]}`), maxChunkRows)
	require.NoError(t, err)
}

func TestMessagesRepeatLittleOfWhatWasSent(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("<é", 100_000)
	text := `"` + long + `"`
	for _, body := range []string{
		`{"rows":[{"table":` + text + `}]}`,
		`{"rows":[{"table":"notes","key":{"slug":"a"},"op":` + text + `}]}`,
		`{"rows":[{"table":"notes","key":{"slug":"a"},"op":"insert` + strings.Repeat("t", 100_000) + `"}]}`,
		`{"rows":[{"table":"notes","key":{"slug":"a"},"op":"INSERT","payload":{` + text + `:1}}]}`,
		`{"rows":[{"table":"users","schema":"business","key":{"id":` + text + `},"op":"INSERT"}]}`,
		`{` + text + `:1,` + text + `:2}`,
	} {
		_, _, err := judgeBody(judgeCatalog(), []byte(body))
		require.Error(t, err)
		require.Less(t, len(err.Error()), 300)
	}
	for _, err := range []error{
		&PushSessionNotFoundError{long}, &SnapshotSessionNotFoundError{long},
		DecodeRequestKnownFields([]byte(`{`+text+`:1}`), &SnapshotSessionCreateRequest{}),
		DecodeRequest([]byte(`{"has_local_pending_rows":1`+strings.Repeat("0", 100_000)+`}`), &ConnectRequest{}),
	} {
		require.Less(t, len(err.Error()), 300)
		require.True(t, utf8.ValidString(err.Error()))
	}
	require.Equal(t, strings.Repeat("é", 50), shorten(strings.Repeat("é", 50)))
	require.Equal(t, "a"+strings.Repeat("é", 49)+"…", shorten("a"+strings.Repeat("é", 50)))
}

func TestDigitsOfExponentsAreBounded(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{
		`1`: 0, `true`: 0, `"1e5"`: 0, `"a\"1e5"`: 0, `-1.5E-07`: 7, `1e+3`: 3, `[1e2,false,{"1e9":[2e3]},"x1e4",1e0]`: 5, `[true,1e10]`: 10,
	} {
		require.Equal(t, want, exponentDigits([]byte(text)), text)
	}
	require.Greater(t, exponentDigits([]byte(`1e`+strings.Repeat("9", 1000))), maxPayloadExponentDigits)

	row := func(slug int, number string, times int) string {
		return fmt.Sprintf(`{"table":"notes","key":{"slug":"%d"},"op":"INSERT","payload":{"body":[%s0]}}`, slug, strings.Repeat(number+",", times))
	}
	judge := func(rows ...string) error {
		_, _, err := judgeBody(judgeCatalog(), []byte(`{"rows":[`+strings.Join(rows, ",")+`]}`))
		return err
	}
	require.NoError(t, judge(row(1, "1.7976931348623157e308", 3000), row(2, "4.9e-324", 3000), row(3, `"1e-16383"`, 20_000)))
	var bad *PushChunkInvalidError
	require.ErrorAs(t, judge(row(1, "1", 1), row(2, "1e-16383", 20_000)), &bad)
	require.Contains(t, bad.Message, "row 1 of the chunk: the exponents of its numbers")
	require.ErrorAs(t, judge(row(1, "1e999999999999999999999", 1)), &bad)

	rows := make([]string, 20)
	for i := range rows {
		rows[i] = row(i, "1e-16383", 60)
	}
	require.NoError(t, judge(rows[:17]...))
	require.ErrorAs(t, judge(rows...), &bad)
	require.Contains(t, bad.Message, "row 17 of the chunk: the exponents of the chunk's numbers")
}

func requireBodyError(t *testing.T, err error, message string) {
	t.Helper()
	var bad *RequestBodyError
	require.ErrorAs(t, err, &bad)
	require.Contains(t, bad.Message, message)
}

// benchChunk is the body of a chunk of rows, and the request it stands for.
func benchChunk(tb testing.TB, rows int) ([]byte, *PushSessionChunkRequest) {
	tb.Helper()
	var body strings.Builder
	body.WriteString(`{"start_row_ordinal":0,"rows":[`)
	for i := range rows {
		if i > 0 {
			body.WriteByte(',')
		}
		fmt.Fprintf(&body, `{"schema":"business","table":"users","key":{"id":"0197a2c4-8f3e-7b6a-9c1d-%012d"},"op":"UPDATE","base_row_version":7,"payload":`+
			`{"name":"Ada Lovelace","email":"ada%d@example.org","age":36,"created_at":"2026-01-02T03:04:05.678901Z","score":1.25,"active":true,"data":"AAECAwQFBgc="}}`, i, i)
	}
	body.WriteString(`]}`)
	req := new(PushSessionChunkRequest)
	require.NoError(tb, json.Unmarshal([]byte(body.String()), req))
	return []byte(body.String()), req
}

func TestJudgingAChunkAllocatesLittle(t *testing.T) {
	const rows = 1000
	body, _ := benchChunk(t, rows)
	c := judgeCatalog()
	allocs := testing.AllocsPerRun(5, func() {
		if _, _, err := judgeBody(c, body); err != nil {
			t.Fatal(err)
		}
	})
	require.Less(t, allocs, float64(rows)/5)
}

func BenchmarkPushChunk(b *testing.B) {
	const rows = 1000
	body, _ := benchChunk(b, rows)
	c := judgeCatalog()
	for name, judge := range map[string]func(*catalog, []byte) (int64, *stagedRows, error){"parsed": judgeBody, "decoded": judgeDecoded} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				if _, _, err := judge(c, body); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(rows*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}
