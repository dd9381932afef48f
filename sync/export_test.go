package oversync

import "context"

// WaitingCommits returns how many pushes of a scope wait for its turn.
func WaitingCommits(s *SyncService, scope string) (waiting int) {
	s.scopes.mu.Lock()
	defer s.scopes.mu.Unlock()
	for i, place := range s.scopes.scopes[scope] {
		if i > 0 && place.commit != nil && !place.commit.wasTaken {
			waiting++
		}
	}
	return waiting
}

// PrunePass prunes as the background work does at each turn, from the first scope on.
func PrunePass(ctx context.Context, s *SyncService) error {
	var position int64
	return s.prunePass(ctx, &position)
}
