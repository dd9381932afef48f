//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package pgembed

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// install makes a folder of programs that do no more than tell a version.
func install(t *testing.T, version string) string {
	t.Helper()
	dir := t.TempDir()
	script := "#!/bin/sh\necho 'postgres (PostgreSQL) " + version + "'\n"
	for _, program := range []string{"postgres", "initdb"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, program), []byte(script), 0o755))
	}
	return dir
}

func TestUnsupportedVersionIsNamed(t *testing.T) {
	for _, version := range []string{"14.22", "19beta1"} {
		dir := install(t, version)
		t.Setenv("OVERSYNC_PG_BIN", dir)
		_, err := Start(t.Context(), Config{Dir: newDir(t)})
		require.ErrorContains(t, err, "PostgreSQL 15 to 18 is supported, but found only "+version+" in "+dir)
	}
}

func TestClusterWantsItsOwnVersion(t *testing.T) {
	t.Setenv("OVERSYNC_PG_BIN", install(t, "17.2"))
	dir := newDir(t)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "data"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "data", "PG_VERSION"), []byte("16\n"), 0o600))
	_, err := Start(t.Context(), Config{Dir: dir})
	require.ErrorContains(t, err, "the cluster is of PostgreSQL 16, but found only 17.2 in")
}

func TestEmptyBinFolderIsNamed(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("OVERSYNC_PG_BIN", dir)
	_, err := Start(t.Context(), Config{Dir: newDir(t)})
	require.ErrorContains(t, err, "OVERSYNC_PG_BIN="+dir+" holds no PostgreSQL")
	_, err = Program(t.Context(), "pg_dump", 0)
	require.ErrorContains(t, err, "pg_dump is not installed")
}

func TestNewestOfTheUsualPlaces(t *testing.T) {
	old, newest := install(t, "15.1"), install(t, "18.1")
	t.Setenv("OVERSYNC_PG_BIN", "")
	t.Setenv("PATH", "")
	before := places
	t.Cleanup(func() { places = before })
	places = []string{old, newest, install(t, "14.1")}
	found, err := findBinaries(t.Context(), 0, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	require.Equal(t, newest, found.dir)
	found, err = findBinaries(t.Context(), 15, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	require.Equal(t, old, found.dir)
}

// TestDownload fetches an archive of the shape that the library expects, holding scripts in place of
// the real programs.
func TestDownload(t *testing.T) {
	t.Parallel()
	archive, err := os.ReadFile("testdata/postgres.txz")
	require.NoError(t, err)
	var jar bytes.Buffer
	packed := zip.NewWriter(&jar)
	file, err := packed.Create("postgres.txz")
	require.NoError(t, err)
	_, err = file.Write(archive)
	require.NoError(t, err)
	require.NoError(t, packed.Close())

	requests := 0
	repository := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests++
		switch {
		case !strings.Contains(r.URL.Path, "/18."):
			http.NotFound(w, r)
		case strings.HasSuffix(r.URL.Path, ".sha256"):
			sum := sha256.Sum256(jar.Bytes())
			_, _ = w.Write([]byte(hex.EncodeToString(sum[:])))
		default:
			_, _ = w.Write(jar.Bytes())
		}
	}))
	defer func() {
		repository.Close()
		http.DefaultClient.CloseIdleConnections() // the library's
	}()
	base := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	for range 2 {
		found, err := download(t.Context(), base, repository.URL, 0, log)
		require.NoError(t, err)
		require.Equal(t, 18, found.major)
		require.FileExists(t, found.path("initdb"))
	}
	require.Equal(t, 2, requests, "the second call must find the first one's programs")

	_, err = download(t.Context(), base, repository.URL, 17, log)
	require.ErrorContains(t, err, "download PostgreSQL 17: ")
	leftovers, err := filepath.Glob(filepath.Join(base, "download-*"))
	require.NoError(t, err)
	require.Empty(t, leftovers)
}
