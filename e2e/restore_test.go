package e2e_test

import (
	"context"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/oversync/oversync/db/pgembed"
	"github.com/oversync/oversync/db/pgembed/pgtest"
)

// moveTo replaces the server's process by one on another database.
func (s *server) moveTo(t *testing.T, database string) {
	t.Helper()
	require.NoError(t, s.stop())
	s.up.Lock()
	defer s.up.Unlock()
	s.database = database
	require.NoError(t, s.start())
}

// restoreRecipe is the SQL of the section Restore of docs/operations.md.
func restoreRecipe(t *testing.T) string {
	t.Helper()
	section := regexp.MustCompile(`(?s)\n## Restore\n(.*?)\n## `).FindStringSubmatch(readFile(t, "../docs/operations.md"))
	require.NotNil(t, section)
	var recipe strings.Builder
	for line := range strings.Lines(section[1]) {
		if sql, isCode := strings.CutPrefix(line, "    "); isCode {
			recipe.WriteString(sql)
		}
	}
	require.Contains(t, recipe.String(), "COMMIT;")
	return recipe.String()
}

func (p *phone) sourceID(t *testing.T) string {
	t.Helper()
	state, err := p.State(t.Context())
	require.NoError(t, err)
	return state.SourceID
}

// TestRestoreRecipe restores a backup as docs/operations.md says, under devices that have pushed and pulled since it was made.
func TestRestoreRecipe(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	major := int(s.number(t, "SELECT current_setting('server_version_num')::int / 10000"))
	dump, restore, file := pgtest.Program(t, "pg_dump", major), pgtest.Program(t, "pg_restore", major), filepath.Join(t.TempDir(), "dump")
	const insertUser = `INSERT INTO users (id, name) VALUES (?, ?)`
	writer, reader, still := s.phone(t, "ann"), s.phone(t, "ann"), s.phone(t, "ann")
	kept, changed, pending := newID(), newID(), newID()
	writer.write(t, insertUser, kept, "kept")
	writer.write(t, insertUser, changed, "as in the backup")
	syncAll(t, writer, reader, still)
	still.write(t, insertUser, newID(), "of a device that stands still")
	syncAll(t, still, writer, reader)
	raw := s.initialized(t, "bob", "raw")
	raw.push(1, manyUsers(1)...)
	before := s.contents(t, "ann")

	output, err := exec.CommandContext(t.Context(), dump, "--format=custom", "--no-owner", "--file="+file, s.database).CombinedOutput()
	require.NoError(t, err, string(output))
	for range 4 { // which are forgotten
		writer.write(t, insertUser, newID(), "after the backup")
		writer.write(t, `UPDATE users SET name = 'after the backup' WHERE id = ?`, changed)
		syncAll(t, writer)
	}
	syncAll(t, reader)
	reader.write(t, insertUser, pending, "in the outbox")
	ahead := raw.push(2, manyUsers(1)...)

	restored := pgtest.NewEmptyDatabase(t)
	output, err = exec.CommandContext(t.Context(), restore, "--exit-on-error", "--no-owner", "--dbname="+restored, file).CombinedOutput()
	require.NoError(t, err, string(output))
	require.NoError(t, s.stop())
	s.database = restored
	s.exec(t, restoreRecipe(t))
	s.up.Lock()
	require.NoError(t, s.start())
	s.up.Unlock()

	// Before the old devices come, others have used as many numbers as were forgotten, and more.
	late := s.phone(t, "ann")
	syncAll(t, late)
	require.Equal(t, before, late.contents(t))
	for range 8 {
		late.write(t, insertUser, newID(), "since the restore")
		syncAll(t, late)
	}
	require.Positive(t, s.number(t, "SELECT max(bundle_seq) / 1000000 FROM sync.bundle_log"))
	oldSources := []string{writer.sourceID(t), reader.sourceID(t)}
	syncAll(t, reader, still, writer, late, reader)
	syncAll(t, still, writer)
	s.requireConverged(t, late, reader, still, writer)
	require.Equal(t, int64(1), s.number(t, "SELECT count(*) FROM demo.users WHERE id = $1 AND name = 'in the outbox'", pending))
	require.Equal(t, int64(1), s.number(t, "SELECT count(*) FROM demo.users WHERE id = $1 AND name = 'as in the backup'", changed), "what came after the backup is gone everywhere")
	writer.write(t, `UPDATE users SET name = 'goes on' WHERE id = ?`, kept)
	still.write(t, `DELETE FROM users WHERE id = ?`, changed)
	syncAll(t, writer, still, reader, late, writer)
	s.requireConverged(t, late, reader, still, writer)
	require.NotEqual(t, oldSources[0], writer.sourceID(t), "its numbers were forgotten")
	require.Equal(t, oldSources[1], reader.sourceID(t), "it had pushed nothing")

	// The same by the protocol alone.
	raw.refused(http.MethodGet, "/sync/pull?after_bundle_seq=2", nil, 409, "history_pruned")
	raw.refused(http.MethodGet, "/sync/pull?after_bundle_seq=1", nil, 409, "history_pruned")
	raw.refused(http.MethodGet, "/sync/pull", nil, 409, "history_pruned")
	raw.refused(http.MethodPost, "/sync/push-sessions", object{"source_bundle_id": 3, "planned_row_count": 1}, 409, "source_sequence_out_of_order")
	raw.refused(http.MethodPost, "/sync/push-sessions", object{"source_bundle_id": 1, "planned_row_count": 1}, 409, "history_pruned")
	var rebuilt snapshot
	raw.ok(http.MethodPost, "/sync/snapshot-sessions", replacement("raw", "raw anew", "source_sequence_out_of_order"), &rebuilt)
	require.Equal(t, int64(1), rebuilt.RowCount)
	require.Len(t, raw.snapshotRows(rebuilt, 10), 1)
	require.Empty(t, raw.pull(rebuilt.Seq, 10))
	again := raw.as("raw anew").push(1, manyUsers(1)...)
	require.Equal(t, rebuilt.Seq+1, again.Seq)
	require.Greater(t, again.Seq, ahead.Seq+999_990)
	require.Len(t, raw.pull(rebuilt.Seq, 10), 1)
	s.run(t, "verify", "--all")
}

