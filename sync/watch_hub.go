package oversync

import (
	"context"
	"slices"
	"sync"
	"time"
)

// scopesPerPoll bounds the cost of one poll. With more watched scopes than that,
// each has its turn at every second, third … poll.
const scopesPerPoll = 2000

// watchHub knows who watches which scope in this process, and what was committed
// here that other instances have not been told.
type watchHub struct {
	ctx    context.Context //nolint:containedctx // ends when the hub is closed
	cancel context.CancelFunc
	// listening holds a token while somebody runs the listener.
	listening chan struct{}
	// told is signalled when pending is no longer empty.
	told chan struct{}
	// pollInterval is watchPollInterval, but in tests.
	pollInterval time.Duration

	mu      sync.Mutex
	scopes  map[string]*watchedScope
	nextNo  int
	pending map[string]BundleChange // the newest of each scope
}

// watchedScope is a scope with at least one subscription.
type watchedScope struct {
	userID        string
	no            int   // spreads scopes over polls
	newest        int64 // sequence that all subscriptions know of
	subscriptions []*BundleChangeSubscription
}

func newWatchHub() *watchHub {
	hub := &watchHub{
		listening: make(chan struct{}, 1),
		told:      make(chan struct{}, 1),
		scopes:    make(map[string]*watchedScope),
		pending:   make(map[string]BundleChange),

		pollInterval: watchPollInterval,
	}
	hub.ctx, hub.cancel = context.WithCancel(context.Background())
	return hub
}

// add subscribes to a scope.
func (h *watchHub) add(userID string, seen int64) (*BundleChangeSubscription, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ctx.Err() != nil {
		return nil, &ServiceClosedError{}
	}
	scope := h.scopes[userID]
	if scope == nil {
		scope = &watchedScope{userID: userID, no: h.nextNo}
		h.nextNo++
		h.scopes[userID] = scope
	}
	w := &BundleChangeSubscription{hub: h, scope: scope, changes: make(chan BundleChange, 1), place: len(scope.subscriptions), seen: seen}
	scope.subscriptions = append(scope.subscriptions, w)
	return w, nil
}

// remove ends a subscription.
func (h *watchHub) remove(w *BundleChangeSubscription) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if w.closed {
		return
	}
	w.end()
	scope, last := w.scope, len(w.scope.subscriptions)-1
	scope.subscriptions[w.place] = scope.subscriptions[last]
	scope.subscriptions[w.place].place = w.place
	scope.subscriptions = slices.Delete(scope.subscriptions, last, last+1)
	if last == 0 {
		delete(h.scopes, scope.userID)
	}
}

// close ends all subscriptions, for good.
func (h *watchHub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cancel()
	for _, scope := range h.scopes {
		for _, w := range scope.subscriptions {
			w.end()
		}
	}
	clear(h.scopes)
}

// startAt tells a new subscription, and whoever else does not know it, of the
// newest bundle of its scope. after is where the subscription was to begin.
func (h *watchHub) startAt(w *BundleChangeSubscription, after int64, newest BundleChange) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if w.seen == after && after > newest.BundleSeq {
		// It is ahead, as after a restore from a backup, and a pull is to tell it so.
		w.seen = 0
	}
	w.offer(newest)
	h.deliver(w.scope.userID, newest)
}

// committed notes a bundle that this process committed.
func (h *watchHub) committed(userID string, change BundleChange) {
	h.mu.Lock()
	h.deliver(userID, change)
	if h.pending[userID].BundleSeq < change.BundleSeq {
		h.pending[userID] = change
	}
	h.mu.Unlock()
	select {
	case h.told <- struct{}{}:
	default:
	}
}

// heard notes bundles that others committed, or that the log was found to have.
func (h *watchHub) heard(userID string, change BundleChange) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.deliver(userID, change)
}

// deliver is called with mu held.
func (h *watchHub) deliver(userID string, change BundleChange) {
	scope := h.scopes[userID]
	if scope == nil || change.BundleSeq <= scope.newest {
		return
	}
	scope.newest = change.BundleSeq
	for _, w := range scope.subscriptions {
		w.offer(change)
	}
}

// takePending returns what other instances are to be told.
func (h *watchHub) takePending() map[string]BundleChange {
	h.mu.Lock()
	defer h.mu.Unlock()
	taken := h.pending
	h.pending = make(map[string]BundleChange)
	return taken
}

// turns returns how many polls it takes to look at all watched scopes.
func (h *watchHub) turns() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.turnsLocked()
}

// turnsLocked is turns with mu held.
func (h *watchHub) turnsLocked() int { return len(h.scopes)/scopesPerPoll + 1 }

// watched returns the scopes whose turn it is at a poll, with the newest bundle
// that their watchers know of.
func (h *watchHub) watched(poll int) (userIDs []string, bundleSeqs []int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	turns := h.turnsLocked()
	for userID, scope := range h.scopes {
		if scope.no%turns == poll%turns {
			userIDs = append(userIDs, userID)
			bundleSeqs = append(bundleSeqs, scope.newest)
		}
	}
	return userIDs, bundleSeqs
}

// offer leaves a change for the reader, in place of one that it has not taken. It
// never waits: the hub alone sends, with its mu held.
func (w *BundleChangeSubscription) offer(change BundleChange) {
	if w.closed || change.BundleSeq <= w.seen {
		return
	}
	w.seen = change.BundleSeq
	select {
	case <-w.changes:
	default:
	}
	w.changes <- change
}

// end is called with the hub's mu held.
func (w *BundleChangeSubscription) end() {
	w.closed = true
	close(w.changes)
}
