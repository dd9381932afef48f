package device

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// crashAt panics the nth time a point is reached, as a process that dies there.
func crashAt(point string, nth int) option {
	return func(c *Config) {
		c.Crash = func(p string) {
			if p == point {
				if nth--; nth == 0 {
					panic("crash at " + point)
				}
			}
		}
	}
}

func TestCrashAnywhereInAPush(t *testing.T) {
	t.Parallel()
	for _, point := range []string{CrashAfterFreeze, CrashAfterCreate, CrashAfterChunk, CrashBeforeCommit, CrashAfterCommit, CrashBeforeApply} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			f, path := newFake(), filepath.Join(t.TempDir(), "device.sqlite")
			d := open(t, path, f, crashAt(point, 1))
			exec(t, d, `INSERT INTO notes (id, title) VALUES ('a', '1'), ('b', '1'), ('c', '1')`)
			require.Panics(t, func() { _ = d.Sync(t.Context()) })

			// The application goes on, and a new process finds the file.
			exec(t, d, `UPDATE notes SET title = '2' WHERE id = 'a'`)
			again := open(t, path, f)
			st, err := again.State(t.Context())
			require.NoError(t, err)
			require.Equal(t, 3, st.OutboxRows)
			require.Equal(t, int64(1), st.NextSourceBundleID)
			require.NoError(t, again.Sync(t.Context()))
			require.Len(t, f.bundles, 2, "the outbox once, then the change made since")
			require.Len(t, f.bundles[0].Rows, 3)
			require.JSONEq(t, `"1"`, string(mustField(t, f.bundles[0].Rows[0], "title")))
			require.JSONEq(t, `"2"`, string(f.rows["notes/a"].payload["title"]))
			require.Equal(t, []string{"2", "1", "1"}, query(t, again, `SELECT title FROM notes ORDER BY id`))
			require.NoError(t, again.Sync(t.Context()))
			require.Len(t, f.bundles, 2)
		})
	}
}

func mustField(t *testing.T, r wireRow, name string) []byte {
	t.Helper()
	var err error
	row, err := (&Table{Key: "id", Columns: []Column{{Name: name, Type: JSON}}}).decodeRow("k", r.Payload)
	require.NoError(t, err)
	return []byte(row[name].(string))
}

func TestEveryAnswerMayBeLost(t *testing.T) {
	t.Parallel()
	for lost := range 12 {
		f := newFake()
		n := 0
		f.cut = func(*http.Request) bool { n++; return n-1 == lost }
		d := newDevice(t, f)
		exec(t, d, `INSERT INTO notes (id, title) VALUES ('a', '1'), ('b', '1'), ('c', '1')`)
		require.NoError(t, d.Sync(t.Context()))
		require.Len(t, f.bundles, 1)
		require.Len(t, f.bundles[0].Rows, 3)
	}
}

func TestRetries(t *testing.T) {
	t.Parallel()
	var waits []time.Duration
	f := newFake()
	n := 0
	f.refuse = func(*http.Request) (int, string) {
		if n++; n <= 3 {
			return []int{429, 503, 502}[n-1], `{"error":"rate_limited"}`
		}
		return 0, ""
	}
	d := newDevice(t, f, func(c *Config) {
		c.Backoff = Backoff{Attempts: 4, Sleep: func(_ context.Context, d time.Duration) error { waits = append(waits, d); return nil }}
	})
	require.NoError(t, d.Sync(t.Context()))
	require.Len(t, waits, 3)
	require.Equal(t, 7*time.Second, retryAfter("7"))
	require.Zero(t, retryAfter("soon"))

	f.refuse = func(*http.Request) (int, string) { return 401, `{"error":"authentication_failed","message":"no"}` }
	before := len(f.log)
	var api *APIError
	require.ErrorAs(t, d.Sync(t.Context()), &api)
	require.Equal(t, "authentication_failed", api.Code)
	require.Len(t, f.log, before+1, "a final answer is not retried")
}

