package oversync

// WaitingCommits returns how many pushes of a scope wait for its turn.
func WaitingCommits(s *SyncService, scope string) int {
	s.scopes.mu.Lock()
	defer s.scopes.mu.Unlock()
	if t := s.scopes.scopes[scope]; t != nil {
		return len(t.commits)
	}
	return 0
}
