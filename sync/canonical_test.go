package oversync

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// oracleCanonical is the definition that the protocol refers to: encoding/json
// reads the text into an any and writes it again.
func oracleCanonical(raw []byte) ([]byte, error) {
	var value any
	if err := json.Unmarshal(raw, &value); err != nil {
		return nil, err
	}
	return json.Marshal(value)
}

func TestAppendCanonicalJSON(t *testing.T) {
	t.Parallel()

	for _, tc := range []struct{ name, raw, want string }{
		{"Scalars", ` [ true , false , null , "" , 0 ] `, `[true,false,null,"",0]`},
		{"Empty", ` { } `, `{}`},
		{"EmptyArray", "[\n]", `[]`},
		{"SortedByBytes", `{"b":1,"a":2,"B":3,"":4,"é":5,"aa":6}`, `{"":4,"B":3,"a":2,"aa":6,"b":1,"é":5}`},
		{"SortedByUnescapedBytes", `{"\u0061":1,"<":2,"=":3,"\u0001":4,"\\":5,"]":6}`, `{"\u0001":4,"\u003c":2,"=":3,"\\":5,"]":6,"a":1}`},
		{"LastOfDoubledWins", `{"a":1,"b":2,"\u0061":{"y":1,"x":2},"c":3}`, `{"a":{"x":2,"y":1},"b":2,"c":3}`},
		{"DoubledInOrder", `{"a":1,"a":2}`, `{"a":2}`},
		{"Nested", `{"b":[{"d":1,"c":2},{"a":{"f":1,"e":[]}}],"a":{}}`, `{"a":{},"b":[{"c":2,"d":1},{"a":{"e":[],"f":1}}]}`},
		{"UnsortedInSorted", `{"a":{"b":{"d":1,"c":2}},"e":{"g":1,"f":2}}`, `{"a":{"b":{"c":2,"d":1}},"e":{"f":2,"g":1}}`},
		{"ShortEscapes", `"\"\\\/\b\f\n\r\t"`, `"\"\\/\b\f\n\r\t"`},
		{"Controls", `"\u0000\u001F\u007f\u000A"`, `"\u0000\u001f` + "\x7f" + `\n"`},
		{"HTML", `"<a href='x'>&</a>"`, `"\u003ca href='x'\u003e\u0026\u003c/a\u003e"`},
		{"LineSeparators", "\"\u2028\u2029\u2030\"", `"\u2028\u2029` + "\u2030\""},
		{"LineSeparatorsEscaped", `"\u2028\u2029\u00e9"`, `"\u2028\u2029é"`},
		{"SurrogatePair", `"\ud83d\ude00\uD83D\uDE00"`, `"😀😀"`},
		{"LoneSurrogates", `"\ud83d\u0041\ude00\ud83d\ud83d\ude00"`, "\"\ufffdA\ufffd\ufffd😀\""},
		{"InvalidUTF8", "\"a\xffb\xe2\x80\"", "\"a\ufffdb\ufffd\ufffd\""},
		{"ReplacementCharacter", "\"\ufffd\"", "\"\ufffd\""},
		{"Integers", `[0,-0,7,-7,123456789012345,1234567890123456,9007199254740993]`, `[0,-0,7,-7,123456789012345,1234567890123456,9007199254740992]`},
		{"NegativeZero", `[-0.0,-0e5,-1e-400,0.0,0e1]`, `[-0,-0,-0,0,0]`},
		{"Decimals", `[1.50,0.1,12.5,100.0,0.30000000000000004,3.141592653589793238]`, `[1.5,0.1,12.5,100,0.30000000000000004,3.141592653589793]`},
		{
			"Exponents", `[1e2,1E+2,1e-2,1e20,1e21,1e22,123e19,0.000001,0.0000001,1e-06,1e-07,1.5e-7,1e-10,1e-100,5e-324]`,
			`[100,100,0.01,100000000000000000000,1e+21,1e+22,1.23e+21,0.000001,1e-7,0.000001,1e-7,1.5e-7,1e-10,1e-100,5e-324]`,
		},
		{"Limits", `[1.7976931348623157e308,9223372036854775807,-9223372036854775808]`, `[1.7976931348623157e+308,9223372036854776000,-9223372036854776000]`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			oracle, err := oracleCanonical([]byte(tc.raw))
			require.NoError(t, err)
			require.Equal(t, tc.want, string(oracle), "the expectation must be what encoding/json writes")
			got, err := appendCanonicalJSON([]byte("before:"), []byte(tc.raw))
			require.NoError(t, err)
			require.Equal(t, "before:"+string(oracle), string(got))
			again, err := appendCanonicalJSON(nil, oracle)
			require.NoError(t, err)
			require.Equal(t, string(oracle), string(again), "canonical form must not change")
		})
	}
}

