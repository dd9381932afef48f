package oversync

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/oversync/oversync/db"
)

// ProcessPull returns complete bundles after a sequence, in order. It holds the
// whole answer in memory: WritePull streams it.
func (s *SyncService) ProcessPull(ctx context.Context, actor Actor, afterBundleSeq int64, maxBundles int, targetBundleSeq int64) (*PullResponse, error) {
	return collect[PullResponse](func(w io.Writer) error {
		return s.WritePull(ctx, actor, afterBundleSeq, maxBundles, targetBundleSeq, w)
	})
}

// collect reads an answer that write streams into a value.
func collect[T any](write func(io.Writer) error) (*T, error) {
	var answer bytes.Buffer
	if err := write(&answer); err != nil {
		return nil, err
	}
	value := new(T)
	if err := json.Unmarshal(answer.Bytes(), value); err != nil {
		return nil, fmt.Errorf("read the answer back: %w", err)
	}
	return value, nil
}

// pullRow is a row of the query BundlePull.
type pullRow struct {
	bundleSeq    int64
	ordinal      int32
	tableID      int32
	op           pgtype.DriverBytes
	key, payload pgtype.DriverBytes

	// Of the bundle, on its first row only.
	sourceID       *string
	sourceBundleID pgtype.Int8
	rowCount       pgtype.Int8
	hash           []byte
}

func (r *pullRow) scan(rows pgx.Rows) error {
	return rows.Scan(&r.bundleSeq, &r.ordinal, &r.tableID, &r.op, &r.key, &r.payload,
		&r.sourceID, &r.sourceBundleID, &r.rowCount, &r.hash)
}

// WritePull streams a PullResponse as JSON: complete bundles after a sequence,
// in order, up to the target, or with target 0 up to the newest. maxBundles 0
// means 1000, and 5000 is the most.
//
// If it fails before anything was written, the error is one that clients know. If
// it fails later, what was written is no complete answer, and must not be taken
// for one.
func (s *SyncService) WritePull(ctx context.Context, actor Actor, afterBundleSeq int64, maxBundles int, targetBundleSeq int64, w io.Writer) error {
	end, err := s.begin()
	if err != nil {
		return err
	}
	defer end()
	if actor, err = actor.validateUser(); err != nil {
		return err
	}
	setDefault(&maxBundles, defaultBundlesPerPull)
	if maxBundles < 1 || maxBundles > maxBundlesPerPull || afterBundleSeq < 0 || targetBundleSeq < 0 {
		return &RequestInvalidError{Message: fmt.Sprintf("max_bundles must be 1 to %d, and sequences must not be negative", maxBundlesPerPull)}
	}
	clock := s.stages("pull", 1)
	head, err := s.heads.fetch(ctx, s, actor.UserID)
	clock.done(ctx, "head", 1, err)
	if err != nil {
		return err
	}
	if err := s.checkScope(actor, head.state, head.leaseExpiresAt); err != nil {
		return err
	}
	stable := head.newest
	if targetBundleSeq > 0 {
		stable = targetBundleSeq
	}
	for _, seq := range [...]int64{afterBundleSeq, stable} {
		if head.lacks(seq) {
			return s.historyPruned(ctx, actor, seq, head.floor)
		}
	}
	last := max(afterBundleSeq, min(stable, afterBundleSeq+int64(maxBundles)))

	out := s.newAnswer(w)
	defer out.release()
	out.text(`{"stable_bundle_seq":`).int(stable).text(`,"bundles":[`)
	if last > afterBundleSeq {
		written, err := s.writeBundles(ctx, out, head.pk, afterBundleSeq, last)
		clock.done(ctx, "stream", int(written-afterBundleSeq), err)
		if err != nil {
			return err
		}
		if written != last {
			// The log never lacks anything, but what is pruned may have gone since the scope was looked at.
			if head, err = s.heads.fetch(ctx, s, actor.UserID); err == nil && head.lacks(afterBundleSeq) {
				return s.historyPruned(ctx, actor, afterBundleSeq, head.floor)
			}
			return errors.Join(err, fmt.Errorf("the log of scope %s has no whole bundle %d", actor.UserID, written+1))
		}
	}
	if err := s.seal(ctx, actor, out.sealed...); err != nil {
		return err
	}
	out.text(`],"has_more":`).bool(last < stable).text("}")
	return out.finish(ctx)
}

