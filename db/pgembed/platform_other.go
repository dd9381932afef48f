//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package pgembed

import (
	"errors"
	"os"
	"syscall"
)

var (
	errLocked      = errors.New("locked")
	errUnsupported = errors.New("pgembed: a private PostgreSQL does not run on this system: set DATABASE_URL to the URL of a server")
)

// supported makes Start fail before anything below is reached.
func supported() error { return errUnsupported }

type owner struct {
	name  string
	other bool
}

func (o owner) String() string        { return o.name }
func (o owner) chown(...string) error { return errUnsupported }

func newOwner() (owner, error)                              { return owner{}, errUnsupported }
func ownerOf(string) (owner, error)                         { return owner{}, errUnsupported }
func tryLock(string) (*os.File, error)                      { return nil, errUnsupported }
func waitForLock(string) (*os.File, error)                  { return nil, errUnsupported }
func watch(owner, int) (stop func())                        { return func() {} }
func kill(int, syscall.Signal) error                        { return errUnsupported }
func alive(int) bool                                        { return false }
func attributes(owner, syscall.Signal) *syscall.SysProcAttr { return nil }
