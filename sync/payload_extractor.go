package oversync

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// PayloadExtractor reads typed values from the payload of a row.
//
// Each type has two methods. XField returns nil if the field is absent, null or
// of another type. XFieldRequired returns an error in these cases, which names
// the field. An extractor may be used by several goroutines at once as long as
// nobody changes the map it was made from.
type PayloadExtractor struct {
	data map[string]any
}

// errFieldMissing and errFieldNull are the two ways in which a required field
// can have no value.
var (
	errFieldMissing = errors.New("is missing")
	errFieldNull    = errors.New("is null")
)

// NewPayloadExtractor reads a payload. It must be one JSON object. Numbers keep
// every digit, so that an integer above 2^53 stays exact.
func NewPayloadExtractor(payload []byte) (*PayloadExtractor, error) {
	decoder := json.NewDecoder(bytes.NewReader(payload))
	decoder.UseNumber()
	var data map[string]any
	if err := decoder.Decode(&data); err != nil {
		return nil, fmt.Errorf("the payload is not a JSON object: send column names with their values: %w", err)
	}
	if data == nil {
		return nil, errPayloadNotObject
	}
	if err := endOfText(payload, int(decoder.InputOffset())); err != nil {
		return nil, fmt.Errorf("the payload is more than one JSON object: %w", err)
	}
	return &PayloadExtractor{data: data}, nil
}

// NewPayloadExtractorFromMap uses a map that was decoded elsewhere. The map is
// not copied. A nil map is a payload without fields. Besides the types that
// encoding/json makes, it may hold json.Number, int and int64.
func NewPayloadExtractorFromMap(data map[string]any) *PayloadExtractor {
	return &PayloadExtractor{data: data}
}

// HasField says whether the payload has the field, be it null.
func (p *PayloadExtractor) HasField(key string) bool {
	_, ok := p.data[key]
	return ok
}

// StrField returns a string.
func (p *PayloadExtractor) StrField(key string) *string {
	return optional(p, key, toString)
}

// StrFieldRequired returns a string.
func (p *PayloadExtractor) StrFieldRequired(key string) (string, error) {
	return required(p, key, toString)
}

// Int64Field returns an integer from a number, or from a string that holds one.
// A number with a fraction or outside of int64 is of another type. 2.0 and 1e3
// are integers.
func (p *PayloadExtractor) Int64Field(key string) *int64 {
	return optional(p, key, toInt64)
}

// Int64FieldRequired is Int64Field for a field that must be there.
func (p *PayloadExtractor) Int64FieldRequired(key string) (int64, error) {
	return required(p, key, toInt64)
}

// Float64Field returns the nearest double of a number, or of a string that holds
// one. A number without a finite double is of another type.
func (p *PayloadExtractor) Float64Field(key string) *float64 {
	return optional(p, key, toFloat64)
}

// Float64FieldRequired is Float64Field for a field that must be there.
func (p *PayloadExtractor) Float64FieldRequired(key string) (float64, error) {
	return required(p, key, toFloat64)
}

// BoolField returns a truth value from true and false, from a number (0 is
// false, any other true), or from the strings "true", "false", "1" and "0", in
// any case.
func (p *PayloadExtractor) BoolField(key string) *bool {
	return optional(p, key, toBool)
}

// BoolFieldRequired is BoolField for a field that must be there.
func (p *PayloadExtractor) BoolFieldRequired(key string) (bool, error) {
	return required(p, key, toBool)
}

// UUIDField returns a UUID from its text form, as uuid.Parse reads it.
func (p *PayloadExtractor) UUIDField(key string) *uuid.UUID {
	return optional(p, key, toUUID)
}

// UUIDFieldRequired is UUIDField for a field that must be there.
func (p *PayloadExtractor) UUIDFieldRequired(key string) (uuid.UUID, error) {
	return required(p, key, toUUID)
}

