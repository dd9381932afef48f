package oversync

import "unicode/utf8"

// maxEchoBytes is enough to recognize what a message is about. PostgreSQL's own names are
// shorter.
const maxEchoBytes = 100

// shorten cuts what a client has sent to what a message may repeat of it.
func shorten(text string) string {
	if len(text) <= maxEchoBytes {
		return text
	}
	end := maxEchoBytes
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "…"
}
