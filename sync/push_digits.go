package oversync

import "fmt"

// A number with an exponent can stand for a thousand times as many digits as it has:
// the database stores 1e-16383 of a jsonb or numeric with all its zeros, and every pull
// sends them. So the digits that exponents stand for are bounded. A megabyte in a row is
// three thousand of the smallest doubles, or a hundred thousand numbers as measurements have
// them; and sixteen in a chunk are a fourth of what a body may have in plain digits.
const (
	maxPayloadExponentDigits = 1 << 20
	maxChunkExponentDigits   = 16 << 20
)

// countExponents counts the digits that exponents in a value stand for.
func (j *rowJudge) countExponents(value []byte) error {
	if value[0] == '"' { // as most are: not gone over again
		return nil
	}
	digits := exponentDigits(value)
	j.payloadDigits += digits
	j.chunkDigits += digits
	switch {
	case j.payloadDigits > maxPayloadExponentDigits:
		return fmt.Errorf("the exponents of its numbers stand for more than %d digits: send smaller ones, or send them as text", maxPayloadExponentDigits)
	case j.chunkDigits > maxChunkExponentDigits:
		return fmt.Errorf("the exponents of the chunk's numbers stand for more than %d digits: send fewer rows at a time", maxChunkExponentDigits)
	}
	return nil
}

// exponentDigits adds up the exponents of the numbers in a valid JSON value, whatever
// their signs.
func exponentDigits(value []byte) (digits int) {
	for i := 0; i < len(value); i++ {
		switch value[i] {
		case '"':
			end, _, err := skipString(value, i)
			if err != nil {
				return digits
			}
			i = end - 1
		case 'e', 'E':
			if value[i-1] > '9' { // the end of true or false
				continue
			}
			exponent := 0
			for i++; i < len(value) && (value[i] == '+' || value[i] == '-' || '0' <= value[i] && value[i] <= '9'); i++ {
				if c := value[i]; c >= '0' && exponent <= maxPayloadExponentDigits {
					exponent = 10*exponent + int(c-'0')
				}
			}
			i--
			digits += exponent
		}
	}
	return digits
}
