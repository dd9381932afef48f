// Package pgembed runs a private PostgreSQL server for `oversync dev` and for tests.
//
// A server belongs to the process that started it and to one folder:
//
//	folder/lock          held by flock for the life of the owner; holds its process id
//	folder/data          the cluster
//	folder/password      the superuser's password, made at the first start
//	folder/port          the port of the last run, tried first so that URLs stay valid
//	folder/postgres.log  what the server printed since the last start
//
// The server listens on 127.0.0.1 only. It picks the port by trying to bind it, so two servers
// that start at once cannot be given the same one.
//
// # Nothing is left behind
//
// On Linux the kernel asks the server to shut down when the owner dies, however it dies. On other
// systems a small watcher does so. Should both fail, the next Start on the folder finds the lock
// free and a server still running, and stops that server first. An interrupted initdb leaves no
// half-made cluster: the cluster is built aside and renamed.
//
// # Root
//
// PostgreSQL refuses to run as root. When the process is root, the server runs as the owner of the
// cluster, for a new one the user postgres, or nobody where that user does not exist. The folder must
// then be reachable for that user.
package pgembed

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// User is the superuser of every private cluster.
	User = "oversync"

	// MinMajor and MaxMajor bound the supported major versions of PostgreSQL.
	MinMajor = 15
	MaxMajor = 18

	// portAttempts bounds the search for a free port. Each failure means that another process
	// bound the port between our look and the server's bind, which is rare even once.
	portAttempts = 10

	// stopPatience is how long a shutdown mode may take before the next harsher one is used.
	stopPatience = 10 * time.Second

	// leftoverPause is how often the leftovers of a killed server are looked for.
	leftoverPause = 50 * time.Millisecond
)

// ErrInUse reports that another live process runs a server in the same folder.
var ErrInUse = errors.New("pgembed: folder is in use")

// Config says where and how to run a private server. The zero value is a durable server in the
// user's cache folder.
type Config struct {
	// Dir is the folder of the server. It is created when absent. Empty means the folder "dev"
	// in the cache folder of the user. It is ignored when Temporary is set.
	Dir string

	// Logger receives what the package does. Nil discards it.
	Logger *slog.Logger

	// Settings override postgresql.conf, name by name. The address, the port and the sockets
	// are the package's own and cannot be overridden.
	Settings map[string]string

	// Temporary gives the server a new folder of its own that Stop removes. The folder of an
	// owner that was killed is removed by a later temporary start.
	Temporary bool
}

// Server is a running private server.
type Server struct {
	dir       string
	password  string
	port      int
	binaries  binaries
	temporary bool
	lock      *os.File
	process   *process
	log       *slog.Logger

	stopOnce sync.Once
	stopErr  error
}

// Start runs a server and returns once it accepts connections. ctx bounds the start only; the
// server then lives until Stop or until the process ends.
//
// It returns an error wrapping ErrInUse when another process runs a server in the same folder, and
// one that names what was found when no supported PostgreSQL is installed.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	if err := supported(); err != nil {
		return nil, err
	}
	s := &Server{temporary: cfg.Temporary, log: cfg.Logger}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := s.openFolder(ctx, cfg.Dir); err != nil {
		return nil, err
	}
	if err := s.start(ctx, cfg.Settings); err != nil {
		return nil, errors.Join(err, s.release())
	}
	return s, nil
}

// openFolder finds or makes the folder and locks it.
func (s *Server) openFolder(ctx context.Context, dir string) error {
	var err error
	if s.temporary {
		s.dir, s.lock, err = makeTemporary(ctx, s.log)
		return err
	}
	if dir == "" {
		base, err := cacheFolder()
		if err != nil {
			return err
		}
		dir = filepath.Join(base, "dev")
	}
	if s.dir, err = filepath.Abs(dir); err != nil {
		return fmt.Errorf("pgembed: %w", err)
	}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return fmt.Errorf("pgembed: make the folder of the server: %w", err)
	}
	s.lock, err = lockFolder(ctx, s.dir)
	return err
}

