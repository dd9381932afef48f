package pgembed

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// places are where packages put the server's programs, as glob patterns.
var places = []string{
	"/usr/lib/postgresql/*/bin",                      // Debian, Ubuntu
	"/usr/lib/postgresql[0-9]*/bin",                  // openSUSE
	"/usr/pgsql-*/bin",                               // the PGDG packages for RHEL
	"/usr/libexec/postgresql*",                       // Alpine
	"/usr/local/pgsql/bin",                           // built from source
	"/opt/homebrew/opt/postgresql*/bin",              // Homebrew on Apple silicon
	"/usr/local/opt/postgresql*/bin",                 // Homebrew on Intel
	"/home/linuxbrew/.linuxbrew/opt/postgresql*/bin", // Homebrew on Linux
	"/Applications/Postgres.app/Contents/Versions/*/bin",
}

// binaries is one installation of PostgreSQL's programs.
type binaries struct {
	dir     string
	major   int
	version string // as in "15.18"
}

func (b binaries) path(program string) string { return filepath.Join(b.dir, program) }
func (b binaries) supported() bool            { return b.major >= MinMajor && b.major <= MaxMajor }
func (b binaries) String() string             { return fmt.Sprintf("%s in %s", b.version, b.dir) }

// Program returns the path of one of PostgreSQL's programs, such as pg_dump, of a major version, or
// of any supported one for 0. Nothing is downloaded.
func Program(ctx context.Context, name string, major int) (string, error) {
	var seen []string
	for _, found := range installed(ctx, name) {
		if found.supported() && (major == 0 || found.major == major) {
			return found.path(name), nil
		}
		seen = append(seen, found.String())
	}
	if err := ctx.Err(); err != nil {
		return "", fmt.Errorf("pgembed: look for %s: %w", name, err)
	}
	wanted := fmt.Sprintf("PostgreSQL %d to %d", MinMajor, MaxMajor)
	if major != 0 {
		wanted = fmt.Sprintf("PostgreSQL %d", major)
	}
	if len(seen) > 0 {
		return "", fmt.Errorf("pgembed: %s of %s is needed, but found only %s: install it, or set OVERSYNC_PG_BIN to its folder", name, wanted, strings.Join(seen, ", "))
	}
	return "", fmt.Errorf("pgembed: %s is not installed: install %s, or set OVERSYNC_PG_BIN to its folder", name, wanted)
}

// findBinaries returns the programs to use: those of the given major version when it is not 0, since
// a cluster runs only on the version that made it; else any supported. It obtains them when nothing
// is installed.
func findBinaries(ctx context.Context, major int, log *slog.Logger) (binaries, error) {
	found, err := chooseInstalled(ctx, major)
	if !errors.Is(err, errNoneInstalled) {
		return found, err
	}
	if dir := os.Getenv("OVERSYNC_PG_BIN"); dir != "" {
		return binaries{}, fmt.Errorf("pgembed: OVERSYNC_PG_BIN=%s holds no PostgreSQL that runs: name the folder of postgres and initdb, or unset it", dir)
	}
	base, err := cacheFolder()
	if err != nil {
		return binaries{}, err
	}
	return obtain(ctx, base, mavenCentral, major, log)
}

// errNoneInstalled reports that there is no PostgreSQL of any version where packages put it.
var errNoneInstalled = errors.New("pgembed: no PostgreSQL is installed")

