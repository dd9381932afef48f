package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

var snapshotScenarios = []scenario{
	{
		name: "snapshot-100000-rows", what: "snapshot of 100,000 rows, create to last chunk", unit: "rows/s", target: atLeast(1. / 2),
		setup: snapshotRate,
	},
	{
		name: "snapshot-create", what: "snapshot creation, 100,000 rows against 10", unit: "ms", target: atMost(1.2),
		setup: snapshotCreation,
	},
}

// filledDevice returns a new user's device that has pushed so many rows. With its
// list, the scope has one row more.
func (s *site) filledDevice(ctx context.Context, rows int) (*device, error) {
	devices, err := s.newDevices(ctx, 1)
	if err != nil {
		return nil, err
	}
	_, err = devices[0].pushBodies(ctx, rows, bulkChunks(devices[0].maker, rows))
	return devices[0], err
}

// snapshotRate is a device that fetches everything.
func snapshotRate(ctx context.Context, b *bench) (round, error) {
	rows := b.size.bulk
	d, err := b.site.filledDevice(ctx, rows)
	if err != nil {
		return nil, err
	}
	seen := make(map[string]bool)
	err = d.snapshot(ctx, rows+1, func(chunk []byte) error {
		var answer struct {
			Rows []struct {
				Table   string
				Key     struct{ ID string }
				Payload struct{ ID string }
			}
		}
		if err := json.Unmarshal(chunk, &answer); err != nil {
			return err
		}
		for _, row := range answer.Rows {
			if row.Key != row.Payload {
				return fmt.Errorf("the payload of %s %s is another row's", row.Table, row.Key.ID)
			}
			seen[row.Table+row.Key.ID] = true
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(seen) != rows+1 {
		return nil, fmt.Errorf("the snapshot has %d different rows, not %d", len(seen), rows+1)
	}
	return against(func(ctx context.Context) (float64, error) {
		start := time.Now()
		err := d.snapshot(ctx, rows+1, func([]byte) error { return nil })
		return float64(rows) / time.Since(start).Seconds(), err
	}, b.site.floorC(d.user, rows, 0)), nil
}

// createSnapshot opens a snapshot and checks its number of rows.
func (d *device) createSnapshot(ctx context.Context, rows int) (id string, err error) {
	if err := d.call(ctx, http.MethodPost, "/sync/snapshot-sessions", []byte("{}")); err != nil {
		return "", err
	}
	var session struct {
		SnapshotID string `json:"snapshot_id"`
		RowCount   int    `json:"row_count"`
	}
	if err := json.Unmarshal(d.answer.Bytes(), &session); err != nil {
		return "", err
	}
	if session.RowCount != rows {
		return "", fmt.Errorf("the snapshot has %d rows, not %d", session.RowCount, rows)
	}
	return session.SnapshotID, nil
}

// snapshot fetches all chunks of a new snapshot, one after the other as a client
// does, and checks that they end where they should.
func (d *device) snapshot(ctx context.Context, rows int, each func(chunk []byte) error) error {
	id, err := d.createSnapshot(ctx, rows)
	if err != nil {
		return err
	}
	for after := 0; after < rows; {
		if err := d.call(ctx, http.MethodGet, fmt.Sprintf("/sync/snapshot-sessions/%s?after_row_ordinal=%d&max_rows=%d", id, after, rowsPerChunk), nil); err != nil {
			return err
		}
		after = min(after+rowsPerChunk, rows)
		end := fmt.Appendf(nil, `],"next_row_ordinal":%d,"has_more":%t}`, after, after < rows)
		if !bytes.HasSuffix(d.answer.Bytes(), end) {
			return fmt.Errorf("a chunk of a snapshot ends with %s, not with %s", d.answer.Bytes()[max(0, d.answer.Len()-len(end)):], end)
		}
		if err := each(d.answer.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// snapshotCreation is the time of the first request alone, of a large scope and
// of a small one in turns.
func snapshotCreation(ctx context.Context, b *bench) (round, error) {
	const small = 10
	large, err := b.site.filledDevice(ctx, b.size.bulk)
	if err != nil {
		return nil, err
	}
	little, err := b.site.filledDevice(ctx, small)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (s sample, err error) {
		const times = 200
		for range times {
			for _, turn := range []struct {
				device *device
				rows   int
				total  *float64
			}{{little, small + 1, &s.Floor}, {large, b.size.bulk + 1, &s.Figure}} {
				start := time.Now()
				if _, err := turn.device.createSnapshot(ctx, turn.rows); err != nil {
					return s, err
				}
				*turn.total += float64(time.Since(start).Microseconds()) / 1000 / times
			}
		}
		return s, nil
	}, nil
}
