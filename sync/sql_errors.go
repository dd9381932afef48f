package oversync

import (
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
)

// Error codes of the functions in schema sync. docs/errors.md says what each
// means and what to do; a test holds the three together.
const (
	sqlScopeUninitialized       = "OV001"
	sqlScopeInitializing        = "OV002"
	sqlInitializationStale      = "OV003"
	sqlInitializationExpired    = "OV004"
	sqlSourceSequenceOutOfOrder = "OV006"
	sqlSourceSequenceChanged    = "OV007"
	sqlSourceRetired            = "OV008"
	sqlPushSessionInvalid       = "OV009"
	sqlPushChunkInvalid         = "OV010"
	sqlPushChunkOutOfOrder      = "OV011"
	sqlPushCommitInvalid        = "OV012"
	sqlPushConflict             = "OV013"
	sqlPushSessionNotFound      = "OV014"
	sqlPushSessionForbidden     = "OV015"
	sqlPushSessionExpired       = "OV016"
	sqlSourceReplacementInvalid = "OV018"
	sqlSnapshotLimitExceeded    = "OV019"
	sqlCatalogChanged           = "OV021"
	sqlSourceTuplePruned        = "OV022"
	sqlUnsupportedSchema        = "OV030"
	sqlWriteOutsideBundle       = "OV031"
	sqlWriteInOtherScope        = "OV032"
)

// sqlDetail is the DETAIL of our errors, which is JSON.
type sqlDetail struct {
	LeaseExpiresAt     time.Time `json:"lease_expires_at"`
	Expected           int64     `json:"expected"`
	Actual             int64     `json:"actual"`
	SourceID           string    `json:"source_id"`
	ReplacedBySourceID string    `json:"replaced_by_source_id"`
	SourceBundleID     int64     `json:"source_bundle_id"`
	LastSourceBundleID int64     `json:"last_source_bundle_id"`
	Dimension          string    `json:"dimension"`
	Limit              int64     `json:"limit"`
}

// typedError turns an error that a function of schema sync raised into the type
// that callers know. Anything else is returned as it is.
func typedError(err error, actor Actor, sessionID string) error {
	if isOfID(err) {
		return &RequestInvalidError{Message: "the user id, or an id in the request, has a character that the encoding of the database lacks: choose another id"}
	}
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || !isOurs(pgErr) {
		return err
	}
	var detail sqlDetail
	if pgErr.Detail != "" {
		// A detail of another form, as a conflict has, leaves the fields empty.
		_ = json.Unmarshal([]byte(pgErr.Detail), &detail)
	}
	switch pgErr.Code {
	case sqlScopeUninitialized:
		return &ScopeUninitializedError{UserID: actor.UserID}
	case sqlScopeInitializing:
		return &ScopeInitializingError{UserID: actor.UserID, LeaseExpiresAt: detail.LeaseExpiresAt}
	case sqlInitializationStale:
		return &InitializationStaleError{Message: sentence(pgErr)}
	case sqlInitializationExpired:
		return &InitializationExpiredError{Message: sentence(pgErr)}
	case sqlSourceSequenceOutOfOrder:
		return &SourceSequenceOutOfOrderError{UserID: actor.UserID, SourceID: actor.SourceID, Expected: detail.Expected, Actual: detail.Actual}
	case sqlSourceSequenceChanged:
		return &SourceSequenceChangedError{UserID: actor.UserID, SourceID: actor.SourceID, Expected: detail.Expected, Actual: detail.Actual}
	case sqlSourceRetired:
		return &SourceRetiredError{UserID: actor.UserID, SourceID: detail.SourceID, ReplacedBySourceID: detail.ReplacedBySourceID}
	case sqlPushSessionInvalid:
		return &PushSessionInvalidError{Message: sentence(pgErr)}
	case sqlPushChunkInvalid:
		return &PushChunkInvalidError{Message: sentence(pgErr)}
	case sqlPushChunkOutOfOrder:
		return &PushChunkOutOfOrderError{PushID: sessionID, Expected: detail.Expected, Actual: detail.Actual}
	case sqlPushCommitInvalid:
		return &PushCommitInvalidError{Message: sentence(pgErr)}
	case sqlPushSessionNotFound:
		return &PushSessionNotFoundError{PushID: sessionID}
	case sqlPushSessionForbidden:
		return &PushSessionForbiddenError{PushID: sessionID}
	case sqlPushSessionExpired:
		return &PushSessionExpiredError{PushID: sessionID}
	case sqlSourceReplacementInvalid:
		return &SourceReplacementInvalidError{Message: sentence(pgErr)}
	case sqlSnapshotLimitExceeded:
		return &SnapshotSessionLimitExceededError{Dimension: detail.Dimension, Actual: detail.Actual, Limit: detail.Limit}
	case sqlSourceTuplePruned:
		return &SourceTupleHistoryPrunedError{
			UserID: actor.UserID, SourceID: actor.SourceID,
			SourceBundleID: detail.SourceBundleID, MaxCommittedSourceBundleIDHint: detail.LastSourceBundleID,
		}
	case sqlUnsupportedSchema:
		return &UnsupportedSchemaError{Message: sentence(pgErr)}
	default:
		return err
	}
}

