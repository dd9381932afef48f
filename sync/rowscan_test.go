package oversync

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestDecodeRequest(t *testing.T) {
	t.Parallel()

	var req PushSessionChunkRequest
	require.NoError(t, DecodeRequest([]byte(` {"start_row_ordinal": 2, "more": {"a": [1, {}]}, "rows": [
		{"schema":"business","table":"users","key":{"id":"k"},"op":"INSERT","base_row_version":0,"payload":{"n":9007199254740993,"d":{"x":1,"x":2}}},
		{"schema":"business","table":"users","key":{"id":"l"},"op":"DELETE","base_row_version":3,"payload":null}]}
	`), &req))
	require.Equal(t, PushSessionChunkRequest{
		StartRowOrdinal: 2,
		Rows: []PushRequestRow{
			{Schema: "business", Table: "users", Key: SyncKey{"id": "k"}, Op: "INSERT", Payload: json.RawMessage(`{"n":9007199254740993,"d":{"x":1,"x":2}}`)},
			{Schema: "business", Table: "users", Key: SyncKey{"id": "l"}, Op: "DELETE", BaseRowVersion: 3, Payload: json.RawMessage(`null`)},
		},
	}, req)
	for _, text := range []string{`\ud83d\ude00`, `\ufffd`, `\\ud800`} {
		require.NoError(t, DecodeRequest([]byte(`{"rows":[{"key":{"id":"`+text+`"}}]}`), &req), text)
	}
	require.NoError(t, DecodeRequest([]byte(`{"foo":1,"FOO":2}`), &req), "a later version of the protocol may")
	require.NoError(t, DecodeRequest([]byte(`{"rows":[{"payload":"\ud800"}]}`), &req), "the columns of its table are judged later")
}

func TestDecodeRequestRefuses(t *testing.T) {
	t.Parallel()

	for _, tc := range []struct{ body, message string }{
		{``, "it is empty"},
		{" \n", "it is empty"},
		{`null`, "not a JSON object"},
		{`[]`, "not a JSON object"},
		{`"{}"`, "not a JSON object"},
		{`7`, "not a JSON object"},
		{`{} {}`, "more text at byte 3"},
		{`{}x`, "more text at byte 2"},
		{`{`, "the text ends too early"},
		{`{"rows":[}`, "not valid JSON at byte 9"},
		{`{"rows":[],"rows":[]}`, `"rows" occurs twice`},
		{`{"rows":[],"ROWS":[]}`, `"ROWS" occurs twice`},
		{`{"rows":[],"row\u0073":[]}`, `"rows" occurs twice`},
		{"{\"rows\":[],\"row\u017f\":[]}", "occurs twice"},
		{`{"rows":[{"key":{"id":"a","id":"b"}}]}`, `"id" occurs twice`},
		{`{"rows":[{"payload":{},"payload":{}}]}`, `"payload" occurs twice`},
		{`{"unknown":{"a":1,"a":2}}`, `"a" occurs twice`},
		{"{\"rows\":[{\"key\":{\"id\":\"a\xff\"}}]}", "not UTF-8"},
		{`{"rows":[{"key":{"id":"a\ud800"}}]}`, "byte 22: half of a surrogate pair"},
		{`{"rows":[{"key":{"id":"\\\udc00\ud800"}}]}`, "half of a surrogate pair"},
		{`{"\udbff":1}`, "half of a surrogate pair"},
		{`{"start_row_ordinal":"1"}`, `"start_row_ordinal" at byte 24 has the wrong type: string does not fit there`},
		{`{"start_row_ordinal":1.5}`, `number 1.5 does not fit there`},
		{`{"rows":[{"op":1}]}`, `has the wrong type: number does not fit there`},
		{`{"rows":{}}`, `has the wrong type: object does not fit there`},
	} {
		err := DecodeRequest([]byte(tc.body), new(PushSessionChunkRequest))
		var bodyErr *RequestBodyError
		require.ErrorAs(t, err, &bodyErr, "%q", tc.body)
		require.Contains(t, bodyErr.Message, tc.message, "%q", tc.body)
		require.NotContains(t, bodyErr.Message, "oversync", "no Go types for clients: %q", tc.body)
	}
}

func TestDecodeRequestKnownFields(t *testing.T) {
	t.Parallel()

	var req SnapshotSessionCreateRequest
	require.NoError(t, DecodeRequestKnownFields([]byte(`{}`), &req))
	require.Nil(t, req.SourceReplacement)
	require.NoError(t, DecodeRequestKnownFields([]byte(`{"source_replacement":{"previous_source_id":"a","new_source_id":"b","reason":"source_retired"}}`), &req))
	require.Equal(t, &SnapshotSourceReplacement{"a", "b", "source_retired"}, req.SourceReplacement)

	var bodyErr *RequestBodyError
	err := DecodeRequestKnownFields([]byte(`{"source_replacement":{"old":"a"}}`), &req)
	require.ErrorAs(t, err, &bodyErr)
	require.Equal(t, `unknown field "old"`, bodyErr.Message)
	require.NoError(t, DecodeRequest([]byte(`{"source_replacement":{"old":"a"}}`), &req))
}

