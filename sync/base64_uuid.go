package oversync

import (
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/google/uuid"
)

// ConvertBase64EncodedUUID reads a UUID whose 16 bytes were sent as base64, as
// SQLite clients do that keep a UUID in a BLOB. The standard and the URL alphabet
// are accepted, with and without padding, but no line breaks. The text form of a
// UUID is refused: see OptionallyConvertBase64EncodedUUID.
func ConvertBase64EncodedUUID(value string) (uuid.UUID, error) {
	encoding := base64.RawStdEncoding
	if strings.ContainsAny(value, "-_") {
		encoding = base64.RawURLEncoding
	}
	// 16 bytes are 22 characters and two of padding. The last of the 22 carries
	// four bits that must be 0 (Strict), else several texts would mean one UUID.
	unpadded := value
	if len(value) == 24 {
		unpadded = strings.TrimSuffix(value, "==")
	}
	if len(unpadded) != 22 {
		return uuid.Nil, fmt.Errorf("a base64 UUID has 22 characters and may end in ==, but this has %d: send the 16 bytes of the UUID", len(value))
	}
	var id uuid.UUID
	n, err := encoding.Strict().Decode(id[:], []byte(unpadded))
	if err != nil {
		return uuid.Nil, fmt.Errorf("not valid base64: send the 16 bytes of the UUID: %w", err)
	}
	if n != len(id) {
		return uuid.Nil, fmt.Errorf("the base64 holds %d bytes: send the 16 bytes of the UUID", n)
	}
	return id, nil
}

// OptionallyConvertBase64EncodedUUID reads a UUID from a payload in either form,
// the usual text of 36 characters or base64 as ConvertBase64EncodedUUID takes it.
// The result is a uuid.UUID, ready to be the argument of a query. It fails on
// everything else, the empty string included.
func OptionallyConvertBase64EncodedUUID(payloadValue string) (any, error) {
	// Only the usual form: uuid.Parse also takes 32 hexadecimal digits, braces and
	// the URN form, none of which is 36 characters long.
	if len(payloadValue) == 36 {
		id, err := uuid.Parse(payloadValue)
		if err != nil {
			return nil, fmt.Errorf("not a UUID: send 32 hexadecimal digits with dashes, or the 16 bytes as base64: %w", err)
		}
		return id, nil
	}
	id, err := ConvertBase64EncodedUUID(payloadValue)
	if err != nil {
		return nil, err
	}
	return id, nil
}
