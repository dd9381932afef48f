// Package migrations holds the schema of oversync as goose SQL files, in reading order, and applies them.
// Stock goose applies the same files: they need nothing of this package.
package migrations

import "embed"

// FS holds every migration file. The names start with the version that goose orders by.
//
//go:embed *.sql
var FS embed.FS
