//go:build !race

package e2e_test

// underRace says that the race detector is on.
const underRace = false