// Base64Field returns the bytes of a string in standard base64 with padding. An
// empty string is an empty slice, not nil.
func (p *PayloadExtractor) Base64Field(key string) []byte {
	if value := optional(p, key, toBytes); value != nil {
		return *value
	}
	return nil
}

// Base64FieldRequired is Base64Field for a field that must be there.
func (p *PayloadExtractor) Base64FieldRequired(key string) ([]byte, error) {
	return required(p, key, toBytes)
}

func optional[T any](p *PayloadExtractor, key string, convert func(any) (T, error)) *T {
	value, err := required(p, key, convert)
	if err != nil {
		return nil
	}
	return &value
}

func required[T any](p *PayloadExtractor, key string, convert func(any) (T, error)) (T, error) {
	var zero T
	value, ok := p.data[key]
	if !ok {
		return zero, fmt.Errorf("field %q %w: send a value for it", key, errFieldMissing)
	}
	if value == nil {
		return zero, fmt.Errorf("field %q %w: send a value for it", key, errFieldNull)
	}
	converted, err := convert(value)
	if err != nil {
		return zero, fmt.Errorf("field %q is not usable: %w", key, err)
	}
	return converted, nil
}

func toString(value any) (string, error) {
	s, ok := value.(string)
	if !ok {
		return "", errors.New("send a string")
	}
	return s, nil
}

func toInt64(value any) (int64, error) {
	switch v := value.(type) {
	case int64:
		return v, nil
	case int:
		return int64(v), nil
	case float64:
		return floatToInt64(v)
	case json.Number:
		return parseInt64(v.String())
	case string:
		return parseInt64(strings.TrimSpace(v))
	}
	return 0, errors.New("send an integer")
}

func parseInt64(text string) (int64, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err == nil || errors.Is(err, strconv.ErrRange) {
		return n, err
	}
	// 2.0 and 1e3 are integers written otherwise.
	f, err := parseFloat64(text)
	if err != nil {
		return 0, err
	}
	return floatToInt64(f)
}

// floatToInt64 converts only what is certain: from 2^53 up a double may stand for
// several integers, and the one that was meant is lost.
func floatToInt64(f float64) (int64, error) {
	if f != math.Trunc(f) || math.Abs(f) >= exactFloatInt {
		return 0, fmt.Errorf("send an integer in digits, not %v", f)
	}
	return int64(f), nil
}

func toFloat64(value any) (float64, error) {
	switch v := value.(type) {
	case float64:
		if math.IsInf(v, 0) || math.IsNaN(v) { // which a map may hold, if no JSON
			return 0, errNotFinite
		}
		return v, nil
	case int64:
		return float64(v), nil
	case int:
		return float64(v), nil
	case json.Number:
		return parseFloat64(v.String())
	case string:
		return parseFloat64(strings.TrimSpace(v))
	}
	return 0, errors.New("send a number")
}

func parseFloat64(text string) (float64, error) {
	if strings.ContainsAny(text, "xX") { // a number to Go, and to nobody else here
		return 0, errors.New("send a number in decimal digits")
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0, err
	}
	if math.IsInf(f, 0) || math.IsNaN(f) {
		return 0, errNotFinite
	}
	return f, nil
}

func toBool(value any) (bool, error) {
	switch v := value.(type) {
	case bool:
		return v, nil
	case string:
		switch strings.ToLower(strings.TrimSpace(v)) {
		case "true", "1":
			return true, nil
		case "false", "0":
			return false, nil
		}
	default:
		if f, err := toFloat64(value); err == nil {
			return f != 0, nil
		}
	}
	return false, errors.New(`send true, false, a number, "true", "false", "1" or "0"`)
}

func toUUID(value any) (uuid.UUID, error) {
	s, err := toString(value)
	if err != nil {
		return uuid.Nil, err
	}
	return uuid.Parse(s)
}

func toBytes(value any) ([]byte, error) {
	s, err := toString(value)
	if err != nil {
		return nil, err
	}
	return base64.StdEncoding.DecodeString(s)
}