func TestConflicts(t *testing.T) {
	t.Parallel()
	keep := func(r Resolution) Resolver {
		return func(context.Context, Conflict) (Resolution, error) { return r, nil }
	}
	for name, c := range map[string]struct {
		local    string
		remote   pushRow
		resolver Resolver
		title    []string // in the end, here and there
	}{
		"server wins":              {`UPDATE notes SET title = 'mine' WHERE id = 'a'`, remoteNote("UPDATE", "a", `{"title":"theirs"}`), ServerWins, []string{"theirs"}},
		"client wins":              {`UPDATE notes SET title = 'mine' WHERE id = 'a'`, remoteNote("UPDATE", "a", `{"title":"theirs"}`), ClientWins, []string{"mine"}},
		"merged":                   {`UPDATE notes SET title = 'mine' WHERE id = 'a'`, remoteNote("UPDATE", "a", `{"title":"theirs"}`), keep(Merged(Row{"title": "both"})), []string{"both"}},
		"merged to nothing":        {`UPDATE notes SET title = 'mine' WHERE id = 'a'`, remoteNote("UPDATE", "a", `{"title":"theirs"}`), keep(Merged(nil)), []string{}},
		"same change":              {`UPDATE notes SET title = 'same' WHERE id = 'a'`, remoteNote("UPDATE", "a", `{"title":"same"}`), nil, []string{"same"}},
		"deleted there, take":      {`UPDATE notes SET title = 'mine' WHERE id = 'a'`, remoteNote("DELETE", "a", ``), ServerWins, []string{}},
		"deleted there, keep":      {`UPDATE notes SET title = 'mine' WHERE id = 'a'`, remoteNote("DELETE", "a", ``), ClientWins, []string{"mine"}},
		"deleted here, take":       {`DELETE FROM notes WHERE id = 'a'`, remoteNote("UPDATE", "a", `{"title":"theirs"}`), ServerWins, []string{"theirs"}},
		"deleted here, keep":       {`DELETE FROM notes WHERE id = 'a'`, remoteNote("UPDATE", "a", `{"title":"theirs"}`), ClientWins, []string{}},
		"deleted on both sides":    {`DELETE FROM notes WHERE id = 'a'`, remoteNote("DELETE", "a", ``), nil, []string{}},
		"created on both, take":    {`DELETE FROM notes; INSERT INTO notes (id, title) VALUES ('b', 'mine')`, remoteNote("INSERT", "b", `{"title":"theirs"}`), ServerWins, []string{"theirs"}},
		"created on both, keep":    {`DELETE FROM notes; INSERT INTO notes (id, title) VALUES ('b', 'mine')`, remoteNote("INSERT", "b", `{"title":"theirs"}`), ClientWins, []string{"mine"}},
		"with other rows, refused": {`UPDATE notes SET title = 'mine'; INSERT INTO notes (id, title) VALUES ('z', 'new')`, remoteNote("UPDATE", "a", `{"title":"theirs"}`), ServerWins, []string{"theirs", "new"}},
	} {
		for _, pulled := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", pulled before"}[pulled], func(t *testing.T) {
				t.Parallel()
				f := newFake()
				resolver := c.resolver
				if resolver == nil {
					resolver = func(context.Context, Conflict) (Resolution, error) {
						return Resolution{}, errors.New("nothing to decide")
					}
				}
				d := newDevice(t, f, func(cfg *Config) { cfg.Resolver = resolver })
				exec(t, d, `INSERT INTO notes (id, title) VALUES ('a', 'old')`)
				require.NoError(t, d.Sync(t.Context()))
				exec(t, d, c.local)
				f.remote(c.remote)
				if pulled {
					require.NoError(t, d.Pull(t.Context()))
				}
				require.NoError(t, d.Sync(t.Context()))
				require.Equal(t, c.title, query(t, d, `SELECT title FROM notes ORDER BY id`))
				require.Empty(t, dirty(t, d))

				other := newDevice(t, f)
				require.NoError(t, other.Sync(t.Context()))
				require.Equal(t, c.title, query(t, other, `SELECT title FROM notes ORDER BY id`))
				own := f.next["remote"]
				for i, b := range f.bundles {
					if b.SourceID != "remote" {
						own++
					}
					require.Equal(t, int64(i)+1, b.BundleSeq)
				}
				require.Equal(t, int64(len(f.bundles)), own)
			})
		}
	}
}

func TestOrphansOfAPulledDelete(t *testing.T) {
	t.Parallel()
	f := newFake()
	d := newDevice(t, f)
	exec(t, d, `INSERT INTO notes (id) VALUES ('a')`)
	require.NoError(t, d.Sync(t.Context()))
	exec(t, d, `INSERT INTO tags (id, note_id) VALUES ('t', 'a'), ('free', NULL)`)
	f.remote(remoteNote("DELETE", "a", ""))
	require.NoError(t, d.Pull(t.Context()))
	require.Equal(t, []string{"free"}, query(t, d, `SELECT id FROM tags`), "the child that only we had goes with its parent")
	require.Equal(t, []string{"tags/free"}, dirty(t, d))
}

