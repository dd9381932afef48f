package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/oversync/oversync/db/pgembed"
	"github.com/oversync/oversync/migrations"
)

//go:embed schema.sql
var schemaSQL string

const jwtSecret = "a secret of the benchmark, and no other"

// settings are those of the benchmark's database: durable, as in production, and
// sized so that checkpoints do not fall into one measurement and miss the next.
var settings = map[string]string{
	"fsync":              "on",
	"synchronous_commit": "on",
	"full_page_writes":   "on",
	"shared_buffers":     "512MB",
	"max_wal_size":       "8GB",
	"checkpoint_timeout": "30min",
	"max_connections":    "200",
	"log_line_prefix":    "",
	"log_checkpoints":    "off",
}

// lab is the private PostgreSQL and the binary under test.
type lab struct {
	postgres *pgembed.Server
	binary   string
	folder   string // of the binary that was built; removed at the end
	sites    int
	users    int
}

// openLab builds the binary, unless one is given, and starts PostgreSQL.
func openLab(ctx context.Context, binary string, overrides []string) (_ *lab, err error) {
	l := &lab{binary: binary}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.close())
		}
	}()
	if l.binary == "" {
		if l.folder, err = os.MkdirTemp("", "oversync-bench-"); err != nil {
			return nil, err
		}
		l.binary = filepath.Join(l.folder, "oversync")
		build := exec.CommandContext(ctx, "go", "build", "-o", l.binary, "github.com/oversync/oversync/cmd/oversync") //nolint:gosec // a folder of our own
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			return nil, fmt.Errorf("build the binary: %w", err)
		}
	}
	chosen := maps.Clone(settings)
	for _, override := range overrides {
		name, value, _ := strings.Cut(override, "=")
		chosen[name] = value
	}
	l.postgres, err = pgembed.Start(ctx, pgembed.Config{
		Temporary: true, Settings: chosen,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	return l, err
}

func (l *lab) close() error {
	var err error
	if l.postgres != nil {
		ctx, cancel := context.WithTimeout(context.Background(), stopPatience)
		defer cancel()
		err = l.postgres.Stop(ctx)
	}
	if l.folder != "" {
		err = errors.Join(err, os.RemoveAll(l.folder))
	}
	return err
}

// site is one database with the schema, and a server on it.
type site struct {
	lab    *lab
	url    string // of the database
	pool   *pgxpool.Pool
	server *process
}

// poolConnections is enough for every worker of every floor.
const poolConnections = 40

// newSite makes a database of its own and starts a server on it.
func (l *lab) newSite(ctx context.Context) (_ *site, err error) {
	l.sites++
	name := "bench_" + strconv.Itoa(l.sites)
	if err := l.postgres.CreateDatabase(ctx, name); err != nil {
		return nil, err
	}
	s := &site{lab: l, url: l.postgres.URL(name)}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if _, err := migrations.Up(ctx, s.url); err != nil {
		return nil, err
	}
	config, err := pgxpool.ParseConfig(s.url)
	if err != nil {
		return nil, err
	}
	config.MaxConns = poolConnections
	if s.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return nil, err
	}
	if _, err := s.pool.Exec(ctx, schemaSQL); err != nil {
		return nil, fmt.Errorf("make and register the tables: %w", err)
	}
	s.server, err = s.startServer(ctx)
	return s, err
}

func (s *site) close() {
	if s.server != nil {
		s.server.stop()
	}
	if s.pool != nil {
		s.pool.Close()
	}
}

// startServer runs `oversync serve` on the site's database. Variables are added
// to the environment, which may hold settings too.
func (s *site) startServer(ctx context.Context, variables ...string) (*process, error) {
	command := exec.Command(s.lab.binary, "serve") //nolint:gosec // the binary under test
	command.Env = append(os.Environ(),
		"DATABASE_URL="+s.url,
		"OVERSYNC_LISTEN=127.0.0.1:0",
		"OVERSYNC_JWT_SECRET="+jwtSecret,
		"OVERSYNC_LOG_FORMAT=json",
	)
	command.Env = append(command.Env, variables...)
	return startProcess(ctx, command)
}

// restart gives the site a fresh server.
func (s *site) restart(ctx context.Context) error {
	s.server.stop()
	server, err := s.startServer(ctx)
	if err != nil {
		return err
	}
	s.server = server
	return nil
}

// newUser returns the id of a user that no scenario has used.
func (l *lab) newUser() string {
	l.users++
	return "user-" + strconv.Itoa(l.users)
}

func mintToken(user string) (string, error) {
	return jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"sub": user,
		"iat": time.Now().Unix(),
		"exp": time.Now().Add(24 * time.Hour).Unix(),
	}).SignedString([]byte(jwtSecret))
}

// count runs a query that gives one number.
func (s *site) count(ctx context.Context, query string, args ...any) (int64, error) {
	var n int64
	err := s.pool.QueryRow(ctx, query, args...).Scan(&n)
	return n, err
}
