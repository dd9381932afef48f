//go:build darwin || freebsd || netbsd || openbsd || dragonfly

package pgembed

import (
	"os/exec"
	"strconv"
	"syscall"
)

// signalOnDeath has no counterpart here; watch does its work.
func signalOnDeath(*syscall.SysProcAttr, syscall.Signal) {}

// watch shuts a server down when this process dies. It runs a shell that reads from a pipe held by
// this process alone: the read ends when the process does. The next start covers what a failure to
// run the shell leaves behind.
func watch(o owner, pid int) (stop func()) {
	cmd := exec.Command("/bin/sh", "-c", `read -r _; kill -INT "$1"`, "sh", strconv.Itoa(pid))
	cmd.SysProcAttr = attributes(o, stopKill)
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return func() {}
	}
	if err := cmd.Start(); err != nil {
		return func() {}
	}
	return func() {
		// Killed before its pipe closes, so that it never signals a number in new hands.
		_ = cmd.Process.Kill()
		_ = pipe.Close()
		_ = cmd.Wait()
	}
}