// seal keeps the hashes of bundles of a scope that plain SQL wrote.
func (s *SyncService) seal(ctx context.Context, actor Actor, bundles ...sealedBundle) error {
	if len(bundles) == 0 {
		return nil
	}
	params := db.BundleSealParams{UserID: actor.UserID}
	for i := range bundles {
		params.BundleSeqs = append(params.BundleSeqs, bundles[i].bundleSeq)
		params.BundleHashes = append(params.BundleHashes, bundles[i].hash[:])
		params.ByteCounts = append(params.ByteCounts, bundles[i].byteCount)
	}
	// Others may seal the same bundles in another order.
	return retry(ctx, func(int) error { return s.queries.BundleSeal(ctx, s.pool, params) })
}

// sealBundle makes and keeps the hash of a bundle that plain SQL wrote.
func (s *SyncService) sealBundle(ctx context.Context, actor Actor, bundle *db.BundleHeaderRow) error {
	rows, err := s.pool.Query(ctx, db.BundleRows, bundle.UserPk, bundle.BundleSeq, 0, bundle.RowCount)
	if err != nil {
		return err
	}
	hasher, err := s.hashRows(ctx, rows, nil)
	if err != nil {
		return err
	}
	sealed, rowCount := sealedBundle{bundleSeq: bundle.BundleSeq}, int64(0)
	sealed.hash, sealed.byteCount, rowCount = hasher.sum()
	if rowCount != bundle.RowCount { // it may have been pruned since the header was read
		head, err := s.heads.fetch(ctx, s, actor.UserID)
		if err == nil && head.lacks(bundle.BundleSeq) {
			return s.historyPruned(ctx, actor, bundle.BundleSeq, head.floor)
		}
		return errors.Join(err, fmt.Errorf("bundle %d of scope %s has %d rows, not the %d it should have", bundle.BundleSeq, actor.UserID, rowCount, bundle.RowCount))
	}
	bundle.BundleHash = sealed.hash[:]
	return s.seal(ctx, actor, sealed)
}

// writeBundles streams the bundles of a scope after one sequence and up to
// another. It returns the last one written whole, which is less than the last one
// asked for where the log lacks a bundle or rows of one: that does not get a hash.
func (s *SyncService) writeBundles(ctx context.Context, out *answer, userPk, after, last int64) (written int64, err error) {
	written = after
	rows, err := s.pool.Query(ctx, db.BundlePull, userPk, after, last)
	if err != nil {
		return written, err
	}
	defer rows.Close()
	var row pullRow
	begun, toCome := after, int64(0) // the bundle that is being written, and its rows that are not
	for rows.Next() {
		if err := row.scan(rows); err != nil {
			return written, err
		}
		if toCome == 0 && row.bundleSeq == begun {
			return begun - 1, nil // a row too many
		} else if row.bundleSeq != begun {
			if toCome != 0 || row.ordinal != 0 || row.sourceID == nil || row.bundleSeq != begun+1 {
				return written, nil
			}
			if begun > after {
				out.endBundle(begun).text(",")
			}
			begun, toCome = row.bundleSeq, row.rowCount.Int64
			out.text(`{"bundle_seq":`).int(begun).text(`,"source_id":`).string(*row.sourceID).
				text(`,"source_bundle_id":`).int(row.sourceBundleID.Int64).text(`,"row_count":`).int(row.rowCount.Int64)
			if row.hash != nil {
				out.text(`,"bundle_hash":"`).hex(row.hash).text(`"`)
			} else {
				out.hasher = newBundleHasher()
			}
			out.text(`,"rows":[`)
		} else {
			out.text(",")
		}
		if err := out.bundleRow(ctx, row.bundleSeq, row.tableID, row.op, row.key, row.payload); err != nil {
			return written, err
		}
		if toCome--; toCome == 0 {
			written = begun
		}
	}
	if begun > after && toCome == 0 {
		out.endBundle(begun)
	}
	return written, rows.Err()
}

// checkScope refuses to read a scope that is not initialized.
func (s *SyncService) checkScope(actor Actor, state string, leaseExpiresAt *time.Time) error {
	switch {
	case state == "initialized":
		return nil
	case state == "initializing" && leaseExpiresAt != nil:
		return &ScopeInitializingError{UserID: actor.UserID, LeaseExpiresAt: *leaseExpiresAt}
	default:
		return &ScopeUninitializedError{UserID: actor.UserID}
	}
}

// historyPruned counts and returns the refusal of history that is no longer, or
// not yet, there.
func (s *SyncService) historyPruned(ctx context.Context, actor Actor, provided, floor int64) error {
	if err := s.queries.StatusCountHistoryPruned(ctx, s.pool); err != nil {
		return err
	}
	return &HistoryPrunedError{UserID: actor.UserID, ProvidedSeq: provided, RetainedFloor: floor}
}

