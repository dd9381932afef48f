package pgembed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// cacheFolder is where private servers and downloaded programs live by default. Root's home is
// closed to the user that the server runs as, so root has a folder of the system.
func cacheFolder() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/cache/oversync", nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("pgembed: no cache folder: set HOME or XDG_CACHE_HOME, or set DATABASE_URL: %w", err)
	}
	return filepath.Join(dir, "oversync"), nil
}

// lockPatience is how long a folder that was let go may still look locked: a program
// that its owner was starting holds the lock too, between fork and exec.
const lockPatience = time.Second

// lockFolder locks a server's folder for the life of this process.
func lockFolder(ctx context.Context, dir string) (*os.File, error) {
	path := filepath.Join(dir, "lock")
	patience, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	lock, err := tryLock(path)
	for errors.Is(err, errLocked) && patience.Err() == nil {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-patience.Done():
		}
		lock, err = tryLock(path)
	}
	if errors.Is(err, errLocked) {
		holder := "another process"
		if pid, err := os.ReadFile(path); err == nil && len(pid) > 0 {
			holder = "process " + strings.TrimSpace(string(pid))
		}
		return nil, fmt.Errorf("%w: %s runs the PostgreSQL in %s: stop it, choose another folder, or set DATABASE_URL", ErrInUse, holder, dir)
	}
	if err != nil {
		return nil, err
	}
	if err := errors.Join(lock.Truncate(0), writePid(lock)); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("pgembed: write %s: %w", path, err)
	}
	return lock, nil
}

func writePid(lock *os.File) error {
	_, err := fmt.Fprintf(lock, "%d\n", os.Getpid())
	return err
}

// makeTemporary makes and locks a new folder, and removes those whose owner died.
func makeTemporary(ctx context.Context, log *slog.Logger) (string, *os.File, error) {
	base, err := cacheFolder()
	if err != nil {
		return "", nil, err
	}
	base = filepath.Join(base, "tmp")
	if err := os.MkdirAll(base, 0o755); err != nil {
		return "", nil, fmt.Errorf("pgembed: make the folder of temporary servers: %w", err)
	}
	// Without this lock, a folder that is not locked yet or half removed would look abandoned.
	guard, err := waitForLock(filepath.Join(base, "lock"))
	if err != nil {
		return "", nil, err
	}
	defer func() { _ = guard.Close() }()

	if err := sweep(ctx, base, log); err != nil {
		return "", nil, err
	}
	dir, err := os.MkdirTemp(base, "server-")
	if err != nil {
		return "", nil, fmt.Errorf("pgembed: %w", err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", nil, fmt.Errorf("pgembed: %w", err)
	}
	lock, err := lockFolder(ctx, dir)
	if err != nil {
		return "", nil, err
	}
	return dir, lock, nil
}

// removeTemporary removes a temporary folder.
func removeTemporary(dir string) error {
	guard, err := waitForLock(filepath.Join(filepath.Dir(dir), "lock")) // see makeTemporary
	if err != nil {
		return err
	}
	defer func() { _ = guard.Close() }()
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("pgembed: remove a temporary server: %w", err)
	}
	return nil
}

// sweep removes the temporary folders that no live process holds.
func sweep(ctx context.Context, base string, log *slog.Logger) error {
	dirs, err := filepath.Glob(filepath.Join(base, "server-*"))
	if err != nil {
		return fmt.Errorf("pgembed: %w", err)
	}
	for _, dir := range dirs {
		lock, err := tryLock(filepath.Join(dir, "lock"))
		if errors.Is(err, errLocked) {
			continue
		}
		if err != nil {
			return err
		}
		log.Info("removing an abandoned temporary server", "dir", dir)
		err = errors.Join(
			stopOrphan(ctx, filepath.Join(dir, "data"), log),
			os.RemoveAll(dir),
			lock.Close(),
		)
		if err != nil {
			return fmt.Errorf("pgembed: remove an abandoned temporary server: %w", err)
		}
	}
	return nil
}