func (s *Server) start(ctx context.Context, settings map[string]string) error {
	cluster, err := existingMajor(s.dataDir())
	if err != nil {
		return err
	}
	if s.binaries, err = findBinaries(ctx, cluster, s.log); err != nil {
		return err
	}
	if err := stopOrphan(ctx, s.dataDir(), s.log); err != nil {
		return err
	}
	if s.password, err = s.loadPassword(); err != nil {
		return err
	}
	if cluster == 0 {
		if err := s.initCluster(ctx); err != nil {
			return err
		}
	}
	if err := s.listen(ctx, settings); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		err = fmt.Errorf("pgembed: the server in %s runs but refuses us; remove the folder to start over: %w", s.dir, err)
		return errors.Join(err, s.process.stop(ctx, stopImmediate))
	}
	_ = conn.Close(ctx)
	s.log.Info("private PostgreSQL runs", "version", s.binaries.version, "port", s.port, "dir", s.dir)
	return nil
}

// initCluster builds the cluster aside and renames it, so that an interrupted initdb is never
// mistaken for a cluster.
func (s *Server) initCluster(ctx context.Context) error {
	leftovers, err := filepath.Glob(filepath.Join(s.dir, "init-*"))
	if err != nil {
		return fmt.Errorf("pgembed: %w", err)
	}
	for _, leftover := range leftovers {
		if err := os.RemoveAll(leftover); err != nil {
			return fmt.Errorf("pgembed: remove an interrupted initdb: %w", err)
		}
	}
	aside, err := os.MkdirTemp(s.dir, "init-")
	if err != nil {
		return fmt.Errorf("pgembed: %w", err)
	}
	owner, err := newOwner()
	if err != nil {
		return err
	}
	if err := owner.chown(aside, s.passwordFile()); err != nil {
		return err
	}
	s.log.Info("creating a PostgreSQL cluster", "version", s.binaries.version, "dir", s.dir)
	out, err := runAs(ctx, owner, aside, s.binaries.path("initdb"),
		"--pgdata="+aside, "--username="+User, "--pwfile="+s.passwordFile(), "--auth=scram-sha-256",
		// The C locale is the only one that exists everywhere.
		"--encoding=UTF8", "--locale=C", "--no-sync")
	if err != nil {
		return fmt.Errorf("pgembed: create a cluster in %s as %s: %w%s", s.dir, owner, err, quote(string(out)))
	}
	if err := os.Rename(aside, s.dataDir()); err != nil {
		return fmt.Errorf("pgembed: %w", err)
	}
	return nil
}

// listen starts the server on the first port that it can bind.
func (s *Server) listen(ctx context.Context, settings map[string]string) error {
	owner, err := ownerOf(s.dataDir())
	if err != nil {
		return err
	}
	begun := time.Now()
	for attempt := 0; attempt < portAttempts; {
		s.port = s.lastPort()
		if attempt > 0 || s.port == 0 {
			if s.port, err = freePort(ctx); err != nil {
				return err
			}
		}
		s.process, err = startProcess(owner, s.binaries.path("postgres"), s.dataDir(), s.LogFile(), s.arguments(settings))
		if err != nil {
			return fmt.Errorf("pgembed: run %s as %s: %w", s.binaries.path("postgres"), owner, err)
		}
		if err := s.process.waitReady(ctx, s.dataDir()); err == nil {
			return s.rememberPort()
		} else if ctx.Err() != nil {
			return errors.Join(fmt.Errorf("pgembed: the server in %s did not start in time: %w", s.dir, err),
				s.process.stop(context.WithoutCancel(ctx), stopImmediate))
		}
		switch printed := tail(s.LogFile()); {
		case strings.Contains(printed, "could not bind"):
			attempt++
		case strings.Contains(printed, "pre-existing shared memory block") && time.Since(begun) < stopPatience:
			// Processes of a server that was killed end a moment after it.
			select {
			case <-time.After(leftoverPause):
			case <-ctx.Done():
			}
		default:
			return fmt.Errorf("pgembed: the server in %s did not start%s", s.dir, quote(printed))
		}
	}
	return fmt.Errorf("pgembed: no free port on 127.0.0.1 after %d attempts", portAttempts)
}

// arguments are the server's command line; the last setting of a name wins there.
func (s *Server) arguments(settings map[string]string) []string {
	args := []string{"-D", s.dataDir()}
	add := func(name, value string) { args = append(args, "-c", name+"="+value) }
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		add(name, settings[name])
	}
	add("listen_addresses", "127.0.0.1")
	add("port", strconv.Itoa(s.port))
	add("unix_socket_directories", "")
	return args
}

// URL returns the connection URL of a database of the server, as the superuser. It does not create
// the database.
func (s *Server) URL(database string) string {
	u := url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(User, s.password),
		Host:     net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)),
		Path:     "/" + database,
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

