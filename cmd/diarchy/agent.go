package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/diarchy/diarchy/internal/config"
	"github.com/diarchy/diarchy/internal/dev"
)

const agentLong = `Run one node until it is told to end.

Its configuration is read from files (HCL, or JSON of the same shape; a directory
stands for the *.hcl and *.json in it), then DIARCHY_… variables, then flags, each
overriding the one before. 'diarchy validate' checks the same without starting.

SIGTERM and Ctrl-C end it in order: leadership is handed over, what was accepted is
finished, the pool is left; a second one ends it at once. SIGHUP reads the
configuration again and takes over the log level and the tokens; certificates are
read again by themselves when their files change.`

// agentFlags are those of agent beside the settings.
type agentFlags struct {
	files      []string
	dev        bool
	parentPipe bool
	forceNew   bool
}

func agentCommand(io stdio) *cobra.Command {
	f := &agentFlags{}
	cmd := &cobra.Command{
		Use: "agent", Short: "Run one node of a cluster", Long: agentLong,
		Example: "  diarchy agent -c node.hcl\n  diarchy agent -config-file=/etc/diarchy --log-level debug\n  diarchy agent --dev",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return runAgent(cmd, io, f) },
	}
	cmd.Flags().StringArrayVarP(&f.files, "config-file", "c", nil, "configuration file or directory; may be repeated")
	cmd.Flags().BoolVar(&f.dev, "dev", false, "one node that needs no configuration and keeps nothing")
	cmd.Flags().BoolVar(&f.forceNew, "force-new", false, "forget a promise to form a cluster that can never be kept")
	cmd.Flags().BoolVar(&f.parentPipe, "parent-pipe", false, "end when standard input does")
	_ = cmd.Flags().MarkHidden("parent-pipe")
	settingFlags(cmd)
	return cmd
}

// settingFlags adds a flag for each setting of a node.
func settingFlags(cmd *cobra.Command) {
	for _, s := range config.Flags() {
		if s.Bool {
			cmd.Flags().Bool(s.Name, false, s.Help)
		} else {
			cmd.Flags().String(s.Name, "", s.Help)
		}
	}
}

func validateCommand(stdio) *cobra.Command {
	var files []string
	cmd := &cobra.Command{
		Use: "validate [FILE…]", Short: "Check a node's configuration without starting it",
		Long:    "Check what 'diarchy agent' would be given: files, DIARCHY_… variables and flags. Each\nproblem is printed with its file and line and what was expected.",
		Example: "  diarchy validate node.hcl\n  diarchy validate -config-file=/etc/diarchy",
		RunE: func(cmd *cobra.Command, args []string) error {
			files = append(files, args...)
			if len(files) == 0 {
				return usagef("'diarchy validate' needs a file or directory")
			}
			_, problems := readConfig(cmd, files)
			return reportProblems(cmd, problems)
		},
	}
	cmd.Flags().StringArrayVarP(&files, "config-file", "c", nil, "configuration file or directory; may be repeated")
	settingFlags(cmd)
	return cmd
}

func reportProblems(cmd *cobra.Command, problems config.Problems) error {
	err := problems.Err()
	if jsonOutput(cmd) {
		type row struct {
			At      string `json:"at"`
			Warning bool   `json:"warning"`
			Message string `json:"message"`
		}
		rows := []row{}
		for _, p := range problems {
			rows = append(rows, row{p.At.String(), p.Warning, p.Message})
		}
		printJSON(cmd.OutOrStdout(), map[string]any{"valid": err == nil, "problems": rows})
		if err != nil {
			return &silent{err}
		}
		return nil
	}
	for _, w := range problems.Warnings() {
		if err == nil {
			fmt.Fprintln(cmd.ErrOrStderr(), w)
		}
	}
	if err != nil {
		return fmt.Errorf("the configuration is refused:\n%w", err)
	}
	fmt.Fprintln(cmd.OutOrStdout(), "the configuration is valid")
	return nil
}

// readConfig reads and checks the configuration that the flags name.
func readConfig(cmd *cobra.Command, files []string) (*config.Config, config.Problems) {
	src := config.Sources{Paths: files, Environ: os.Environ(), Known: clientVariables, Flags: map[string]string{}}
	for _, s := range config.Flags() {
		if f := cmd.Flags().Lookup(s.Name); f.Changed {
			src.Flags[s.Name] = f.Value.String()
		}
	}
	c, problems := config.Load(src)
	if problems.Err() != nil {
		return c, problems
	}
	return c, append(problems, c.Check(known())...)
}

