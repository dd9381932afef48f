package device

import (
	"context"
	"encoding/json"
	"fmt"
)

// Rows reads a whole table of the file in the order of its keys.
func (d *Device) Rows(ctx context.Context, table string) ([]Row, error) {
	t := d.local[table]
	if t == nil {
		return nil, fmt.Errorf("device: there is no synced table %q", table)
	}
	rows, err := d.own.QueryContext(ctx, t.selectSQL()+` ORDER BY `+q(t.Key))
	if err != nil {
		return nil, fmt.Errorf("device: read %s: %w", table, err)
	}
	return scanRows(rows, t)
}

// Dump reads a whole table as the wire would carry it: one line of JSON a row with its columns sorted, the key column included,
// in the order of the keys. Numbers keep every digit. Two devices, or a device and the database, hold the same when their dumps are equal.
func (d *Device) Dump(ctx context.Context, table string) ([]string, error) {
	rows, err := d.Rows(ctx, table)
	if err != nil {
		return nil, err
	}
	t := d.local[table]
	lines := make([]string, len(rows))
	for i, row := range rows {
		payload := map[string]any{t.Key: row[t.Key]}
		for j := range t.Columns {
			c := &t.Columns[j]
			if payload[c.Name], err = encodeValue(c, row[c.Name]); err != nil {
				return nil, fmt.Errorf("device: %s %v: %w", table, row[t.Key], err)
			}
		}
		text, err := json.Marshal(payload)
		if err != nil {
			return nil, err
		}
		lines[i] = string(text)
	}
	return lines, nil
}
