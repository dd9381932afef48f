// Command bench measures how close the server comes to what PostgreSQL itself
// allows.
//
// Absolute times mean little on a machine that does other work too. So each
// figure is set against a floor, the plain work that no sync server could do
// without, measured in the same run, with the client, the server and the
// database on the same processors. Floor and scenario take turns.
//
// The floors:
//
//	A  one-row INSERT and commit by as many connections
//	B  INSERT … SELECT of the same rows from json_to_recordset into a twin of the table
//	C  SELECT row_to_json of the same rows, streamed to a Go client
//	D  a Go HTTP handler that does nothing, by as many connections
//
// The bare pushes say how much of floor A three requests and their statements leave,
// whatever the server does.
//
// A scenario checks the answers that it gets: counts, sequences and hashes. A
// wrong answer is a failure, and the program ends with status 1. A target that is
// missed is shown, and is none.
//
//	go run ./e2e/bench                                 all scenarios
//	go run ./e2e/bench -scenario snapshot              those with "snapshot" in the name
//	go run ./e2e/bench -quick                          each once and small, for CI
//	go run ./e2e/bench -grow 20000000 -against DIR     on a full database, beside an earlier run
package main
