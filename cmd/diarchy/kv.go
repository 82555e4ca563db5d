package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/diarchy/diarchy/client"
	pb "github.com/diarchy/diarchy/client/clientpb"
	"github.com/diarchy/diarchy/fsm/kv"
)

func kvCommand(io stdio) *cobra.Command {
	cmd := parent(&cobra.Command{
		Use: "kv", Short: "The bundled key-value machine",
		Example: "  diarchy kv put greeting hello\n  diarchy kv get greeting\n  diarchy kv list",
	}, kvPutCommand(io), kvGetCommand(), kvDeleteCommand(), kvCASCommand(io), kvListCommand())
	cmd.PersistentFlags().StringP("group", "g", "kv", "the group")
	return targetFlags(cmd)
}

func groupOf(cmd *cobra.Command) string {
	g, _ := cmd.Flags().GetString("group")
	return g
}

// checkKey turns a key that cannot be into wrong usage, before anything is sent.
func checkKey(key string) error {
	if err := kv.CheckKey(key); err != nil {
		return &usageError{err.Error()}
	}
	return nil
}

// change has the group execute one command and prints what came of it.
func change(cmd *cobra.Command, command []byte) error {
	if err := kv.CheckCommand(command); err != nil {
		return &usageError{err.Error()}
	}
	return call(cmd, func(ctx context.Context, t *target) error {
		if !t.isKV(ctx, groupOf(cmd)) {
			return t.notKV(ctx, groupOf(cmd))
		}
		r, err := t.Group(groupOf(cmd)).Propose(ctx, command)
		if err != nil {
			return err
		}
		return printResult(cmd, r, true)
	})
}

func kvPutCommand(io stdio) *cobra.Command {
	var ttl time.Duration
	var file string
	cmd := &cobra.Command{
		Use: "put KEY VALUE", Short: "Set a key",
		Long:    "Set a key. VALUE \"-\" is read from standard input; --file reads it from a file.",
		Example: "  diarchy kv put greeting hello\n  diarchy kv put lease me --ttl 30s\n  diarchy kv put picture --file cat.jpg",
		Args:    between([]string{"KEY"}, []string{"VALUE"}),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkKey(args[0]); err != nil {
				return err
			}
			value, err := valueOf(io, args[1:], file)
			if err != nil {
				return err
			}
			if ttl < 0 {
				return usagef("--ttl %s: expected more than 0", ttl)
			}
			return change(cmd, kv.Put(args[0], value, ttl))
		},
	}
	cmd.Flags().DurationVar(&ttl, "ttl", 0, "forget the key after this long")
	cmd.Flags().StringVar(&file, "file", "", "read the value from a file")
	return cmd
}

// valueOf is the value given as an argument, a file or standard input.
func valueOf(io stdio, args []string, file string) ([]byte, error) {
	switch {
	case len(args) == 1 && file != "":
		return nil, usagef("VALUE and --file are both given: keep one")
	case file != "":
		return readFile(file)
	case len(args) == 1:
		return argument(io, args[0])
	}
	return nil, usagef("'diarchy kv put' needs VALUE or --file")
}

func kvGetCommand() *cobra.Command {
	var level string
	var watch bool
	cmd := &cobra.Command{
		Use: "get KEY", Short: "Read a key",
		Long:    "Print a key's value. Exit 1 when it is not there. With --watch: print it now and at\neach change, until Ctrl-C.",
		Example: "  diarchy kv get greeting\n  diarchy kv get greeting --consistency stale -o json\n  diarchy kv get greeting --watch",
		Args:    exactly("KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			consistency, err := parseConsistency(level)
			if err != nil {
				return err
			}
			if err := checkKey(args[0]); err != nil {
				return err
			}
			if watch {
				return watchKey(cmd, args[0])
			}
			return call(cmd, func(ctx context.Context, t *target) error {
				item, found, _, err := t.Group(groupOf(cmd)).KV().Get(ctx, args[0], client.ReadOptions{Consistency: consistency})
				if err != nil {
					return err
				}
				if !found {
					return errNoKey(fmt.Sprintf("key %q", args[0]))
				}
				return printItem(cmd, item)
			})
		},
	}
	consistencyFlag(cmd, &level)
	cmd.Flags().BoolVar(&watch, "watch", false, "go on: print the key at each change")
	return cmd
}

