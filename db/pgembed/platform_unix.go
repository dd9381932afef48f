//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package pgembed

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

func supported() error { return nil }

var errLocked = errors.New("locked")

// tryLock opens and locks a file, and makes it if its folder exists. The lock ends with the file
// or with the process, however that ends.
func tryLock(path string) (*os.File, error) {
	lock, err := flock(path, syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, errLocked
	}
	return lock, err
}

// waitForLock is tryLock that waits. It is for locks held briefly.
func waitForLock(path string) (*os.File, error) {
	return flock(path, syscall.LOCK_EX)
}

func flock(path string, how int) (*os.File, error) {
	lock, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("pgembed: lock: %w", err)
	}
	for {
		err := syscall.Flock(int(lock.Fd()), how)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			_ = lock.Close()
			return nil, fmt.Errorf("pgembed: lock %s: %w", path, err)
		}
		return lock, nil
	}
}

// owner is the user that a server runs as.
type owner struct {
	name     string
	uid, gid uint32
	other    bool // not the user of this process
}

func (o owner) String() string { return o.name }

// newOwner returns the user for a new cluster: ours, unless we are root.
func newOwner() (owner, error) {
	if os.Geteuid() != 0 {
		return owner{name: "the current user"}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		if found, err := user.Lookup(name); err == nil {
			uid, uidErr := strconv.ParseUint(found.Uid, 10, 32)
			gid, gidErr := strconv.ParseUint(found.Gid, 10, 32)
			if err := errors.Join(uidErr, gidErr); err != nil {
				return owner{}, fmt.Errorf("pgembed: user %s: %w", name, err)
			}
			return owner{name: name, uid: uint32(uid), gid: uint32(gid), other: true}, nil
		}
	}
	return owner{}, errors.New("pgembed: PostgreSQL refuses to run as root, and neither the user postgres nor nobody exists: add one, or set DATABASE_URL")
}

// ownerOf returns the user of an existing cluster. PostgreSQL insists on running as that user.
func ownerOf(dataDir string) (owner, error) {
	if os.Geteuid() != 0 {
		return newOwner()
	}
	info, err := os.Stat(dataDir)
	if err != nil {
		return owner{}, fmt.Errorf("pgembed: %w", err)
	}
	stat := info.Sys().(*syscall.Stat_t)
	if stat.Uid == 0 {
		return owner{}, fmt.Errorf("pgembed: %s belongs to root, which PostgreSQL refuses to run as: give it to an ordinary user, or remove it", dataDir)
	}
	return owner{name: "user " + strconv.Itoa(int(stat.Uid)), uid: stat.Uid, gid: stat.Gid, other: true}, nil
}

// chown gives files to the owner.
func (o owner) chown(paths ...string) error {
	if !o.other {
		return nil
	}
	for _, path := range paths {
		if err := os.Chown(path, int(o.uid), int(o.gid)); err != nil {
			return fmt.Errorf("pgembed: %w", err)
		}
	}
	return nil
}

// attributes are those of a child that runs as the owner and that gets the signal when this process
// dies, where the system can do that.
func attributes(o owner, onDeath syscall.Signal) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{
		// A group of its own: Ctrl-C in the terminal must reach our process alone, which then
		// stops the server after its last use.
		Setpgid: true,
	}
	if o.other {
		attr.Credential = &syscall.Credential{Uid: o.uid, Gid: o.gid}
	}
	signalOnDeath(attr, onDeath)
	return attr
}

func kill(pid int, signal syscall.Signal) error { return syscall.Kill(pid, signal) }

func alive(pid int) bool {
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}
