//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package pgembed

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// ownerDir makes the test program play the owner of a server: see TestMain.
const ownerDir = "PGEMBED_TEST_OWNER_DIR"

func TestMain(m *testing.M) {
	if dir, ok := os.LookupEnv(ownerDir); ok {
		if err := own(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	goleak.VerifyTestMain(m)
}

// own starts a server, says where, and waits to be killed.
func own(dir string) error {
	s, err := Start(context.Background(), Config{Dir: dir, Temporary: dir == ""})
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(os.Stdout, s.dir, s.process.cmd.Process.Pid); err != nil {
		return err
	}
	<-s.Done()
	return errors.New("the server ended before its owner")
}

// startOwner runs the test program as an owner. It returns the owner, the server's folder and the
// server's process id.
func startOwner(t *testing.T, dir string) (*exec.Cmd, string, int) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), ownerDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	folder, pidText, _ := strings.Cut(strings.TrimSpace(line), " ")
	pid, err := strconv.Atoi(pidText)
	require.NoError(t, err)
	return cmd, folder, pid
}

// newDir returns a folder that the server's user can enter when the tests run as root.
func newDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755))
	return filepath.Join(dir, "pg")
}

func start(t *testing.T, cfg Config) *Server {
	t.Helper()
	s, err := Start(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Stop(context.Background())) })
	return s
}

func execute(t *testing.T, s *Server, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.URL("postgres"))
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), sql)
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))
}

func requireGone(t *testing.T, pid int, dataDir string) {
	t.Helper()
	require.Eventually(t, func() bool { return !isPostmaster(t.Context(), pid, dataDir) }, 30*time.Second, 10*time.Millisecond)
}

func TestDataAndURLSurviveARestart(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	first, err := Start(t.Context(), Config{Dir: dir, Settings: map[string]string{"max_connections": "17"}})
	require.NoError(t, err)
	require.GreaterOrEqual(t, first.Version(), MinMajor)
	require.LessOrEqual(t, first.Version(), MaxMajor)
	require.NoError(t, first.CreateDatabase(t.Context(), "app"))
	require.NoError(t, first.CreateDatabase(t.Context(), "app"))
	execute(t, first, `CREATE TABLE public.seen AS SELECT current_setting('max_connections')::int AS n`)

	// An open connection does not delay the stop.
	idle, err := pgx.Connect(t.Context(), first.URL("app"))
	require.NoError(t, err)
	require.NoError(t, first.Stop(t.Context()))
	require.NoError(t, first.Stop(t.Context()))
	<-first.Done()
	require.Error(t, idle.Ping(t.Context()))
	_ = idle.Close(t.Context())

	second := start(t, Config{Dir: dir})
	require.Equal(t, first.URL("app"), second.URL("app"))
	execute(t, second, `DO $$ BEGIN ASSERT (SELECT n FROM public.seen) = 17; END $$`)
}

func TestOneFolderHasOneServer(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	var (
		wait    sync.WaitGroup
		mu      sync.Mutex
		servers []*Server
		refused []error
	)
	for range 4 {
		wait.Go(func() {
			s, err := Start(context.Background(), Config{Dir: dir})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				servers = append(servers, s)
			} else {
				refused = append(refused, err)
			}
		})
	}
	wait.Wait()
	require.Len(t, servers, 1)
	for _, err := range refused {
		require.ErrorIs(t, err, ErrInUse)
		require.ErrorContains(t, err, dir)
	}
	_, err := Start(t.Context(), Config{Dir: dir})
	require.ErrorContains(t, err, fmt.Sprintf("process %d ", os.Getpid()))
	require.NoError(t, servers[0].Stop(t.Context()))
}

func TestServerEndsWhenItsOwnerIsKilled(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	owner, _, pid := startOwner(t, dir)
	require.True(t, isPostmaster(t.Context(), pid, filepath.Join(dir, "data")))
	require.NoError(t, owner.Process.Kill())
	_ = owner.Wait()
	requireGone(t, pid, filepath.Join(dir, "data"))
	execute(t, start(t, Config{Dir: dir}), "SELECT 1")
}

func TestStartRightAfterItsOwnerIsKilled(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	for range 3 {
		owner, _, _ := startOwner(t, dir)
		require.NoError(t, owner.Process.Kill())
		_ = owner.Wait()
	}
	execute(t, start(t, Config{Dir: dir}), "SELECT 1")
}

func TestStartStopsAnOrphan(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	orphan, err := Start(t.Context(), Config{Dir: dir})
	require.NoError(t, err)
	execute(t, orphan, "CREATE TABLE public.kept AS SELECT 1 AS n")
	require.NoError(t, orphan.lock.Close()) // as if we had died and the kernel had not told the server

	heir := start(t, Config{Dir: dir})
	<-orphan.Done()
	execute(t, heir, "TABLE public.kept")
}