func TestParentThatMovesItsChildren(t *testing.T) {
	t.Parallel()
	f := newFake()
	d := newDevice(t, f)
	exec(t, d, `INSERT INTO notes (id) VALUES ('a'), ('b')`)
	exec(t, d, `INSERT INTO tags (id, note_id) VALUES ('t', 'a')`)
	require.NoError(t, d.Sync(t.Context()))
	f.remote(remoteNote("DELETE", "a", ""), pushRow{Table: "tags", Key: map[string]string{"id": "t"}, Op: "UPDATE", Payload: []byte(`{"note_id":"b"}`)})
	require.NoError(t, d.Sync(t.Context()))
	require.Equal(t, []string{"b"}, query(t, d, `SELECT note_id FROM tags`), "a cascade here must not take what the bundle keeps")
}

func TestRejectedPush(t *testing.T) {
	t.Parallel()
	f := newFake()
	d := newDevice(t, f)
	require.NoError(t, d.Sync(t.Context()))
	f.refuse = func(r *http.Request) (int, string) {
		if strings.HasSuffix(r.URL.Path, "/commit") {
			return 422, `{"error":"push_rejected","message":"no","rejection":{"sqlstate":"23514","table":"notes","constraint":"notes_check","key":{"id":"a"}}}`
		}
		return 0, ""
	}
	f.remote(remoteNote("INSERT", "theirs", `{}`))
	exec(t, d, `INSERT INTO notes (id, title) VALUES ('a', 'bad')`)
	var rejected *RejectedError
	require.ErrorAs(t, d.Sync(t.Context()), &rejected)
	require.Equal(t, "23514", rejected.Rejection.SQLState)
	require.Equal(t, map[string]string{"id": "a"}, rejected.Rejection.Key)
	require.Equal(t, []string{"notes/a"}, dirty(t, d), "the application can mend it")
	require.Equal(t, []string{"a", "theirs"}, query(t, d, `SELECT id FROM notes ORDER BY id`), "others are heard all the same")

	f.refuse = nil
	exec(t, d, `UPDATE notes SET title = 'good' WHERE id = 'a'`)
	require.NoError(t, d.Sync(t.Context()))
	require.JSONEq(t, `"good"`, string(f.rows["notes/a"].payload["title"]))
}

func TestRebuildAfterPruning(t *testing.T) {
	t.Parallel()
	f := newFake()
	d := newDevice(t, f, func(c *Config) { c.Resolver = ClientWins })
	exec(t, d, `INSERT INTO notes (id, title) VALUES ('a', '1'), ('b', '1'), ('c', '1')`)
	require.NoError(t, d.Sync(t.Context()))
	f.remote(remoteNote("UPDATE", "a", `{"title":"2"}`), remoteNote("DELETE", "b", ``))
	f.remote(remoteNote("INSERT", "d", `{"title":"2"}`), remoteNote("UPDATE", "c", `{"title":"2"}`))
	f.floor = 2
	exec(t, d, `INSERT INTO notes (id, title) VALUES ('e', 'mine')`)
	exec(t, d, `UPDATE notes SET title = 'mine' WHERE id = 'c'`)
	require.NoError(t, d.Pull(t.Context()))
	require.Equal(t, []string{"a2", "cmine", "d2", "emine"}, query(t, d, `SELECT id || title FROM notes ORDER BY id`))
	require.Equal(t, []string{"notes/e", "notes/c"}, dirty(t, d))
	require.NoError(t, d.Sync(t.Context()))
	require.JSONEq(t, `"mine"`, string(f.rows["notes/c"].payload["title"]), "a conflict that the resolver settled")
	require.Empty(t, dirty(t, d))
}

func TestRebuildWhenNothingIsRetained(t *testing.T) {
	t.Parallel()
	f := newFake()
	f.remote(remoteNote("INSERT", "a", `{}`))
	f.floor = 1
	d := newDevice(t, f)
	require.NoError(t, d.Sync(t.Context()))
	require.Equal(t, []string{"a"}, query(t, d, `SELECT id FROM notes`))
	require.Equal(t, 1, f.count("POST", "/snapshot-sessions"))
}