// standby makes a streaming standby of a server, and returns once it follows.
func standby(t *testing.T, primary *pgembed.Server, settings map[string]string) *pgembed.Server {
	t.Helper()
	backup := pgtest.Program(t, "pg_basebackup", primary.Version())
	of, err := url.Parse(primary.URL("postgres"))
	require.NoError(t, err)
	password, _ := of.User.Password()
	// The server may run as another user, who must be able to enter the folder.
	dir, err := os.MkdirTemp("", "oversync-standby-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	data := filepath.Join(dir, "data")
	info, err := os.Stat(filepath.Join(filepath.Dir(primary.LogFile()), "data"))
	require.NoError(t, err)
	owner := info.Sys().(*syscall.Stat_t)
	require.NoError(t, os.Chmod(dir, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "password"), []byte(password), 0o600))
	require.NoError(t, os.Mkdir(data, 0o700))
	output, err := exec.CommandContext(t.Context(), backup, "--dbname="+primary.URL("postgres"), "--pgdata="+data,
		"--wal-method=stream", "--checkpoint=fast", "--write-recovery-conf", "--no-sync").CombinedOutput()
	require.NoError(t, err, string(output))
	require.NoError(t, filepath.WalkDir(data, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(owner.Uid), int(owner.Gid))
	}))
	follower, err := pgembed.Start(t.Context(), pgembed.Config{Dir: dir, Settings: settings})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, follower.Stop(context.Background())) })
	return follower
}

