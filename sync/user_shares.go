package oversync

import (
	"context"
	"sync"
)

// userShares bounds how many steps of one user's pushes, of whatever sources, are
// worked on at a time: a client chooses its sources freely, and with enough of them
// would have all connections to itself. The others wait in memory.
//
// A share is taken last. Whoever has one waits for nothing but a connection and the
// database, so that those who wait for a turn in a scopeQueue keep nobody from it.
type userShares struct {
	limit int // for each user

	mu    sync.Mutex
	users map[string]*userShare
}

type userShare struct {
	taken chan struct{}
	users int // who have or want one
}

// newUserShares gives each user a quarter of the connections: with a pool of the usual
// size that is one for each processor, which leaves none of them idle.
func newUserShares(connections int32) *userShares {
	return &userShares{limit: max(1, int(connections)/4), users: make(map[string]*userShare)}
}

// enter waits for a share of the user's. The caller must call leave when done. It fails
// only if ctx ends first.
func (s *userShares) enter(ctx context.Context, user string) (leave func(), err error) {
	share := s.join(user)
	select {
	case share.taken <- struct{}{}:
		return func() {
			<-share.taken
			s.forget(user, share)
		}, nil
	case <-ctx.Done():
		s.forget(user, share)
		return nil, ctx.Err()
	}
}

func (s *userShares) join(user string) *userShare {
	s.mu.Lock()
	defer s.mu.Unlock()
	share := s.users[user]
	if share == nil {
		share = &userShare{taken: make(chan struct{}, s.limit)}
		s.users[user] = share
	}
	share.users++
	return share
}

func (s *userShares) forget(user string, share *userShare) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if share.users--; share.users == 0 {
		delete(s.users, user)
	}
}
