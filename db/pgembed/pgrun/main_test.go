//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package main

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// asPgrun makes the test program be pgrun.
const asPgrun = "PGRUN_TEST"

func TestMain(m *testing.M) {
	if os.Getenv(asPgrun) != "" {
		main()
	}
	os.Exit(m.Run())
}

// TestCtrlCWhileTheServerStarts: the command is not run, and no server is left.
func TestCtrlCWhileTheServerStarts(t *testing.T) {
	t.Parallel()
	ran := filepath.Join(t.TempDir(), "ran")
	cmd := exec.Command(os.Args[0], "--", "touch", ran)
	cmd.Env = append(os.Environ(), asPgrun+"=1", "TEST_DATABASE_URL=", "DATABASE_URL=")
	log, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(log)
	var folder string
	for lines.Scan() {
		if _, dir, ok := strings.Cut(lines.Text(), "creating a PostgreSQL cluster"); ok {
			_, folder, _ = strings.Cut(dir, "dir=")
			require.NoError(t, cmd.Process.Signal(os.Interrupt))
		}
	}
	require.NoError(t, lines.Err())
	require.Error(t, cmd.Wait())
	require.NotEmpty(t, folder)
	require.NoFileExists(t, ran)
	require.NoDirExists(t, folder)
}
