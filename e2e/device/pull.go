package device

import (
	"context"
	"database/sql"
	"fmt"
	"net/http"
	"time"
)

// InitializingError says that another device is about to fill the account with its first rows. Try again later.
type InitializingError struct {
	RetryAfter time.Duration // how long the server asks to wait
}

func (e *InitializingError) Error() string {
	return fmt.Sprintf("device: another device is initializing the account; sync again in %s", e.RetryAfter)
}

// connect asks the server how this device may begin. When the account is empty and there are local rows, the answer
// is a lease: the first push carries its id and makes the account. It waits, as often as requests are retried, while
// another device holds the lease.
func (d *Device) connect(ctx context.Context, pending bool) error {
	for attempt := 0; ; attempt++ {
		var answer struct {
			Resolution       string `json:"resolution"`
			InitializationID string `json:"initialization_id"`
			RetryAfter       int64  `json:"retry_after_seconds"`
		}
		err := d.api.do(ctx, http.MethodPost, "/sync/connect", map[string]bool{"has_local_pending_rows": pending}, &answer)
		if err != nil {
			return err
		}
		switch answer.Resolution {
		case "initialize_local":
			d.initID = answer.InitializationID
			return nil
		case "initialize_empty", "remote_authoritative":
			d.initID = ""
			return nil
		case "retry_later":
			after := time.Duration(max(answer.RetryAfter, 1)) * time.Second
			if attempt+1 >= d.api.backoff.Attempts {
				return &InitializingError{RetryAfter: after}
			}
			if err := d.api.wait(ctx, attempt, after); err != nil {
				return err
			}
		default:
			return fmt.Errorf("device: the server answered connect with %q, which this client does not know", answer.Resolution)
		}
	}
}

// Pull receives everything up to the newest bundle, without sending local changes; only a push that was interrupted is
// finished first. A row that is changed here is not overwritten: its conflict comes up when it is pushed.
// On an account that nobody has filled yet, use [Device.Sync].
func (d *Device) Pull(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.resume(ctx); err != nil {
		return err
	}
	s, err := d.State(ctx)
	if err != nil {
		return err
	}
	if err := d.connect(ctx, s.DirtyRows+s.OutboxRows > 0); err != nil {
		return err
	}
	if err := d.deliver(ctx); err != nil {
		return err
	}
	return d.pull(ctx)
}

type pulledBundle struct {
	BundleSeq  int64     `json:"bundle_seq"`
	RowCount   int64     `json:"row_count"`
	BundleHash string    `json:"bundle_hash"`
	Rows       []wireRow `json:"rows"`
}

// pull asks for bundles until the stable sequence of its first answer is reached. Each bundle is applied in one
// transaction together with the cursor, so that it can stop anywhere.
func (d *Device) pull(ctx context.Context) error {
	target, rebuilt := int64(0), false
	for {
		st, err := d.state(ctx)
		if err != nil {
			return err
		}
		if st.needsRebuild {
			if err := d.rebuild(ctx, nil); err != nil {
				return err
			}
			rebuilt = true
			continue
		}
		path := fmt.Sprintf("/sync/pull?after_bundle_seq=%d&max_bundles=%d", st.lastSeq, d.cfg.MaxBundles)
		if target > 0 {
			path += fmt.Sprintf("&target_bundle_seq=%d", target)
		}
		var answer struct {
			Stable  int64          `json:"stable_bundle_seq"`
			Bundles []pulledBundle `json:"bundles"`
			HasMore bool           `json:"has_more"`
		}
		err = d.api.do(ctx, http.MethodGet, path, nil, &answer)
		if hasCode(err, "history_pruned") {
			if rebuilt {
				return nil // nothing is retained after the snapshot just taken, which is as new as a pull can be
			}
			// The bundles after our cursor are gone, or the server does not know our cursor (restored from a backup).
			if err := d.markRebuild(ctx); err != nil {
				return err
			}
			target = 0
			continue
		}
		if err != nil {
			return err
		}
		target = answer.Stable
		for _, b := range answer.Bundles {
			if b.BundleSeq != st.lastSeq+1 {
				return fmt.Errorf("device: bundle %d came after bundle %d: the sequence has no gaps, so something was lost on the way", b.BundleSeq, st.lastSeq)
			}
			if err := verifyBundle(b.BundleSeq, b.RowCount, b.BundleHash, b.Rows); err != nil {
				return err
			}
			if err := d.applyBundle(ctx, b.BundleSeq, b.Rows); err != nil {
				return err
			}
			st.lastSeq = b.BundleSeq
		}
		if !answer.HasMore {
			return nil
		}
		if len(answer.Bundles) == 0 {
			return fmt.Errorf("device: the server says that there are bundles after %d but sends none", st.lastSeq)
		}
	}
}

// markRebuild makes the next pull begin with a snapshot, also after a crash.
func (d *Device) markRebuild(ctx context.Context) error {
	return d.tx(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE _sync_state SET needs_rebuild = 1`)
		return err
	})
}
