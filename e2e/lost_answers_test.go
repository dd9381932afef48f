package e2e_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/oversync/oversync/e2e/device"
)

// TestLostAnswers breaks the connection at each step of a sync, in each way, and checks that the device ends with
// exactly one commit and the right rows.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	steps := []struct {
		step string
		nth  int
	}{
		{"connect", 1}, {"create", 1}, {"capabilities", 1}, {"chunk", 1}, {"chunk", 2}, {"commit", 1}, {"rows", 1}, {"rows", 2}, {"pull", 1},
	}
	for _, at := range steps {
		for kind, f := range faults {
			// One after the other: a kill of one would be a fault of all.
			t.Run(fmt.Sprintf("%s %d %s", at.step, at.nth, kind), func(t *testing.T) {
				user := t.Name()
				p := s.phone(t, user, chunkRows(2))
				p.write(t, `INSERT INTO users (id, name) VALUES (?, 'a'), (?, 'b'), (?, 'c')`, newID(), newID(), newID())
				p.net.breaksAt(at.step, at.nth, f)
				require.NoError(t, p.Sync(t.Context()))
				require.Equal(t, 1, p.net.faultsMet())
				require.Equal(t, int64(1), s.bundles(t, user))
				require.Len(t, p.contents(t), 3)
				s.requireConverged(t, p)

				// The next push goes on with the next number.
				p.write(t, `UPDATE users SET name = 'd'`)
				require.NoError(t, p.Sync(t.Context()))
				require.Equal(t, int64(2), s.bundles(t, user))
				s.requireConverged(t, p)
			})
		}
	}
}

// TestLostAnswersOfASnapshot is the same for a rebuild.
func TestLostAnswersOfASnapshot(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	source := s.phone(t, "ann")
	for range 3 {
		source.write(t, `INSERT INTO users (id, name) VALUES (?, ?)`, newID(), everything)
	}
	syncAll(t, source)
	for _, at := range []struct {
		step string
		nth  int
	}{{"snapshot create", 1}, {"snapshot chunk", 1}, {"snapshot chunk", 2}, {"snapshot end", 1}} {
		for kind, f := range faults {
			t.Run(fmt.Sprintf("%s %d %s", at.step, at.nth, kind), func(t *testing.T) {
				p := s.phone(t, "ann", chunkRows(2))
				p.net.breaksAt(at.step, at.nth, f)
				require.NoError(t, p.Rebuild(t.Context()))
				require.Equal(t, 1, p.net.faultsMet())
				s.requireConverged(t, p, source)
			})
		}
	}
}

// TestServerOutOfReach cuts every request until the device gives up, at each step, and lets it go on later.
func TestServerOutOfReach(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	for _, step := range []string{"connect", "create", "chunk", "commit", "rows", "pull"} {
		for _, kind := range []string{"cut before", "cut during", "cut after"} {
			t.Run(step+" "+kind, func(t *testing.T) {
				t.Parallel()
				p := s.phone(t, t.Name(), chunkRows(2))
				p.write(t, `INSERT INTO users (id, name) VALUES (?, 'a'), (?, 'b'), (?, 'c')`, newID(), newID(), newID())
				p.net.breaksAlways(step, faults[kind])
				require.ErrorIs(t, p.Sync(t.Context()), errCut)
				p.reopen(t)
				p.write(t, `UPDATE users SET name = 'changed meanwhile' WHERE name = 'a'`)
				p.net.breaks(nil)
				require.NoError(t, p.Sync(t.Context()))
				s.requireConverged(t, p)
				require.Equal(t, int64(2), s.bundles(t, p.user), "the interrupted push, and the change after it")
			})
		}
	}
}

// TestDeviceDies ends the device at each point of a push and opens its file again.
func TestDeviceDies(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	for _, point := range []string{
		device.CrashAfterFreeze, device.CrashAfterCreate, device.CrashAfterChunk,
		device.CrashBeforeCommit, device.CrashAfterCommit, device.CrashBeforeApply,
	} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			ctx, die := context.WithCancel(t.Context())
			path, token := filepath.Join(t.TempDir(), "device.sqlite"), mintToken(t, point)
			p, err := s.openPhone(ctx, path, point, token, chunkRows(2), func(cfg *device.Config) {
				cfg.Crash = func(at string) {
					if at == point {
						die()
					}
				}
			})
			require.NoError(t, err)
			p.write(t, `INSERT INTO users (id, name) VALUES (?, 'a'), (?, 'b'), (?, 'c')`, newID(), newID(), newID())
			require.ErrorIs(t, p.Sync(ctx), context.Canceled)
			require.NoError(t, p.Close())

			p, err = s.openPhone(t.Context(), path, point, token, chunkRows(2))
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, p.Close()) })
			require.NoError(t, p.Sync(t.Context()))
			require.Len(t, p.contents(t), 3)
			s.requireConverged(t, p)
			require.Equal(t, int64(1), s.bundles(t, point))
		})
	}
}

// bundles counts the bundles of a user, and checks that none is in the log twice.
func (s *server) bundles(t *testing.T, user string) int64 {
	t.Helper()
	const query = ` FROM sync.bundle_log l JOIN sync.user_state u USING (user_pk) WHERE u.user_id = $1`
	n := s.number(t, `SELECT count(*)`+query, user)
	require.Equal(t, n, s.number(t, `SELECT count(DISTINCT (l.source_id, l.source_bundle_id))`+query, user))
	return n
}
