package oversync

import (
	"context"
	"strings"
	"time"
)

// WaitingCommits returns how many pushes of a scope wait for its turn.
func WaitingCommits(s *SyncService, scope string) (waiting int) {
	s.scopes.mu.Lock()
	defer s.scopes.mu.Unlock()
	for i, place := range s.scopes.scopes[scope] {
		if i > 0 && place.commit != nil && !place.commit.isTaken {
			waiting++
		}
	}
	return waiting
}

// Waiting returns how many operations of a user wait in this process for the turn of
// its scope or of one of its sources.
func Waiting(s *SyncService, user string) (waiting int) {
	s.scopes.mu.Lock()
	defer s.scopes.mu.Unlock()
	for name, places := range s.scopes.scopes {
		if scope, _, _ := strings.Cut(name, "\x00"); scope == user {
			waiting += len(places) - 1
		}
	}
	return waiting
}

// EnterScope waits for the turn of a scope, as an operation that locks it does.
func EnterScope(ctx context.Context, s *SyncService, user string) (leave func(), err error) {
	return s.scopes.enter(ctx, user)
}

// SetWatchPollInterval is for before Bootstrap.
func SetWatchPollInterval(s *SyncService, d time.Duration) { s.watch.pollInterval = d }

// PrunePass prunes as the background work does at each turn, from the first scope on.
func PrunePass(ctx context.Context, s *SyncService) error {
	var position int64
	return s.prunePass(ctx, &position)
}

// AdoptPending adopts as the background work does at each turn.
func AdoptPending(ctx context.Context, s *SyncService) error { return s.adoptPending(ctx) }
