package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
)

var watchScenarios = []scenario{
	{
		name: "watch-push", what: "pushes of 1 row by 32 users with watch on, against off", unit: "pushes/s", target: atLeast(0.95),
		setup: pushWithWatch,
	},
	{
		name: "watch-memory", what: "the server's memory for each of 10,000 watchers on sockets of their own", unit: "KiB", target: atMost(20), single: true,
		setup: func(ctx context.Context, b *bench) (round, error) {
			c, err := b.watchers(ctx)
			if err != nil {
				return nil, err
			}
			return func(context.Context) (sample, error) { return sample{Figure: c.bytesEach / 1024}, nil }, nil
		},
	},
	{
		name: "watch-wake", what: "within which 99 of 100 of them hear of a push while pushes go on, half of them through another server", unit: "ms", target: atMost(250),
		setup: func(ctx context.Context, b *bench) (round, error) {
			c, err := b.watchers(ctx)
			if err != nil {
				return nil, err
			}
			return func(ctx context.Context) (s sample, err error) {
				s.Figure, err = c.wake(ctx, b.size.window)
				return s, err
			}, nil
		},
	},
}

// pushWithWatch compares two servers on the same database.
func pushWithWatch(ctx context.Context, b *bench) (round, error) {
	const users = 32
	var sites [2]*site
	for i, value := range []string{"true", "false"} {
		server, err := b.site.startServer(ctx, "OVERSYNC_WATCH="+value)
		if err != nil {
			return nil, err
		}
		b.atEnd(server.stop)
		sites[i] = &site{lab: b.lab, url: b.site.url, pool: b.site.pool, server: server}
	}
	rate := func(s *site) (func(context.Context) (float64, error), error) {
		devices, err := s.newDevices(ctx, users)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context) (float64, error) {
			return perSecond(ctx, users, b.size.window, pushOne(devices))
		}, nil
	}
	has, err := sites[0].hasWatch(ctx)
	if err != nil {
		return nil, err
	}
	if !has {
		return nil, fmt.Errorf("%w: the server has no watch", errNotMeasurable)
	}
	on, err := rate(sites[0])
	if err != nil {
		return nil, err
	}
	off, err := rate(sites[1])
	if err != nil {
		return nil, err
	}
	return against(on, off), nil
}

// hasWatch asks the server whether clients can watch.
func (s *site) hasWatch(ctx context.Context) (bool, error) {
	d, err := s.newDevice(ctx, s.lab.newUser(), 1)
	if err != nil {
		return false, err
	}
	if err := d.call(ctx, http.MethodGet, "/sync/capabilities", nil); err != nil {
		return false, err
	}
	var capabilities struct{ Features map[string]bool }
	err = json.Unmarshal(d.answer.Bytes(), &capabilities)
	return capabilities.Features["bundle_change_watch"], err
}
