package oversync

import (
	"context"
	"sync"
)

// scopeQueue lets one operation that locks a scope's row go on at a time within
// this process, and one step of a source's pushes, which lock its session. So the
// others wait in memory and not with a pooled connection each. The order between
// processes is made by the locks in the database.
//
// Whoever needs both turns takes that of the source first. Its zero value is ready
// for use.
type scopeQueue struct {
	mu     sync.Mutex
	scopes map[string]*scopeTurn
}

// scopeTurn is one scope's queue. It exists as long as somebody is in it.
type scopeTurn struct {
	turn   chan struct{} // holds a token while somebody has the turn
	people int           // waiting or having the turn; guarded by scopeQueue.mu
}

// enterSource waits for the turn of a source in its scope.
func (q *scopeQueue) enterSource(ctx context.Context, actor Actor) (leave func(), err error) {
	return q.enter(ctx, actor.UserID+"\x00"+actor.SourceID) // no id has a control character
}

// enter waits for the turn of a scope. The caller must call leave when done. It
// fails only if ctx ends first.
func (q *scopeQueue) enter(ctx context.Context, scope string) (leave func(), err error) {
	q.mu.Lock()
	if q.scopes == nil {
		q.scopes = make(map[string]*scopeTurn)
	}
	t := q.scopes[scope]
	if t == nil {
		t = &scopeTurn{turn: make(chan struct{}, 1)}
		q.scopes[scope] = t
	}
	t.people++
	q.mu.Unlock()

	select {
	case t.turn <- struct{}{}:
		return func() {
			<-t.turn
			q.forget(scope, t)
		}, nil
	case <-ctx.Done():
		q.forget(scope, t)
		return nil, ctx.Err()
	}
}

func (q *scopeQueue) forget(scope string, t *scopeTurn) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if t.people--; t.people == 0 {
		delete(q.scopes, scope)
	}
}