func TestDecodeRequestFindsDoubledNamesAmongMany(t *testing.T) {
	t.Parallel()

	rapid.Check(t, func(t *rapid.T) {
		pool := rapid.OneOf(rapid.StringMatching(`[a-z]{1,3}`), rapid.SampledFrom([]string{"rows", "key", "op"}))
		names := rapid.SliceOfNDistinct(pool, 1, 3*manyNames, rapid.ID[string]).Draw(t, "names")
		doubled := false
		twin := rapid.SampledFrom(names).Draw(t, "twin")
		switch rapid.SampledFrom([]string{"none", "exact", "case"}).Draw(t, "twins") {
		case "exact":
			names, doubled = append(names, twin), true
		case "case": // which tells names apart that the protocol does not have
			names, doubled = append(names, strings.ToUpper(twin)), slices.Contains([]string{"rows", "key", "op"}, twin)
		}
		names = rapid.Permutation(names).Draw(t, "order")
		body := `{"in":{"` + strings.Join(names, `":[{"a":0}],"`) + `":0}}`
		if err := DecodeRequest([]byte(body), new(struct{})); (err != nil) != doubled {
			t.Fatalf("%s: %v", body, err)
		}
	})
}

// A member of a request that is missing in requestNames could be sent twice.
func TestRequestNamesAreThoseOfTheRequests(t *testing.T) {
	t.Parallel()
	names := make(map[string]bool)
	var collect func(reflect.Type)
	collect = func(structure reflect.Type) {
		for structure.Kind() == reflect.Pointer || structure.Kind() == reflect.Slice {
			structure = structure.Elem()
		}
		if structure.Kind() != reflect.Struct {
			return
		}
		for i := range structure.NumField() {
			name, _, _ := strings.Cut(structure.Field(i).Tag.Get("json"), ",")
			names[foldName(name)] = true
			collect(structure.Field(i).Type)
		}
	}
	for _, request := range []any{ConnectRequest{}, PushSessionCreateRequest{}, PushSessionChunkRequest{}, SnapshotSessionCreateRequest{}} {
		collect(reflect.TypeOf(request))
	}
	require.Equal(t, names, requestNames)
}

func TestFoldName(t *testing.T) {
	t.Parallel()

	for _, name := range []string{"k", "K", "\u212a", "s", "ſ", "i", "İ", "ı", "ß", "ẞ", "σ", "ς", "µ", "ǆ", "ǅ"} {
		for _, other := range []string{"k", "K", "\u212a", "s", "ſ", "i", "İ", "ı", "ß", "ẞ", "σ", "ς", "µ", "ǆ", "ǅ"} {
			require.Equal(t, strings.EqualFold(name, other), foldName(name) == foldName(other), "%q and %q", name, other)
		}
	}
}

func TestScanPayload(t *testing.T) {
	t.Parallel()

	var got []string
	collect := func(name, value []byte) error {
		got = append(got, fmt.Sprintf("%s=%s", name, value))
		return nil
	}
	require.NoError(t, scanPayload([]byte(` { "id" : "a\"}" , "n":1.50,"d":{"x":[1,{"y":"]"}]} ,"\u0069d":null,"é":true,"":[] } `), collect))
	require.Equal(t, []string{`id="a\"}"`, `n=1.50`, `d={"x":[1,{"y":"]"}]}`, `id=null`, `é=true`, `=[]`}, got)

	got = nil
	require.NoError(t, scanPayload([]byte(`{ }`), collect))
	require.Empty(t, got)

	for _, payload := range []string{`null`, `[]`, `"{}"`, `1`} {
		require.ErrorIs(t, scanPayload([]byte(payload), collect), errPayloadNotObject, payload)
	}
	for _, payload := range []string{``, ` `, `{`, `{}{}`, `{"a":1}x`, `{"a":1,}`, `{"a" 1}`, `{"a":}`, `{"a":1 "b":2}`, `{a:1}`, `{"a":[}`} {
		var syntax *jsonSyntaxError
		require.ErrorAs(t, scanPayload([]byte(payload), collect), &syntax, payload)
	}

	stop := errors.New("stop")
	calls := 0
	require.ErrorIs(t, scanPayload([]byte(`{"a":1,"b":2}`), func(_, _ []byte) error { calls++; return stop }), stop)
	require.Equal(t, 1, calls)
}

func TestScanPayloadAllocates(t *testing.T) {
	payload := []byte(benchPayload)
	members := 0
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if err := scanPayload(payload, func(_, _ []byte) error { members++; return nil }); err != nil {
			t.Fatal(err)
		}
	}))
	require.NotZero(t, members)
}

