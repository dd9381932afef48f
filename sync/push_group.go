package oversync

import (
	"context"
	"encoding/hex"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/oversync/oversync/db"
)

// commitInTurn commits a push, and with it those that wait behind it. The caller
// has the turn of the scope.
func (s *SyncService) commitInTurn(ctx context.Context, push *pushCommit) error {
	together := !push.isTaken // which was in vain then
	return retry(ctx, func(attempt int) error {
		group, err := s.commitPushes(ctx, push, together, s.stages("push_commit", attempt))
		together = false
		if len(group) > 1 && !isSettled(err) {
			// One of them is refused. Each tries again alone, to have an answer of its own.
			group, err = s.commitPushes(ctx, push, together, s.stages("push_commit", attempt))
		}
		if isSettled(err) {
			s.settle(group, err)
		}
		return err
	})
}

// settle tells all who wait for a group what became of it.
func (s *SyncService) settle(group []*pushCommit, err error) {
	for _, push := range group {
		push.err = err
		if err == nil {
			s.bundleCommitted(push.actor.UserID, push.resp.BundleSeq, push.resp.SourceID, push.resp.SourceBundleID)
		}
		close(push.done)
	}
}

// commitLostError says that the connection was lost during COMMIT, so that nobody
// knows whether it was done.
type commitLostError struct{ err error }

func (e *commitLostError) Error() string {
	return "the connection was lost during the commit: create the push session again, which says whether it was done: " + e.err.Error()
}

func (e *commitLostError) Unwrap() error { return e.err }

// isSettled says of what commitPushes returned that nothing is to be tried again: the
// pushes are committed, or may be.
func isSettled(err error) bool {
	_, isLost := errors.AsType[*commitLostError](err)
	return err == nil || isLost
}

// Pushes of one scope that wait for each other are committed together, since what
// each waits for is the disk. They are few and small, so that the first does not wait
// long for the last, and little is done in vain if one is refused. More are faster for
// a scope that many devices push to, at the cost of the users beside it: their answers
// come all at once, and so do the requests that follow.
const (
	maxGroupPushes = 16  // while no other user pushes
	maxGroupBeside = 4   // beside others, or where pushes are applied one after the other
	maxGroupRows   = 100 // of a group

	// groupCommitTimeout bounds a commit that does not end with its own request.
	groupCommitTimeout = 30 * time.Second
)

// pushCommit is a push that is to be committed.
type pushCommit struct {
	actor   Actor
	id      uuid.UUID
	isTaken bool // by takeCommits; for who has the turn of the scope

	resp *PushSessionCommitResponse // as err, valid once done is closed
	err  error                      // a *commitLostError or nil
	done chan struct{}              // closed by who committed it
}

// commitPushes is one try of CommitPushSession in one transaction, together with
// the pushes of its scope that wait or not. Each becomes a bundle of its own; if
// one is refused, nothing is committed. The caller has the turn of the scope.
//
// A push takes one round trip, whatever the number of its rows: it is applied, and
// its rows are streamed here to make their hash. The next round trip enters its
// bundle, and applies the next push or commits. Pushes of one row that have nothing
// to do with each other take one together.
func (s *SyncService) commitPushes(ctx context.Context, push *pushCommit, together bool, clock *stageClock) (group []*pushCommit, err error) {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Release()
	clock.done(ctx, "acquire", 1, nil)
	defer rollbackUnlessCommitted(conn, &err)

	batch := &pgx.Batch{}
	batch.Queue(beginReadCommitted)
	if s.config.UploadLockTimeout > 0 {
		batch.Queue(db.PushLockTimeout, max(1, s.config.UploadLockTimeout.Milliseconds())) // 0 would be no bound
	}
	pushes, rowsAtMost := []*pushCommit{push}, int64(maxPlannedRows)
	atOnce, most := true, maxGroupBeside
	if s.scopes.isAlone(push.actor.UserID) {
		most = maxGroupPushes
	}
	takeMore := func() {
		if together {
			pushes = append(pushes, s.scopes.takeCommits(push.actor.UserID, most-len(group)-len(pushes))...)
		}
	}
	defer func() { s.scopes.returnCommits(pushes) }()
	for takeMore(); len(pushes) > 0 && len(group) < most && rowsAtMost > 0; takeMore() {
		applied := pushes
		if atOnce && len(pushes) > 1 {
			batch, err = s.applyRows(ctx, conn, batch, pushes, clock)
			if errors.Is(err, pgx.ErrNoRows) {
				atOnce, most = false, maxGroupBeside
				continue
			}
		} else {
			applied = pushes[:1]
			batch, err = s.applyPush(ctx, conn, batch, pushes[0], rowsAtMost, clock)
		}
		pushes = pushes[len(applied):]
		if errors.Is(err, pgx.ErrNoRows) && len(group) > 0 {
			break // too large: it has to wait for its turn
		}
		group = append(group, applied...)
		if err != nil {
			return group, err
		}
		for _, done := range applied {
			rowsAtMost = min(rowsAtMost, maxGroupRows) - done.resp.RowCount
		}
	}
	batch.Queue("commit").Exec(func(tag pgconn.CommandTag) error {
		if tag.String() != "COMMIT" { // of a transaction that had failed
			return pgx.ErrTxCommitRollback
		}
		return nil
	})
	if len(group) > 1 {
		// Where the client of this request goes away now, the others' are still there, and
		// are to be told what became of their pushes.
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), groupCommitTimeout)
		defer cancel()
	}
	err = conn.SendBatch(ctx, batch).Close()
	clock.done(ctx, "commit", len(group), err)
	if err != nil && conn.Conn().IsClosed() {
		err = &commitLostError{err}
	}
	return group, err
}

