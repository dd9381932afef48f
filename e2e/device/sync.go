package device

import (
	"context"
	"database/sql"
	"errors"
)

// Sync sends the local changes and receives everything else: afterwards the file holds what the server held when the
// pull began, and what the application has changed meanwhile. It may be called at any time and interrupted anywhere.
//
// It returns a [*RejectedError] when the server's database refused the local changes; what others did has been received
// all the same, unless the account has no rows yet. Requests that fail in passing are retried as [Config.Backoff] says.
func (d *Device) Sync(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.prepare(ctx); err != nil {
		return err
	}
	pushErr := d.push(ctx)
	if pushErr != nil && (d.initID != "" || !refused(pushErr)) {
		return pushErr
	}
	if err := d.settleLease(ctx); err != nil {
		return err
	}
	return errors.Join(pushErr, d.pull(ctx))
}

// refused says that the server looked at the push and will not have it: no reason not to pull.
func refused(err error) bool {
	return hasCode(err, "push_rejected", "push_chunk_invalid", "push_commit_invalid", "request_too_large")
}

// prepare comes before a push. The freeze comes before connect, because connect must say truly whether there is
// something to push.
func (d *Device) prepare(ctx context.Context) error {
	if err := d.resume(ctx); err != nil {
		return err
	}
	if err := d.tx(ctx, func(tx *sql.Tx) error { return d.freeze(ctx, tx) }); err != nil {
		return err
	}
	st, err := d.state(ctx)
	if err != nil {
		return err
	}
	return d.connect(ctx, st.pushRows > 0)
}

// resume finishes a rotation that an earlier run began.
func (d *Device) resume(ctx context.Context) error {
	st, err := d.state(ctx)
	if err != nil || st.replacementID == "" {
		return err
	}
	return d.finishRotation(ctx)
}

// settleLease gives a lease back that no push has used, because nothing was left to push.
func (d *Device) settleLease(ctx context.Context) error {
	st, err := d.state(ctx)
	if err != nil || d.initID == "" || st.pushRows > 0 {
		return err
	}
	return d.connect(ctx, false)
}
