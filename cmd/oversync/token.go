package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"
)

// errNoSecret is what commands say that cannot work without the secret.
var errNoSecret = errors.New("no secret to sign tokens with: set OVERSYNC_JWT_SECRET, for example to the output of: openssl rand -hex 32")

// maxUserBytes bounds a user id. The server has the same bound.
const maxUserBytes = 255

type tokenCmd struct {
	JWTSecret string        `name:"jwt-secret" env:"OVERSYNC_JWT_SECRET" help:"Secret that the server checks tokens with."`
	JWTClaim  string        `name:"jwt-claim" env:"OVERSYNC_JWT_CLAIM" default:"sub" help:"Claim that holds the user id."`
	User      string        `required:"" help:"User id: the scope whose rows the token opens."`
	TTL       time.Duration `name:"ttl" positive:"" default:"24h" help:"How long the token is valid."`
}

// Validate refuses a token that no server would take.
func (c *tokenCmd) Validate() error {
	return errors.Join(checkUser(c.User), checkClaim(c.JWTClaim))
}

// checkUser has the rules of the server for an id.
func checkUser(id string) error {
	if trimmed := strings.TrimSpace(id); trimmed == "" || len(trimmed) > maxUserBytes || !utf8.ValidString(id) || strings.ContainsFunc(trimmed, unicode.IsControl) {
		return fmt.Errorf("--user must be a user id: 1 to %d bytes of UTF-8 without control characters", maxUserBytes)
	}
	return nil
}

// checkClaim refuses claims that hold something else.
func checkClaim(name string) error {
	switch name {
	case "", "exp", "iat", "nbf":
		return fmt.Errorf("--jwt-claim %q cannot hold a user id: name another, as sub", name)
	}
	return nil
}

func (c *tokenCmd) Run(a *app) error {
	if c.JWTSecret == "" {
		return errNoSecret
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
