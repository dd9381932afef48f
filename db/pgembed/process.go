package pgembed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The shutdown modes of PostgreSQL, from polite to last resort.
const (
	stopFast      = syscall.SIGINT
	stopImmediate = syscall.SIGQUIT
	stopKill      = syscall.SIGKILL
)

// process is a server that this process started.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the server has ended
}

// startProcess runs the server with its output in logFile.
func startProcess(owner owner, postgres, dataDir, logFile string, args []string) (*process, error) {
	output, err := os.OpenFile(logFile, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = output.Close() }()

	p := &process{cmd: exec.Command(postgres, args...), done: make(chan struct{})}
	p.cmd.Dir = dataDir
	p.cmd.Env = environment()
	p.cmd.Stdout = output
	p.cmd.Stderr = output
	p.cmd.SysProcAttr = attributes(owner, stopFast)

	started := make(chan error)
	go func() {
		// Linux sends the parent-death signal when the thread that forked ends, so this
		// goroutine keeps its thread for as long as the server runs.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := p.cmd.Start(); err != nil {
			started <- err
			return
		}
		stopWatching := watch(owner, p.cmd.Process.Pid)
		started <- nil
		// How the server ended is in its log; that it ended is all the callers ask.
		_ = p.cmd.Wait()
		stopWatching()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, explain(err, owner)
	}
	return p, nil
}

// errEnded reports that the server ended before it was ready.
var errEnded = errors.New("the server ended")

// waitReady waits until the server says in postmaster.pid that it accepts connections. PostgreSQL's
// own pg_ctl waits in the same way.
func (p *process) waitReady(ctx context.Context, dataDir string) error {
	const statusLine = 7
	pid := strconv.Itoa(p.cmd.Process.Pid)
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for {
		if lines := postmasterLines(dataDir); len(lines) > statusLine && lines[0] == pid && lines[statusLine] == "ready" {
			return nil
		}
		select {
		case <-p.done:
			return errEnded
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// stop ends the server, harsher each time the patience or ctx ends, and waits for its end.
func (p *process) stop(ctx context.Context, first syscall.Signal) error {
	for _, signal := range []syscall.Signal{stopFast, stopImmediate, stopKill} {
		if first == stopImmediate && signal == stopFast {
			continue
		}
		if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("pgembed: stop the server: %w", err)
		}
		patience := time.NewTimer(stopPatience)
		select {
		case <-p.done:
			patience.Stop()
			return nil
		case <-patience.C:
		case <-ctx.Done():
			// From here on only the harsher modes are left; each still has its patience.
			ctx = context.WithoutCancel(ctx)
			patience.Stop()
		}
	}
	<-p.done
	return nil
}

// runAs runs a program to its end as the given user and returns what it printed. The program dies
// with this process.
func runAs(ctx context.Context, owner owner, dir, program string, args ...string) ([]byte, error) {
	runtime.LockOSThread() // see startProcess
	defer runtime.UnlockOSThread()
	var output bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	cmd.Env = environment()
	cmd.Stdout = &output
	cmd.Stderr = &output
	cmd.SysProcAttr = attributes(owner, stopKill)
	err := cmd.Run()
	return output.Bytes(), explain(err, owner)
}

// explain adds the remedy to the one failure that users meet: a folder that the server's user cannot
// enter.
func explain(err error, owner owner) error {
	if err != nil && owner.other && errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%w: user %s must be able to enter the folder and each folder above it: choose a folder outside of root's home, or allow it with chmod o+x", err, owner)
	}
	return err
}

// environment is ours without the PG variables, which are meant for clients and would change what
// the server does, and with messages in English, since some are read.
func environment() []string {
	var env []string
	for _, pair := range os.Environ() {
		if !strings.HasPrefix(pair, "PG") && !strings.HasPrefix(pair, "LC_") && !strings.HasPrefix(pair, "LANG") {
			env = append(env, pair)
		}
	}
	return append(env, "LC_ALL=C")
}
