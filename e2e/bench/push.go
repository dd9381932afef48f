package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"
)

var pushScenarios = []scenario{
	{
		name: "push-1-row-32-users", what: "push of 1 row, 32 users at once", unit: "pushes/s", target: atLeast(1. / 10),
		setup: func(ctx context.Context, b *bench) (round, error) { return pushRate(ctx, b, 32, 1) },
	},
	{
		name: "push-1-row-1-user", what: "push of 1 row, one user at a time", unit: "pushes/s", target: atLeast(1. / 6),
		setup: func(ctx context.Context, b *bench) (round, error) { return pushRate(ctx, b, 1, 1) },
	},
	{
		name: "push-20-rows-32-users", what: "push of 20 rows, 32 users", unit: "rows/s", target: atLeast(1. / 8),
		setup: func(ctx context.Context, b *bench) (round, error) { return pushRate(ctx, b, 32, 20) },
	},
	{
		name: "update-20-rows-32-users", what: "updates of 20 existing rows, 32 users", unit: "rows/s", target: atLeast(1. / 9),
		setup: updateRate,
	},
	{
		name: "push-100000-rows", what: "one push of 100,000 rows", unit: "rows/s", target: atLeast(1. / 4),
		setup: bulkPush,
	},
	{
		name: "push-1-row-32-devices", what: "32 devices of one user pushing 1 row", unit: "pushes/s", target: atLeast(1. / 3),
		setup: oneUserManyDevices,
	},
	{
		name: "push-beside-flood", what: "a user's pushes while 64 devices of another flood, against 1 device", unit: "pushes/s", target: atLeast(0.5),
		setup: besideFlood,
	},
	{
		name: "push-beside-long-commit", what: "8 users' pushes during a push of 100,000 rows", unit: "pushes/s",
		target: atLeast(float64(max(1, runtime.NumCPU()-1)) / float64(runtime.NumCPU())),
		setup:  besideLongCommit,
	},
}

// pushRate is pushes of new rows by so many users at once. One row a push is
// measured against floor A, more against floor B.
func pushRate(ctx context.Context, b *bench, users, rows int) (round, error) {
	devices, err := b.site.newDevices(ctx, users)
	if err != nil {
		return nil, err
	}
	var floor func(context.Context) (float64, error)
	if rows == 1 {
		floor, err = b.site.floorA(ctx, users, b.size.window)
	} else {
		floor, err = b.site.floorB(ctx, users, rows, b.size.window)
	}
	if err != nil {
		return nil, err
	}
	return against(func(ctx context.Context) (float64, error) {
		rate, err := perSecond(ctx, users, b.size.window, func(ctx context.Context, worker int) (int, error) {
			_, err := devices[worker].push(ctx, devices[worker].maker.inserts(rows))
			return rows, err
		})
		if err != nil {
			return 0, err
		}
		return rate, b.site.checkRows(ctx, devices, rows)
	}, floor), nil
}

// checkRows checks that each device's scope holds the rows that it has pushed,
// so many a push, and that its log has a bundle for each push.
func (s *site) checkRows(ctx context.Context, devices []*device, rowsPerPush int) error {
	for _, d := range devices {
		pushes := d.nextBundle - 2 // the first one pushed the list
		found, err := s.count(ctx, `SELECT count(*) FROM bench.todos WHERE _sync_scope_id = $1`, d.user)
		if err != nil {
			return err
		}
		newest, err := s.count(ctx, `SELECT next_bundle_seq - 1 FROM sync.user_state WHERE user_id = $1`, d.user)
		if err != nil {
			return err
		}
		if found != pushes*int64(rowsPerPush) || newest != pushes+1 {
			return fmt.Errorf("%s pushed %d times %d rows, but has %d rows and %d bundles", d.user, pushes, rowsPerPush, found, newest)
		}
	}
	return nil
}

