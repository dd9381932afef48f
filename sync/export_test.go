package oversync

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