func TestJSONStringContainsNUL(t *testing.T) {
	t.Parallel()

	for text, want := range map[string]bool{
		`"\u0000"`:         true,
		`"a\u0000b"`:       true,
		`"\\\u0000"`:       true,
		`"\n\u0000"`:       true,
		`{"a":["\u0000"]}`: true,
		`{"\u0000":1}`:     true,
		`""`:               false,
		`"u0000"`:          false,
		`"\\u0000"`:        false,
		`"\\\\u0000"`:      false,
		`"\u0001\u00000"`:  true,
		`"\u0001"`:         false,
		`"\u1000\\"`:       false,
		`null`:             false,
	} {
		require.Equal(t, want, jsonStringContainsNUL([]byte(text)), text)
	}
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.StringOf(rapid.SampledFrom([]rune{0, '\\', 'u', '0', 'a', '"'})).Draw(t, "string")
		quoted, _ := json.Marshal(s)
		if jsonStringContainsNUL(quoted) != strings.ContainsRune(s, 0) {
			t.Fatalf("wrong for %s", quoted)
		}
	})
}

func TestScannerProperty(t *testing.T) {
	t.Parallel()

	texts := jsonText()
	rapid.Check(t, func(t *rapid.T) {
		raw := []byte(texts.Draw(t, "text"))
		if rapid.Bool().Draw(t, "damage") && len(raw) > 0 {
			i := rapid.IntRange(0, len(raw)-1).Draw(t, "at")
			raw[i] = rapid.SampledFrom([]byte(`"\{}[]:,0-.eu `)).Draw(t, "with")
		}
		checkScanner(t, raw)
	})
}

func FuzzScanner(f *testing.F) {
	for _, seed := range []string{`{"a":[1,-0.5e+3,true,null,"\u0041\ud800"]}`, `{"payload":{"a":1}}`, `[`, `{"a":1}x`, "\"\x01\"", `01`, `-`, `1.`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) { checkScanner(t, raw) })
}

// checkScanner compares skipValue, appendStringValue and scanPayload with
// encoding/json.
func checkScanner(t interface{ Fatalf(string, ...any) }, raw []byte) {
	valid := json.Valid(raw)
	start := skipSpace(raw, 0)
	end, err := skipValue(raw, start, 0)
	if err == nil {
		err = endOfText(raw, end)
	}
	if (err == nil) != valid {
		t.Fatalf("%q: skipValue says %v, encoding/json says valid: %t", raw, err, valid)
	}
	if valid && raw[start] == '"' {
		var want string
		if err := json.Unmarshal(raw, &want); err != nil {
			t.Fatalf("%q: %v", raw, err)
		}
		if got := appendStringValue(nil, raw[start:end]); string(got) != want {
			t.Fatalf("%q: got %q, want %q", raw, got, want)
		}
	}

	got := map[string]json.RawMessage{}
	err = scanPayload(raw, func(name, value []byte) error {
		got[string(name)] = bytes.Clone(value)
		return nil
	})
	isObject := valid && raw[start] == '{'
	if (err == nil) != isObject {
		t.Fatalf("%q: scanPayload says %v", raw, err)
	}
	if !isObject {
		return
	}
	want := map[string]json.RawMessage{}
	if err := json.Unmarshal(raw, &want); err != nil {
		t.Fatalf("%q: %v", raw, err)
	}
	if len(got) != len(want) {
		t.Fatalf("%q: got %q, want %q", raw, got, want)
	}
	for name, value := range want {
		if !bytes.Equal(got[name], value) {
			t.Fatalf("%q: %q is %q, want %q", raw, name, got[name], value)
		}
	}
}

func FuzzDecodeRequest(f *testing.F) {
	for _, seed := range []string{`{}`, `null`, `{"a":1,"A":2}`, `{"rows":[{"payload":{"a":1,"a":2}}]} `, `{"a":{"b":1}}x`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if DecodeRequest(body, new(struct{})) != nil {
			return
		}
		var members map[string]any
		if err := json.Unmarshal(body, &members); err != nil || members == nil {
			t.Fatalf("%q was taken, but encoding/json says %v", body, err)
		}
	})
}

func BenchmarkDecodeRequest(b *testing.B) {
	const rows = 1000
	row := `{"schema":"business","table":"users","key":{"id":"0197a2c4-8f3e-7b6a-9c1d-2e4f60718293"},"op":"UPDATE","base_row_version":7,"payload":` + benchPayload + `}`
	body := []byte(`{"start_row_ordinal":0,"rows":[` + strings.Repeat(row+",", rows-1) + row + `]}`)
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if err := DecodeRequest(body, new(PushSessionChunkRequest)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(rows*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}