// updateRate is pushes that update the same 20 rows of each of 32 users.
func updateRate(ctx context.Context, b *bench) (round, error) {
	const users, rows = 32, 20
	devices, err := b.site.newDevices(ctx, users)
	if err != nil {
		return nil, err
	}
	changes := make([][]change, users)
	for i, d := range devices {
		changes[i] = d.maker.inserts(rows)
		done, err := d.push(ctx, changes[i])
		if err != nil {
			return nil, err
		}
		for j := range changes[i] {
			changes[i][j].op, changes[i][j].baseVersion = "UPDATE", done.BundleSeq
		}
	}
	floor, err := b.site.floorB(ctx, users, rows, b.size.window)
	if err != nil {
		return nil, err
	}
	return against(func(ctx context.Context) (float64, error) {
		return perSecond(ctx, users, b.size.window, func(ctx context.Context, worker int) (int, error) {
			mine := changes[worker]
			for i := range mine {
				mine[i].priority++
			}
			done, err := devices[worker].push(ctx, mine)
			for i := range mine {
				mine[i].baseVersion = done.BundleSeq
			}
			return rows, err
		})
	}, floor), nil
}

// bulkPush is one large push, from its first byte to the answer to its commit.
func bulkPush(ctx context.Context, b *bench) (round, error) {
	floor, err := b.site.bulkB(ctx, b.size.bulk)
	if err != nil {
		return nil, err
	}
	return against(func(ctx context.Context) (float64, error) {
		devices, err := b.site.newDevices(ctx, 1)
		if err != nil {
			return 0, err
		}
		chunks := bulkChunks(devices[0].maker, b.size.bulk)
		start := time.Now()
		if _, err := devices[0].pushBodies(ctx, b.size.bulk, chunks); err != nil {
			return 0, err
		}
		elapsed := time.Since(start)
		return float64(b.size.bulk) / elapsed.Seconds(), b.site.checkRows(ctx, devices, b.size.bulk)
	}, floor), nil
}

// bulkChunks makes the bodies that push so many new rows.
func bulkChunks(m *maker, rows int) [][]byte {
	var chunks [][]byte
	for start := 0; start < rows; start += rowsPerChunk {
		chunks = append(chunks, appendChunk(nil, start, m.inserts(min(rowsPerChunk, rows-start))))
	}
	return chunks
}

// oneUserManyDevices is 32 devices that push into one scope, where commits can
// only follow each other: hence floor A with one connection.
func oneUserManyDevices(ctx context.Context, b *bench) (round, error) {
	const number = 32
	devices, err := b.site.newDevicesOfUser(ctx, number)
	if err != nil {
		return nil, err
	}
	floor, err := b.site.floorA(ctx, 1, b.size.window)
	if err != nil {
		return nil, err
	}
	return against(func(ctx context.Context) (float64, error) {
		return perSecond(ctx, number, b.size.window, pushOne(devices))
	}, floor), nil
}

// pushOne is the work of a device that pushes one new row.
func pushOne(devices []*device) work {
	return func(ctx context.Context, worker int) (int, error) {
		_, err := devices[worker].push(ctx, devices[worker].maker.inserts(1))
		return 1, err
	}
}

// besideFlood is one user's pushes while another user's devices push without a
// pause: 64 of them, and as the floor 1.
func besideFlood(ctx context.Context, b *bench) (round, error) {
	victim, err := b.site.newDevices(ctx, 1)
	if err != nil {
		return nil, err
	}
	flood, err := b.site.newDevicesOfUser(ctx, 64)
	if err != nil {
		return nil, err
	}
	rateBeside := func(devices int) func(context.Context) (float64, error) {
		return func(ctx context.Context) (float64, error) {
			return beside(ctx, devices, pushOne(flood), func(ctx context.Context) (float64, error) {
				return perSecond(ctx, 1, b.size.window, pushOne(victim))
			})
		}
	}
	return against(rateBeside(64), rateBeside(1)), nil
}

// besideLongCommit is 8 users' pushes while another user pushes a large bundle,
// against the same without.
func besideLongCommit(ctx context.Context, b *bench) (round, error) {
	const users = 8
	devices, err := b.site.newDevices(ctx, users)
	if err != nil {
		return nil, err
	}
	alone := func(ctx context.Context) (float64, error) {
		return perSecond(ctx, users, b.size.window, pushOne(devices))
	}
	return against(func(ctx context.Context) (float64, error) {
		large, err := b.site.newDevices(ctx, 1)
		if err != nil {
			return 0, err
		}
		chunks := bulkChunks(large[0].maker, b.size.bulk)
		over := make(chan struct{})
		var pushed error
		go func() {
			defer close(over)
			_, pushed = large[0].pushBodies(ctx, b.size.bulk, chunks)
		}()
		rate, err := perSecondUntil(ctx, users, over, pushOne(devices))
		<-over
		return rate, errors.Join(err, pushed)
	}, alone), nil
}
