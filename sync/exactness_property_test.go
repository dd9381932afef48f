package oversync_test

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	oversync "github.com/oversync/oversync/sync"
)

// TestRandomValuesKeepEveryDigit is TestValuesKeepEveryDigit over random values,
// with every setting of the database at its worst.
func TestRandomValuesKeepEveryDigit(t *testing.T) {
	t.Parallel()
	w := newValues(t, everySetting)
	users := 0
	rapid.Check(t, func(rt *rapid.T) {
		cases := rapid.SliceOfN(randomValue(), 1, 20).Draw(rt, "values")
		ctx := t.Context()
		users++ // a scope for each check, so that a failure can be tried again
		w.connect(t, fmt.Sprint("user-", users))

		push := func(op string, version int64, value func(i int) string) []string {
			rows := make([]oversync.PushRequestRow, len(cases))
			for i, c := range cases {
				rows[i] = valueRow(op, i, version, w.column[c.columnType], value(i))
			}
			_, err := w.writer.push(ctx, rows...)
			require.NoError(rt, err)
			w.requireStored(rt, cases)
			return w.pullValues(rt, cases)
		}
		first := push(oversync.OpInsert, 0, func(i int) string { return cases[i].pushed })
		for i, c := range cases {
			if c.pulled != "" {
				require.Equal(rt, c.pulled, first[i], "%s %s", c.columnType, c.pushed)
			}
		}
		again := push(oversync.OpUpdate, 1, func(i int) string { return first[i] })
		require.Equal(rt, first, again)
	})
}

