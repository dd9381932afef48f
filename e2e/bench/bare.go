package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// bareScenarios measure pushes of one row to a server that does nothing else: what
// three requests and a statement for each leave of floor A. No server that is
// written in Go and asked so can reach more.
var bareScenarios = []scenario{
	{
		name: "bare-push-32-users", what: "three requests, two empty statements and the plain INSERT, 32 at once", unit: "pushes/s", target: atLeast(1. / 10),
		setup: func(ctx context.Context, b *bench) (round, error) { return barePushRate(ctx, b, 32) },
	},
	{
		name: "bare-push-1-user", what: "the same, one at a time", unit: "pushes/s", target: atLeast(1. / 6),
		setup: func(ctx context.Context, b *bench) (round, error) { return barePushRate(ctx, b, 1) },
	},
}

func barePushRate(ctx context.Context, b *bench, users int) (round, error) {
	writers, err := b.site.newPlainWriters(ctx, users)
	if err != nil {
		return nil, err
	}
	floor, err := b.site.floorA(ctx, users, b.size.window)
	if err != nil {
		return nil, err
	}
	server, err := startBareServer(ctx, b.site.url)
	if err != nil {
		return nil, err
	}
	b.atEnd(server.stop)
	address, err := url.Parse(server.url)
	if err != nil {
		return nil, err
	}
	devices := make([]*device, users)
	for i, w := range writers {
		devices[i] = &device{server: address, user: w.scope, maker: w.maker}
	}
	return against(func(ctx context.Context) (float64, error) {
		return perSecond(ctx, users, b.size.window, func(ctx context.Context, worker int) (int, error) {
			d := devices[worker]
			for range 2 {
				if err := d.call(ctx, http.MethodPost, "/nothing", []byte("{}")); err != nil {
					return 0, err
				}
			}
			return 1, d.call(ctx, http.MethodPost, "/insert?scope="+d.user, []byte(d.maker.jsonArray(1)))
		})
	}, floor), nil
}

// bareServerArgument makes this program that server. The database's URL follows it.
const bareServerArgument = "bare-server"

func startBareServer(ctx context.Context, databaseURL string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return startProcess(ctx, exec.Command(self, bareServerArgument, databaseURL)) //nolint:gosec // this very program
}

// serveBare runs until it is stopped. It has as many connections to the database
// as the real server.
func serveBare(databaseURL string) error {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, databaseURL+"&pool_max_conns=16")
	if err != nil {
		return err
	}
	defer pool.Close()
	run := func(w http.ResponseWriter, r *http.Request, statement string, arguments ...any) {
		tag, err := pool.Exec(r.Context(), statement, arguments...)
		if err == nil && tag.RowsAffected() != 1 {
			err = fmt.Errorf("%d rows, not 1", tag.RowsAffected())
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	}
	routes := http.NewServeMux()
	routes.HandleFunc("POST /nothing", func(w http.ResponseWriter, r *http.Request) { run(w, r, "SELECT 1") })
	routes.HandleFunc("POST /insert", func(w http.ResponseWriter, r *http.Request) {
		var row strings.Builder
		if _, err := io.Copy(&row, r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		run(w, r, insertMany, r.URL.Query().Get("scope"), row.String())
	})
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, `{"url":"http://%s"}`+"\n", listener.Addr())
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: routes}
	return server.Serve(listener)
}
