//go:build race

package e2e_test

// underRace says that the race detector is on, which makes SQLite in Go some twenty times slower.
const underRace = true