// randomValue draws a value of one of the types in valueCases. Where pulled is
// set, it was made here in Go; else whatever comes must come again.
func randomValue() *rapid.Generator[valueCase] {
	return rapid.OneOf(
		rapid.Custom(func(t *rapid.T) valueCase {
			text := strconv.FormatInt(rapid.Int64().Draw(t, "int8"), 10)
			return valueCase{"int8", text, text, text}
		}),
		rapid.Custom(func(t *rapid.T) valueCase {
			text := rapid.StringMatching(`-?(0|[1-9][0-9]{0,60})(\.[0-9]{1,60})?`).Draw(t, "numeric")
			pulled := text
			if strings.Trim(text, "-0.") == "" {
				pulled = strings.TrimPrefix(text, "-") // numeric knows no negative zero
			}
			return valueCase{"numeric", text, text, pulled}
		}),
		rapid.Custom(func(t *rapid.T) valueCase { return floatCase("float8", 64, rapid.Float64().Draw(t, "float8")) }),
		rapid.Custom(func(t *rapid.T) valueCase { return floatCase("float4", 32, float64(rapid.Float32().Draw(t, "float4"))) }),
		rapid.Custom(func(t *rapid.T) valueCase { return textCase("text", drawText(t)) }),
		rapid.Custom(func(t *rapid.T) valueCase { return textCase("public.citext", drawText(t)) }),
		rapid.Custom(func(t *rapid.T) valueCase {
			data := rapid.SliceOf(rapid.Byte()).Draw(t, "bytea")
			text := `"` + base64.StdEncoding.EncodeToString(data) + `"`
			columnType := "bytea"
			if len(data) < 10 {
				columnType = rapid.SampledFrom([]string{"bytea", "app.blob", "app.small_blob"}).Draw(t, "type")
			}
			return valueCase{columnType, text, `\x` + hex.EncodeToString(data), text}
		}),
		rapid.Custom(drawTimestamp),
		rapid.Custom(func(t *rapid.T) valueCase {
			date, era := drawDate(t, 5_874_897)
			return valueCase{"date", `"` + date + era + `"`, date + era, `"` + date + era + `"`}
		}),
		rapid.Custom(func(t *rapid.T) valueCase {
			text := fmt.Sprintf("%d mons %d days %d microseconds", rapid.Int32Range(-1e9, 1e9).Draw(t, "months"),
				rapid.Int32Range(-1e9, 1e9).Draw(t, "days"), rapid.Int64Range(-9e18, 9e18).Draw(t, "microseconds"))
			return valueCase{columnType: "interval", pushed: `"` + text + `"`, literal: text}
		}),
		rapid.Custom(func(t *rapid.T) valueCase {
			text := drawJSON(t, 3)
			columnType := rapid.SampledFrom([]string{"json", "jsonb", "app.document"}).Draw(t, "type")
			if columnType == "json" {
				// json keeps the text as it is; only a string by itself is written anew.
				if !strings.HasPrefix(text, `"`) {
					return valueCase{columnType, text, text, text}
				}
				columnType = "jsonb"
			}
			return valueCase{columnType: columnType, pushed: text, literal: text}
		}),
		rapid.Custom(func(t *rapid.T) valueCase {
			elements := rapid.SliceOfN(rapid.Ptr(rapid.Custom(drawText), true), 1, 5).Draw(t, "array")
			pushed, literal := make([]string, len(elements)), make([]string, len(elements))
			for i, element := range elements {
				pushed[i], literal[i] = "null", "NULL"
				if element != nil {
					pushed[i] = quoteJSON(*element)
					literal[i] = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(*element) + `"`
				}
			}
			return valueCase{columnType: "text[]", pushed: "[" + strings.Join(pushed, ",") + "]", literal: "{" + strings.Join(literal, ",") + "}"}
		}),
		rapid.Custom(func(t *rapid.T) valueCase {
			low := rapid.Int64Range(math.MinInt64, math.MaxInt64-1).Draw(t, "low")
			high := rapid.Int64Range(low+1, math.MaxInt64).Draw(t, "high")
			text := fmt.Sprintf("[%d,%d)", low, high)
			return valueCase{"int8range", `"` + text + `"`, text, `"` + text + `"`}
		}),
		rapid.Custom(func(t *rapid.T) valueCase {
			amount := rapid.StringMatching(`[1-9][0-9]{0,30}\.[0-9]{1,10}`).Draw(t, "amount")
			count := rapid.Int64().Draw(t, "count")
			text := fmt.Sprintf(`{"label":null,"amount":%s,"at":null,"nested":[%d]}`, amount, count)
			return valueCase{"app.pair", text, fmt.Sprintf("(,%s,,{%d})", amount, count), text}
		}),
		rapid.Custom(func(t *rapid.T) valueCase {
			text := rapid.StringMatching(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`).Draw(t, "uuid")
			return valueCase{"uuid", `"` + text + `"`, text, `"` + text + `"`}
		}),
		rapid.Custom(func(t *rapid.T) valueCase {
			text := rapid.StringMatching(`[01]{0,200}`).Draw(t, "varbit")
			return valueCase{"varbit", `"` + text + `"`, text, `"` + text + `"`}
		}),
	)
}

// floatCase pushes a float as Go writes it. The literal has more digits than are
// needed, so that it cannot round to another value.
func floatCase(columnType string, bits int, value float64) valueCase {
	return valueCase{columnType: columnType, pushed: strconv.FormatFloat(value, 'g', -1, bits), literal: strconv.FormatFloat(value, 'e', 20, 64)}
}

// drawText draws a text that PostgreSQL can hold: anything but U+0000.
func drawText(t *rapid.T) string {
	return strings.ReplaceAll(rapid.String().Draw(t, "text"), "\x00", "\x01")
}

func textCase(columnType, text string) valueCase {
	return valueCase{columnType: columnType, pushed: quoteJSON(text), literal: text}
}

// quoteJSON escapes what encoding/json escapes, which is more than PostgreSQL does.
func quoteJSON(text string) string {
	quoted, err := json.Marshal(text)
	if err != nil {
		panic(err) // a string always has a JSON form
	}
	return string(quoted)
}

// drawDate draws a day as PostgreSQL writes it in ISO style, and its era.
func drawDate(t *rapid.T, lastYear int) (date, era string) {
	year := rapid.IntRange(-4712, lastYear).Draw(t, "year")
	if year <= 0 {
		year, era = 1-year, " BC"
	}
	return fmt.Sprintf("%04d-%02d-%02d", year, rapid.IntRange(1, 12).Draw(t, "month"), rapid.IntRange(1, 28).Draw(t, "day")), era
}

func drawTimestamp(t *rapid.T) valueCase {
	date, era := drawDate(t, 294_275)
	micros := rapid.IntRange(0, 86_400_000_000-1).Draw(t, "microseconds")
	clock := fmt.Sprintf("%02d:%02d:%02d", micros/3_600_000_000, micros/60_000_000%60, micros/1_000_000%60)
	if fraction := micros % 1_000_000; fraction != 0 {
		clock += strings.TrimRight(fmt.Sprintf(".%06d", fraction), "0")
	}
	if rapid.Bool().Draw(t, "with zone") {
		text := `"` + date + "T" + clock + "+00:00" + era + `"`
		return valueCase{"timestamptz", text, date + " " + clock + "+00" + era, text}
	}
	text := `"` + date + "T" + clock + era + `"`
	return valueCase{"timestamp", text, date + " " + clock + era, text}
}

// drawJSON draws a JSON value that is not null: at the top, null is SQL's NULL.
func drawJSON(t *rapid.T, depth int) string {
	kinds := 3
	if depth > 0 {
		kinds = 5
	}
	switch rapid.IntRange(1, kinds).Draw(t, "kind") {
	case 1:
		return rapid.StringMatching(`-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,40})?`).Draw(t, "number")
	case 2:
		return quoteJSON(drawText(t))
	case 3:
		return strconv.FormatBool(rapid.Bool().Draw(t, "bool"))
	case 4:
		elements := []string{"null"}
		for range rapid.IntRange(0, 3).Draw(t, "length") {
			elements = append(elements, drawJSON(t, depth-1))
		}
		return "[" + strings.Join(elements, ", ") + "]"
	default:
		var members []string
		for i := range rapid.IntRange(0, 3).Draw(t, "size") {
			members = append(members, quoteJSON(fmt.Sprint(i)+drawText(t))+": "+drawJSON(t, depth-1))
		}
		return "{" + strings.Join(members, ", ") + "}"
	}
}