// sentence is the message of an error of ours with its remedy.
func sentence(err *pgconn.PgError) string {
	if err.Hint == "" {
		return err.Message
	}
	return err.Message + ": " + err.Hint
}

// isOurs says whether sync.fail raised an error. The code alone does not say it: an
// application's trigger may raise any.
func isOurs(err *pgconn.PgError) bool {
	return isRaised(err) && err.SchemaName == "sync"
}

// isRaised says whether an error is of a RAISE statement, and not of PostgreSQL.
func isRaised(err *pgconn.PgError) bool { return err.Routine == "exec_stmt_raise" }

// isOfID says whether a database that is not UTF-8 has no form for a parameter of a
// statement, where nothing but ids is text. What code of the database says is not of it.
func isOfID(err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pgErr.Code == pgerrcode.UntranslatableCharacter && pgErr.Routine == "report_untranslatable_char" && !strings.Contains(pgErr.Where, "function")
}

// hasSQLState says whether err comes from the database with this code.
func hasSQLState(err error, code string) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pgErr.Code == code
}

// isRetryable says whether the same transaction may succeed if it is run again.
func isRetryable(err error) bool {
	if isSettled(err) {
		return false
	}
	return hasSQLState(err, pgerrcode.SerializationFailure) || hasSQLState(err, pgerrcode.DeadlockDetected) ||
		hasSQLState(err, pgerrcode.LockNotAvailable)
}

// rejection turns the refusal of pushed rows by the database into the error that
// clients know. ok is false where the rows are not to blame: the server, its
// resources or its schema are, and the same push may succeed later.
func rejection(err error) (_ *PushRejectedError, ok bool) {
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return nil, false
	}
	pgErr, isPg := errors.AsType[*pgconn.PgError](err)
	if !isPg || len(pgErr.Code) != 5 || isServerFault(pgErr) {
		return nil, false
	}
	rejected := &PushRejectedError{
		Message: "the database refused the pushed rows: " + sentence(pgErr),
		Rejection: PushRejection{
			SQLState: pgErr.Code, Schema: pgErr.SchemaName, Table: pgErr.TableName,
			Column: pgErr.ColumnName, Constraint: pgErr.ConstraintName,
		},
	}
	if isOurs(pgErr) {
		rejected.Rejection.Schema = "" // which is of no table
	}
	return rejected, true
}

// isServerFault says whether an error tells of the server and not of the rows that
// were being written.
func isServerFault(err *pgconn.PgError) bool {
	// What a trigger raises is its judgement of the rows, whatever code it took.
	if isRaised(err) {
		return false
	}
	// Else only what fails as the rows are written can be theirs, which the context of the
	// error says, or a constraint that is checked at the end. A setting that the database
	// refuses has codes of values too.
	if !strings.Contains(err.Where, "sync.push_commit(") && !pgerrcode.IsIntegrityConstraintViolation(err.Code) {
		return true
	}
	switch err.Code[:2] {
	case "08", "40", "53", "57", "58", "F0":
		return true
	case "XX":
		// So the input of some types refuses a text that it cannot read.
		return !isOfInput(err)
	case "0A":
		// A type refuses a value so. A statement that is to be planned anew is not the row's.
		return err.Routine == "RevalidateCachedQuery"
	case "25", "26", "28", "34", "3B", "3D", "3F":
		return err.Code == pgerrcode.ReadOnlySQLTransaction || !isOfApplication(err)
	case "42":
		// A statement that is wrong is the server's fault. But types with a language of
		// their own (tsquery, jsonpath) refuse a value by the same code, and a policy a row.
		// A name that is too long in a statement would be cut, so it is one in an ltree.
		return err.Code != pgerrcode.NameTooLong && (err.Code != pgerrcode.SyntaxError || err.Routine == "scanner_yyerror") && err.Routine != "ExecWithCheckOptions" && !isOfApplication(err)
	default:
		return err.Code == pgerrcode.LockNotAvailable
	}
}

// isOfInput says whether an error of PostgreSQL's own is of a text that was to become a
// value: of a tsquery or ltxtquery with too many operators within each other, or of
// what is no hstore, before PostgreSQL 16.
func isOfInput(err *pgconn.PgError) bool {
	switch err.Routine {
	case "pushOpStack", "makepol", "parse_hstore", "get_val":
		return true
	default:
		return false
	}
}

// isOfApplication says whether an error of a push came out of code that the
// application runs as its rows are written, as a trigger or for a constraint: the
// context of the error has that before the statement that writes them.
func isOfApplication(err *pgconn.PgError) bool {
	for _, statement := range []string{"WITH applied AS (", "SET CONSTRAINTS ALL IMMEDIATE"} {
		if within, _, ok := strings.Cut(err.Where, statement); ok {
			return strings.Contains(strings.TrimSpace(within), "\n") && !strings.Contains(within, "sync.capture")
		}
	}
	return false
}