// GetCommittedBundleRows returns rows of one committed bundle. It holds them in
// memory: WriteCommittedBundleRows streams them.
func (s *SyncService) GetCommittedBundleRows(ctx context.Context, actor Actor, bundleSeq int64, afterRowOrdinal *int64, maxRows int) (*CommittedBundleRowsResponse, error) {
	return collect[CommittedBundleRowsResponse](func(w io.Writer) error {
		return s.WriteCommittedBundleRows(ctx, actor, bundleSeq, afterRowOrdinal, maxRows, w)
	})
}

// WriteCommittedBundleRows streams a CommittedBundleRowsResponse as JSON: the
// rows of one bundle after an ordinal, from the first if it is nil. maxRows 0
// means the default; one above the configured maximum is lowered to it. It fails
// as WritePull does.
func (s *SyncService) WriteCommittedBundleRows(ctx context.Context, actor Actor, bundleSeq int64, afterRowOrdinal *int64, maxRows int, w io.Writer) error {
	end, err := s.begin()
	if err != nil {
		return err
	}
	defer end()
	if actor, err = actor.validateUser(); err != nil {
		return err
	}
	if maxRows < 0 || afterRowOrdinal != nil && *afterRowOrdinal < 0 {
		return &CommittedBundleChunkInvalidError{Message: "after_row_ordinal and max_rows must not be negative"}
	}
	setDefault(&maxRows, s.config.DefaultRowsPerCommittedBundleChunk)
	maxRows = min(maxRows, s.config.MaxRowsPerCommittedBundleChunk)

	clock := s.stages("committed_bundle_rows", 1)
	bundle, err := s.bundleHeader(ctx, actor, bundleSeq)
	clock.done(ctx, "header", 1, err)
	if err != nil {
		return err
	}
	from := int64(0)
	if afterRowOrdinal != nil {
		from = min(*afterRowOrdinal, bundle.RowCount) + 1
	}
	to := max(min(from+int64(maxRows), bundle.RowCount), from)
	out := s.newAnswer(w)
	defer out.release()
	rows, err := s.pool.Query(ctx, db.BundleRows, bundle.UserPk, bundleSeq, from, to)
	if err != nil {
		return err
	}
	defer rows.Close()
	out.text(`{"bundle_seq":`).int(bundleSeq).text(`,"source_id":`).string(bundle.SourceID).
		text(`,"source_bundle_id":`).int(bundle.SourceBundleID).text(`,"row_count":`).int(bundle.RowCount).
		text(`,"bundle_hash":"`).hex(bundle.BundleHash).text(`","rows":[`)
	var row logRow
	next := from
	for ; rows.Next(); next++ {
		if err := row.scan(rows); err != nil {
			return err
		}
		if next > from {
			out.text(",")
		}
		if err := out.bundleRow(ctx, row.bundleSeq, row.tableID, row.op, row.key, row.payload); err != nil {
			return err
		}
	}
	err = rows.Err()
	if err == nil && next != to {
		// It may have been pruned since the header was read.
		if _, err = s.bundleHeader(ctx, actor, bundleSeq); err != nil {
			return err
		}
		err = fmt.Errorf("bundle %d of scope %s has no row %d any more", bundleSeq, actor.UserID, next)
	}
	clock.done(ctx, "stream", int(next-from), err)
	if err != nil {
		return err
	}
	last := next - 1
	if next == from && afterRowOrdinal != nil {
		last = *afterRowOrdinal
	}
	out.text(`],"next_row_ordinal":`).int(max(last, 0)).text(`,"has_more":`).bool(to < bundle.RowCount).text("}")
	return out.finish(ctx)
}

// bundleHeader finds a bundle that retention still serves.
func (s *SyncService) bundleHeader(ctx context.Context, actor Actor, bundleSeq int64) (db.BundleHeaderRow, error) {
	bundle, err := s.queries.BundleHeader(ctx, s.pool, db.BundleHeaderParams{BundleSeq: bundleSeq, UserID: actor.UserID})
	switch {
	case err == pgx.ErrNoRows: //nolint:errorlint // returned as it is by Scan
		return bundle, &CommittedBundleNotFoundError{BundleSeq: bundleSeq}
	case err != nil:
		return bundle, typedError(err, actor, "")
	case bundleSeq > 0 && bundleSeq <= bundle.RetainedBundleFloor:
		return bundle, s.historyPruned(ctx, actor, bundleSeq, bundle.RetainedBundleFloor)
	case bundle.BundleSeq == 0:
		return bundle, &CommittedBundleNotFoundError{BundleSeq: bundleSeq}
	case bundle.BundleHash == nil:
		return bundle, s.sealBundle(ctx, actor, &bundle)
	}
	return bundle, nil
}
