package oversync

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/oversync/oversync/db"
)

const (
	// notifyInterval is the least time between two NOTIFY: committing transactions
	// that notify wait for each other across the whole database server.
	notifyInterval = 10 * time.Millisecond
	// maxNotifyBytes is what PostgreSQL takes in one payload.
	maxNotifyBytes = 7999

	watchPollInterval = time.Second

	// listenerCheckInterval is how long the listener takes silence for peace.
	listenerCheckInterval = 30 * time.Second
	listenerCheckTimeout  = 10 * time.Second
	firstListenWait       = 100 * time.Millisecond
	maxListenWait         = 5 * time.Second
)

// RunBundleChangeListener hears from the other instances what they committed, tells
// them what this one committed, and looks into the log from time to time for what
// nobody told: bundles of plain SQL, and those of an instance that crashed. It holds
// one database connection, which it takes out of the pool, and makes a new one
// whenever that fails.
//
// It returns nil when ctx ends or the service closes. Bootstrap starts it where the
// watch is on, so only a service without Bootstrap needs a call. Calls while one
// runs wait for their turn. With the watch off it fails at once with
// BundleChangeWatchDisabledError.
func (s *SyncService) RunBundleChangeListener(ctx context.Context) error {
	if !s.config.BundleChangeWatch.Enabled {
		return &BundleChangeWatchDisabledError{}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.watch.ctx, cancel)()
	select {
	case s.watch.listening <- struct{}{}:
		defer func() { <-s.watch.listening }()
	case <-ctx.Done():
		return nil
	}
	var tasks sync.WaitGroup
	defer tasks.Wait()
	tasks.Go(func() { s.notifyOthers(ctx) })
	tasks.Go(func() {
		poll := 0
		every(ctx, s.logger, s.watch.pollInterval, "poll for bundles", func(ctx context.Context) error {
			poll++
			return s.pollChanges(ctx, poll)
		})
	})
	s.listenToOthers(ctx)
	return nil
}

// listenToOthers listens until ctx ends, on a new connection when one fails.
func (s *SyncService) listenToOthers(ctx context.Context) {
	log := failureLog{logger: s.logger, name: "listen for bundles"}
	wait := firstListenWait
	for ctx.Err() == nil {
		err := s.listen(ctx, func() {
			wait = firstListenWait
			log.report(ctx, nil)
		})
		log.report(ctx, err)
		pause(ctx, wait/2+rand.N(wait)) //nolint:gosec // jitter is no secret
		wait = min(2*wait, maxListenWait)
	}
}

// listen listens on one connection until that fails or ctx ends. It calls
// connected once it listens.
func (s *SyncService) listen(ctx context.Context, connected func()) error {
	pooled, err := s.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("connect to listen: %w", err)
	}
	conn := pooled.Hijack()
	defer func() {
		// ctx may have ended; the server should learn of the end all the same.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), listenerCheckTimeout)
		defer cancel()
		_ = conn.Close(ctx)
	}()
	if err := s.queries.WatchListen(ctx, conn); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	// What was committed while nobody listened.
	for poll := range s.watch.turns() {
		if err := s.pollChanges(ctx, poll); err != nil {
			return err
		}
	}
	connected()
	for {
		payload, err := waitForNotification(ctx, conn)
		if err != nil {
			return err
		}
		s.hear(payload)
	}
}

// waitForNotification returns the next payload. A connection that is silent is
// asked from time to time whether it still is one.
func waitForNotification(ctx context.Context, conn *pgx.Conn) (string, error) {
	for {
		waiting, cancel := context.WithTimeout(ctx, listenerCheckInterval)
		notification, err := conn.WaitForNotification(waiting)
		cancel()
		switch {
		case err == nil:
			return notification.Payload, nil
		case ctx.Err() != nil || !pgconn.Timeout(err):
			return "", fmt.Errorf("wait for a notification: %w", err)
		}
		checking, cancel := context.WithTimeout(ctx, listenerCheckTimeout)
		err = conn.Ping(checking)
		cancel()
		if err != nil {
			return "", fmt.Errorf("the listening connection is dead: %w", err)
		}
	}
}

// toldChange is a change as instances tell it each other, in short.
type toldChange struct {
	UserID         string `json:"u"`
	BundleSeq      int64  `json:"n"`
	SourceID       string `json:"s"`
	SourceBundleID int64  `json:"b"`
}

// hear takes in a payload. One that cannot be read is of another version, or of
// somebody who plays with the channel: the poll finds what it meant.
func (s *SyncService) hear(payload string) {
	var told []toldChange
	if json.Unmarshal([]byte(payload), &told) != nil {
		return
	}
	for _, t := range told {
		s.watch.heard(t.UserID, BundleChange{BundleSeq: t.BundleSeq, SourceID: t.SourceID, SourceBundleID: t.SourceBundleID})
	}
}

// notifyOthers tells the other instances what was committed here, after the fact
// and in bulk, until ctx ends. What it fails to tell, they find by their poll.
func (s *SyncService) notifyOthers(ctx context.Context) {
	log := failureLog{logger: s.logger, name: "notify of bundles"}
	for {
		select {
		case <-s.watch.told:
		case <-ctx.Done():
			return
		}
		payloads := notifyPayloads(s.watch.takePending())
		if len(payloads) > 0 {
			log.report(ctx, s.queries.WatchNotify(ctx, s.pool, payloads))
		}
		pause(ctx, notifyInterval)
	}
}

// notifyPayloads writes changes as JSON arrays that each fit into a notification.
func notifyPayloads(changes map[string]BundleChange) []string {
	var payloads []string
	payload := []byte{'['}
	for userID, change := range changes {
		told, err := json.Marshal(toldChange{UserID: userID, BundleSeq: change.BundleSeq, SourceID: change.SourceID, SourceBundleID: change.SourceBundleID})
		if err != nil {
			continue // strings and numbers always have a JSON form
		}
		if len(payload)+len(told)+len(",]") > maxNotifyBytes {
			payloads = append(payloads, string(append(payload, ']')))
			payload = payload[:1]
		}
		if len(payload) > 1 {
			payload = append(payload, ',')
		}
		payload = append(payload, told...)
	}
	if len(payload) > 1 {
		payloads = append(payloads, string(append(payload, ']')))
	}
	return payloads
}

// pollChanges looks for newer bundles of the watched scopes whose turn it is.
func (s *SyncService) pollChanges(ctx context.Context, poll int) error {
	userIDs, bundleSeqs := s.watch.watched(poll)
	if len(userIDs) == 0 {
		return nil
	}
	rows, err := s.queries.WatchPoll(ctx, s.pool, db.WatchPollParams{UserIds: userIDs, BundleSeqs: bundleSeqs})
	if err != nil {
		return fmt.Errorf("look for new bundles: %w", err)
	}
	for _, row := range rows {
		s.watch.heard(row.UserID, BundleChange{BundleSeq: row.BundleSeq, SourceID: row.SourceID, SourceBundleID: row.SourceBundleID})
	}
	return nil
}