// notKV says why a group takes no key-value commands: it may not be there.
func (t *target) notKV(ctx context.Context, group string) error {
	s, err := t.Group(group).Status(ctx)
	if err != nil {
		return err
	}
	return &client.Error{Code: pb.CodeInvalid, Message: fmt.Sprintf("group %s runs machine %s, not the key-value machine: use 'diarchy propose' and 'diarchy query'", group, s.GetInfo().GetSpec().GetMachine())}
}

// watchKey prints a key now and after each change.
func watchKey(cmd *cobra.Command, key string) error {
	return follow(cmd, func(ctx context.Context, t *target) error {
		for e, err := range t.Group(groupOf(cmd)).KV().Watch(ctx, key) {
			if err != nil {
				return unlessInterrupted(ctx, err)
			}
			if err := printWatched(cmd, key, e.Item, e.Found); err != nil {
				return err
			}
		}
		return nil
	})
}

func printWatched(cmd *cobra.Command, key string, item kv.Item, found bool) error {
	if found {
		return printItem(cmd, item)
	}
	return done(cmd, map[string]any{"key": key, "found": false}, "(key %q is not there)", key)
}

func kvDeleteCommand() *cobra.Command {
	var revision uint64
	cmd := &cobra.Command{
		Use: "delete KEY", Short: "Remove a key",
		Example: "  diarchy kv delete greeting\n  diarchy kv delete greeting --revision 7", Args: exactly("KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkKey(args[0]); err != nil {
				return err
			}
			if revision > 0 {
				return change(cmd, kv.DeleteIf(args[0], revision))
			}
			return change(cmd, kv.Delete(args[0]))
		},
	}
	cmd.Flags().Uint64Var(&revision, "revision", 0, "only if the key is at this revision")
	return cmd
}

func kvCASCommand(io stdio) *cobra.Command {
	var ttl time.Duration
	cmd := &cobra.Command{
		Use: "cas KEY REVISION VALUE", Short: "Set a key if it is at a revision",
		Long:    "Set a key if it is at REVISION, which 'kv get -o json' prints; 0: if it is not there.\nExit 1 when it is not, with the revision that it is at.",
		Example: "  diarchy kv cas greeting 7 goodbye\n  diarchy kv cas lock 0 mine --ttl 10s", Args: exactly("KEY", "REVISION", "VALUE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkKey(args[0]); err != nil {
				return err
			}
			revision, err := strconv.ParseUint(args[1], 10, 64)
			if err != nil {
				return usagef("REVISION %q: expected a number, 0 for a key that is not there", args[1])
			}
			value, err := argument(io, args[2])
			if err != nil {
				return err
			}
			return change(cmd, kv.CAS(args[0], revision, value, ttl))
		},
	}
	cmd.Flags().DurationVar(&ttl, "ttl", 0, "forget the key after this long")
	return cmd
}

func kvListCommand() *cobra.Command {
	var level, after string
	var limit int
	var keysOnly bool
	cmd := &cobra.Command{
		Use: "list [PREFIX]", Short: "List keys in order",
		Example: "  diarchy kv list\n  diarchy kv list user/ --limit 10 --keys", Args: between(nil, []string{"PREFIX"}),
		RunE: func(cmd *cobra.Command, args []string) error {
			consistency, err := parseConsistency(level)
			if err != nil {
				return err
			}
			q := kv.List{Prefix: strings.Join(args, ""), After: after, Limit: limit, KeysOnly: keysOnly}
			if err := kv.CheckQuery(kv.ListQuery(q)); err != nil {
				return &usageError{err.Error()}
			}
			return call(cmd, func(ctx context.Context, t *target) error {
				items, more, err := t.Group(groupOf(cmd)).KV().List(ctx, q, client.ReadOptions{Consistency: consistency})
				if err != nil {
					return err
				}
				return printItems(cmd, items, more)
			})
		},
	}
	consistencyFlag(cmd, &level)
	cmd.Flags().IntVar(&limit, "limit", kv.DefaultListItems, "at most so many")
	cmd.Flags().StringVar(&after, "after", "", "only keys after this one")
	cmd.Flags().BoolVar(&keysOnly, "keys", false, "leave the values out")
	return cmd
}