// errNotOneRowEach is for a log that was changed by hand: it has rows where none can be.
var errNotOneRowEach = errors.New("the log does not have one row for each push that was applied")

// applyRows is applyPush for pushes of one row each, which become a bundle each: what
// they do is done once for all. Where they cannot be applied at once they are left
// alone, with pgx.ErrNoRows, and the transaction goes on.
func (s *SyncService) applyRows(ctx context.Context, conn *pgxpool.Conn, batch *pgx.Batch, group []*pushCommit, clock *stageClock) (_ *pgx.Batch, err error) {
	ids, sources := make([]uuid.UUID, len(group)), make([]string, len(group))
	for i, push := range group {
		ids[i], sources[i] = push.id, push.actor.SourceID
	}
	batch.Queue(db.PushCommitRows, ids, group[0].actor.UserID, sources)
	batch.Queue(db.PushCommittedRows)
	results := conn.SendBatch(ctx, batch)
	next := &pgx.Batch{}
	for range batch.Len() - 2 {
		if _, err = results.Exec(); err != nil {
			return next, closeBatch(results, err)
		}
	}
	rows, err := results.Query()
	var applied []db.PushCommitRowsRow
	if err == nil {
		applied, err = pgx.CollectRows(rows, pgx.RowToStructByPos[db.PushCommitRowsRow])
	}
	clock.done(ctx, "apply", len(applied), err)
	if err == nil && len(applied) == 0 {
		err = pgx.ErrNoRows
	}
	if err != nil {
		return next, closeBatch(results, err)
	}
	closing := db.PushCloseRowsParams{SourceIds: sources, RetainedBundles: s.config.RetainedBundlesPerUser}
	for _, bundle := range applied {
		closing.SourceBundleIds = append(closing.SourceBundleIds, bundle.SourceBundleID)
		closing.LiveRowDelta += bundle.LiveRowDelta
		closing.LiveByteDelta -= bundle.BytesBefore
	}
	rows, err = results.Query()
	if err == nil {
		err = s.forEachLogRow(ctx, rows, func(row *logRow, table *catalogTable) error {
			if len(closing.BundleHashes) == len(group) {
				return errNotOneRowEach
			}
			hasher := newBundleHasher()
			if err := hasher.addLogRow(row, table); err != nil {
				return err
			}
			hash, byteCount, rowCount := hasher.sum()
			i := len(closing.BundleHashes)
			group[i].resp = &PushSessionCommitResponse{
				BundleSeq: row.bundleSeq, SourceID: sources[i], SourceBundleID: applied[i].SourceBundleID,
				RowCount: rowCount, BundleHash: hex.EncodeToString(hash[:]),
			}
			closing.BundleHashes = append(closing.BundleHashes, hash[:])
			closing.ByteCounts = append(closing.ByteCounts, byteCount)
			closing.LiveByteDelta += int64(row.payloadBytes)
			return s.checkBundleBytes(byteCount)
		})
	}
	if err == nil && len(closing.BundleHashes) < len(group) {
		err = errNotOneRowEach
	}
	clock.done(ctx, "hash", len(applied), err)
	if err = closeBatch(results, err); err != nil {
		return next, err
	}
	next.Queue(db.PushCloseRows, closing.SourceIds, closing.SourceBundleIds, closing.BundleHashes, closing.ByteCounts,
		closing.RetainedBundles, closing.LiveRowDelta, closing.LiveByteDelta)
	return next, nil
}
