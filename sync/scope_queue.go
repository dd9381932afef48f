package oversync

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"
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
	scopes map[string][]*scopePlace // in the order in which they came; the first has the turn
	last   [2]arrival               // the latest of one user, and the latest of any other
}

// arrival says when somebody of a user took a place.
type arrival struct {
	user string
	at   time.Time
}

// scopePlace is somebody's place in the queue of a scope.
type scopePlace struct {
	turn   chan struct{} // closed when its turn has come
	commit *pushCommit   // what it waits to commit, or nil
}

// enterSource waits for the turn of a source in its scope.
func (q *scopeQueue) enterSource(ctx context.Context, actor Actor) (leave func(), err error) {
	return q.enter(ctx, actor.UserID+"\x00"+actor.SourceID) // no id has a control character
}

// enter waits for the turn of a scope. The caller must call leave when done. It
// fails only if ctx ends first.
func (q *scopeQueue) enter(ctx context.Context, scope string) (leave func(), err error) {
	return q.wait(ctx, scope, nil)
}

// enterCommit is enter for a push that is to be committed. Whoever has the turn
// before may take it and commit it with its own: leave is nil then.
func (q *scopeQueue) enterCommit(ctx context.Context, push *pushCommit) (leave func(), err error) {
	return q.wait(ctx, push.actor.UserID, push)
}

func (q *scopeQueue) wait(ctx context.Context, scope string, commit *pushCommit) (leave func(), err error) {
	var done chan struct{} // never ready without a push
	if commit != nil {
		done = commit.done
	}
	place := q.join(scope, commit)
	select {
	case <-place.turn:
	case <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil || isClosed(done) { // or closed as the turn came
		q.leave(scope, place)
		return nil, err
	}
	return func() { q.leave(scope, place) }, nil
}

func isClosed(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// takeCommits returns the pushes that have waited longest for the turn of a scope and
// were not taken before. The caller has the turn, and closes the done of each that it
// commits. If it cannot, nothing has to be done: they still wait for their turn.
func (q *scopeQueue) takeCommits(scope string, atMost int) (pushes []*pushCommit) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, place := range q.scopes[scope][1:] {
		if len(pushes) >= atMost {
			break
		}
		if push := place.commit; push != nil && !push.isTaken {
			push.isTaken = true
			pushes = append(pushes, push)
		}
	}
	return pushes
}

// returnCommits lets pushes be taken again that the caller took and did not try.
func (q *scopeQueue) returnCommits(pushes []*pushCommit) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, push := range pushes {
		push.isTaken = false
	}
}

// aloneAfter is how long nobody else must have come for a user to be alone: some time
// more than a client that pushes all the time takes between its requests.
const aloneAfter = 100 * time.Millisecond

// isAlone says that nobody but one user has come lately.
func (q *scopeQueue) isAlone(user string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	other := q.last[0]
	if other.user == user {
		other = q.last[1]
	}
	return time.Since(other.at) > aloneAfter
}

// join takes the last place in the queue of a scope.
func (q *scopeQueue) join(scope string, commit *pushCommit) *scopePlace {
	place := &scopePlace{turn: make(chan struct{}), commit: commit}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.scopes == nil {
		q.scopes = make(map[string][]*scopePlace)
	}
	user, _, _ := strings.Cut(scope, "\x00") // of a source
	if user != q.last[0].user {
		q.last[1] = q.last[0]
	}
	q.last[0] = arrival{user, time.Now()}
	q.scopes[scope] = append(q.scopes[scope], place)
	if len(q.scopes[scope]) == 1 {
		close(place.turn)
	}
	return place
}

// leave gives a place up, and the turn to the next if it had it.
func (q *scopeQueue) leave(scope string, place *scopePlace) {
	q.mu.Lock()
	defer q.mu.Unlock()
	places := q.scopes[scope]
	i := slices.Index(places, place)
	places = slices.Delete(places, i, i+1)
	if len(places) == 0 {
		delete(q.scopes, scope)
		return
	}
	q.scopes[scope] = places
	if i == 0 {
		close(places[0].turn)
	}
}
