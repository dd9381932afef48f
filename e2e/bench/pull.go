package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
)

var pullScenarios = []scenario{
	{
		name: "pull-1000-bundles", what: "catch-up pull of 1,000 bundles of 20 rows", unit: "rows/s", target: atLeast(1),
		setup: catchUpPull,
	},
	{
		name: "pull-idle", what: "idle pull, 32 connections", unit: "requests/s", target: atLeast(1. / 2),
		setup: idlePull,
	},
}

// pullAnswer is what a client reads. Rows stay generic: their hash is made of
// whatever the server sent.
type pullAnswer struct {
	StableBundleSeq int64 `json:"stable_bundle_seq"`
	Bundles         []struct {
		BundleSeq  int64            `json:"bundle_seq"`
		RowCount   int              `json:"row_count"`
		BundleHash string           `json:"bundle_hash"`
		Rows       []map[string]any `json:"rows"`
	} `json:"bundles"`
	HasMore bool `json:"has_more"`
}

// check checks that the answer holds the bundles from first on, in order, with
// the right hashes, and returns how many rows they have.
func (p *pullAnswer) check(first int64) (rows int, err error) {
	for i, bundle := range p.Bundles {
		for ordinal, row := range bundle.Rows {
			row["row_ordinal"] = ordinal
			if _, given := row["payload"]; !given {
				row["payload"] = nil
			}
		}
		// encoding/json writes maps in the canonical order, and what the rows of
		// this benchmark hold in the canonical form.
		canonical, err := json.Marshal(bundle.Rows)
		if err != nil {
			return 0, err
		}
		hash := sha256.Sum256(canonical)
		if bundle.BundleSeq != first+int64(i) || bundle.RowCount != len(bundle.Rows) || bundle.BundleHash != hex.EncodeToString(hash[:]) {
			return 0, fmt.Errorf("bundle %d came with %d rows where %d was due, or its hash %s is wrong", bundle.BundleSeq, len(bundle.Rows), first+int64(i), bundle.BundleHash)
		}
		rows += len(bundle.Rows)
	}
	return rows, nil
}

// catchUpPull is a device that reads all that others have pushed.
func catchUpPull(ctx context.Context, b *bench) (round, error) {
	const rowsPerBundle = 20
	devices, err := b.site.newDevices(ctx, 1)
	if err != nil {
		return nil, err
	}
	d, rows := devices[0], b.size.bundles*rowsPerBundle
	for range b.size.bundles {
		if _, err := d.push(ctx, d.maker.inserts(rowsPerBundle)); err != nil {
			return nil, err
		}
	}
	// The first bundle holds the list, so the device has it already.
	path := fmt.Sprintf("/sync/pull?after_bundle_seq=1&max_bundles=%d", b.size.bundles)
	if err := d.call(ctx, http.MethodGet, path, nil); err != nil {
		return nil, err
	}
	var answer pullAnswer
	if err := json.Unmarshal(d.answer.Bytes(), &answer); err != nil {
		return nil, err
	}
	if n, err := answer.check(2); err != nil || n != rows || answer.HasMore {
		return nil, fmt.Errorf("the pull gave %d rows, not %d: %w", n, rows, err)
	}
	right := slices.Clone(d.answer.Bytes())
	return against(func(ctx context.Context) (float64, error) {
		return perSecond(ctx, 1, b.size.window, func(ctx context.Context, _ int) (int, error) {
			if err := d.call(ctx, http.MethodGet, path, nil); err != nil {
				return 0, err
			}
			if !slices.Equal(d.answer.Bytes(), right) {
				return 0, fmt.Errorf("the same pull gave another answer")
			}
			return rows, nil
		})
	}, b.site.floorC(d.user, rows, b.size.window)), nil
}

// idlePull is devices that ask and find nothing new.
func idlePull(ctx context.Context, b *bench) (round, error) {
	const number = 32
	devices, err := b.site.newDevices(ctx, number)
	if err != nil {
		return nil, err
	}
	empty, err := startEmptyHandler(ctx)
	if err != nil {
		return nil, err
	}
	b.atEnd(empty.stop)
	const path, right = "/sync/pull?after_bundle_seq=1", `{"stable_bundle_seq":1,"bundles":[],"has_more":false}`
	return against(func(ctx context.Context) (float64, error) {
		return perSecond(ctx, number, b.size.window, func(ctx context.Context, worker int) (int, error) {
			d := devices[worker]
			if err := d.call(ctx, http.MethodGet, path, nil); err != nil {
				return 0, err
			}
			if d.answer.String() != right {
				return 0, fmt.Errorf("an idle pull was answered with %s", d.answer.String())
			}
			return 1, nil
		})
	}, floorD(empty, number, b.size.window)), nil
}