// CreateDatabase makes sure that a database exists.
func (s *Server) CreateDatabase(ctx context.Context, database string) error {
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return fmt.Errorf("pgembed: %w", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	var exists bool
	if err := conn.QueryRow(ctx, "SELECT true FROM pg_catalog.pg_database WHERE datname = $1", database).Scan(&exists); err == nil {
		return nil
	} else if !errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("pgembed: %w", err)
	}
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{database}.Sanitize()); err != nil {
		return fmt.Errorf("pgembed: create database %s: %w", database, err)
	}
	return nil
}

// Done is closed when the server has ended, whether asked to or not.
func (s *Server) Done() <-chan struct{} { return s.process.done }

// LogFile returns the path of the file with the server's output since it started.
func (s *Server) LogFile() string { return filepath.Join(s.dir, "postgres.log") }

// Version returns the server's major version.
func (s *Server) Version() int { return s.binaries.major }

// Stop shuts the server down, open connections included, and waits for its end. A temporary server
// loses its folder. When ctx ends first, the server is killed and recovers at its next start.
// Further calls return what the first one returned.
func (s *Server) Stop(ctx context.Context) error {
	s.stopOnce.Do(func() {
		how := stopFast
		if s.temporary {
			how = stopImmediate // a checkpoint of data that is about to be removed is wasted
		}
		s.stopErr = errors.Join(s.process.stop(ctx, how), s.release())
	})
	return s.stopErr
}

// release gives the folder up.
func (s *Server) release() error {
	if s.temporary {
		return errors.Join(removeTemporary(s.dir), s.lock.Close())
	}
	return s.lock.Close()
}

func (s *Server) dataDir() string      { return filepath.Join(s.dir, "data") }
func (s *Server) passwordFile() string { return filepath.Join(s.dir, "password") }
func (s *Server) portFile() string     { return filepath.Join(s.dir, "port") }

// loadPassword reads the superuser's password, or makes it.
func (s *Server) loadPassword() (string, error) {
	text, err := os.ReadFile(s.passwordFile())
	if err == nil && len(text) > 0 {
		return string(text), nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("pgembed: read the password: %w", err)
	}
	password := rand.Text()
	if err := os.WriteFile(s.passwordFile(), []byte(password), 0o600); err != nil {
		return "", fmt.Errorf("pgembed: keep the password: %w", err)
	}
	return password, nil
}

// lastPort returns the port of the last run, or 0. A file that does not parse is as good as none.
func (s *Server) lastPort() int {
	text, err := os.ReadFile(s.portFile())
	if err != nil {
		return 0
	}
	port, err := strconv.ParseUint(string(text), 10, 16)
	if err != nil {
		return 0
	}
	return int(port)
}

func (s *Server) rememberPort() error {
	if err := os.WriteFile(s.portFile(), []byte(strconv.Itoa(s.port)), 0o600); err != nil {
		return errors.Join(fmt.Errorf("pgembed: keep the port: %w", err), s.process.stop(context.Background(), stopImmediate))
	}
	return nil
}

// freePort asks the system for a port that is free at this moment.
func freePort(ctx context.Context) (int, error) {
	var listen net.ListenConfig
	listener, err := listen.Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("pgembed: find a free port: %w", err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	if err := listener.Close(); err != nil {
		return 0, fmt.Errorf("pgembed: find a free port: %w", err)
	}
	return port, nil
}

// TestSettings returns the settings for a server whose data need not survive a crash: the fastest
// that keep PostgreSQL's behaviour, with room for many test processes at once.
func TestSettings() map[string]string {
	return map[string]string{
		"autovacuum_naptime": "1min",
		"checkpoint_timeout": "1h",
		"fsync":              "off",
		"full_page_writes":   "off",
		"jit":                "off",
		"log_checkpoints":    "off",
		"max_connections":    "300",
		// Some tests prepare transactions.
		"max_prepared_transactions": "20",
		"max_wal_senders":           "0",
		"max_wal_size":              "8GB",
		"shared_buffers":            "256MB",
		"synchronous_commit":        "off",
		"wal_level":                 "minimal",
		"wal_init_zero":             "off",
		"wal_recycle":               "off",
	}
}

// tail returns the last lines of a file.
func tail(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return lastLines(string(text))
}

func lastLines(text string) string {
	const most = 20
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-most):], "\n")
}

// quote sets a program's output off from the message before it.
func quote(output string) string {
	output = strings.TrimSpace(output)
	if output == "" {
		return ""
	}
	return ":\n\t" + strings.ReplaceAll(output, "\n", "\n\t")
}
