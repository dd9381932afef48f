package pgembed

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
)

const mavenCentral = "https://repo1.maven.org/maven2"

// downloads names the release to fetch for each major version.
var downloads = map[int]embeddedpostgres.PostgresVersion{
	15: embeddedpostgres.V15,
	16: embeddedpostgres.V16,
	17: embeddedpostgres.V17,
	18: embeddedpostgres.V18,
}

// download returns the programs of a major version, the newest for 0, from the cache or else from
// the network. The library checks the archive's checksum. The caller lets one process do so at a time.
func download(ctx context.Context, base, repository string, major int, log *slog.Logger) (binaries, error) {
	if major == 0 {
		major = MaxMajor
	}
	release, ok := downloads[major]
	if !ok {
		return binaries{}, fmt.Errorf("pgembed: PostgreSQL %d is not supported, only %d to %d", major, MinMajor, MaxMajor)
	}
	home := filepath.Join(base, "postgresql-"+string(release))
	bin := filepath.Join(home, "bin")
	if found := inspect(ctx, "postgres", bin); len(found) == 1 {
		return found[0], nil
	}
	log.Info("no PostgreSQL found on this machine, downloading one", "version", string(release), "from", repository, "to", home)
	if err := fetch(base, home, repository, release); err != nil {
		return binaries{}, fmt.Errorf("download PostgreSQL %d: %w", major, err)
	}
	found := inspect(ctx, "postgres", bin)
	if len(found) != 1 {
		return binaries{}, fmt.Errorf("the programs downloaded to %s do not run on this machine", bin)
	}
	return found[0], nil
}

// fetch unpacks a release into home. The library offers no way to fetch without starting a server
// with its own rules, which root may not do. So it is told to use a locale that does not exist: it
// fetches, unpacks and gives up at initdb.
func fetch(base, home, repository string, release embeddedpostgres.PostgresVersion) error {
	work, err := os.MkdirTemp(base, "download-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }()
	unpacked := filepath.Join(work, "postgresql")
	server := embeddedpostgres.NewDatabase(embeddedpostgres.DefaultConfig().
		Version(release).
		BinaryRepositoryURL(repository).
		Port(0).
		Locale("fetch-only").
		Logger(io.Discard).
		CachePath(filepath.Join(work, "archive")).
		RuntimePath(filepath.Join(work, "runtime")).
		DataPath(filepath.Join(work, "data")).
		BinariesPath(unpacked))
	err = server.Start()
	if err == nil {
		err = server.Stop()
	}
	if _, statErr := os.Stat(filepath.Join(unpacked, "bin", "initdb")); statErr != nil {
		return cmp.Or(err, statErr)
	}
	if err := os.Chmod(unpacked, 0o755); err != nil {
		return err
	}
	if err := os.RemoveAll(home); err != nil {
		return err
	}
	return os.Rename(unpacked, home)
}