func TestAppendCanonicalJSONRefuses(t *testing.T) {
	t.Parallel()

	for _, raw := range []string{
		``, ` `, `{`, `[`, `"`, `"\`, `"\u12`, `"\x"`, `"\u12g4"`, "\"\n\"", `{"a"}`, `{"a":}`, `{"a":1,}`, `{,}`, `{a:1}`,
		`[1,]`, `[1 2]`, `{"a":1 "b":2}`, `1 2`, `{} {}`, `tru`, `nul`, `truex`, `NaN`, `Infinity`, `+1`, `01`, `-`, `-a`, `1.`, `.5`,
		`1e`, `1e+`, `0x10`, `1_0`, `'a'`, "{}\x00", "\xef\xbb\xbf{}", `]`, `}`,
	} {
		got, err := appendCanonicalJSON([]byte("before"), []byte(raw))
		var syntax *jsonSyntaxError
		require.ErrorAs(t, err, &syntax, "%q", raw)
		require.LessOrEqual(t, syntax.offset, len(raw))
		require.Equal(t, "before", string(got))
	}
	for _, raw := range []string{`1e400`, `{"a":[-1e309]}`, `1.8e308`, strings.Repeat("9", 310)} {
		_, err := appendCanonicalJSON(nil, []byte(raw))
		require.ErrorIs(t, err, errNotFinite, "%q", raw)
	}
}

func TestAppendCanonicalJSONDepth(t *testing.T) {
	t.Parallel()

	nested := func(open, inner, closing string, n int) []byte {
		return []byte(strings.Repeat(open, n) + inner + strings.Repeat(closing, n))
	}
	for _, raw := range [][]byte{
		nested("[", "", "]", maxJSONDepth),
		nested(`{"a":`, "1", "}", maxJSONDepth),
		nested(`{"b":`, "1", `,"a":0}`, maxJSONDepth),
	} {
		want, err := oracleCanonical(raw)
		require.NoError(t, err)
		got, err := appendCanonicalJSON(nil, raw)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got))
	}
	for _, raw := range [][]byte{
		nested("[", "", "]", maxJSONDepth+1),
		nested(`{"a":`, "1", "}", maxJSONDepth+1),
	} {
		require.False(t, json.Valid(raw))
		_, err := appendCanonicalJSON(nil, raw)
		require.ErrorContains(t, err, "nested too deep")
		_, err = skipValue(raw, 0, 0)
		require.ErrorContains(t, err, "nested too deep")
	}
}

// jsonText generates valid JSON texts, with odd spellings of the same values,
// few names (so that they collide and are out of order) and white space.
func jsonText() *rapid.Generator[string] {
	space := rapid.SampledFrom([]string{"", "", "", " ", "\n\t"})
	str := rapid.OneOf(
		rapid.SampledFrom([]string{`"a"`, `"b"`, `"c"`, `"\u0061"`, `"<"`, `"\u003c"`, `""`, `"ab"`, `"é"`, `"\""`, `"\\"`, `"\u2028"`, `"\ud800"`, `"\ud83d\ude00"`, "\"\xff\"", `"]"`}),
		rapid.Custom(func(t *rapid.T) string {
			quoted, _ := json.Marshal(rapid.String().Draw(t, "string"))
			return string(quoted)
		}),
		rapid.Custom(func(t *rapid.T) string {
			var b strings.Builder
			for _, u := range rapid.SliceOfN(rapid.Uint16(), 0, 4).Draw(t, "units") {
				fmt.Fprintf(&b, `\u%04x`, u)
			}
			return `"` + b.String() + `"`
		}),
	)
	num := rapid.OneOf(
		rapid.Map(rapid.Int64(), func(n int64) string { return strconv.FormatInt(n, 10) }),
		rapid.Map(rapid.Float64(), func(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }),
		rapid.StringMatching(`-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,18})?([eE][+-]?[0-9]{1,2})?`),
		rapid.StringMatching(`-?0\.0{0,8}[0-9]{1,8}`),
	)
	var value func(depth int) *rapid.Generator[string]
	value = func(depth int) *rapid.Generator[string] {
		scalar := rapid.OneOf(str, num, rapid.SampledFrom([]string{"true", "false", "null"}))
		if depth == 0 {
			return scalar
		}
		inner := value(depth - 1)
		array := rapid.Custom(func(t *rapid.T) string {
			return "[" + space.Draw(t, "space") + strings.Join(rapid.SliceOfN(inner, 0, 4).Draw(t, "elements"), space.Draw(t, "space")+",") + "]"
		})
		object := rapid.Custom(func(t *rapid.T) string {
			var members []string
			for range rapid.IntRange(0, 6).Draw(t, "members") {
				members = append(members, space.Draw(t, "space")+str.Draw(t, "name")+space.Draw(t, "space")+":"+inner.Draw(t, "value"))
			}
			return "{" + strings.Join(members, ",") + space.Draw(t, "space") + "}"
		})
		return rapid.OneOf(scalar, array, object, object)
	}
	return rapid.Custom(func(t *rapid.T) string {
		return space.Draw(t, "space") + value(4).Draw(t, "value") + space.Draw(t, "space")
	})
}

