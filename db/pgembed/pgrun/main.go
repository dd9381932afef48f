// Pgrun runs a command with a private PostgreSQL, so that all test processes of the command share
// one server:
//
//	go run ./db/pgembed/pgrun -- go test ./...
//
// The command finds the server's URL in TEST_DATABASE_URL. When TEST_DATABASE_URL or DATABASE_URL
// is set already, pgrun starts no server and just runs the command. The exit status is the
// command's.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/oversync/oversync/db/pgembed"
)

func main() {
	args := os.Args[1:]
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		fmt.Fprintln(os.Stderr, "usage: pgrun [--] command [argument ...]")
		os.Exit(2)
	}
	status, err := run(args)
	if err != nil {
		fmt.Fprintln(os.Stderr, "pgrun:", err)
		os.Exit(1)
	}
	os.Exit(status)
}

func run(args []string) (status int, err error) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if os.Getenv("TEST_DATABASE_URL") == "" && os.Getenv("DATABASE_URL") == "" {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		server, err := pgembed.Start(ctx, pgembed.Config{
			Temporary: true,
			Settings:  pgembed.TestSettings(),
			Logger:    slog.New(slog.NewTextHandler(os.Stderr, nil)),
		})
		if err != nil {
			return 1, err
		}
		defer func() {
			if stopErr := server.Stop(context.Background()); stopErr != nil {
				err = errors.Join(err, stopErr)
			}
		}()
		cmd.Env = append(os.Environ(), "TEST_DATABASE_URL="+server.URL("postgres"))
	}
	// Ctrl-C reaches the command too, since it is in our process group. Both signals must leave
	// us alive until the command has ended and the server is stopped.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case received := <-signals:
			if received != os.Interrupt {
				_ = cmd.Process.Signal(received) // an ended command needs none
			}
		case err := <-ended:
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				return max(exit.ExitCode(), 1), nil
			}
			return 0, err
		}
	}
}
