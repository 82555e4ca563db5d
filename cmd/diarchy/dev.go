package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/diarchy/diarchy/internal/dev"
)

const devLong = `Run a small cluster on this machine: node processes that find each other by gossip on
loopback, and a group on raft whose machine runs in a plugin process beside each node
(the bundled key-value machine: this program, started again).

Everything lives in a temporary directory and goes with Ctrl-C; with --data-dir it
stays, and the next 'dev' goes on from it. A second Ctrl-C kills at once.

--check writes, reads, kills the leader and a plugin, restarts, compares all replicas,
says what it saw, and exits 0 or 1.`

func devCommand(io stdio) *cobra.Command {
	r := dev.Run{Group: "kv"}
	var dir, plugin string
	var check bool
	cmd := &cobra.Command{
		Use: "dev", Short: "Run a cluster on this machine, to try things with", Long: devLong,
		Example: "  diarchy dev\n  diarchy dev --check\n  diarchy dev --plugin ./orders --data-dir /tmp/orders",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if r.Nodes < 1 {
				return usagef("--nodes %d: expected 1 or more", r.Nodes)
			}
			if err := r.CheckBreak(); err != nil {
				return &usageError{err.Error()}
			}
			if r.Break != "" {
				check = true
			}
			if plugin != "" && check {
				return usagef("--check drives the bundled key-value machine: leave --plugin out")
			}
			return runDev(cmd.Context(), io, &r, dir, plugin, check)
		},
	}
	cmd.Flags().IntVar(&r.Nodes, "nodes", 3, "how many nodes")
	cmd.Flags().StringVar(&dir, "data-dir", "", "keep everything here, and go on from it")
	cmd.Flags().StringVar(&plugin, "plugin", "", "run this machine instead of the bundled one")
	cmd.Flags().BoolVar(&check, "check", false, "drive the cluster, say what was seen, exit 0 or 1")
	cmd.Flags().BoolVar(&r.AnyPorts, "any-ports", false, "take free ports without trying the usual ones")
	cmd.Flags().StringVar(&r.LogLevel, "log-level", "info", "of the nodes' logs: debug, info, warn or error")
	cmd.Flags().StringVar(&r.Break, "break", "", "make --check fail: "+strings.Join(dev.Breaks, ", "))
	_ = cmd.Flags().MarkHidden("break")
	return cmd
}

func runDev(ctx context.Context, io stdio, r *dev.Run, dir, plugin string, check bool) error {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	// Without it a reader of the output that goes away, such as head, would end
	// this process before it has tidied up.
	signal.Ignore(syscall.SIGPIPE)
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program's file: %w", err)
	}
	r.Binary, r.Out, r.Command = exe, io.out, commandName(exe)
	r.Parent = parentWatch(exe)
	r.Signals = signals
	if err := devPlugins(r, exe, plugin); err != nil {
		return err
	}
	for _, old := range dev.Leftovers() {
		fmt.Fprintf(io.out, "left over from a dev that was killed: %s (remove it, or go on from it with --data-dir)\n", old)
	}
	home, err := dev.OpenHome(dir)
	if err != nil {
		return err
	}
	r.Dir, r.Keep = home.Dir, home.Kept
	if check {
		err = r.Check(ctx)
	} else {
		err = r.Serve(ctx)
	}
	if r.Abandoned {
		return err // whoever started this is dead: the directory is for looking at
	}
	return errors.Join(err, home.Close())
}

// devPlugins fills in what machine the group runs.
func devPlugins(r *dev.Run, exe, plugin string) error {
	path, args := exe, []string{"plugin-serve", "kv"}
	if plugin != "" {
		abs, err := filepath.Abs(plugin)
		if err != nil {
			return fmt.Errorf("--plugin: %w", err)
		}
		path, args, r.Group, r.Own = abs, nil, filepath.Base(abs), true
	}
	sum, err := sumOf(path)
	if err != nil {
		return fmt.Errorf("read the plugin: %w", err)
	}
	r.Plugin = func(broken bool) string {
		words := args
		if broken {
			words = []string{"plugin-serve", "kv-corrupt"}
		}
		quoted := []string{}
		for _, w := range words {
			quoted = append(quoted, dev.Quote(w))
		}
		return fmt.Sprintf("plugin %s {\n  path   = %s\n  sha256 = %s\n  args   = [%s]\n}\n",
			dev.Quote(r.Group), dev.Quote(path), dev.Quote(sum), strings.Join(quoted, ", "))
	}
	return nil
}

func sumOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// commandName is how to call this program from another shell: by its name where
// that finds the same file, else by its path, which also holds for what 'go run'
// has built, as long as it runs.
func commandName(exe string) string {
	name := filepath.Base(exe)
	if found, err := exec.LookPath(name); err == nil {
		a, erra := os.Stat(found)
		b, errb := os.Stat(exe)
		if erra == nil && errb == nil && os.SameFile(a, b) {
			return name
		}
	}
	return exe
}

// parentWatch says whether this process is to end with the one that started it:
// 'go run' leaves what it runs behind when it is killed.
func parentWatch(exe string) bool {
	return strings.Contains(filepath.ToSlash(exe), "/go-build")
}
