package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// errNoSecret is what commands say that cannot work without the secret.
var errNoSecret = errors.New("no secret to sign tokens with: set OVERSYNC_JWT_SECRET, for example to the output of: openssl rand -hex 32")

type tokenCmd struct {
	JWTSecret string        `name:"jwt-secret" env:"OVERSYNC_JWT_SECRET" help:"Secret that the server checks tokens with."`
	JWTClaim  string        `name:"jwt-claim" env:"OVERSYNC_JWT_CLAIM" default:"sub" help:"Claim that holds the user id."`
	User      string        `required:"" help:"User id: the scope whose rows the token opens."`
	TTL       time.Duration `name:"ttl" default:"24h" help:"How long the token is valid."`
}

func (c *tokenCmd) Run(a *app) error {
	if c.JWTSecret == "" {
		return errNoSecret
	}
	if c.TTL <= 0 {
		return errors.New("--ttl must be above 0")
	}
	token, expires, err := mintToken(c.JWTSecret, c.JWTClaim, c.User, c.TTL)
	if err != nil {
		return err
	}
	out := struct {
		Token     string    `json:"token"`
		User      string    `json:"user_id"`
		ExpiresAt time.Time `json:"expires_at"`
	}{token, c.User, expires}
	return a.print(out, func(w io.Writer) { row(w, token) })
}

func mintToken(secret, claim, user string, ttl time.Duration) (token string, expires time.Time, err error) {
	now := time.Now().UTC().Truncate(time.Second)
	expires = now.Add(ttl)
	token, err = jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		claim: user,
		"iat": now.Unix(),
		"exp": expires.Unix(),
	}).SignedString([]byte(secret))
	if err != nil {
		return "", time.Time{}, fmt.Errorf("sign the token: %w", err)
	}
	return token, expires, nil
}