func TestRotation(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(f *fake, source string){
		"out of order":   func(f *fake, s string) { f.next[s] = 0 },
		"history pruned": func(f *fake, s string) { f.next[s] = 9 },
		"retired":        func(f *fake, s string) { f.retired[s] = "another" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake()
			d := newDevice(t, f)
			exec(t, d, `INSERT INTO notes (id, title) VALUES ('a', '1')`)
			require.NoError(t, d.Sync(t.Context()))
			before, err := d.State(t.Context())
			require.NoError(t, err)
			spoil(f, before.SourceID)
			if name == "out of order" {
				f.bundles[0].SourceID = "lost" // so that the number is not answered as committed
			}
			exec(t, d, `UPDATE notes SET title = '2'`)
			require.NoError(t, d.Sync(t.Context()))
			after, err := d.State(t.Context())
			require.NoError(t, err)
			require.NotEqual(t, before.SourceID, after.SourceID)
			require.Equal(t, int64(2), after.NextSourceBundleID)
			require.JSONEq(t, `"2"`, string(f.rows["notes/a"].payload["title"]))
			require.Empty(t, dirty(t, d))
			require.NoError(t, d.Sync(t.Context()))
		})
	}
}

func TestRotationSurvivesACrash(t *testing.T) {
	t.Parallel()
	f := newFake()
	path := filepath.Join(t.TempDir(), "device.sqlite")
	d := open(t, path, f)
	exec(t, d, `INSERT INTO notes (id, title) VALUES ('a', '1')`)
	require.NoError(t, d.Sync(t.Context()))
	st, err := d.State(t.Context())
	require.NoError(t, err)
	f.next[st.SourceID] = 9
	exec(t, d, `UPDATE notes SET title = '2'`)
	f.cut = func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/snapshot-sessions") }
	require.ErrorIs(t, d.Sync(t.Context()), errCut)
	f.cut = nil
	require.NoError(t, open(t, path, f).Sync(t.Context()))
	after, err := d.State(t.Context())
	require.NoError(t, err)
	require.Equal(t, f.retired[st.SourceID], after.SourceID, "the rotation that was announced is the one that is finished")
	require.JSONEq(t, `"2"`, string(f.rows["notes/a"].payload["title"]))
}

func TestDamagedBundleIsNotApplied(t *testing.T) {
	t.Parallel()
	f := newFake()
	f.remote(remoteNote("INSERT", "a", `{"title":"1"}`))
	f.bundles[0].Rows[0].Payload = []byte(`{"id":"a","title":"2"}`)
	d := newDevice(t, f)
	var damaged *HashError
	require.ErrorAs(t, d.Sync(t.Context()), &damaged)
	require.Empty(t, query(t, d, `SELECT id FROM notes`))
}

func TestPullInSteps(t *testing.T) {
	t.Parallel()
	f := newFake()
	for i := range 7 {
		f.remote(remoteNote("INSERT", string(rune('a'+i)), `{}`))
	}
	d := newDevice(t, f, func(c *Config) { c.MaxBundles = 3 })
	require.NoError(t, d.Sync(t.Context()))
	require.Len(t, query(t, d, `SELECT id FROM notes`), 7)
	require.Equal(t, 3, f.count("GET", "/sync/pull"))
}

func TestFirstPushHoldsTheLease(t *testing.T) {
	t.Parallel()
	f := newFake()
	d := newDevice(t, f)
	exec(t, d, `INSERT INTO notes (id) VALUES ('a')`)
	exec(t, d, `DELETE FROM notes`)
	require.NoError(t, d.Sync(t.Context()), "nothing to push after all: the account begins empty")
	require.True(t, f.initialized)
	require.Empty(t, f.bundles)
}

func TestNewTableIsFilledFromASnapshot(t *testing.T) {
	t.Parallel()
	f := newFake()
	path := filepath.Join(t.TempDir(), "device.sqlite")
	f.remote(remoteNote("INSERT", "a", `{"title":"1"}`), pushRow{Table: "tags", Key: map[string]string{"id": "t"}, Op: "INSERT", Payload: []byte(`{"label":"x"}`)})
	d := open(t, path, f, func(c *Config) { c.Tables = testTables[:1] })
	require.NoError(t, d.Sync(t.Context()))
	d = open(t, path, f)
	require.NoError(t, d.Sync(t.Context()))
	require.Equal(t, []string{"x"}, query(t, d, `SELECT label FROM tags`))
}