func TestAppendCanonicalJSONProperty(t *testing.T) {
	t.Parallel()

	texts := jsonText()
	rapid.Check(t, func(t *rapid.T) {
		raw := []byte(texts.Draw(t, "text"))
		want, err := oracleCanonical(raw)
		if err != nil {
			t.Fatalf("the generator made invalid JSON: %v", err)
		}
		got, err := appendCanonicalJSON(nil, raw)
		if err != nil || !bytes.Equal(want, got) {
			t.Fatalf("got %q, %v, want %q", got, err, want)
		}
	})
}

func TestCanonicalNumberProperty(t *testing.T) {
	t.Parallel()

	// Exact digits around the limits of the shortcuts.
	shapes := rapid.OneOf(
		rapid.StringMatching(`-?[1-9][0-9]{13,16}`),
		rapid.StringMatching(`-?[1-9][0-9]{0,8}\.[0-9]{1,8}`),
		rapid.StringMatching(`-?0\.0{0,8}[0-9]{1,16}`),
		rapid.StringMatching(`-?[1-9][0-9]{18,22}`),
		rapid.Map(rapid.Uint64(), func(bits uint64) string {
			f := math.Float64frombits(bits)
			if math.IsNaN(f) || math.IsInf(f, 0) {
				f = 0
			}
			return strconv.FormatFloat(f, 'e', -1, 64)
		}),
	)
	rapid.Check(t, func(t *rapid.T) {
		raw := []byte(shapes.Draw(t, "number"))
		want, err := oracleCanonical(raw)
		if err != nil {
			t.Fatalf("the generator made an invalid number: %v", err)
		}
		got, end, err := appendCanonicalNumber(nil, raw, 0)
		if err != nil || end != len(raw) || !bytes.Equal(want, got) {
			t.Fatalf("%s: got %q, %v, want %q", raw, got, err, want)
		}
	})
}

func TestAppendQuoted(t *testing.T) {
	t.Parallel()

	rapid.Check(t, func(t *rapid.T) {
		s := rapid.String().Draw(t, "string")
		want, _ := json.Marshal(s)
		if got := appendQuoted(nil, s); !bytes.Equal(want, got) {
			t.Fatalf("got %q, want %q", got, want)
		}
	})
}

func FuzzAppendCanonicalJSON(f *testing.F) {
	for _, seed := range []string{`{"b":1,"a":{"d":[],"c":"\u2028"}}`, `[1e400]`, `[-0.0, 1.50]`, `"\ud800"`, `{"a":1,"a":2}`, "\"\xff\"", `{"":{"":0},"":{}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := appendCanonicalJSON(nil, raw)
		want, wantErr := oracleCanonical(raw)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%q: error %v, encoding/json says %v", raw, err, wantErr)
		}
		if err == nil && !bytes.Equal(want, got) {
			t.Fatalf("%q: got %q, want %q", raw, got, want)
		}
		if err != nil && !errors.Is(err, errNotFinite) && json.Valid(raw) {
			t.Fatalf("%q: refused valid JSON: %v", raw, err)
		}
	})
}

func TestAppendCanonicalJSONAllocates(t *testing.T) {
	raw := []byte(benchPayload)
	var c canonicalizer
	buf := make([]byte, 0, 4096)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if _, err := c.append(buf[:0], raw); err != nil {
			t.Fatal(err)
		}
	}))
}

const benchPayload = `{"created_at":"2026-04-04T12:34:56.789012+00:00","email":"ada@example.com","id":"0197a2c4-8f3e-7b6a-9c1d-2e4f60718293",` +
	`"meta":{"z":1,"a":[1,2.5,{"y":0,"x":null}]},"name":"Ada <Lovelace>","note":"first line\nsecond line","rank":42,"score":1234.50}`

func BenchmarkAppendCanonicalJSON(b *testing.B) {
	for name, text := range map[string]string{
		"Flat":   `{"created_at":"2026-04-04T12:34:56.789012+00:00","email":"ada@example.com","id":"0197a2c4-8f3e-7b6a-9c1d-2e4f60718293","name":"Ada Lovelace","rank":42,"score":1234.5}`,
		"Nested": benchPayload,
	} {
		b.Run(name, func(b *testing.B) {
			raw := []byte(text)
			buf := make([]byte, 0, 4096)
			b.ReportAllocs()
			b.SetBytes(int64(len(raw)))
			for b.Loop() {
				if _, err := appendCanonicalJSON(buf[:0], raw); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
