package main

import (
	"io"
	"runtime"
	"runtime/debug"

	oversync "github.com/oversync/oversync/sync"
)

type versionCmd struct{}

type versionInfo struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"` // of the source, with "+" if it was changed since
	Protocol string `json:"protocol"`
	Go       string `json:"go"`
}

func (c *versionCmd) Run(a *app) error {
	v := readVersion()
	return a.print(v, func(w io.Writer) {
		row(w, "oversync", v.Version)
		if v.Revision != "" {
			row(w, "revision", v.Revision)
		}
		row(w, "protocol", v.Protocol)
		row(w, "go", v.Go)
	})
}

// readVersion takes what the Go tool stamped into the binary, so that a release
// needs no build flags.
func readVersion() versionInfo {
	v := versionInfo{Version: "devel", Protocol: oversync.SyncProtocolVersion, Go: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if info.Main.Version != "" && info.Main.Version != "(devel)" {
		v.Version = info.Main.Version
	}
	modified := false
	for _, setting := range info.Settings {
		switch setting.Key {
		case "vcs.revision":
			v.Revision = setting.Value
		case "vcs.modified":
			modified = setting.Value == "true"
		}
	}
	if v.Revision != "" && modified {
		v.Revision += "+"
	}
	return v
}
