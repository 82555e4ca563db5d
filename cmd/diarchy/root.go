package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/diarchy/diarchy/client"
)

// Exit codes.
const (
	exitDone    = 0
	exitRefused = 1
	exitUsage   = 2
)

// stdio is where a run reads and writes.
type stdio struct {
	in       io.Reader
	out, err io.Writer
}

// usageError is a command line that makes no sense.
type usageError struct{ message string }

func (e *usageError) Error() string { return e.message }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// failure is what a command itself returned: everything else that cobra
// reports is wrong usage.
type failure struct{ err error }

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// silent is a failure whose words have been printed already.
type silent struct{ err error }

func (s *silent) Error() string { return s.err.Error() }

// run executes one command line and returns the exit code.
func run(args []string, io stdio) int {
	root := newRoot(io)
	root.SetArgs(twoDashes(root, args))
	root.SetIn(io.in)
	root.SetOut(io.out)
	root.SetErr(io.err)
	cmd, err := root.ExecuteC()
	if err == nil {
		return exitDone
	}
	var said *silent
	if !errors.As(err, &said) {
		report(io.err, cmd, err)
	}
	return exitCode(err)
}

func exitCode(err error) int {
	if isUsage(err) {
		return exitUsage
	}
	return client.ExitCode(err)
}

// isUsage tells a wrong command line from one that was refused.
func isUsage(err error) bool {
	var usage *usageError
	var failed *failure
	return errors.As(err, &usage) || !errors.As(err, &failed)
}

// report prints an error, with where to read on when the usage was wrong.
func report(w io.Writer, cmd *cobra.Command, err error) {
	if jsonOutput(cmd) {
		printJSON(w, errorJSON(err))
		return
	}
	fmt.Fprintf(w, "Error: %s%s\n", err, nextStep(err))
	if isUsage(err) {
		fmt.Fprintf(w, "See '%s --help'.\n", cmd.CommandPath())
	}
}

const rootLong = `Diarchy runs groups of replicated state machines on consensus engines.

  diarchy dev       three nodes on this machine, to try things with
  diarchy agent     one node of a real cluster
  all others        talk to a running node, by default at 127.0.0.1:7960`

// newRoot builds the command tree.
func newRoot(io stdio) *cobra.Command {
	root := &cobra.Command{
		Use: "diarchy", Short: "Replicated state machines on consensus engines", Long: rootLong,
		Example:       "  diarchy dev\n  diarchy agent -c node.hcl\n  diarchy kv put greeting hello",
		SilenceErrors: true, SilenceUsage: true,
	}
	root.PersistentFlags().StringP("output", "o", "table", "table or json")
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
	root.AddCommand(
		devCommand(io), agentCommand(io), validateCommand(io),
		membersCommand(io), joinCommand(io), leaveCommand(io), forceLeaveCommand(io),
		groupCommand(io), proposeCommand(io), queryCommand(io), kvCommand(io), pluginCommand(io),
		simCommand(io), tlsCommand(io), keygenCommand(io), versionCommand(io), pluginServeCommand(io),
	)
	parent(root)
	wrap(root)
	return root
}

// parent makes a command that only holds others say so when it is run by
// itself or with a word it does not know.
func parent(cmd *cobra.Command, children ...*cobra.Command) *cobra.Command {
	cmd.AddCommand(children...)
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			fmt.Fprintln(cmd.ErrOrStderr(), cmd.UsageString())
			return usagef("'%s' needs a command", cmd.CommandPath())
		}
		message := fmt.Sprintf("unknown command %q for '%s'", args[0], cmd.CommandPath())
		cmd.SuggestionsMinimumDistance = 2
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			message += fmt.Sprintf("; did you mean %s?", strings.Join(near, " or "))
		}
		return usagef("%s", message)
	}
	return cmd
}

// wrap marks what the commands return as theirs, and checks --output for all.
func wrap(cmd *cobra.Command) {
	for _, c := range cmd.Commands() {
		wrap(c)
	}
	body := cmd.RunE
	if body == nil {
		return
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if o, err := cmd.Flags().GetString("output"); err == nil && o != "table" && o != "json" {
			return usagef("--output %q: expected table or json", o)
		}
		if err := body(cmd, args); err != nil {
			return &failure{err}
		}
		return nil
	}
}

// exactly is cobra.ExactArgs with the arguments' names.
func exactly(names ...string) cobra.PositionalArgs {
	return between(names, nil)
}

// between wants the required arguments and takes the optional ones.
func between(required, optional []string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(required):
			return usagef("'%s' needs %s", cmd.CommandPath(), strings.Join(required[len(args):], " and "))
		case len(args) > len(required)+len(optional):
			return usagef("'%s' does not know what to do with %q", cmd.CommandPath(), args[len(required)+len(optional)])
		}
		return nil
	}
}

// twoDashes lets long flags be written with one dash, as HashiCorp's are:
// -config-file=x becomes --config-file=x. Only names of long flags are touched.
func twoDashes(root *cobra.Command, args []string) []string {
	known := map[string]bool{"help": true}
	collect(root, known)
	out := slices.Clone(args)
	for i, a := range out {
		if a == "--" {
			break
		}
		if len(a) < 3 || a[0] != '-' || a[1] == '-' {
			continue
		}
		if name, _, _ := strings.Cut(a[1:], "="); known[name] {
			out[i] = "-" + a
		}
	}
	return out
}

func collect(cmd *cobra.Command, names map[string]bool) {
	add := func(f *pflag.Flag) { names[f.Name] = true }
	cmd.Flags().VisitAll(add)
	cmd.PersistentFlags().VisitAll(add)
	for _, c := range cmd.Commands() {
		collect(c, names)
	}
}
