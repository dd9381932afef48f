package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// process is a server that runs beside the benchmark, as it would in production,
// so that its memory can be told from the client's.
type process struct {
	command *exec.Cmd
	url     string
	ended   chan struct{}
}

// stopPatience is how long a server may take to end when asked to.
const stopPatience = 20 * time.Second

// startProcess runs a command and returns once it has said, as a line of JSON on
// standard error with a "url" in it, where it listens. Lines that are warnings or
// worse are passed on.
func startProcess(ctx context.Context, command *exec.Cmd) (*process, error) {
	lines, err := command.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", command.Path, err)
	}
	p := &process{command: command, ended: make(chan struct{})}
	ready := make(chan string, 1)
	go func() {
		defer close(p.ended)
		forwardLog(lines, ready)
		_ = command.Wait() // it was told to end; a failure before shows as a failed request
	}()
	select {
	case p.url = <-ready:
		return p, nil
	case <-p.ended:
		return nil, fmt.Errorf("%s ended before it listened: see what it said above", command.Path)
	case <-ctx.Done():
		p.stop()
		return nil, ctx.Err()
	}
}

func forwardLog(lines io.Reader, ready chan<- string) {
	scanner := bufio.NewScanner(lines)
	for scanner.Scan() {
		var line struct{ Level, URL string }
		if err := json.Unmarshal(scanner.Bytes(), &line); err != nil || line.Level == "WARN" || line.Level == "ERROR" {
			fmt.Fprintln(os.Stderr, scanner.Text())
		} else if line.URL != "" {
			select {
			case ready <- line.URL:
			default:
			}
		}
	}
}

// stop asks the process to end and waits until it has.
func (p *process) stop() {
	_ = p.command.Process.Signal(syscall.SIGTERM) // it may have ended already
	select {
	case <-p.ended:
	case <-time.After(stopPatience):
		_ = p.command.Process.Kill()
		<-p.ended
	}
}

// What /proc says of a process's memory.
const (
	peakMemory     = "VmHWM" // the most it has ever held
	residentMemory = "VmRSS" // what it holds now
)

// memory returns what the process holds, in bytes.
func (p *process) memory(what string) (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.command.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("memory can be measured on Linux only: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		var kilobytes int64
		if n, _ := fmt.Sscanf(line, what+": %d kB", &kilobytes); n == 1 {
			return kilobytes << 10, nil
		}
	}
	return 0, fmt.Errorf("no %s in /proc/%d/status", what, p.command.Process.Pid)
}

// emptyHandlerArgument makes this program the server of floor D.
const emptyHandlerArgument = "empty-handler"

// startEmptyHandler runs floor D's server as a process of its own, as the real
// one is.
func startEmptyHandler(ctx context.Context) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return startProcess(ctx, exec.Command(self, emptyHandlerArgument)) //nolint:gosec // this very program
}

// serveEmptyHandler is that server. It runs until it is stopped.
func serveEmptyHandler() error {
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, `{"url":"http://%s"}`+"\n", listener.Addr())
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
	return server.Serve(listener)
}
