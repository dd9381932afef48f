package oversync

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"
)

// scopeHead is how far a scope was at some moment.
type scopeHead struct {
	pk             int64
	state          string // empty: nobody has connected to it
	leaseExpiresAt *time.Time
	floor, newest  int64
}

// lacks says that a client which has got as far as a bundle cannot go on from
// there: what follows it is pruned, or it is not there yet, as after a restore.
func (h scopeHead) lacks(seq int64) bool {
	return seq > h.newest || seq <= h.floor && h.floor > 0
}

// scopeHeads reads the heads of scopes. Most pulls find nothing new, so what they
// cost is one read of one row: those that come while a read is under way share the
// next one. A read never starts before a request that it answers came, so that
// no answer is older than its request.
//
// Its zero value is ready for use.
type scopeHeads struct {
	mu        sync.Mutex
	isReading bool
	next      *headsRead // collects requests while a read is under way
}

// headsRead is one read, for all who wait for it.
type headsRead struct {
	users map[string]struct{}
	done  chan struct{} // closed when heads and err are there
	heads map[string]scopeHead
	err   error
}

// headsReadTimeout bounds a read that several requests share, and which therefore
// no single one of them can end.
const headsReadTimeout = 10 * time.Second

// fetch returns the head of a scope; the zero head if nobody has connected to it.
func (h *scopeHeads) fetch(ctx context.Context, service *SyncService, userID string) (scopeHead, error) {
	h.mu.Lock()
	if h.next == nil {
		h.next = &headsRead{users: make(map[string]struct{}), done: make(chan struct{})}
	}
	read := h.next
	read.users[userID] = struct{}{}
	if !h.isReading {
		h.isReading = true
		go h.run(service) //nolint:gosec // the read is not of this request alone
	}
	h.mu.Unlock()
	select {
	case <-read.done:
		if len(read.users) > 1 && isOfID(read.err) { // which may be another's
			alone, err := service.readHeads(ctx, map[string]struct{}{userID: {}})
			return alone[userID], typedError(err, Actor{UserID: userID}, "")
		}
		return read.heads[userID], typedError(read.err, Actor{UserID: userID}, "")
	case <-ctx.Done():
		return scopeHead{}, ctx.Err()
	}
}

// turnsBeforeRead is how often a read lets all goroutines that could run go first,
// since some of them are about to ask. Where nothing else is to be done that takes no
// time; under load more requests share a read. One turn gives half of the gain, and
// eight no more than three.
const turnsBeforeRead = 3

// run reads until nobody waits any more.
func (h *scopeHeads) run(service *SyncService) {
	for {
		for range turnsBeforeRead {
			runtime.Gosched()
		}
		h.mu.Lock()
		read := h.next
		h.next = nil
		h.isReading = read != nil
		h.mu.Unlock()
		if read == nil {
			return
		}
		read.heads, read.err = service.readHeads(context.Background(), read.users)
		close(read.done)
	}
}

func (s *SyncService) readHeads(ctx context.Context, users map[string]struct{}) (map[string]scopeHead, error) {
	ctx, cancel := context.WithTimeout(ctx, headsReadTimeout)
	defer cancel()
	ids := make([]string, 0, len(users))
	for id := range users {
		ids = append(ids, id)
	}
	rows, err := s.queries.ScopeHeads(ctx, s.pool, ids)
	if err != nil {
		return nil, fmt.Errorf("read how far scopes are: %w", err)
	}
	heads := make(map[string]scopeHead, len(rows))
	for _, row := range rows {
		heads[row.UserID] = scopeHead{
			pk: row.UserPk, state: row.State, leaseExpiresAt: row.LeaseExpiresAt,
			floor: row.RetainedBundleFloor, newest: row.NextBundleSeq - 1,
		}
	}
	return heads, nil
}