func runAgent(cmd *cobra.Command, io stdio, f *agentFlags) error {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	if f.parentPipe {
		dev.WatchParent(func() { os.Exit(exitRefused) })
	}
	if f.dev {
		home, err := soloHome(cmd)
		if err != nil {
			return err
		}
		defer home.Close()
	} else if len(f.files) == 0 && os.Getenv("DIARCHY_DATA_DIR") == "" && !cmd.Flags().Changed("data-dir") {
		return usagef("'diarchy agent' needs a configuration: -c FILE, or --dev for a node that needs none")
	}
	c, problems := readConfig(cmd, f.files)
	if f.dev {
		problems = addSoloGroup(c, problems)
	}
	if err := problems.Err(); err != nil {
		return fmt.Errorf("the configuration is refused:\n%w", err)
	}
	level := new(slog.LevelVar)
	log := newLogger(io.err, c.Log, level)
	for _, w := range problems {
		log.Warn(w.String())
	}
	if c.Insecure {
		log.Warn("insecure = true: whoever reaches this node's ports can do anything with it")
	}
	reload := func(a *agent) { a.reload(cmd, f.files, level) }
	return serveAgent(cmd, io.out, c, log, signals, reload, f.forceNew)
}

// reload takes over what can change while the node runs.
func (a *agent) reload(cmd *cobra.Command, files []string, level *slog.LevelVar) {
	c, problems := readConfig(cmd, files)
	if err := problems.Err(); err != nil {
		a.log.Error("the changed configuration is refused; going on with the one before", "err", err)
		return
	}
	admin, reader, err := tokensIn(c.Client)
	if err == nil {
		err = a.server.SetTokens(admin, reader)
	}
	if err != nil {
		a.log.Error("the changed tokens are refused; going on with those before", "err", err)
	}
	level.Set(levelOf(c.Log.Level))
	a.log.Info("configuration read again: log level and tokens are in use, the rest takes a restart", "log_level", c.Log.Level)
}

// serveAgent runs the node until a signal, a client's wish or a failure ends it.
func serveAgent(cmd *cobra.Command, out io.Writer, c *config.Config, log *slog.Logger, signals <-chan os.Signal, reload func(*agent), forceNew bool) error {
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	a, err := openAgent(ctx, c, log, forceNew)
	if err != nil {
		return err
	}
	banner(out, a)
	go a.settle(ctx)
	var failure error
	for ended := false; !ended; {
		select {
		case s := <-signals:
			if s == syscall.SIGHUP {
				reload(a)
				continue
			}
			log.Info("ending in order", "signal", s.String())
			ended = true
		case <-a.leaving:
			log.Info("ending in order: a client has asked this node to leave")
			ended = true
		case failure = <-a.served:
			ended = true
		case failure = <-a.failed:
			ended = true
		}
	}
	cancel()
	return errors.Join(failure, closeAgent(a, signals))
}

// closeAgent ends the node in order, or at once when a second signal comes.
func closeAgent(a *agent, signals <-chan os.Signal) error {
	ctx, cancel := context.WithTimeout(context.Background(), closeWithin)
	defer cancel()
	late := time.NewTimer(closeWithin + closeGrace) // a disk that hangs heeds no context
	defer late.Stop()
	closed := make(chan error, 1)
	go func() { closed <- a.close(ctx) }()
	for {
		select {
		case err := <-closed:
			if err == nil {
				a.log.Info("ended")
			}
			return err
		case <-late.C:
			return fmt.Errorf("ended after %v though not everything had stopped; nothing that was acknowledged is lost", closeWithin+closeGrace)
		case s := <-signals:
			if s != syscall.SIGHUP {
				return errors.New("ended at once by a second signal; nothing that was acknowledged is lost")
			}
		}
	}
}

// banner says what runs, and where: in one piece, as log lines come meanwhile.
func banner(out io.Writer, a *agent) {
	w := &strings.Builder{}
	defer func() { _, _ = io.WriteString(out, w.String()) }()
	c := a.c
	scheme, safety := "http", "no TLS, no token"
	switch {
	case c.TLS.Enabled() && c.Client.TokenFile != "":
		scheme, safety = "https", "TLS and tokens"
	case c.TLS.Enabled():
		scheme, safety = "https", "TLS, no token"
	case c.Client.TokenFile != "":
		safety = "tokens, no TLS"
	}
	groups := []string{}
	for _, g := range c.Groups {
		groups = append(groups, fmt.Sprintf("%s (%s on %s)", g.Name, g.Machine, g.Engine))
	}
	fmt.Fprintf(w, "diarchy %s\n\n", version)
	for _, l := range [][2]string{
		{"node", c.Name + " (" + string(a.id) + ")"}, {"data", c.DataDir},
		{"client", scheme + "://" + c.Client.Advertise + " (" + safety + ")"},
		{"peer", c.Peer.Advertise}, {"gossip", c.Gossip.Advertise},
		{"groups", orDash(strings.Join(groups, ", "))},
	} {
		fmt.Fprintf(w, "  %-8s%s\n", l[0], l[1])
	}
	fmt.Fprintln(w)
}
