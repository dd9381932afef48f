package oversync

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// BundleChangeWatchConfig sets up the watch, by which clients learn at once that
// their scope has a new bundle. Its zero value leaves it off.
type BundleChangeWatchConfig struct {
	// Enabled turns the watch on.
	Enabled bool
	// Authorize, if not nil, is asked before an actor may watch its scope. An error
	// refuses it with BundleChangeWatchForbiddenError. It is called by many at once.
	Authorize func(ctx context.Context, actor Actor) error
}

// BundleChange says that a scope has a bundle. It is a hint: the data, and what
// lies between two of them, comes by a pull.
type BundleChange struct {
	BundleSeq      int64  `json:"bundle_seq"`
	SourceID       string `json:"source_id"`
	SourceBundleID int64  `json:"source_bundle_id"`
}

// BundleChangeWatchDisabledError says that this service has its watch off. Pull
// from time to time instead.
type BundleChangeWatchDisabledError struct{}

func (e *BundleChangeWatchDisabledError) Error() string {
	return "the watch is off on this server: pull from time to time instead"
}

// BundleChangeWatchForbiddenError says that BundleChangeWatchConfig.Authorize
// refused the actor. It unwraps to the reason, which clients are not told.
type BundleChangeWatchForbiddenError struct {
	UserID string
	Err    error
}

func (e *BundleChangeWatchForbiddenError) Error() string {
	return fmt.Sprintf("user %q may not watch this scope: pull instead", e.UserID)
}

func (e *BundleChangeWatchForbiddenError) Unwrap() error { return e.Err }

// BundleChangeSubscription receives the changes of one scope.
type BundleChangeSubscription struct {
	hub     *watchHub
	scope   *watchedScope
	changes chan BundleChange
	place   int   // in scope.subscriptions; guarded by hub.mu
	seen    int64 // guarded by hub.mu
	closed  bool  // guarded by hub.mu
}

// Changes returns the channel on which changes come, in order of their sequence.
// A reader that is slow finds the newest and misses those before it. The channel is
// closed by Close and when the service closes.
func (w *BundleChangeSubscription) Changes() <-chan BundleChange { return w.changes }

// Close ends the subscription. It may be called more than once.
func (w *BundleChangeSubscription) Close() { w.hub.remove(w) }

// SubscribeBundleChanges watches the actor's scope for bundles after a sequence. If
// there are some already, the newest is reported at once. Bundles of all instances
// are reported, those of this one without delay. ctx bounds this call alone; the
// subscription lasts until its Close, which the caller owes, or until the service
// closes. It costs no database connection, and does not count as an operation in
// flight.
//
// A sequence that is no longer, or not yet, in the history is no error: the newest
// bundle is reported, and the pull that follows says that the client must rebuild.
//
// It fails with BundleChangeWatchDisabledError, BundleChangeWatchForbiddenError,
// and as WritePull does where the scope cannot be read.
func (s *SyncService) SubscribeBundleChanges(ctx context.Context, actor Actor, afterBundleSeq int64) (*BundleChangeSubscription, error) {
	end, err := s.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	if actor, err = actor.validateUser(); err != nil {
		return nil, err
	}
	if !s.config.BundleChangeWatch.Enabled {
		return nil, &BundleChangeWatchDisabledError{}
	}
	if authorize := s.config.BundleChangeWatch.Authorize; authorize != nil {
		if err := authorize(ctx, actor); err != nil {
			return nil, &BundleChangeWatchForbiddenError{UserID: actor.UserID, Err: err}
		}
	}
	if afterBundleSeq < 0 {
		return nil, &RequestInvalidError{Message: "after_bundle_seq must not be negative"}
	}
	// First the subscription and then the look at the log, so that nothing is
	// committed between the two unseen.
	subscription, err := s.watch.add(actor.UserID, afterBundleSeq)
	if err != nil {
		return nil, err
	}
	clock := s.stages("watch", 1)
	newest, err := s.watchStart(ctx, actor)
	clock.done(ctx, "start", 1, err)
	if err != nil {
		subscription.Close()
		return nil, err
	}
	s.watch.startAt(subscription, afterBundleSeq, newest)
	return subscription, nil
}

// bundleCommitted tells watchers of a bundle that this service committed.
func (s *SyncService) bundleCommitted(userID string, bundleSeq int64, sourceID string, sourceBundleID int64) {
	if s.config.BundleChangeWatch.Enabled {
		s.watch.committed(userID, BundleChange{BundleSeq: bundleSeq, SourceID: sourceID, SourceBundleID: sourceBundleID})
	}
}

// watchStart checks that the scope can be pulled, and returns its newest bundle.
func (s *SyncService) watchStart(ctx context.Context, actor Actor) (newest BundleChange, err error) {
	scope, err := s.queries.WatchStart(ctx, s.pool, actor.UserID)
	if errors.Is(err, pgx.ErrNoRows) {
		return newest, &ScopeUninitializedError{UserID: actor.UserID}
	} else if err != nil {
		return newest, fmt.Errorf("read the state of the scope: %w", typedError(err, actor, ""))
	}
	if err := s.checkScope(actor, scope.State, scope.LeaseExpiresAt); err != nil {
		return newest, err
	}
	return BundleChange{BundleSeq: scope.NextBundleSeq - 1, SourceID: scope.SourceID, SourceBundleID: scope.SourceBundleID}, nil
}
