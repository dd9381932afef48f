package pgembed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// packageManager is a program that can install PostgreSQL.
type packageManager struct {
	name   string
	root   bool     // root alone may install; otherwise root may not
	quiet  string   // what a script does first so that no server is started; not for people to type
	script []string // the commands
}

// packageManagers are looked for in this order.
var packageManagers = []packageManager{
	{name: "apt-get", root: true, quiet: noCluster, script: []string{"apt-get update", "apt-get install -y --no-install-recommends postgresql"}},
	{name: "dnf", root: true, script: []string{"dnf install -y postgresql-server"}},
	{name: "zypper", root: true, script: []string{"zypper --non-interactive install postgresql-server"}},
	{name: "apk", root: true, script: []string{"apk add postgresql"}},
	// Without -y: to install by a new list what the rest of the machine is too old for breaks it.
	{name: "pacman", root: true, script: []string{"pacman -S --noconfirm postgresql"}},
	{name: "brew", script: []string{"brew install postgresql@18"}},
}

// noCluster keeps Debian's packages from what the others do not do: make a cluster and start a server on it. It holds
// for this one call.
const noCluster = `export DEBIAN_FRONTEND=noninteractive
conf=/etc/postgresql-common/createcluster.d/oversync.conf
trap 'rm -f $conf' EXIT
trap 'exit 1' INT TERM
mkdir -p ${conf%/*}
echo 'create_main_cluster = false' > $conf
`

// obtain gets programs onto a machine that has none: by a download into the folder base, which changes nothing else, or
// else with the package manager. When neither can be done, the error says what to type.
func obtain(ctx context.Context, base, repository string, major int, log *slog.Logger) (binaries, error) {
	if err := os.MkdirAll(base, 0o755); err != nil {
		return binaries{}, fmt.Errorf("pgembed: %w", err)
	}
	// Two processes must not get into each other's way.
	lock, err := waitForLock(filepath.Join(base, "download.lock"))
	if err != nil {
		return binaries{}, err
	}
	defer func() { _ = lock.Close() }()
	if found, err := chooseInstalled(ctx, major); !errors.Is(err, errNoneInstalled) {
		return found, err // by the process that held the lock
	}
	found, downloadErr := download(ctx, base, repository, major, log)
	if downloadErr == nil {
		return found, nil
	}
	if err := installPackage(ctx, log); err != nil {
		return binaries{}, fmt.Errorf("pgembed: there is no PostgreSQL %d to %d on this machine: %w\nTried before: %w", MinMajor, MaxMajor, err, downloadErr)
	}
	return chooseInstalled(ctx, major)
}

// installPackage installs PostgreSQL with the machine's package manager, as root or with a sudo that asks for no
// password. No server is started by it.
func installPackage(ctx context.Context, log *slog.Logger) error {
	var manager packageManager
	for _, m := range packageManagers {
		if _, err := exec.LookPath(m.name); err == nil {
			manager = m
			break
		}
	}
	if manager.name == "" {
		return errors.New("install it and set OVERSYNC_PG_BIN to the folder of its programs, or set DATABASE_URL")
	}
	isRoot := os.Geteuid() == 0
	typed := strings.Join(manager.script, " && ")
	args := []string{"sh", "-c", manager.quiet + strings.Join(manager.script, "\n")}
	switch {
	case manager.root && !isRoot:
		typed = "sudo " + strings.Join(manager.script, " && sudo ")
		if err := exec.CommandContext(ctx, "sudo", "-n", "true").Run(); err != nil {
			return fmt.Errorf("type\n\t%s\nor set DATABASE_URL", typed)
		}
		args = append([]string{"sudo", "-n"}, args...)
	case !manager.root && isRoot:
		return fmt.Errorf("as another user than root type\n\t%s\nor set DATABASE_URL", typed)
	}
	log.Info("no PostgreSQL to be downloaded either: installing it with the package manager, which may take minutes", "command", typed)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // killed, it would leave half an installation
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("type\n\t%s\nor set DATABASE_URL. Done here, it failed: %w%s", typed, err, quote(lastLines(string(out))))
	}
	return nil
}
