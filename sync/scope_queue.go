package oversync

import (
	"context"
	"slices"
	"sync"
)

// scopeQueue lets one operation that locks a scope's row go on at a time within
// this process, and one step of a source's pushes, which lock its session. So the
// others wait in memory and not with a pooled connection each. The order between
// processes is made by the locks in the database.
//
// Whoever needs both turns takes that of the source first. A client that leaves while
// its push is committed by somebody else leaves its source's turn too: its next step
// waits in the database then. The zero value is ready for use.
type scopeQueue struct {
	mu     sync.Mutex
	scopes map[string]*scopeTurn
}

// scopeTurn is one scope's queue. It exists as long as somebody is in it.
type scopeTurn struct {
	turn    chan struct{} // holds a token while somebody has the turn
	people  int           // waiting or having the turn; guarded by scopeQueue.mu
	commits []*pushCommit // of those waiting, in the order in which they came; guarded by scopeQueue.mu
}

// enterSource waits for the turn of a source in its scope.
func (q *scopeQueue) enterSource(ctx context.Context, actor Actor) (leave func(), err error) {
	return q.enter(ctx, actor.UserID+"\x00"+actor.SourceID) // no id has a control character
}

// enter waits for the turn of a scope. The caller must call leave when done. It
// fails only if ctx ends first.
func (q *scopeQueue) enter(ctx context.Context, scope string) (leave func(), err error) {
	return q.wait(ctx, scope, q.join(scope), nil)
}

// join takes a place in the queue of a scope, to commit a push or for something else.
func (q *scopeQueue) join(scope string, commit ...*pushCommit) *scopeTurn {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.scopes == nil {
		q.scopes = make(map[string]*scopeTurn)
	}
	t := q.scopes[scope]
	if t == nil {
		t = &scopeTurn{turn: make(chan struct{}, 1)}
		q.scopes[scope] = t
	}
	t.people++
	t.commits = append(t.commits, commit...)
	return t
}

// wait is the rest of enter. If it is done before the turn comes, leave is nil.
func (q *scopeQueue) wait(ctx context.Context, scope string, t *scopeTurn, done <-chan struct{}) (leave func(), err error) {
	select {
	case t.turn <- struct{}{}:
		return func() {
			<-t.turn
			q.forget(scope, t)
		}, nil
	case <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	q.forget(scope, t)
	return nil, err
}

func (q *scopeQueue) forget(scope string, t *scopeTurn) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if t.people--; t.people == 0 {
		delete(q.scopes, scope)
	}
}

// enterCommit is enter for a push that is to be committed. Whoever has the turn
// before may take it and commit it with its own: leave is nil then.
func (q *scopeQueue) enterCommit(ctx context.Context, push *pushCommit) (leave func(), err error) {
	scope := push.actor.UserID
	t := q.join(scope, push)
	leave, err = q.wait(ctx, scope, t, push.done)
	q.mu.Lock()
	t.commits = slices.DeleteFunc(t.commits, func(p *pushCommit) bool { return p == push })
	q.mu.Unlock()
	if leave != nil {
		select {
		case <-push.done: // as the turn came
			leave()
			leave = nil
		default:
		}
	}
	return leave, err
}

// takeCommit returns the push that has waited longest for the turn of a scope, or
// nil. The caller has the turn, and closes the push's done if it commits it. If it
// cannot, nothing has to be done: the push still waits for its turn.
func (q *scopeQueue) takeCommit(scope string) *pushCommit {
	q.mu.Lock()
	defer q.mu.Unlock()
	t := q.scopes[scope]
	if len(t.commits) == 0 {
		return nil
	}
	push := t.commits[0]
	t.commits = t.commits[1:]
	push.wasTaken = true
	return push
}
