package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/diarchy/diarchy/discovery"
)

func keygenCommand(stdio) *cobra.Command {
	return &cobra.Command{
		Use: "keygen", Short: "Make a random key for gossip, or a token",
		Long:    "Print 32 random bytes in base64: a key for gossip.encrypt_file, or a token for\nclient.token_file.",
		Example: "  diarchy keygen > gossip.key && chmod 600 gossip.key",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			key := discovery.Keygen()
			return done(cmd, map[string]string{"key": key}, "%s", key)
		},
	}
}

// version is set by the linker for releases.
var version = "0.1.0-dev"

type versionInfo struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Go      string `json:"go"`
}

func thisVersion() versionInfo {
	v := versionInfo{Version: version, Commit: "unknown", Go: runtime.Version()}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				v.Commit = s.Value
			}
		}
	}
	return v
}

func versionCommand(stdio) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Example: "  diarchy version -o json",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := thisVersion()
			return done(cmd, v, "%s", fmt.Sprintf("diarchy %s (commit %s, %s)", v.Version, v.Commit, v.Go))
		},
	}
}
