package pgembed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// stopOrphan ends a server that still runs on a data folder although its owner is gone. The caller
// holds the folder's lock, so no live owner exists.
func stopOrphan(ctx context.Context, dataDir string, log *slog.Logger) error {
	pid := postmasterPid(dataDir)
	if pid == 0 {
		return nil
	}
	if !isPostmaster(ctx, pid, dataDir) {
		// The file outlived its server. PostgreSQL replaces such a file itself, unless the
		// system has given the number to another process: then it would refuse to start.
		if alive(pid) {
			if err := os.Remove(filepath.Join(dataDir, "postmaster.pid")); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("pgembed: remove a stale postmaster.pid: %w", err)
			}
		}
		return nil
	}
	log.Info("stopping a PostgreSQL whose owner died", "pid", pid, "dir", dataDir)
	for _, signal := range []syscall.Signal{stopFast, stopImmediate, stopKill} {
		if err := kill(pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("pgembed: stop the PostgreSQL whose owner died (process %d): %w", pid, err)
		}
		if gone(ctx, pid, dataDir) {
			return nil
		}
	}
	return fmt.Errorf("pgembed: a PostgreSQL whose owner died still runs on %s: end process %d by hand", dataDir, pid)
}

// gone waits for the end of a process that is not our child, which only polling can tell everywhere.
func gone(ctx context.Context, pid int, dataDir string) bool {
	ctx, cancel := context.WithTimeout(ctx, stopPatience)
	defer cancel()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for isPostmaster(ctx, pid, dataDir) {
		select {
		case <-ctx.Done():
			return false
		case <-ticker.C:
		}
	}
	return true
}

// postmasterPid returns the process id in a data folder's postmaster.pid, or 0.
func postmasterPid(dataDir string) int {
	lines := postmasterLines(dataDir)
	if len(lines) == 0 {
		return 0
	}
	pid, err := strconv.Atoi(lines[0])
	if err != nil {
		return 0
	}
	return pid
}

// postmasterLines reads postmaster.pid. Its lines are the process id, the data folder, the start
// time, the port, the socket folder, the address, the shared memory key and the status.
func postmasterLines(dataDir string) []string {
	text, err := os.ReadFile(filepath.Join(dataDir, "postmaster.pid"))
	if err != nil {
		return nil
	}
	lines := strings.Split(string(text), "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return lines
}

// isPostmaster reports whether the process is a server of this data folder, and not another process
// that was given the same number later. A server's working directory is its data folder.
func isPostmaster(ctx context.Context, pid int, dataDir string) bool {
	if !alive(pid) {
		return false
	}
	if _, err := os.Stat("/proc/self/cwd"); err == nil {
		cwd, err := os.Stat(fmt.Sprintf("/proc/%d/cwd", pid))
		if err != nil {
			return false // ended, a zombie, or of another user and so not ours
		}
		data, err := os.Stat(dataDir)
		return err == nil && os.SameFile(cwd, data)
	}
	out, err := exec.CommandContext(ctx, "ps", "-o", "command=", "-p", strconv.Itoa(pid)).Output()
	return err == nil && strings.Contains(string(out), dataDir)
}