// A program that is about to start holds what this process has open, until it has started.
func TestALockIsFreeOnceItIsClosed(t *testing.T) {
	t.Parallel()
	dir, over := t.TempDir(), make(chan struct{})
	var programs sync.WaitGroup
	for range 4 {
		programs.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
					_ = exec.Command("true").Run()
				}
			}
		})
	}
	defer programs.Wait()
	defer close(over)
	for range 2000 {
		lock, err := lockFolder(t.Context(), dir)
		require.NoError(t, err)
		require.NoError(t, lock.Close())
	}
}

func TestStartAfterTheServerWasKilled(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	killed, err := Start(t.Context(), Config{Dir: dir})
	require.NoError(t, err)
	execute(t, killed, "CREATE TABLE public.kept AS SELECT 1 AS n")
	require.NoError(t, killed.process.cmd.Process.Kill())
	<-killed.Done()
	// The system may give the dead server's number to any other process, here to this one.
	pidFile := filepath.Join(dir, "data", "postmaster.pid")
	lines := postmasterLines(filepath.Join(dir, "data"))
	require.NotEmpty(t, lines)
	lines[0] = strconv.Itoa(os.Getpid())
	require.NoError(t, os.WriteFile(pidFile, []byte(strings.Join(lines, "\n")), 0o600))
	require.NoError(t, killed.Stop(t.Context()))

	execute(t, start(t, Config{Dir: dir}), "TABLE public.kept")
}

// TestStartWaitsForWhatAKilledServerLeft: its processes may outlive it for a moment, and a new server must not start beside them.
func TestStartWaitsForWhatAKilledServerLeft(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	killed, err := Start(t.Context(), Config{Dir: dir})
	require.NoError(t, err)
	conn, err := pgx.Connect(t.Context(), killed.URL("postgres"))
	require.NoError(t, err)
	var backend int
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT pg_backend_pid()").Scan(&backend))
	require.NoError(t, syscall.Kill(backend, syscall.SIGSTOP))
	letGo := func() { _ = syscall.Kill(backend, syscall.SIGCONT) } // it then sees that its server is gone, and ends
	t.Cleanup(letGo)
	require.NoError(t, killed.process.cmd.Process.Kill())
	<-killed.Done()
	require.NoError(t, killed.Stop(t.Context()))
	time.AfterFunc(500*time.Millisecond, letGo)

	execute(t, start(t, Config{Dir: dir}), "SELECT 1")
	require.Error(t, conn.Ping(t.Context()))
}

func TestInterruptedInitdbIsStartedOver(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	half := filepath.Join(dir, "init-1", "base")
	require.NoError(t, os.MkdirAll(half, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "password"), nil, 0o600))
	execute(t, start(t, Config{Dir: dir}), "SELECT 1")
	require.NoDirExists(t, half)
}

func TestTakenPortIsAvoided(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	taken, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, taken.Close()) }()
	port := taken.Addr().(*net.TCPAddr).Port
	require.NoError(t, os.MkdirAll(dir, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "port"), []byte(strconv.Itoa(port)), 0o600))
	s := start(t, Config{Dir: dir})
	require.NotEqual(t, port, s.port)
	execute(t, s, "SELECT 1")
}

func TestTemporaryServersLeaveNothing(t *testing.T) {
	t.Parallel()
	s, err := Start(t.Context(), Config{Temporary: true, Settings: TestSettings()})
	require.NoError(t, err)
	execute(t, s, "SELECT 1")
	require.NoError(t, s.Stop(t.Context()))
	require.NoDirExists(t, s.dir)

	owner, abandoned, pid := startOwner(t, "")
	require.NoError(t, owner.Process.Kill())
	_ = owner.Wait()
	start(t, Config{Temporary: true, Settings: TestSettings()})
	requireGone(t, pid, filepath.Join(abandoned, "data"))
	require.NoDirExists(t, abandoned)
}

func TestCancelledStartLeavesNoServer(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := newDir(t)
	_, err := Start(ctx, Config{Dir: dir})
	require.ErrorIs(t, err, context.Canceled)
	require.Zero(t, postmasterPid(filepath.Join(dir, "data")))
	execute(t, start(t, Config{Dir: dir}), "SELECT 1")
}

func TestBadSettingIsShown(t *testing.T) {
	t.Parallel()
	_, err := Start(t.Context(), Config{Dir: newDir(t), Settings: map[string]string{"no_such_setting": "1"}})
	require.ErrorContains(t, err, "no_such_setting")
}

func TestFolderOfSomethingElseIsRefused(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "data"), 0o755))
	_, err := Start(t.Context(), Config{Dir: dir})
	require.ErrorContains(t, err, "no cluster of PostgreSQL")
}