// TestStandbyTakesOver lets a standby take over from a primary that devices use: what it had received is there, once, and devices
// that were told of more rebuild.
func TestStandbyTakesOver(t *testing.T) {
	t.Parallel()
	settings := pgembed.TestSettings()
	settings["wal_level"], settings["max_wal_senders"], settings["max_connections"], settings["shared_buffers"] = "replica", "4", "60", "32MB"
	settings["max_wal_size"] = "256MB"
	// What is acknowledged is flushed, so a standby that has all that is flushed has it.
	settings["synchronous_commit"], settings["wal_writer_delay"] = "on", "10s"
	primary, err := pgembed.Start(t.Context(), pgembed.Config{Temporary: true, Settings: settings})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, primary.Stop(context.Background())) })
	require.NoError(t, primary.CreateDatabase(t.Context(), "app"))
	(&server{database: primary.URL("app")}).run(t, "migrate", "up")
	follower := standby(t, primary, settings)
	s := startServerOn(t, primary.URL("app"))
	onFollower, err := pgx.Connect(t.Context(), follower.URL("app"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = onFollower.Close(context.Background()) })
	follows := func(lsn string) bool {
		var replayed bool
		require.NoError(t, onFollower.QueryRow(t.Context(), "SELECT coalesce(pg_last_wal_replay_lsn() >= $1::text::pg_lsn, false)", lsn).Scan(&replayed))
		return replayed
	}
	const logOf = `SELECT coalesce(string_agg(concat_ws(' ', u.user_id, l.bundle_seq, l.source_id, l.source_bundle_id, l.row_count, encode(l.bundle_hash, 'hex')), e'\n' ORDER BY u.user_id, l.bundle_seq), '')
		FROM sync.bundle_log l JOIN sync.user_state u USING (user_pk)`
	text := func(conn *pgx.Conn, sql string) (text string) {
		t.Helper()
		require.NoError(t, conn.QueryRow(t.Context(), sql).Scan(&text))
		return text
	}

	// What is received: bundles of two devices, one whose answer is lost, and one that is staged.
	a, b, far := s.phone(t, "ann"), s.phone(t, "ann"), s.phone(t, "ben")
	const insertUser = `INSERT INTO users (id, name) VALUES (?, ?)`
	for range 3 {
		a.write(t, insertUser, newID(), "of a")
		b.write(t, insertUser, newID(), "of b")
		far.write(t, insertUser, newID(), "of ben")
		syncAll(t, a, b, far)
	}
	unanswered := newID()
	b.write(t, insertUser, unanswered, "whose answer is lost")
	committed := false
	b.net.breaks(func(r *http.Request) fault {
		if committed {
			return cutBefore
		} else if committed = stepOf(r) == "commit"; committed {
			return cutAfter
		}
		return noFault
	})
	require.Error(t, b.Sync(t.Context()))
	b.net.breaks(nil)
	raw := s.initialized(t, "cy", "raw")
	raw.push(1, manyUsers(2)...)
	staged := raw.stage(2, 10, manyUsers(3))
	ahead := s.initialized(t, "di", "ahead")
	ahead.push(1, manyUsers(1)...)
	onPrimary := s.connect(t)
	received := text(onPrimary, logOf)
	lsn := text(onPrimary, "SELECT pg_current_wal_flush_lsn()::text")
	require.Eventually(t, func() bool { return follows(lsn) }, time.Minute, 5*time.Millisecond)

	// What is not: the link is cut, and devices are told of commits that the standby never sees.
	_, err = onFollower.Exec(t.Context(), "ALTER SYSTEM SET primary_conninfo = ''")
	require.NoError(t, err)
	_, err = onFollower.Exec(t.Context(), "SELECT pg_reload_conf()")
	require.NoError(t, err)
	require.Eventually(t, func() bool { return text(onFollower, "SELECT count(*)::text FROM pg_stat_wal_receiver") == "0" }, time.Minute, 5*time.Millisecond)
	lost := newID()
	far.write(t, insertUser, lost, "never received")
	syncAll(t, far)
	far.write(t, insertUser, newID(), "in the outbox")
	require.Equal(t, int64(2), ahead.push(2, manyUsers(1)...).Seq)

	require.NoError(t, s.stop())
	require.NoError(t, onPrimary.Close(t.Context()))
	require.NoError(t, primary.Stop(t.Context()))
	s.database = follower.URL("app")
	require.ErrorContains(t, s.start(), "standby")
	require.Equal(t, "true", text(onFollower, "SELECT pg_promote()::text"))
	s.up.Lock()
	require.NoError(t, s.start())
	s.up.Unlock()
	require.Equal(t, received, text(onFollower, logOf))

	sources := []string{a.sourceID(t), b.sourceID(t), far.sourceID(t)}
	a.write(t, `UPDATE users SET name = name || ' and on'`)
	syncAll(t, b, a, far, b)
	require.Equal(t, sources[:2], []string{a.sourceID(t), b.sourceID(t)}, "they go on as they are")
	require.NotEqual(t, sources[2], far.sourceID(t), "it was ahead")
	require.Equal(t, int64(1), s.number(t, "SELECT count(*) FROM sync.bundle_rows r WHERE sync.key_text(r.table_id, r.key_bytes) = $1 AND r.op = 'I'", unanswered))
	require.Zero(t, s.number(t, "SELECT count(*) FROM demo.users WHERE id = $1", lost))
	require.Equal(t, int64(1), s.number(t, "SELECT count(*) FROM demo.users WHERE name = 'in the outbox'"))
	s.requireConverged(t, a, b, far)
	raw.refused(http.MethodPost, "/sync/push-sessions/"+staged+"/commit", nil, 404, "push_session_not_found")
	require.Equal(t, int64(2), raw.push(2, manyUsers(3)...).Seq, "staging is no promise")
	// A client that is ahead is told so by each step, and its number is not taken for one to come.
	ahead.refused(http.MethodGet, "/sync/pull?after_bundle_seq=2", nil, 409, "history_pruned")
	ahead.refused(http.MethodGet, "/sync/pull?after_bundle_seq=1&target_bundle_seq=2", nil, 409, "history_pruned")
	ahead.refused(http.MethodGet, "/sync/committed-bundles/2/rows", nil, 404, "committed_bundle_not_found")
	ahead.refused(http.MethodPost, "/sync/push-sessions", object{"source_bundle_id": 3, "planned_row_count": 1}, 409, "source_sequence_out_of_order")
	var rebuilt snapshot
	ahead.ok(http.MethodPost, "/sync/snapshot-sessions", replacement("ahead", "ahead anew", "source_sequence_out_of_order"), &rebuilt)
	require.Equal(t, []int64{1, 1}, []int64{rebuilt.Seq, rebuilt.RowCount})
	require.Equal(t, int64(2), ahead.as("ahead anew").push(1, manyUsers(1)...).Seq)
	require.True(t, strings.HasPrefix(text(onFollower, logOf), received[:strings.IndexByte(received, '\n')]))
	s.run(t, "verify", "--all")
}
