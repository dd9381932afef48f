package oversync

import (
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// A rejection is final for a client, which may drop the rows then.
func TestOnlyWhatFailsAsRowsAreWrittenIsARejection(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		code, where string
		rejected    bool
	}{
		{"22P02", "SQL statement \"WITH applied AS (…\nPL/pgSQL function sync.push_apply(uuid,bigint,text,bigint,bigint,boolean) line 9 at EXECUTE\nPL/pgSQL function sync.push_commit(uuid,text,text,bigint,interval,bigint) line 74 at assignment", true},
		{"23503", "", true}, // of a constraint that is checked at the end
		{"22023", "", false},
		{"22003", "PL/pgSQL function sync.bundle_close(bytea,bigint,bigint,bigint,bigint,bigint) line 9 at SQL statement", false},
		{"21000", "", false},
	} {
		_, rejected := rejection(&pgconn.PgError{Code: tc.code, Where: tc.where})
		require.Equal(t, tc.rejected, rejected, "%s %s", tc.code, tc.where)
	}
}