// chooseInstalled is findBinaries among what is installed. It returns errNoneInstalled if nothing is.
func chooseInstalled(ctx context.Context, major int) (binaries, error) {
	all := installed(ctx, "postgres")
	if err := ctx.Err(); err != nil {
		return binaries{}, fmt.Errorf("pgembed: look for PostgreSQL: %w", err) // asking for versions may have failed for this alone
	}
	var seen []string
	for _, found := range all {
		if found.supported() && (major == 0 || found.major == major) {
			return found, nil
		}
		seen = append(seen, found.String())
	}
	switch {
	case len(seen) == 0:
		return binaries{}, errNoneInstalled
	case major != 0:
		return binaries{}, fmt.Errorf("pgembed: the cluster is of PostgreSQL %d, but found only %s: install PostgreSQL %d or remove the cluster's folder",
			major, strings.Join(seen, ", "), major)
	default:
		return binaries{}, fmt.Errorf("pgembed: PostgreSQL %d to %d is supported, but found only %s: install a supported version, set OVERSYNC_PG_BIN to its folder, or set DATABASE_URL",
			MinMajor, MaxMajor, strings.Join(seen, ", "))
	}
}

// installed lists the installations that have the program, best first: OVERSYNC_PG_BIN alone when
// set, else what PATH finds, then the newest of the usual places.
func installed(ctx context.Context, program string) []binaries {
	if dir := os.Getenv("OVERSYNC_PG_BIN"); dir != "" {
		return inspect(ctx, program, dir)
	}
	var first []string
	if path, err := exec.LookPath("postgres"); err == nil {
		// Debian and Homebrew link programs one by one: only the real folder has all of them.
		if path, err = filepath.EvalSymlinks(path); err == nil {
			first = append(first, filepath.Dir(path))
		}
	}
	if out, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output(); err == nil {
		first = append(first, strings.TrimSpace(string(out)))
	}
	var rest []string
	for _, place := range places {
		dirs, err := filepath.Glob(place)
		if err == nil { // the only error is a bad pattern
			rest = append(rest, dirs...)
		}
	}
	others := inspect(ctx, program, rest...)
	slices.SortStableFunc(others, func(a, b binaries) int { return cmp.Compare(b.major, a.major) })
	return append(inspect(ctx, program, first...), others...)
}

// inspect asks the program in each folder for its version and leaves out the folders without it. A
// server also needs initdb.
func inspect(ctx context.Context, program string, dirs ...string) []binaries {
	var found []binaries
	for _, dir := range dirs {
		if program == "postgres" {
			if _, err := os.Stat(filepath.Join(dir, "initdb")); err != nil {
				continue
			}
		}
		out, err := exec.CommandContext(ctx, filepath.Join(dir, program), "--version").Output()
		if err != nil {
			continue
		}
		version, major, err := parseVersion(string(out))
		if err == nil {
			found = append(found, binaries{dir: dir, major: major, version: version})
		}
	}
	return found
}

// parseVersion reads lines such as "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)".
func parseVersion(line string) (version string, major int, err error) {
	_, rest, ok := strings.Cut(line, "(PostgreSQL) ")
	if !ok {
		return "", 0, fmt.Errorf("pgembed: no version in %q", line)
	}
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return "", 0, fmt.Errorf("pgembed: no version in %q", line)
	}
	version = fields[0]
	// Pre-releases are "19beta1", releases "18.3".
	digits := version
	if end := strings.IndexFunc(version, func(r rune) bool { return r < '0' || r > '9' }); end >= 0 {
		digits = version[:end]
	}
	if major, err = strconv.Atoi(digits); err != nil {
		return "", 0, fmt.Errorf("pgembed: no version in %q", line)
	}
	return version, major, nil
}

// existingMajor returns the major version of the cluster in a data folder, or 0 when there is none.
func existingMajor(dataDir string) (int, error) {
	text, err := os.ReadFile(filepath.Join(dataDir, "PG_VERSION"))
	if errors.Is(err, os.ErrNotExist) {
		if _, statErr := os.Stat(dataDir); statErr == nil {
			return 0, fmt.Errorf("pgembed: %s exists but is no cluster of PostgreSQL: remove it or choose another folder", dataDir)
		}
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("pgembed: look at the cluster: %w", err)
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("pgembed: %s/PG_VERSION is damaged: remove the folder to start over", dataDir)
	}
	return major, nil
}
