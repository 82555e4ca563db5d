package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/diarchy/diarchy/client"
	"github.com/diarchy/diarchy/fsm/kv"
)

// kvMachine is the bundled machine's own name; its commands have a text form.
const kvMachine = "kv"

func proposeCommand(io stdio) *cobra.Command {
	var raw bool
	cmd := &cobra.Command{
		Use: "propose GROUP COMMAND", Short: "Have a group execute a command",
		Long: "Have a group execute a command and print its result. COMMAND is handed to the\n" +
			"machine as it is; \"-\" reads it from standard input. For a group of the bundled\n" +
			"key-value machine it is text, unless --raw is given:\n\n" + indent(kv.CommandUsage),
		Example: "  diarchy propose orders '{\"buy\": 3}'\n  diarchy propose kv 'txn if exists a; then put b 1'", Args: exactly("GROUP", "COMMAND"),
		RunE: func(cmd *cobra.Command, args []string) error {
			data, err := argument(io, args[1])
			if err != nil {
				return err
			}
			return call(cmd, func(ctx context.Context, t *target) error {
				text := !raw && t.isKV(ctx, args[0])
				if text {
					if data, err = kv.ParseCommand(string(data)); err != nil {
						return usageOf(err)
					}
				}
				r, err := t.Group(args[0]).Propose(ctx, data)
				if err != nil {
					return err
				}
				return printResult(cmd, r, text)
			})
		},
	}
	cmd.Flags().BoolVar(&raw, "raw", false, "hand over and print bytes as they are, whatever the machine")
	return targetFlags(cmd)
}

func queryCommand(io stdio) *cobra.Command {
	var raw bool
	var level string
	cmd := &cobra.Command{
		Use: "query GROUP QUERY", Short: "Read from a group",
		Long: "Ask a group's machine and print its answer. QUERY is handed to the machine as it is;\n" +
			"\"-\" reads it from standard input. For a group of the bundled key-value machine it\n" +
			"is text, unless --raw is given:\n\n" + indent(kv.QueryUsage),
		Example: "  diarchy query orders total\n  diarchy query kv 'list prefix limit=10' --consistency stale", Args: exactly("GROUP", "QUERY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			data, err := argument(io, args[1])
			if err != nil {
				return err
			}
			consistency, err := parseConsistency(level)
			if err != nil {
				return err
			}
			return call(cmd, func(ctx context.Context, t *target) error {
				text := !raw && t.isKV(ctx, args[0])
				if text {
					if data, err = kv.ParseQuery(string(data)); err != nil {
						return usageOf(err)
					}
				}
				a, err := t.Group(args[0]).Query(ctx, data, client.ReadOptions{Consistency: consistency})
				if err != nil {
					return err
				}
				return printAnswer(cmd, a, text)
			})
		},
	}
	cmd.Flags().BoolVar(&raw, "raw", false, "hand over and print bytes as they are, whatever the machine")
	consistencyFlag(cmd, &level)
	return targetFlags(cmd)
}

func consistencyFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "consistency", "linearizable", "linearizable, leader or stale")
	_ = cmd.RegisterFlagCompletionFunc("consistency", cobra.FixedCompletions([]string{"linearizable", "leader", "stale"}, cobra.ShellCompDirectiveNoFileComp))
}

func parseConsistency(s string) (client.Consistency, error) {
	for _, c := range []client.Consistency{client.Linearizable, client.FromLeader, client.Stale} {
		if c.String() == s {
			return c, nil
		}
	}
	return 0, usagef("--consistency %q: expected linearizable, leader or stale", s)
}

// stdinBytesMax bounds what is read from standard input or a file for one
// command.
const stdinBytesMax = 64 << 20

// argument is an argument's bytes; "-" stands for standard input.
func argument(in stdio, arg string) ([]byte, error) {
	if arg != "-" {
		return []byte(arg), nil
	}
	b, err := io.ReadAll(io.LimitReader(in.in, stdinBytesMax+1))
	if err != nil {
		return nil, fmt.Errorf("read standard input: %w", err)
	}
	if len(b) > stdinBytesMax {
		return nil, usagef("standard input has more than %d bytes", stdinBytesMax)
	}
	return b, nil
}

// usageOf makes a text that cannot be parsed a matter of usage.
func usageOf(err error) error {
	if errors.Is(err, kv.ErrInvalid) {
		return &usageError{err.Error()}
	}
	return err
}

// isKV says whether a group runs the bundled machine: by the word of the node's
// own replica, which is cheap, else by everybody's.
func (t *target) isKV(ctx context.Context, group string) bool {
	a, err := t.Group(group).LocalStatus(ctx)
	if err != nil || len(a.GetReplicas()) == 0 || a.GetReplicas()[0].GetMachine().GetName() == "" {
		if a, err = t.Group(group).Status(ctx); err != nil {
			return false
		}
	}
	for _, r := range a.GetReplicas() {
		if n := r.GetMachine().GetName(); n != "" {
			return n == kvMachine
		}
	}
	return a.GetInfo().GetSpec().GetMachine() == "builtin:"+kvMachine
}

func printResult(cmd *cobra.Command, r client.Result, text bool) error {
	if text {
		o, err := kv.DecodeOutcome(r.Value)
		if err != nil {
			return err
		}
		return printOutcome(cmd, o, r.Token.Number)
	}
	if jsonOutput(cmd) {
		printJSON(cmd.OutOrStdout(), map[string]any{"number": r.Token.Number, "value": r.Value, "duplicate": r.Duplicate})
		return nil
	}
	return printBytes(cmd, r.Value)
}

// printBytes ends what a person reads with a new line; --raw leaves it as it is.
func printBytes(cmd *cobra.Command, b []byte) error {
	if raw, _ := cmd.Flags().GetBool("raw"); !raw && !bytes.HasSuffix(b, []byte("\n")) {
		b = append(b[:len(b):len(b)], '\n')
	}
	_, err := cmd.OutOrStdout().Write(b)
	return err
}

func printAnswer(cmd *cobra.Command, a client.Answer, text bool) error {
	switch {
	case text && len(a.Value) > 0 && kv.Op(a.Value[0]) == kv.OpList:
		items, more, err := kv.DecodeList(a.Value)
		if err != nil {
			return err
		}
		return printItems(cmd, items, more)
	case text:
		item, found, err := kv.DecodeItem(a.Value)
		if err != nil {
			return err
		}
		if !found {
			return errNoKey("the key")
		}
		return printItem(cmd, item)
	case jsonOutput(cmd):
		printJSON(cmd.OutOrStdout(), map[string]any{"value": a.Value, "number": a.Token.Number, "time": a.Time, "age_ns": a.Age})
		return nil
	}
	return printBytes(cmd, a.Value)
}

// readFile is for values given as files.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return argument(stdio{in: f}, "-")
}
