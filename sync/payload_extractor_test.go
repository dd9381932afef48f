package oversync

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

func TestNewPayloadExtractorRefuses(t *testing.T) {
	t.Parallel()

	for _, payload := range []string{``, `null`, `[]`, `"a"`, `1`, `{`, `{} {}`, `{}x`} {
		p, err := NewPayloadExtractor([]byte(payload))
		require.Error(t, err, "%q", payload)
		require.Nil(t, p)
	}
}

func TestPayloadExtractorPresence(t *testing.T) {
	t.Parallel()

	p, err := NewPayloadExtractor([]byte(`{"null":null,"a":1} `))
	require.NoError(t, err)
	require.True(t, p.HasField("null"))
	require.True(t, p.HasField("a"))
	require.False(t, p.HasField("b"))

	for key, reason := range map[string]error{"null": errFieldNull, "b": errFieldMissing} {
		_, err := p.StrFieldRequired(key)
		require.ErrorIs(t, err, reason)
		require.ErrorContains(t, err, key)
		_, err = p.Int64FieldRequired(key)
		require.ErrorIs(t, err, reason)
		_, err = p.Float64FieldRequired(key)
		require.ErrorIs(t, err, reason)
		_, err = p.BoolFieldRequired(key)
		require.ErrorIs(t, err, reason)
		_, err = p.UUIDFieldRequired(key)
		require.ErrorIs(t, err, reason)
		_, err = p.Base64FieldRequired(key)
		require.ErrorIs(t, err, reason)
		require.Nil(t, p.StrField(key))
		require.Nil(t, p.Int64Field(key))
		require.Nil(t, p.Float64Field(key))
		require.Nil(t, p.BoolField(key))
		require.Nil(t, p.UUIDField(key))
		require.Nil(t, p.Base64Field(key))
	}

	empty := NewPayloadExtractorFromMap(nil)
	require.False(t, empty.HasField("a"))
	require.Nil(t, empty.StrField("a"))
}

func TestPayloadExtractorStrings(t *testing.T) {
	t.Parallel()

	p, err := NewPayloadExtractor([]byte(`{"s":"text","empty":"","n":1,"id":"0197A2C4-8f3e-7b6a-9c1d-2e4f60718293","bytes":"AP8=","raw":"AP8"}`))
	require.NoError(t, err)
	require.Equal(t, "text", *p.StrField("s"))
	require.Equal(t, "", *p.StrField("empty"))
	require.Nil(t, p.StrField("n"))
	_, err = p.StrFieldRequired("n")
	require.EqualError(t, err, `field "n" is not usable: send a string`)

	id := uuid.MustParse("0197a2c4-8f3e-7b6a-9c1d-2e4f60718293")
	require.Equal(t, id, *p.UUIDField("id"))
	require.Nil(t, p.UUIDField("s"))
	require.Nil(t, p.UUIDField("n"))

	require.Equal(t, []byte{0, 255}, p.Base64Field("bytes"))
	require.Equal(t, []byte{}, p.Base64Field("empty"))
	require.NotNil(t, p.Base64Field("empty"))
	require.Nil(t, p.Base64Field("raw"))
	require.Nil(t, p.Base64Field("n"))
	_, err = p.Base64FieldRequired("raw")
	require.Error(t, err)
}

