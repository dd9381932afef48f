package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/oversync/oversync/httpapi"
	"github.com/oversync/oversync/migrations"
	oversync "github.com/oversync/oversync/sync"
)

// Timeouts of a connection. The body's is long because a phone on a bad line may
// push a large chunk; the answer's is per write, see httpapi.
const (
	readHeaderTimeout = 10 * time.Second
	readTimeout       = 5 * time.Minute
	idleTimeout       = 2 * time.Minute
)

// gcPercent is how much the heap grows before garbage is collected, unless GOGC
// says it. The heap of a server is a few MiB, so at Go's 100 it would be collected
// hundreds of times a second: idle pulls take 10 % less at 200, for some MiB.
const gcPercent = 200

// sendBufferBytes is what may wait in the kernel for one client. The kernel lets a
// buffer grow to some MiB, and then takes no more until a third of it is gone: a
// client that reads 40 KB/s would seem to take nothing for longer than the write
// timeout. With this much the least is about 5 KB/s, and one connection still carries
// some MB/s to the other side of the world.
const sendBufferBytes = 256 << 10

// weakSecretBytes is the length below which a secret is weaker than HMAC SHA-256.
const weakSecretBytes = 32

// errStandby refuses to serve where every operation would fail: all of them write.
var errStandby = errors.New("the database is a standby, which takes no writes")

// serverFlags are the settings of the HTTP side, shared by serve and dev.
type serverFlags struct {
	Listen          string        `group:"server" default:"127.0.0.1:8080" env:"OVERSYNC_LISTEN" help:"Address to listen on; port 0 takes a free one."`
	JWTSecret       string        `name:"jwt-secret" group:"server" env:"OVERSYNC_JWT_SECRET" help:"Secret that signs the users' tokens (HS256), of 32 bytes or more, as openssl rand -hex 32 makes it."`
	JWTClaim        string        `name:"jwt-claim" group:"server" env:"OVERSYNC_JWT_CLAIM" default:"sub" help:"Claim of the token that holds the user id, which is the scope; a team's claim makes a team share its rows."`
	MaxBodyBytes    int64         `group:"server" positive:"" default:"67108864" env:"OVERSYNC_MAX_BODY_BYTES" help:"Largest request body, in bytes."`
	RatePerUser     float64       `group:"server" default:"0" env:"OVERSYNC_RATE_PER_USER" help:"Requests a second that each user may send; 0 is no limit."`
	PoolSize        int32         `group:"server" default:"0" env:"OVERSYNC_POOL_SIZE" help:"Most connections to the database; 0 is four for each processor, at least 16."`
	ShutdownTimeout time.Duration `group:"server" default:"15s" env:"OVERSYNC_SHUTDOWN_TIMEOUT" help:"Time that running requests get to finish at shutdown."`
}

// Validate refuses what could only fail, or open another door than the one meant,
// once the server runs.
func (f serverFlags) Validate() error {
	_, port, err := net.SplitHostPort(f.Listen)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil || port == "" {
		return fmt.Errorf("--listen %q is no address: write host:port, as 127.0.0.1:8080", f.Listen)
	}
	return checkClaim(f.JWTClaim)
}

type serveCmd struct {
	databaseFlags
	serverFlags
	serviceFlags
}

func (c *serveCmd) Run(ctx context.Context, a *app) error {
	if c.JWTSecret == "" {
		return errNoSecret
	}
	if len(c.JWTSecret) < weakSecretBytes {
		a.logger.Warn("the JWT secret is short; make a longer one with: openssl rand -hex 32", "bytes", len(c.JWTSecret))
	}
	url, err := c.url()
	if err != nil {
		return err
	}
	pool, err := openPool(ctx, url, c.AppName, c.PoolSize)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := migrations.Check(ctx, pool); err != nil {
		return err
	}
	standby, err := queries.ServerInRecovery(ctx, pool)
	if err != nil {
		return err
	}
	if standby {
		return errStandby
	}
	return serve(ctx, a.logger, pool, c.serverFlags, c.serviceFlags, func(string) {})
}

// serve runs the service on a migrated database until ctx ends, and then shuts it
// down. ready is called with the server's URL once it accepts connections.
func serve(ctx context.Context, logger *slog.Logger, pool *pgxpool.Pool, server serverFlags, settings serviceFlags, ready func(url string)) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	auth, err := httpapi.NewHS256(httpapi.HS256Config{Secret: []byte(server.JWTSecret), UserClaim: server.JWTClaim})
	if err != nil {
		return err
	}
	service, err := oversync.NewRuntimeService(pool, settings.config(), logger)
	if err != nil {
		return err
	}
	if err := service.Bootstrap(ctx); err != nil {
		return errors.Join(err, service.Close(context.WithoutCancel(ctx)))
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", server.Listen)
	if err != nil {
		return errors.Join(fmt.Errorf("listen on %s (OVERSYNC_LISTEN chooses another address): %w", server.Listen, err), service.Close(context.WithoutCancel(ctx)))
	}

	// Requests outlive the signal: they are cancelled only when the drain's time
	// is up.
	requests, cancelRequests := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelRequests()
	httpServer := &http.Server{
		Handler: httpapi.NewRouter(httpapi.RouterConfig{
			Service: service, Authenticator: auth, Logger: logger, MaxBodyBytes: server.MaxBodyBytes, RateLimit: httpapi.RateLimit{PerSecond: server.RatePerUser},
		}),
		ConnContext:       boundSendBuffer,
		BaseContext:       func(net.Listener) context.Context { return requests },
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      httpapi.DefaultWriteStallTimeout,
		IdleTimeout:       idleTimeout,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
	served := make(chan error, 1)
	go func() { served <- httpServer.Serve(listener) }()
	address := listener.Addr().String()
	logger.Info("listening", "addr", address, "url", "http://"+address)
	ready("http://" + address)

	select {
	case err := <-served: // it never ends by itself without a reason
		return errors.Join(err, shutDown(logger, httpServer, service, cancelRequests, server.ShutdownTimeout))
	case <-ctx.Done():
		logger.Info("shutting down", "timeout", server.ShutdownTimeout.String())
		return shutDown(logger, httpServer, service, cancelRequests, server.ShutdownTimeout)
	}
}

// boundSendBuffer sets sendBufferBytes on a connection that was accepted.
func boundSendBuffer(ctx context.Context, conn net.Conn) context.Context {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetWriteBuffer(sendBufferBytes) // it works without, for clients that read faster
	}
	return ctx
}

// shutDown accepts no more connections, lets the running requests finish while
// new ones on open connections get 503, and cancels what is left when the time is
// up. Requests that had to be cancelled are no failure: their clients try again.
func shutDown(logger *slog.Logger, server *http.Server, service *oversync.SyncService, cancelRequests context.CancelFunc, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	drained := make(chan error, 1)
	go func() { drained <- server.Shutdown(ctx) }()
	err := errors.Join(service.Close(ctx), <-drained)
	cancelRequests()
	if errors.Is(err, context.DeadlineExceeded) {
		logger.Warn("requests were cancelled because the time to finish was up", "timeout", timeout.String())
		err = nil
	}
	err = errors.Join(err, server.Close())
	logger.Info("stopped")
	return err
}
