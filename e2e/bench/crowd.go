package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	watchersPerUser = 10
	crowdSetups     = 16 // devices and sockets that are made at a time
	crowdPushers    = 8
	// wakePatience is how long a watcher may take before it counts as asleep for good.
	wakePatience = 10 * time.Second
)

// crowd is many watchers, each on a socket of its own, and one device of each of
// their users, half of which push through another server.
type crowd struct {
	devices   []*device
	watchers  []*watcher
	bytesEach float64 // what one costs the server
}

// watchers returns the crowd, which stays for all scenarios.
func (b *bench) watchers(ctx context.Context) (*crowd, error) {
	if b.crowd != nil {
		return b.crowd, nil
	}
	var sites [2]*site
	for i := range sites {
		server, err := b.site.startServer(ctx, "OVERSYNC_WATCH=true")
		if err != nil {
			return nil, err
		}
		b.atEnd(server.stop)
		sites[i] = &site{lab: b.lab, url: b.site.url, pool: b.site.pool, server: server}
	}
	if has, err := sites[0].hasWatch(ctx); err != nil {
		return nil, err
	} else if !has {
		return nil, fmt.Errorf("%w: the server has no watch", errNotMeasurable)
	}
	c := &crowd{devices: make([]*device, b.size.watchers/watchersPerUser), watchers: make([]*watcher, b.size.watchers)}
	users := make([]string, len(c.devices))
	for i := range users {
		users[i] = b.lab.newUser()
	}
	err := inParallel(ctx, len(users), func(ctx context.Context, i int) (err error) {
		c.devices[i], err = sites[i%2].newDevice(ctx, users[i], 1)
		return err
	})
	if err != nil {
		return nil, err
	}
	before, err := sites[0].server.memory(residentMemory)
	if err != nil {
		return nil, err
	}
	err = inParallel(ctx, len(c.watchers), func(ctx context.Context, i int) (err error) {
		c.watchers[i], err = newWatcher(ctx, sites[0].server.url, c.devices[i/watchersPerUser])
		return err
	})
	b.atEnd(c.close)
	if err != nil {
		return nil, err
	}
	after, err := sites[0].server.memory(residentMemory)
	c.bytesEach = float64(after-before) / float64(len(c.watchers))
	b.crowd = c
	return c, err
}

// inParallel calls do for 0 to n-1, some at a time.
func inParallel(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(crowdSetups)
	for i := range n {
		group.Go(func() error { return do(ctx, i) })
	}
	return group.Wait()
}

func (c *crowd) close() {
	for _, w := range c.watchers {
		if w != nil {
			_ = w.conn.Close() // the server notices
		}
	}
}

// wake pushes for a while and returns the time, in milliseconds, within which 99 of
// 100 wake-ups came, counted from the answer to the commit.
func (c *crowd) wake(ctx context.Context, window time.Duration) (float64, error) {
	type push struct {
		device   int
		seq      int64
		answered time.Time
	}
	var mu sync.Mutex
	var pushes []push
	// Each pusher goes round devices of its own: a device does one thing at a time.
	next := make([]int, crowdPushers)
	_, err := perSecond(ctx, crowdPushers, window, func(ctx context.Context, worker int) (int, error) {
		i := worker + next[worker]*crowdPushers
		if next[worker]++; i+crowdPushers >= len(c.devices) {
			next[worker] = 0
		}
		done, err := c.devices[i].push(ctx, c.devices[i].maker.inserts(1))
		answered := time.Now()
		mu.Lock()
		defer mu.Unlock()
		pushes = append(pushes, push{i, done.BundleSeq, answered})
		return 1, err
	})
	if err != nil {
		return 0, err
	}
	var waits []time.Duration
	for _, p := range pushes {
		for _, w := range c.watchers[p.device*watchersPerUser : (p.device+1)*watchersPerUser] {
			heard, err := w.heard(ctx, p.seq)
			if err != nil {
				return 0, fmt.Errorf("a watcher of %s did not hear of bundle %d: %w", c.devices[p.device].user, p.seq, err)
			}
			waits = append(waits, max(0, heard.Sub(p.answered)))
		}
	}
	slices.Sort(waits)
	return float64(waits[len(waits)*99/100].Microseconds()) / 1000, nil
}

// watcher is one socket that watches.
type watcher struct {
	conn   net.Conn
	mu     sync.Mutex
	events []event
	told   chan struct{} // closed at the next event
	err    error
}

type event struct {
	seq int64
	at  time.Time
}

// newWatcher connects and returns once the server has begun its answer.
func newWatcher(ctx context.Context, server string, d *device) (*watcher, error) {
	address := strings.TrimPrefix(server, "http://")
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	w := &watcher{conn: conn, told: make(chan struct{})}
	_, err = fmt.Fprintf(conn, "GET /sync/watch?after_bundle_seq=1 HTTP/1.1\r\nHost: %s\r\nAuthorization: %s\r\nOversync-Source-ID: %s\r\n\r\n",
		address, d.header.Get("Authorization"), d.header.Get("Oversync-Source-Id"))
	if err != nil {
		return w, err
	}
	lines := bufio.NewReaderSize(conn, 512)
	status, err := lines.ReadString('\n')
	if err != nil || !strings.Contains(status, " 200 ") {
		return w, fmt.Errorf("watch was answered %q: %w", status, err)
	}
	go w.read(lines)
	return w, nil
}

func (w *watcher) read(lines *bufio.Reader) {
	for {
		line, err := lines.ReadString('\n')
		at := time.Now()
		var seq int64
		if n, _ := fmt.Sscanf(line, `data: {"bundle_seq":%d,`, &seq); n == 0 && err == nil {
			continue
		}
		w.mu.Lock()
		if w.err = err; err == nil {
			w.events = append(w.events, event{seq, at})
		}
		close(w.told)
		w.told = make(chan struct{})
		w.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// heard returns when the watcher first heard of a bundle or a later one.
func (w *watcher) heard(ctx context.Context, seq int64) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, wakePatience)
	defer cancel()
	for {
		w.mu.Lock()
		i := slices.IndexFunc(w.events, func(e event) bool { return e.seq >= seq })
		told, err := w.told, w.err
		var at time.Time
		if i >= 0 {
			at = w.events[i].at
		}
		w.mu.Unlock()
		if i >= 0 || err != nil {
			return at, err
		}
		select {
		case <-told:
		case <-ctx.Done():
			return at, ctx.Err()
		}
	}
}