func TestPayloadExtractorNumbers(t *testing.T) {
	t.Parallel()

	for _, tc := range []struct {
		payload string
		integer any // nil where it is none
		double  any
	}{
		{`{"v":0}`, int64(0), 0.0},
		{`{"v":9007199254740993}`, int64(9007199254740993), 9007199254740992.0},
		{`{"v":9223372036854775807}`, int64(math.MaxInt64), 9223372036854775807.0},
		{`{"v":-9223372036854775808}`, int64(math.MinInt64), -9223372036854775808.0},
		{`{"v":9223372036854775808}`, nil, 9223372036854775808.0},
		{`{"v":"9007199254740993"}`, int64(9007199254740993), 9007199254740992.0},
		{`{"v":" -7 "}`, int64(-7), -7.0},
		{`{"v":2.0}`, int64(2), 2.0},
		{`{"v":1e3}`, int64(1000), 1000.0},
		{`{"v":9007199254740993.0}`, nil, 9007199254740992.0},
		{`{"v":1.5}`, nil, 1.5},
		{`{"v":"1.5"}`, nil, 1.5},
		{`{"v":1e400}`, nil, nil},
		{`{"v":"NaN"}`, nil, nil},
		{`{"v":"Infinity"}`, nil, nil},
		{`{"v":""}`, nil, nil},
		{`{"v":"1 000"}`, nil, nil},
		{`{"v":true}`, nil, nil},
		{`{"v":[1]}`, nil, nil},
	} {
		p, err := NewPayloadExtractor([]byte(tc.payload))
		require.NoError(t, err)
		n, err := p.Int64FieldRequired("v")
		if tc.integer == nil {
			require.Error(t, err, tc.payload)
			require.Nil(t, p.Int64Field("v"), tc.payload)
		} else {
			require.NoError(t, err, tc.payload)
			require.Equal(t, tc.integer, n, tc.payload)
			require.Equal(t, tc.integer, *p.Int64Field("v"), tc.payload)
		}
		f, err := p.Float64FieldRequired("v")
		if tc.double == nil {
			require.Error(t, err, tc.payload)
			require.Nil(t, p.Float64Field("v"), tc.payload)
		} else {
			require.NoError(t, err, tc.payload)
			require.Equal(t, tc.double, f, tc.payload)
			require.Equal(t, tc.double, *p.Float64Field("v"), tc.payload)
		}
	}
}

func TestPayloadExtractorBools(t *testing.T) {
	t.Parallel()

	for value, want := range map[string]any{
		`true`: true, `false`: false, `1`: true, `0`: false, `0.0`: false, `-0.5`: true, `"true"`: true, `"FALSE"`: false, `"1"`: true, `"0"`: false,
		`"yes"`: nil, `"2"`: nil, `""`: nil, `[]`: nil, `{}`: nil,
	} {
		p, err := NewPayloadExtractor([]byte(`{"v":` + value + `}`))
		require.NoError(t, err)
		got, err := p.BoolFieldRequired("v")
		if want == nil {
			require.Error(t, err, value)
			require.Nil(t, p.BoolField("v"), value)
			continue
		}
		require.NoError(t, err, value)
		require.Equal(t, want, got, value)
		require.Equal(t, want, *p.BoolField("v"), value)
	}
}

func TestPayloadExtractorFromMap(t *testing.T) {
	t.Parallel()

	p := NewPayloadExtractorFromMap(map[string]any{"float": 2.0, "fraction": 2.5, "huge": 1e17, "int": 3, "int64": int64(9007199254740993)})
	require.Equal(t, int64(2), *p.Int64Field("float"))
	require.Nil(t, p.Int64Field("fraction"))
	require.Nil(t, p.Int64Field("huge"), "the digits were lost before the map was made")
	require.Equal(t, int64(3), *p.Int64Field("int"))
	require.Equal(t, int64(9007199254740993), *p.Int64Field("int64"))
	require.Equal(t, 2.5, *p.Float64Field("fraction"))
	require.Equal(t, 3.0, *p.Float64Field("int"))
	require.True(t, *p.BoolField("int64"))
}

func TestPayloadExtractorTakesNoNumberThatJSONLacks(t *testing.T) {
	t.Parallel()
	p := NewPayloadExtractorFromMap(map[string]any{"inf": math.Inf(1), "nan": math.NaN(), "hex": "0x10p0", "number": json.Number("0x10p0")})
	for _, field := range []string{"inf", "nan", "hex", "number"} {
		require.Nil(t, p.Float64Field(field), field)
		require.Nil(t, p.Int64Field(field), field)
	}
}
