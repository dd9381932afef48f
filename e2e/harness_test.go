package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/oversync/oversync/db/pgembed/pgtest"
	"github.com/oversync/oversync/httpapi/openapitest"
)

const (
	// jwtSecret signs the tokens of the tests.
	jwtSecret = "a secret that is only good enough for a test"

	// startPatience bounds the start of the binary. It is far beyond what a loaded machine needs.
	startPatience = time.Minute
)

// binary is the path of the program under test, built once.
var binary string

func TestMain(m *testing.M) {
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	// The property test starts processes and writes files: its default is sized for every run of the package. The
	// command line is parsed later and wins, for example -rapid.checks=1000 -rapid.steps=200.
	// CI takes the same histories each time, so that a change is judged by what it changed; new ones are for people to look for.
	defaults := map[string]string{"rapid.checks": "10", "rapid.steps": "50", "rapid.nofailfile": "true"}
	if os.Getenv("CI") != "" {
		defaults["rapid.seed"] = "7"
	}
	for name, value := range defaults {
		if err := flag.Set(name, value); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	dir, err := os.MkdirTemp("", "oversync-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary = filepath.Join(dir, "oversync")
	build := exec.Command("go", "build", "-o", binary, "./cmd/oversync")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the binary: %v\n%s", err, out)
		return 1
	}
	return pgtest.Run(m)
}

// server is a running `oversync serve` on a database of its own.
type server struct {
	database string
	env      []string

	up      sync.RWMutex // write-locked while the process is replaced
	process *exec.Cmd
	ended   chan error // receives the process's end once
	url     string     // changes with each start

	logs      lockedBuffer
	transport *http.Transport
	checked   http.RoundTripper // transport, held to the OpenAPI document
}

// startServer serves a new database with the demo schema registered. Settings are environment variables, NAME=value.
// The server is stopped when the test ends, and must then stop without an error.
func startServer(t *testing.T, settings ...string) *server {
	t.Helper()
	return startServerOn(t, pgtest.NewDatabase(t), settings...)
}

// startServerOn is startServer on a migrated database.
func startServerOn(t *testing.T, database string, settings ...string) *server {
	t.Helper()
	s := &server{database: database, env: settings, transport: newTransport()}
	s.checked = openapitest.Wrap(t, s.transport)
	schema, err := os.ReadFile("../cmd/oversync/internal/demo/schema.sql")
	require.NoError(t, err)
	s.exec(t, string(schema))
	s.run(t, append([]string{"table", "register"}, demoTables...)...)
	require.NoError(t, s.start())
	t.Cleanup(func() {
		s.transport.CloseIdleConnections()
		if err := s.stop(); err != nil {
			t.Errorf("the server did not stop as asked: %v", err)
		}
		if t.Failed() {
			t.Logf("log of the server:\n%s", s.logs.tail(8000))
		}
	})
	return s
}

// environment is that of the process under test, without settings of the developer's shell.
func (s *server) environment() []string {
	var env []string
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "OVERSYNC_") && !strings.HasPrefix(variable, "PG") {
			env = append(env, variable)
		}
	}
	env = append(env, "DATABASE_URL="+s.database, "OVERSYNC_LISTEN=127.0.0.1:0", "OVERSYNC_JWT_SECRET="+jwtSecret)
	return append(env, s.env...)
}

// run runs another command of the binary on the server's database and returns what it prints.
func (s *server) run(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary, args...)
	cmd.Env = s.environment()
	var failure bytes.Buffer
	cmd.Stderr = &failure
	out, err := cmd.Output()
	require.NoError(t, err, "%s: %s", strings.Join(args, " "), failure.String())
	return string(out)
}

// start runs the process and returns once it listens.
func (s *server) start() error {
	cmd := exec.Command(binary, "serve")
	cmd.Env = s.environment()
	output, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	listening, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		lines := bufio.NewScanner(output)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var line struct{ Msg, Addr string }
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "listening" {
				listening <- line.Addr
				continue
			}
			s.logs.writeLine(lines.Bytes())
		}
		ended <- errors.Join(lines.Err(), cmd.Wait())
	}()
	select {
	case address := <-listening:
		s.process, s.ended, s.url = cmd, ended, "http://"+address
		return nil
	case err := <-ended:
		return fmt.Errorf("oversync serve ended at once: %w\n%s", err, s.logs.tail(2000))
	case <-time.After(startPatience):
		return errors.Join(errors.New("oversync serve does not listen"), cmd.Process.Kill(), <-ended)
	}
}

// stop asks the process to end as an operator does.
func (s *server) stop() error {
	s.up.Lock()
	defer s.up.Unlock()
	if s.process == nil { // a start has failed
		return nil
	}
	process := s.process
	s.process = nil
	if err := process.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return <-s.ended
}

// killAndRestart ends the process without a chance to clean up, and starts another on the same database.
// Requests made meanwhile wait for it.
func (s *server) killAndRestart() error {
	s.up.Lock()
	defer s.up.Unlock()
	if err := s.process.Process.Kill(); err != nil {
		return err
	}
	<-s.ended //nolint:errcheck // it reports the signal
	s.process = nil
	return s.start()
}

// baseURL is where the server listens now.
func (s *server) baseURL() string {
	s.up.RLock()
	defer s.up.RUnlock()
	return s.url
}

// connect opens a connection to the server's database. It is closed when the test ends.
func (s *server) connect(t testing.TB) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.database)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// exec runs SQL statements on the server's database.
func (s *server) exec(t testing.TB, statements string) {
	t.Helper()
	conn := s.connect(t)
	_, err := conn.Exec(t.Context(), statements)
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))
}

// number runs a query that gives one number.
func (s *server) number(t testing.TB, query string, args ...any) int64 {
	t.Helper()
	conn := s.connect(t)
	var n int64
	require.NoError(t, conn.QueryRow(t.Context(), query, args...).Scan(&n))
	require.NoError(t, conn.Close(t.Context()))
	return n
}

// mintToken makes a token for a user.
func mintToken(t clientT, user string) string {
	t.Helper()
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": user, "exp": time.Now().Add(time.Hour).Unix()}).
		SignedString([]byte(jwtSecret))
	require.NoError(t, err)
	return token
}

// lockedBuffer keeps the log of a process.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) writeLine(line []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text.Write(line)
	b.text.WriteByte('\n')
}

// tail returns the last n bytes.
func (b *lockedBuffer) tail(n int) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := b.text.String()
	return all[max(0, len(all)-n):]
}

// readAll reads a body to its end and closes it.
func readAll(body io.ReadCloser) ([]byte, error) {
	text, err := io.ReadAll(body)
	return text, errors.Join(err, body.Close())
}
