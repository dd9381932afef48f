package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/oversync/oversync/cmd/oversync/internal/demo"
)

// devSecret signs tokens where everybody may know the secret: on a server that
// only this machine can reach and that holds a demo. dev and demo share it, so
// that demo needs no token.
const devSecret = "oversync dev: a secret that everybody knows" //nolint:gosec // meant to be known

const demoUser = "demo"

type demoCmd struct {
	URL       string `name:"url" default:"http://127.0.0.1:8080" env:"OVERSYNC_URL" help:"Server to play against."`
	Token     string `env:"OVERSYNC_TOKEN" help:"Token of the user. Without it one is made with the secret."`
	User      string `default:"demo" help:"User id in the token."`
	JWTSecret string `name:"jwt-secret" env:"OVERSYNC_JWT_SECRET" help:"Secret of the server; without it, the one that dev uses."`
	JWTClaim  string `name:"jwt-claim" env:"OVERSYNC_JWT_CLAIM" default:"sub" help:"Claim that holds the user id."`
	Dir       string `type:"path" help:"Folder to keep the devices' SQLite files in. Without it they are removed at the end."`
}

// Validate refuses a token that no server would take, and what is no URL.
func (c *demoCmd) Validate() error {
	if u, err := url.Parse(c.URL); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("--url %q is no URL of a server: write it as http://127.0.0.1:8080", c.URL)
	}
	return errors.Join(checkUser(c.User), checkClaim(c.JWTClaim))
}

func (c *demoCmd) Run(ctx context.Context, a *app) error {
	token := c.Token
	if token == "" {
		secret := c.JWTSecret
		if secret == "" {
			secret = devSecret
		}
		var err error
		if token, _, err = mintToken(secret, c.JWTClaim, c.User, time.Hour); err != nil {
			return err
		}
	}
	err := demo.Run(ctx, demo.Config{ServerURL: c.URL, Token: token, UserID: c.User, Dir: c.Dir, Out: a.stdout})
	if _, ok := errors.AsType[*url.Error](err); ok && ctx.Err() == nil {
		return fmt.Errorf("%w\n  hint: Start a server with: %s dev; or name another with --url", err, a.program)
	}
	return err
}
