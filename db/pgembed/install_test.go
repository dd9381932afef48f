//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package pgembed

import (
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// bare makes this a machine without PostgreSQL and without the network, whose only programs are sh and the given
// scripts. It returns the place where packages would put PostgreSQL.
func bare(t *testing.T, scripts map[string]string) string {
	t.Helper()
	sh, err := exec.LookPath("sh")
	require.NoError(t, err)
	path, place := t.TempDir(), t.TempDir()
	require.NoError(t, os.Symlink(sh, filepath.Join(path, "sh")))
	for name, script := range scripts {
		require.NoError(t, os.WriteFile(filepath.Join(path, name), []byte("#!"+sh+"\n"+script), 0o755))
	}
	t.Setenv("PATH", path)
	t.Setenv("OVERSYNC_PG_BIN", "")
	before := places
	t.Cleanup(func() { places = before })
	places = []string{place}
	return place
}

func obtainNothing(t *testing.T) error {
	t.Helper()
	_, err := obtain(t.Context(), t.TempDir(), "http://127.0.0.1:1", 0, slog.New(slog.DiscardHandler))
	require.ErrorContains(t, err, "there is no PostgreSQL 15 to 18 on this machine")
	require.ErrorContains(t, err, "127.0.0.1:1", "the download was tried")
	return err
}

// sudo is one that asks for no password. Root does not call it.
const sudo = `[ "$1" = -n ] || exit 1
shift
exec "$@"
`

func TestPackageManagerInstallsWhatCannotBeDownloaded(t *testing.T) {
	place := bare(t, map[string]string{"sudo": sudo, "true": "", "dnf": `[ "$*" = "install -y postgresql-server" ] || exit 1
for program in postgres initdb; do
	echo '#!/bin/sh' > $PLACE/$program
	echo 'echo "postgres (PostgreSQL) 16.4"' >> $PLACE/$program
done
exec $CHMOD +x $PLACE/postgres $PLACE/initdb
`})
	chmod, err := filepath.Glob("/*bin/chmod")
	require.NoError(t, err)
	require.NotEmpty(t, chmod)
	t.Setenv("CHMOD", chmod[0])
	t.Setenv("PLACE", place)
	for range 2 {
		found, err := obtain(t.Context(), t.TempDir(), "http://127.0.0.1:1", 0, slog.New(slog.DiscardHandler))
		require.NoError(t, err)
		require.Equal(t, binaries{dir: place, major: 16, version: "16.4"}, found)
		t.Setenv("PATH", t.TempDir()) // the second time there is nothing to install
	}
}

func TestPackageManagerThatFails(t *testing.T) {
	bare(t, map[string]string{"sudo": sudo, "true": "", "apk": "echo 'no such mirror' >&2; exit 1"})
	require.ErrorContains(t, obtainNothing(t), "apk add postgresql\nor set DATABASE_URL. Done here, it failed: exit status 1:\n\tno such mirror")
}

func TestWhatToTypeIsSaid(t *testing.T) {
	t.Run("no package manager", func(t *testing.T) {
		bare(t, nil)
		require.ErrorContains(t, obtainNothing(t), "install it and set OVERSYNC_PG_BIN to the folder of its programs, or set DATABASE_URL")
	})
	// Each of the two refuses one kind of user.
	if os.Geteuid() == 0 {
		bare(t, map[string]string{"brew": "exit 1"})
		require.ErrorContains(t, obtainNothing(t), "as another user than root type\n\tbrew install postgresql@18\n")
	} else {
		bare(t, map[string]string{"apt-get": "exit 1", "sudo": "echo 'a password is required' >&2; exit 1"})
		require.ErrorContains(t, obtainNothing(t), "type\n\tsudo apt-get update && sudo apt-get install -y --no-install-recommends postgresql\n")
	}
}

// TestDebianStartsNoServer: what keeps Debian's packages from it is in place while they are installed, and gone afterwards.
func TestDebianStartsNoServer(t *testing.T) {
	conf := filepath.Join(t.TempDir(), "createcluster.d", "oversync.conf")
	script := strings.ReplaceAll(noCluster, "/etc/postgresql-common/createcluster.d/oversync.conf", conf)
	require.Contains(t, script, conf)
	out, err := exec.CommandContext(t.Context(), "sh", "-c", script+"cat $conf; echo $DEBIAN_FRONTEND; exit 3").Output()
	require.ErrorContains(t, err, "exit status 3")
	require.Equal(t, "create_main_cluster = false\nnoninteractive\n", string(out))
	require.NoFileExists(t, conf)
}
