package oversync_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/oversync/oversync/db/pgembed/pgtest"
)

// newExamplePool returns a pool on a migrated database that has the table app.notes
// of the examples, and a function that drops it all.
func newExamplePool() (pool *pgxpool.Pool, drop func()) {
	tb := &exampleTB{}
	pool = pgtest.NewPool(tb)
	_, err := pool.Exec(tb.Context(), notesDDL)
	check(err)
	return pool, tb.cleanUp
}

// exampleTB stands in for the testing.TB that an example is not given. It panics
// where a test would fail.
type exampleTB struct {
	testing.TB // never called: what pgtest needs is below
	cleanups   []func()
}

func (tb *exampleTB) cleanUp() {
	for _, clean := range slices.Backward(tb.cleanups) {
		clean()
	}
}

func (tb *exampleTB) Cleanup(clean func())           { tb.cleanups = append(tb.cleanups, clean) }
func (*exampleTB) Context() context.Context          { return context.Background() }
func (*exampleTB) Errorf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
func (*exampleTB) FailNow()                          { panic("an example's database cannot be made") }
func (*exampleTB) Failed() bool                      { return false }
func (*exampleTB) Helper()                           {}

// check is what an application does about an error; here it ends the example.
func check(err error) {
	if err != nil {
		panic(err)
	}
}
