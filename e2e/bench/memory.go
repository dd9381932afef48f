package main

import (
	"context"
	"net/http"
)

// memoryTarget is how much the server's peak may grow, in MiB.
const memoryTarget = 16

// smallRows is what the large operation is compared with.
const smallRows = 1000

var memoryScenarios = []scenario{
	{
		name: "memory-push", what: "growth of the server's peak from a push of 1,000 rows to one of 1,000,000", unit: "MiB", target: atMost(memoryTarget), single: true,
		setup: func(_ context.Context, b *bench) (round, error) {
			return func(ctx context.Context) (sample, error) {
				devices, err := b.site.newDevices(ctx, 2)
				if err != nil {
					return sample{}, err
				}
				return b.peakGrowth(ctx, func(rows int, which int) error {
					return pushFrom(ctx, b.site, devices[which], rows)
				})
			}, nil
		},
	},
	{
		name: "memory-pull", what: "the same for a pull", unit: "MiB", target: atMost(memoryTarget), single: true,
		setup: memoryOfReading(func(ctx context.Context, d *device, _ int) error {
			return d.call(ctx, http.MethodGet, "/sync/pull?after_bundle_seq=0", nil)
		}),
	},
	{
		name: "memory-snapshot", what: "the same for a snapshot", unit: "MiB", target: atMost(memoryTarget), single: true,
		setup: memoryOfReading(func(ctx context.Context, d *device, rows int) error {
			return d.snapshot(ctx, rows+1, func([]byte) error { return nil })
		}),
	},
}

// pushFrom pushes so many rows, whose bodies are made as they are sent: a million
// at once would fill this process's memory.
func pushFrom(ctx context.Context, s *site, d *device, rows int) error {
	if err := d.moveTo(s); err != nil {
		return err
	}
	pushID, err := d.createPush(ctx, rows)
	if err != nil {
		return err
	}
	for start := 0; start < rows; start += rowsPerChunk {
		d.body = appendChunk(d.body[:0], start, d.maker.inserts(min(rowsPerChunk, rows-start)))
		if err := d.call(ctx, http.MethodPost, "/sync/push-sessions/"+pushID+"/chunks", d.body); err != nil {
			return err
		}
	}
	_, err = d.commitPush(ctx, pushID, rows)
	return err
}

// memoryOfReading measures an operation that reads a scope.
func memoryOfReading(read func(ctx context.Context, d *device, rows int) error) func(context.Context, *bench) (round, error) {
	return func(ctx context.Context, b *bench) (round, error) {
		devices, err := b.site.newDevices(ctx, 2)
		if err != nil {
			return nil, err
		}
		for i, rows := range []int{smallRows, b.size.million} {
			if err := pushFrom(ctx, b.site, devices[i], rows); err != nil {
				return nil, err
			}
		}
		return func(ctx context.Context) (sample, error) {
			return b.peakGrowth(ctx, func(rows, which int) error {
				if err := devices[which].moveTo(b.site); err != nil {
					return err
				}
				return read(ctx, devices[which], rows)
			})
		}, nil
	}
}

// peakGrowth runs an operation on a fresh server, on few rows by the first device
// and then on many by the second, and returns by how many MiB the server's peak
// has grown in between.
func (b *bench) peakGrowth(ctx context.Context, operation func(rows, which int) error) (s sample, err error) {
	if err := b.site.restart(ctx); err != nil {
		return s, err
	}
	var peaks [2]int64
	for i, rows := range []int{smallRows, b.size.million} {
		if err := operation(rows, i); err != nil {
			return s, err
		}
		if peaks[i], err = b.site.server.memory(peakMemory); err != nil {
			return s, err
		}
	}
	s.Figure = float64(peaks[1]-peaks[0]) / (1 << 20)
	return s, nil
}