// errNoKey is a read of what is not there: refused, and nothing happened.
func errNoKey(what string) error {
	return &client.Error{Code: pb.CodeNotFound, Message: what + " is not there"}
}

type itemRow struct {
	Key      string     `json:"key"`
	Value    string     `json:"value,omitempty"`
	Bytes    []byte     `json:"bytes,omitempty"`
	Revision uint64     `json:"revision"`
	Expires  *time.Time `json:"expires,omitempty"`
}

// itemRowOf keeps values that are no text whole, in base64.
func itemRowOf(i kv.Item) itemRow {
	r := itemRow{Key: i.Key, Revision: i.Revision}
	if utf8.Valid(i.Value) {
		r.Value = string(i.Value)
	} else {
		r.Bytes = i.Value
	}
	if i.Expires != 0 {
		at := time.Unix(0, i.Expires)
		r.Expires = &at
	}
	return r
}

func printItem(cmd *cobra.Command, item kv.Item) error {
	if jsonOutput(cmd) {
		printJSON(cmd.OutOrStdout(), itemRowOf(item))
		return nil
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s\n", item.Value)
	return err
}

func printItems(cmd *cobra.Command, items []kv.Item, more bool) error {
	value, rows := make([]itemRow, 0, len(items)), [][]string{}
	for _, i := range items {
		value = append(value, itemRowOf(i))
		rows = append(rows, []string{shown(i.Key), shown(string(i.Value)), fmt.Sprint(i.Revision)})
	}
	if jsonOutput(cmd) {
		printJSON(cmd.OutOrStdout(), map[string]any{"items": value, "more": more})
		return nil
	}
	if err := writeTable(cmd.OutOrStdout(), []string{"KEY", "VALUE", "REVISION"}, rows); err != nil {
		return err
	}
	if more {
		fmt.Fprintf(cmd.ErrOrStderr(), "there are more: --after %q\n", items[len(items)-1].Key)
	}
	return nil
}

// shown keeps a table a table, whatever bytes a key or value holds.
func shown(s string) string {
	const width = 64
	if q := strconv.Quote(s); q != `"`+s+`"` || s == "" {
		s = q
	}
	if r := []rune(s); len(r) > width {
		return string(r[:width]) + "…"
	}
	return s
}

func printOutcome(cmd *cobra.Command, o kv.Outcome, number uint64) error {
	if jsonOutput(cmd) {
		printJSON(cmd.OutOrStdout(), outcomeJSON(o, number))
		return nil
	}
	_, err := fmt.Fprintln(cmd.OutOrStdout(), outcomeText(o))
	return err
}

func outcomeJSON(o kv.Outcome, number uint64) map[string]any {
	m := map[string]any{"op": o.Op.String(), "ok": o.OK, "revision": o.Revision, "number": number}
	switch o.Op {
	case kv.OpAdd, kv.OpAppend:
		m["result"] = o.Number
	case kv.OpGet:
		m["item"] = itemRowOf(o.Item)
	case kv.OpTxn:
		results := []any{}
		for _, r := range o.Results {
			results = append(results, outcomeJSON(r, number))
		}
		m["results"] = results
	}
	return m
}

func outcomeText(o kv.Outcome) string {
	switch {
	case o.Op == kv.OpTxn:
		lines := []string{fmt.Sprintf("transaction: guards held: %t, revision %d", o.OK, o.Revision)}
		for _, r := range o.Results {
			lines = append(lines, "  "+outcomeText(r))
		}
		return strings.Join(lines, "\n")
	case o.Op == kv.OpGet && o.OK:
		return fmt.Sprintf("%s = %s (revision %d)", shown(o.Item.Key), shown(string(o.Item.Value)), o.Item.Revision)
	case o.Op == kv.OpGet:
		return "the key is not there"
	case o.Op == kv.OpDelete && !o.OK:
		return "there was nothing to delete"
	case o.Op == kv.OpAdd:
		return fmt.Sprintf("%d (revision %d)", o.Number, o.Revision)
	case o.Op == kv.OpAppend:
		return fmt.Sprintf("%d bytes (revision %d)", o.Number, o.Revision)
	}
	return fmt.Sprintf("revision %d", o.Revision)
}

func indent(text string) string { return "  " + strings.ReplaceAll(text, "\n", "\n  ") }
