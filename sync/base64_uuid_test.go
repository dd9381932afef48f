package oversync

import (
	"encoding/base64"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestConvertBase64EncodedUUIDProperty(t *testing.T) {
	t.Parallel()

	rapid.Check(t, func(t *rapid.T) {
		want := uuid.UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "bytes"))
		for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
			text := encoding.EncodeToString(want[:])
			got, err := ConvertBase64EncodedUUID(text)
			if err != nil || got != want {
				t.Fatalf("%q: got %v, %v, want %v", text, got, err, want)
			}
			either, err := OptionallyConvertBase64EncodedUUID(text)
			if err != nil || either != any(want) {
				t.Fatalf("%q: got %v, %v, want %v", text, either, err, want)
			}
		}
		either, err := OptionallyConvertBase64EncodedUUID(want.String())
		if err != nil || either != any(want) {
			t.Fatalf("%s: got %v, %v", want, either, err)
		}
	})
}

func TestConvertBase64EncodedUUIDRefuses(t *testing.T) {
	t.Parallel()

	for _, value := range []string{
		"", "AAAA", "AAAAAAAAAAAAAAAAAAAAAA=", "AAAAAAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAAAAAAAA==",
		"AAAAAAAAAAAAAAAAAAAAAB", "AAAAAAAAAAAAAAAAAAAA\nA", "AAAAAAAAAAAAAAAAAAAA*A", "+AAAAAAAAAAAAAAAAAAA_A", "=====================A",
		"00000000-0000-0000-0000-000000000000",
	} {
		got, err := ConvertBase64EncodedUUID(value)
		require.Error(t, err, "%q", value)
		require.Equal(t, uuid.Nil, got)
	}
	for _, value := range []string{
		"", "no uuid", "0000000000000000000000000000000000ff", "00000000-0000-0000-0000-00000000000g",
		"{00000000-0000-0000-0000-000000000000}", "00000000000000000000000000000000",
	} {
		got, err := OptionallyConvertBase64EncodedUUID(value)
		require.Error(t, err, "%q", value)
		require.Nil(t, got)
	}
}
